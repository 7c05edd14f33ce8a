//! Transactions: begun, looked at, rebased, committed and given up by name.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use vexfs_core::control::forget_transaction;
use vexfs_core::fs::ops::Caller;
use vexfs_core::knowledge::Knowledge;
use vexfs_core::query::answer::{name_text, path_text};
use vexfs_core::txn::{Desk, How, Status, Txn};
use vexfs_core::{Error, Result};

use super::inside::open;
use super::{From, Shared, as_peer, bytes, read, refusal, refusal_json, verb};

pub(super) fn routes() -> Router<Arc<Knowledge>> {
    Router::new()
        .route("/v1/txn", get(list).post(begin))
        .route("/v1/txn/{name}", get(status).delete(abort))
        .route("/v1/txn/{name}/diff", get(diff))
        .route("/v1/txn/{name}/meaning", get(meaning))
        .route("/v1/txn/{name}/conflicts", get(conflicts))
        .route("/v1/txn/{name}/patch", get(patch))
        .route("/v1/txn/{name}/rebase", post(rebase))
        .route("/v1/txn/{name}/commit", post(commit))
}

type Named = Path<String>;

fn desk(knowledge: &Knowledge) -> Result<Arc<Desk>> {
    knowledge.desk().ok_or_else(|| {
        Error::NotFound("transactions: there are none without a mount that can have them".into())
    })
}

async fn list(State(knowledge): Shared, from: From) -> Response {
    verb(from, move |caller| {
        let desk = desk(&knowledge)?;
        let open = desk.list();
        let mine = open.iter().filter(|txn| txn.admits(caller));
        let mine = mine
            .map(|txn| status_of(&desk, txn))
            .collect::<Result<Vec<_>>>()?;
        Ok(json!({ "transactions": mine }))
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Begin {
    name: String,
    #[serde(default)]
    strict: bool,
    /// Bytes that may be staged; 0 without a limit.
    #[serde(default)]
    quota: u64,
    /// Seconds from now.
    #[serde(default)]
    expires: Option<u32>,
}

async fn begin(State(knowledge): Shared, from: From, body: Bytes) -> Response {
    verb(from, move |caller| {
        let body: Begin = read(&body)?;
        let desk = desk(&knowledge)?;
        let txn = desk.begin(caller, body.name.as_ref())?;
        txn.view().set_strict(body.strict);
        txn.view().set_quota(body.quota);
        if let Some(seconds) = body.expires {
            txn.expire_in(seconds);
        }
        status_of(&desk, &txn)
    })
    .await
}

async fn status(State(knowledge): Shared, from: From, Path(name): Named) -> Response {
    verb(from, move |caller| {
        status_of(&*desk(&knowledge)?, &*open(&knowledge, caller, name.as_ref())?)
    })
    .await
}

fn status_of(desk: &Desk, txn: &Txn) -> Result<Value> {
    let Status {
        name,
        owner,
        base_generation,
        begun,
        expires,
        bytes,
        quota,
        strict,
        told,
        changed,
        conflicts,
    } = txn.status(desk.teller())?;
    Ok(json!({
        "name": name_text(&name),
        "owner": owner,
        "base_generation": base_generation.0,
        "begun": begun.secs,
        "expires": expires,
        "bytes": bytes,
        "quota": quota,
        "strict": strict,
        "told": told,
        "changed": changed,
        "conflicts": conflicts,
    }))
}

async fn diff(State(knowledge): Shared, from: From, Path(name): Named) -> Response {
    verb(from, move |caller| {
        let changes = open(&knowledge, caller, name.as_ref())?.differences()?;
        let changes = changes.iter().map(|(path, difference)| {
            json!({ "path": path_text(path), "change": difference.letter().to_string() })
        });
        Ok(json!({ "changes": changes.collect::<Vec<_>>() }))
    })
    .await
}

async fn meaning(State(knowledge): Shared, from: From, Path(name): Named) -> Response {
    verb(from, move |caller| {
        let txn = open(&knowledge, caller, name.as_ref())?;
        let moved = txn.moved(desk(&knowledge)?.teller())?;
        let moved = moved
            .iter()
            .map(|(path, distance)| json!({ "path": path_text(path), "distance": distance }));
        Ok(json!({ "moved": moved.collect::<Vec<_>>() }))
    })
    .await
}

async fn conflicts(State(knowledge): Shared, from: From, Path(name): Named) -> Response {
    verb(from, move |caller| {
        let txn = open(&knowledge, caller, name.as_ref())?;
        let found = txn.conflicts(desk(&knowledge)?.teller())?;
        Ok(json!({ "conflicts": texts(&found) }))
    })
    .await
}

fn texts(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| path_text(path)).collect()
}

async fn patch(State(knowledge): Shared, from: From, Path(name): Named) -> Response {
    bytes(from, move |caller| {
        open(&knowledge, caller, name.as_ref())?.patch()
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rebase {
    /// `merge` or `ours`.
    how: String,
}

async fn rebase(State(knowledge): Shared, from: From, Path(name): Named, body: Bytes) -> Response {
    may_conflict(knowledge, from, name, move |desk, caller, name| {
        let how = match &*read::<Rebase>(&body)?.how {
            "merge" => How::Merge,
            "ours" => How::Ours,
            other => return Err(Error::Invalid(format!("how: {other:?}: expected merge or ours"))),
        };
        desk.rebase(caller, name.as_ref(), how)?;
        Ok(json!({}))
    })
    .await
}

/// Answers when all of it is durable and visible.
async fn commit(State(knowledge): Shared, from: From, Path(name): Named, _body: Bytes) -> Response {
    may_conflict(knowledge, from, name, move |desk, caller, name| {
        let generation = desk.commit(caller, name.as_ref())?;
        forget_transaction(desk, name.as_ref());
        Ok(json!({ "generation": generation.0 }))
    })
    .await
}

async fn abort(State(knowledge): Shared, from: From, Path(name): Named) -> Response {
    verb(from, move |caller| {
        let desk = desk(&knowledge)?;
        desk.abort(caller, name.as_ref())?;
        forget_transaction(&desk, name.as_ref());
        Ok(json!({}))
    })
    .await
}

/// Runs a verb that conflicts may refuse; the answer then lists their paths.
async fn may_conflict(
    knowledge: Arc<Knowledge>,
    from: From,
    name: String,
    run: impl FnOnce(&Desk, &Caller, &str) -> Result<Value> + Send + 'static,
) -> Response {
    let answer = as_peer(from, move |caller| {
        let desk = desk(&knowledge)?;
        let txn = open(&knowledge, caller, name.as_ref())?;
        Ok(match run(&desk, caller, &name) {
            Err(error @ Error::Conflict(_)) => {
                let mut body = refusal_json(&error);
                body["conflicts"] = json!(texts(&txn.conflicts(desk.teller())?));
                (StatusCode::CONFLICT, axum::Json(body)).into_response()
            }
            other => axum::Json(other?).into_response(),
        })
    });
    answer.await.unwrap_or_else(|error| refusal(&error))
}
