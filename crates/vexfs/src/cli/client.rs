//! Talking to the daemon of a mount: one request a connection, JSON over HTTP on its Unix socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::Value;

use super::failure::Failure;

/// Bytes of an answer that are taken: a list of 100,000 hits with their passages fits.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// The daemon that serves a path.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    /// The transaction whose tree is asked about.
    txn: Option<String>,
}

impl Client {
    /// A client of the daemon behind this socket.
    pub(crate) fn new(socket: PathBuf) -> Client {
        Client { socket, txn: None }
    }

    /// The same, asking about the tree of a transaction.
    pub(crate) fn inside(self, txn: String) -> Client {
        Client {
            txn: Some(txn),
            ..self
        }
    }

    /// Sends a JSON body, gets JSON back.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.json("POST", path, body.to_string().as_bytes())
    }

    /// Gets JSON.
    pub(crate) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.json("GET", path, b"")
    }

    /// Sends bytes, or none, with any method, and gets bytes back.
    pub(crate) fn bytes(&self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>, Failure> {
        let (status, answer) = self
            .exchange(method, path, body)
            .map_err(|error| Failure::no_daemon(format!("{}: {error}", self.socket.display())))?;
        if status / 100 == 2 {
            return Ok(answer);
        }
        let value: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let message = value["error"]["message"]
            .as_str()
            .unwrap_or("the daemon refused without a reason");
        Err(Failure::from_errno(
            value["error"]["errno"].as_i64().unwrap_or(0) as i32,
            message,
        ))
    }

    fn json(&self, method: &str, path: &str, body: &[u8]) -> Result<Value, Failure> {
        let answer = self.bytes(method, path, body)?;
        serde_json::from_slice(&answer).map_err(|e| Failure::usage(format!("answer of the daemon: {e}")))
    }

    fn exchange(&self, method: &str, path: &str, body: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
        let mut stream = UnixStream::connect(&self.socket)?;
        let txn = self.txn.as_ref();
        let txn = txn.map_or(String::new(), |txn| {
            format!("X-Vexfs-Txn: {}\r\n", percent(txn.as_bytes()))
        });
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: vexfs\r\nConnection: close\r\nContent-Type: application/json\r\n{txn}Content-Length: {}\r\n\r\n",
            body.len()
        );
        // In one piece: a server that answers without reading the body would cut the connection off before it came.
        stream.write_all(&[head.as_bytes(), body].concat())?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        split_answer(&answer).ok_or_else(|| std::io::Error::other("the answer is not HTTP"))
    }
}

/// The status and the body of an HTTP answer that was read to its end.
fn split_answer(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(body) = response.parse(answer).ok()? else {
        return None;
    };
    let chunked = response
        .headers
        .iter()
        .any(|h| h.name.eq_ignore_ascii_case("transfer-encoding"));
    let status = response.code?;
    let body = &answer[body..];
    Some((
        status,
        if chunked {
            join_chunks(body)?
        } else {
            body.to_vec()
        },
    ))
}

fn join_chunks(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut joined = Vec::new();
    loop {
        let httparse::Status::Complete((head, length)) = httparse::parse_chunk_size(body).ok()? else {
            return None;
        };
        let length = usize::try_from(length).ok()?;
        if length == 0 {
            return Some(joined);
        }
        joined.extend_from_slice(body.get(head..head.checked_add(length)?)?);
        body = body.get(head + length + 2..)?;
    }
}

/// A value for the query part of a request.
pub(crate) fn percent(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &b in bytes {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(b as char)
            }
            _ => text.push_str(&format!("%{b:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_split_whether_chunked_or_not() {
        let plain = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
        assert_eq!(split_answer(plain), Some((200, b"hi".to_vec())));
        let chunked =
            b"HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n";
        assert_eq!(split_answer(chunked), Some((404, b"hi!".to_vec())));
        assert_eq!(split_answer(b"nonsense"), None);
    }

    #[test]
    fn query_values_are_escaped() {
        assert_eq!(percent("a b/ü&.md".as_bytes()), "a%20b/%C3%BC%26.md");
    }
}
