//! Relations: making, removing and following them.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde::Deserialize;
use serde_json::json;
use vexfs_core::knowledge::Knowledge;
use vexfs_core::knowledge::related::Question;
use vexfs_core::knowledge::relations::Telling;

use super::{From, Shared, read, verb};

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

async fn relate(State(knowledge): Shared, from: From, body: Bytes) -> Response {
    verb(from, move |caller| {
        let body: Body = read(&body)?;
        Ok(json!({ "generation": knowledge.relate(caller, &body.relations)?.0 }))
    })
    .await
}

async fn unrelate(State(knowledge): Shared, from: From, body: Bytes) -> Response {
    verb(from, move |caller| {
        let body: Body = read(&body)?;
        Ok(json!({ "generation": knowledge.unrelate(caller, &body.relations)?.0 }))
    })
    .await
}

async fn related(State(knowledge): Shared, from: From, body: Bytes) -> Response {
    verb(from, move |caller| {
        let question: Question = read(&body)?;
        Ok(knowledge.related(caller, &question)?.json(&question.path))
    })
    .await
}
