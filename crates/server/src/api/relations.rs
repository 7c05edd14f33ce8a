//! Relations: making, removing and following them.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::response::Response;
use axum::routing::post;
use serde::Deserialize;
use serde_json::json;
use vexfs_core::knowledge::Knowledge;
use vexfs_core::knowledge::related::Question;
use vexfs_core::knowledge::relations::Telling;

use super::inside::Tree;
use super::{From, read, verb};

pub(super) fn routes() -> Router<Arc<Knowledge>> {
    Router::new()
        .route("/v1/relations", post(relate).delete(unrelate))
        .route("/v1/related", post(related))
}

/// Any number of relations: one commit.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    relations: Vec<Telling>,
}

async fn relate(tree: Tree, from: From, body: Bytes) -> Response {
    verb(from, move |caller| {
        let told = read::<Body>(&body)?.relations;
        if let Some(txn) = tree.txn(caller)? {
            tree.knowledge().inside(&txn, caller).relate(&told)?;
            return Ok(json!({}));
        }
        Ok(json!({ "generation": tree.knowledge().relate(caller, &told)?.0 }))
    })
    .await
}

async fn unrelate(tree: Tree, from: From, body: Bytes) -> Response {
    verb(from, move |caller| {
        let told = read::<Body>(&body)?.relations;
        if let Some(txn) = tree.txn(caller)? {
            tree.knowledge().inside(&txn, caller).unrelate(&told)?;
            return Ok(json!({}));
        }
        Ok(json!({ "generation": tree.knowledge().unrelate(caller, &told)?.0 }))
    })
    .await
}

async fn related(tree: Tree, from: From, body: Bytes) -> Response {
    verb(from, move |caller| {
        let question: Question = read(&body)?;
        let found = match tree.txn(caller)? {
            Some(txn) => tree.knowledge().inside(&txn, caller).related(&question)?,
            None => tree.knowledge().related(caller, &question)?,
        };
        Ok(found.json(&question.path))
    })
    .await
}
