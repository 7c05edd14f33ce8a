//! Who may ask over TCP, where the kernel does not say who is at the other end: whoever has the key.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use vexfs_core::fs::ops::Caller;

use crate::peer::Peer;

/// Random bytes of a key; it is written as twice as many hexadecimal digits.
const BYTES: usize = 32;

/// A key, and the user as whom requests with it run.
#[derive(Clone)]
pub struct Key {
    secret: Arc<str>,
    caller: Caller,
}

impl Key {
    /// The key in a file, made where there is none: readable to its owner only, so that whoever can read it could read
    /// the store as well. It stays the same until the file is removed.
    ///
    /// # Errors
    /// Those of the file; and one that holds something else than a key is [`io::ErrorKind::InvalidData`].
    pub fn in_file(path: &Path, caller: Caller) -> io::Result<Key> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let secret = text.trim();
                if secret.len() < 2 * BYTES {
                    let what = format!("{} holds no key; remove it", path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
                Ok(Key {
                    secret: secret.into(),
                    caller,
                })
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut random = [0; BYTES];
                File::open("/dev/urandom")?.read_exact(&mut random)?;
                let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
                let mut options = File::options();
                let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
                writeln!(file, "{secret}")?;
                file.sync_all()?;
                Ok(Key {
                    secret: secret.into(),
                    caller,
                })
            }
            Err(e) => Err(e),
        }
    }

    /// Whether a request has the key: `Authorization: Bearer KEY`, or `api-key: KEY`.
    fn opens(&self, headers: &HeaderMap) -> bool {
        let bearer = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let plain = headers.get("api-key").and_then(|value| value.to_str().ok());
        bearer.or(plain).is_some_and(|given| same(given, &self.secret))
    }
}

/// Compares all bytes, so that the time does not tell how many are right.
fn same(a: &str, b: &str) -> bool {
    let different = a
        .bytes()
        .zip(b.bytes())
        .fold(0, |different, (a, b)| different | (a ^ b));
    a.len() == b.len() && different == 0
}

/// Lets requests with the key through, as those of its user. A page in a browser cannot send it: the headers are not
/// among those that a foreign page may set.
pub(crate) async fn admit(State(key): State<Key>, mut request: Request, next: Next) -> Response {
    if !key.opens(request.headers()) {
        let body = json!({"error": {"message": "Authorization: Bearer KEY is expected; the key is in the store, api-key", "errno": 13}});
        return (StatusCode::UNAUTHORIZED, axum::Json(body)).into_response();
    }
    request
        .extensions_mut()
        .insert(ConnectInfo(Peer(Some(key.caller))));
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_and_opens_in_two_spellings() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-key");
        let caller = Caller {
            uid: 1,
            gid: 2,
            pid: 3,
        };
        let key = Key::in_file(&path, caller).unwrap();
        assert_eq!(Key::in_file(&path, caller).unwrap().secret, key.secret);
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        let opens = |name: &'static str, value: String| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            key.opens(&headers)
        };
        assert!(opens("authorization", format!("Bearer {}", key.secret)));
        assert!(opens("api-key", key.secret.to_string()));
        assert!(!opens("authorization", key.secret.to_string()));
        assert!(!opens("api-key", format!("{}0", key.secret)));
        assert!(!opens("api-key", key.secret[1..].to_owned()));
        assert!(!key.opens(&HeaderMap::new()));
        std::fs::write(&path, "short\n").unwrap();
        assert!(Key::in_file(&path, caller).is_err());
    }
}
