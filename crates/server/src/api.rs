//! The routes. Paths in requests are below the root of the mount; a body or query that is malformed is refused with
//! what was expected.

mod contents;
mod inside;
mod relations;
mod snapshots;
mod transactions;
mod vectors;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use vexfs_core::fs::ops::Caller;
use vexfs_core::knowledge::Knowledge;
use vexfs_core::query::answer::Answer;
use vexfs_core::query::options::Options;
use vexfs_core::query::search::{Fresh, Request, What};
use vexfs_core::{Error, Result};

use crate::peer::Peer;
use inside::Tree;

/// Bytes of a request body: 16,384 components as JSON text fit several times.
const BODY_BYTES_MAX: usize = 4 << 20;

pub(crate) fn routes(knowledge: Arc<Knowledge>) -> Router {
    let committed = Router::new()
        .route("/v1/index/why", get(why))
        .route("/v1/index/rebuild", post(rebuild))
        .merge(contents::routes())
        .merge(snapshots::routes())
        .merge(vectors::routes())
        .merge(transactions::routes())
        .layer(axum::middleware::from_fn(inside::committed_only));
    Router::new()
        .route("/v1/search", post(search))
        .route("/v1/ask", post(ask))
        .route("/v1/status", get(status))
        .route("/v1/wait", post(wait))
        .route("/v1/xattr", get(xattr_get).put(xattr_set).delete(xattr_remove))
        .route("/v1/xattrs", get(xattr_list))
        .merge(relations::routes())
        .merge(vectors::routes_inside())
        .merge(committed)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(knowledge)
}

/// A search by text, by example (`like`) or by vector.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchBody {
    #[serde(default)]
    query: Option<String>,
    #[serde(default)]
    like: Option<PathBuf>,
    #[serde(default)]
    vector: Option<Vec<f32>>,
    /// The directory to search below; the root when absent.
    #[serde(default)]
    path: PathBuf,
    #[serde(default)]
    options: Option<String>,
    #[serde(default)]
    require_fresh: bool,
    #[serde(default)]
    wait_ms: u64,
}

/// A request's body.
fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|e| Error::Invalid(format!("JSON body: {e}")))
}

impl SearchBody {
    fn run(&self, tree: &Tree, caller: &Caller) -> Result<Answer> {
        let knowledge = tree.knowledge();
        let options: Options = match &self.options {
            Some(text) => Options::parse(text)?,
            None => Options::default(),
        };
        let what = match (&self.query, &self.like, &self.vector) {
            (Some(query), None, None) => What::Text(query),
            (None, Some(path), None) => What::Like(path),
            (None, None, Some(vector)) => What::Vector {
                space: options.space.clone(),
                vector: vector.clone(),
            },
            _ => return Err(Error::Invalid("one of query, like, vector is expected".into())),
        };
        let fresh = Fresh {
            require: self.require_fresh,
            wait: Duration::from_millis(self.wait_ms),
        };
        let mut request = Request {
            caller,
            scope: None,
            what,
            options: &options,
            fresh,
        };
        if let Some(txn) = tree.txn(caller)? {
            return knowledge.inside(&txn, caller).search_at(&self.path, &request);
        }
        request.scope = Some(knowledge.directory_at(caller, &self.path)?);
        knowledge.search(&request)
    }
}

type Shared = State<Arc<Knowledge>>;
type From = ConnectInfo<Peer>;

async fn search(tree: Tree, from: From, body: Bytes) -> Response {
    verb(from, move |caller| {
        Ok(read::<SearchBody>(&body)?.run(&tree, caller)?.json())
    })
    .await
}

async fn ask(tree: Tree, from: From, body: Bytes) -> Response {
    verb(from, move |caller| {
        let answer = read::<SearchBody>(&body)?.run(&tree, caller)?;
        let mut object = answer.json();
        object["text"] = json!(vexfs_core::query::ask::render(&answer));
        Ok(object)
    })
    .await
}

async fn status(State(knowledge): Shared, from: From) -> Response {
    verb(from, move |_| Ok(knowledge.status().json())).await
}

#[derive(Deserialize)]
struct WaitBody {
    #[serde(default)]
    wait_ms: u64,
    /// Whether files that are open for writing are to be searchable as far as they are written.
    #[serde(default = "yes")]
    writers: bool,
}

fn yes() -> bool {
    true
}

async fn wait(State(knowledge): Shared, from: From, body: Bytes) -> Response {
    verb(from, move |_| {
        let body: WaitBody = read(&body)?;
        if body.writers {
            knowledge.look_at_writers();
        }
        let idle = knowledge.wait_idle(Duration::from_millis(body.wait_ms));
        let mut status = knowledge.status().json();
        status["idle"] = json!(idle);
        Ok(status)
    })
    .await
}

async fn why(State(knowledge): Shared, from: From, RawQuery(query): RawQuery) -> Response {
    verb(from, move |caller| knowledge.why(caller, &path(query)?)).await
}

async fn rebuild(State(knowledge): Shared, from: From, _body: Bytes) -> Response {
    verb(from, move |caller| {
        knowledge.rebuild(caller)?;
        Ok(knowledge.status().json())
    })
    .await
}

/// What was set on a file, under the names of INTERFACE section 4: the value as it is.
async fn xattr_get(tree: Tree, from: From, RawQuery(query): RawQuery) -> Response {
    bytes(from, move |caller| {
        let (name, path) = (parameter(query.as_deref(), "name")?, path(query)?);
        match tree.txn(caller)? {
            Some(txn) => tree.knowledge().inside(&txn, caller).xattr_get(&path, &name),
            None => tree.knowledge().xattr_get_at(caller, &path, &name),
        }
    })
    .await
}

async fn xattr_set(tree: Tree, from: From, RawQuery(query): RawQuery, body: Bytes) -> Response {
    verb(from, move |caller| {
        let (name, path) = (parameter(query.as_deref(), "name")?, path(query)?);
        match tree.txn(caller)? {
            Some(txn) => {
                let inside = tree.knowledge().inside(&txn, caller);
                inside.xattr_set(&path, &name, Some(&body))?;
            }
            None => tree.knowledge().xattr_set_at(caller, &path, &name, &body)?,
        }
        Ok(json!({}))
    })
    .await
}

async fn xattr_remove(tree: Tree, from: From, RawQuery(query): RawQuery, _body: Bytes) -> Response {
    verb(from, move |caller| {
        let (name, path) = (parameter(query.as_deref(), "name")?, path(query)?);
        match tree.txn(caller)? {
            Some(txn) => tree
                .knowledge()
                .inside(&txn, caller)
                .xattr_set(&path, &name, None)?,
            None => tree.knowledge().xattr_remove_at(caller, &path, &name)?,
        }
        Ok(json!({}))
    })
    .await
}

async fn xattr_list(tree: Tree, from: From, RawQuery(query): RawQuery) -> Response {
    verb(from, move |caller| {
        let path = path(query)?;
        Ok(json!(match tree.txn(caller)? {
            Some(txn) => tree.knowledge().inside(&txn, caller).xattr_list(&path)?,
            None => tree.knowledge().xattr_list_at(caller, &path)?,
        }))
    })
    .await
}

/// The parameter `path`.
fn path(query: Option<String>) -> Result<PathBuf> {
    parameter(query.as_deref(), "path").map(PathBuf::from)
}

/// A parameter of a request as bytes: names and paths need not be UTF-8.
fn parameter(query: Option<&str>, name: &str) -> Result<OsString> {
    let found = query
        .unwrap_or("")
        .split('&')
        .find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    let found = found.ok_or_else(|| Error::Invalid(format!("parameter {name:?} is missing")))?;
    unescaped(&found.replace('+', " "))
        .ok_or_else(|| Error::Invalid(format!("parameter {name:?}: expected %XX")))
}

/// A text with `%XX` for bytes, as the bytes; none where something else follows a `%`.
fn unescaped(found: &str) -> Option<OsString> {
    let mut bytes = Vec::with_capacity(found.len());
    let mut rest = found.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let escaped = match (byte, behind) {
            (b'%', [high, low, ..]) => {
                let digit = |byte: &u8| (*byte as char).to_digit(16);
                digit(high)
                    .zip(digit(low))
                    .map(|(high, low)| (high << 4 | low) as u8)
            }
            _ => None,
        };
        match (byte, escaped) {
            (_, Some(byte)) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            (b'%', None) => return None,
            (byte, None) => {
                bytes.push(byte);
                rest = behind;
            }
        }
    }
    Some(OsString::from_vec(bytes))
}

/// Runs a verb for the peer on a blocking thread and gives its JSON.
async fn verb(from: From, run: impl FnOnce(&Caller) -> Result<Value> + Send + 'static) -> Response {
    match as_peer(from, run).await {
        Ok(value) => axum::Json(value).into_response(),
        Err(error) => refusal(&error),
    }
}

async fn bytes(from: From, run: impl FnOnce(&Caller) -> Result<Vec<u8>> + Send + 'static) -> Response {
    match as_peer(from, run).await {
        Ok(value) => ([(header::CONTENT_TYPE, "application/octet-stream")], value).into_response(),
        Err(error) => refusal(&error),
    }
}

async fn as_peer<T: Send + 'static>(
    ConnectInfo(peer): From,
    run: impl FnOnce(&Caller) -> Result<T> + Send + 'static,
) -> Result<T> {
    let caller = peer.0.ok_or(Error::Denied)?;
    match tokio::task::spawn_blocking(move || run(&caller)).await {
        Ok(result) => result,
        Err(panic) => {
            tracing::error!("a request failed: {panic}");
            Err(Error::Os(5))
        }
    }
}

/// An error as JSON: its text, its errno, and the HTTP status nearest to it.
fn refusal(error: &Error) -> Response {
    let status = match error {
        Error::Invalid(_) | Error::Query { .. } | Error::Excluded(_) => StatusCode::BAD_REQUEST,
        Error::NotFound(_) | Error::NoAttribute => StatusCode::NOT_FOUND,
        Error::Denied | Error::NotPermitted(_) | Error::Derived { .. } => StatusCode::FORBIDDEN,
        Error::Exists(_) | Error::Conflict(_) => StatusCode::CONFLICT,
        Error::NotFresh { .. } => StatusCode::PRECONDITION_FAILED,
        // A file that a commit would replace is being written; a transaction has expired; its quota is reached.
        Error::Os(libc::EBUSY) => StatusCode::LOCKED,
        Error::Os(libc::ETIMEDOUT) => StatusCode::GONE,
        Error::Os(libc::EDQUOT | libc::ENOSPC) => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, axum::Json(refusal_json(error))).into_response()
}

fn refusal_json(error: &Error) -> Value {
    json!({"error": {"message": error.to_string(), "errno": error.errno()}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_bytes() {
        let check = |query: &str, name: &str, expect: &[u8]| {
            assert_eq!(
                parameter(Some(query), name).unwrap().into_vec(),
                expect,
                "{query}"
            );
        };
        check(
            "path=a%20b/%C3%BC&name=user.vexfs.vec",
            "path",
            "a b/ü".as_bytes(),
        );
        check("path=caf%E9&name=x", "path", b"caf\xe9");
        check("path=caf%E9&name=x", "name", b"x");
        check("path=", "path", b"");
        check("pathology=1&path=a+b", "path", b"a b");
        for bad in ["", "name=x", "path=%4", "path=%zz"] {
            assert!(
                matches!(parameter(Some(bad), "path"), Err(Error::Invalid(_))),
                "{bad}"
            );
        }
        assert!(parameter(None, "path").is_err());
    }
}
