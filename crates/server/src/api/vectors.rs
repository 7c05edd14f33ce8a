//! Spaces of vectors, and vectors in bulk.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;
use vexfs_core::knowledge::Knowledge;
use vexfs_core::knowledge::vectors::{FileVector, PAGE_MAX};

use super::inside::Tree;
use super::{From, Shared, read, verb};

pub(super) fn routes() -> Router<Arc<Knowledge>> {
    Router::new()
        .route("/v1/spaces", get(list).post(create).delete(drop_space))
        .route("/v1/spaces/migrate", post(migrate))
        .route("/v1/vectors/export", post(export))
}

/// What can be asked of a transaction too.
pub(super) fn routes_inside() -> Router<Arc<Knowledge>> {
    Router::new().route("/v1/vectors/import", post(import))
}

async fn list(State(knowledge): Shared, from: From) -> Response {
    verb(from, move |_| Ok(json!({ "spaces": knowledge.spaces()? }))).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SpaceBody {
    name: String,
    dim: u32,
    #[serde(default)]
    measure: Option<String>,
}

async fn create(State(knowledge): Shared, from: From, body: Bytes) -> Response {
    verb(from, move |_| {
        let body: SpaceBody = read(&body)?;
        knowledge.space_create(&body.name, body.dim, body.measure.as_deref().unwrap_or("cosine"))?;
        Ok(json!({}))
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MigrateBody {
    to: String,
}

/// Begins; the status tells how far it is.
async fn migrate(State(knowledge): Shared, from: From, body: Bytes) -> Response {
    verb(from, move |caller| {
        knowledge.migrate(caller, &read::<MigrateBody>(&body)?.to)?;
        Ok(json!({}))
    })
    .await
}

#[derive(Deserialize)]
struct NameQuery {
    name: String,
}

async fn drop_space(State(knowledge): Shared, from: From, Query(space): Query<NameQuery>) -> Response {
    verb(from, move |caller| {
        knowledge.space_drop(caller, &space.name)?;
        Ok(json!({}))
    })
    .await
}

/// Vectors of one space: all are set, or none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportBody {
    #[serde(default)]
    space: String,
    vectors: Vec<FileVector>,
}

async fn import(tree: Tree, from: From, body: Bytes) -> Response {
    verb(from, move |caller| {
        let ImportBody { space, vectors } = read(&body)?;
        if let Some(txn) = tree.txn(caller)? {
            let inside = tree.knowledge().inside(&txn, caller);
            inside.vectors_set(&space, &vectors)?;
            return Ok(json!({ "set": vectors.len() }));
        }
        let generation = tree.knowledge().vectors_set(caller, &space, &vectors)?;
        Ok(json!({ "set": vectors.len(), "generation": generation.0 }))
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportBody {
    #[serde(default)]
    space: String,
    /// Where the page before ended.
    #[serde(default)]
    after: i64,
    #[serde(default)]
    limit: Option<usize>,
}

async fn export(State(knowledge): Shared, from: From, body: Bytes) -> Response {
    verb(from, move |caller| {
        let body: ExportBody = read(&body)?;
        let limit = body.limit.unwrap_or(PAGE_MAX);
        let (vectors, next) = knowledge.vectors_page(caller, &body.space, body.after, limit)?;
        Ok(json!({ "vectors": vectors, "next": next }))
    })
    .await
}
