//! What files contain and what is known of them: exact search, export, and whether everything agrees.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde::Deserialize;
use serde_json::json;
use vexfs_core::ids::FileId;
use vexfs_core::knowledge::Knowledge;
use vexfs_core::knowledge::export;
use vexfs_core::knowledge::grep::Pattern;
use vexfs_core::knowledge::verify::Depth;

use super::{From, Shared, read, verb};

pub(super) fn routes() -> Router<Arc<Knowledge>> {
    Router::new()
        .route("/v1/grep", post(grep))
        .route("/v1/export", post(export_page))
        .route("/v1/index/verify", post(verify_indexes))
        .route("/v1/check", post(check))
}

async fn grep(State(knowledge): Shared, from: From, body: Bytes) -> Response {
    verb(from, move |caller| {
        let pattern: Pattern = read(&body)?;
        Ok(knowledge.grep(caller, &pattern)?.json(&pattern))
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportBody {
    #[serde(default)]
    path: PathBuf,
    /// The last id of the page before.
    #[serde(default)]
    after: u64,
    #[serde(default)]
    limit: Option<usize>,
}

async fn export_page(State(knowledge): Shared, from: From, body: Bytes) -> Response {
    verb(from, move |caller| {
        let body: ExportBody = read(&body)?;
        let limit = body.limit.unwrap_or(export::PAGE_MAX);
        let page = knowledge.export(caller, &body.path, FileId(body.after), limit)?;
        Ok(json!({ "files": page.files, "next": page.next.map(|id| id.0) }))
    })
    .await
}

async fn verify_indexes(State(knowledge): Shared, from: From) -> Response {
    verb(from, move |caller| {
        Ok(knowledge.verify(caller, Depth::Indexes)?.json())
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckBody {
    /// Leave the contents of files alone.
    #[serde(default)]
    quick: bool,
}

async fn check(State(knowledge): Shared, from: From, body: Bytes) -> Response {
    verb(from, move |caller| {
        let body: CheckBody = read(&body)?;
        let depth = if body.quick { Depth::Quick } else { Depth::Contents };
        Ok(knowledge.verify(caller, depth)?.json())
    })
    .await
}
