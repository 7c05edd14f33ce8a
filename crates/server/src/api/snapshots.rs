//! Snapshots: made, listed, dropped and compared.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;
use vexfs_core::Error;
use vexfs_core::knowledge::Knowledge;
use vexfs_core::knowledge::snapshots::{NOW, Restore};

use super::{From, Shared, parameter, read, verb};

pub(super) fn routes() -> Router<Arc<Knowledge>> {
    Router::new()
        .route("/v1/snapshots", get(list).post(create).delete(drop_one))
        .route("/v1/snapshots/diff", post(diff))
        .route("/v1/snapshots/restore", post(restore))
}

async fn list(State(knowledge): Shared, from: From) -> Response {
    verb(from, move |_| knowledge.snapshot_list()).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

async fn create(State(knowledge): Shared, from: From, body: Bytes) -> Response {
    verb(from, move |caller| {
        let body: Named = read(&body)?;
        knowledge.snapshot_create(caller, &body.name)
    })
    .await
}

async fn drop_one(State(knowledge): Shared, from: From, RawQuery(query): RawQuery, _body: Bytes) -> Response {
    verb(from, move |caller| {
        let name = parameter(query.as_deref(), "name")?;
        let name = name
            .to_str()
            .ok_or_else(|| Error::Invalid("the name of a snapshot is UTF-8".into()))?;
        knowledge.snapshot_drop(caller, name)?;
        Ok(json!({}))
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Two {
    from: String,
    #[serde(default)]
    to: Option<String>,
}

async fn diff(State(knowledge): Shared, from: From, body: Bytes) -> Response {
    verb(from, move |caller| {
        let body: Two = read(&body)?;
        knowledge.snapshot_diff(caller, &body.from, body.to.as_deref().unwrap_or(NOW))
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RestoreBody {
    name: String,
    #[serde(default)]
    path: PathBuf,
    #[serde(default)]
    transaction: Option<String>,
}

async fn restore(State(knowledge): Shared, from: From, body: Bytes) -> Response {
    verb(from, move |caller| {
        let body: RestoreBody = read(&body)?;
        let what = Restore {
            name: &body.name,
            below: &body.path,
            transaction: body.transaction.as_deref().map(OsStr::new),
        };
        knowledge.snapshot_restore(caller, &what)
    })
    .await
}
