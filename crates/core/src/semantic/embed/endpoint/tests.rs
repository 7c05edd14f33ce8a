use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A service on a loopback address: answers each request by what `answer` makes of its number, head and body.
struct Service {
    url: String,
    asked: Arc<AtomicUsize>,
}

fn serve(answer: impl Fn(usize, &str, &Value) -> (u16, String) + Send + 'static) -> Service {
    serve_with("retry-after: 0\r\n", answer)
}

/// The same with a header.
fn serve_with(
    header: &'static str,
    answer: impl Fn(usize, &str, &Value) -> (u16, String) + Send + 'static,
) -> Service {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            if let Some((head, body)) = request(&stream) {
                let (status, text) = answer(number, &head, &body);
                let _ = write!(
                    &stream,
                    "HTTP/1.1 {status} Said\r\nconnection: close\r\n{header}content-length: {}\r\n\r\n{text}",
                    text.len()
                );
            }
        }
    });
    Service { url, asked }
}

fn request(stream: &TcpStream) -> Option<(String, Value)> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, serde_json::from_slice(&body).ok()?))
}

fn profile(api: Api, url: &str) -> Profile {
    Profile {
        name: "mine".into(),
        api,
        url: url.into(),
        model: "model".into(),
        dim: 2,
        key_file: None,
        key_env: None,
        batch: 3,
        timeout_s: 5,
        retries: 2,
        hybrid_weight: 0.5,
        tokens_max: 8,
    }
}

/// The vector of a text: its length, and one.
fn vector(text: &Value) -> Value {
    json!([text.as_str().unwrap().len(), 1])
}

fn ollama(_: usize, _: &str, body: &Value) -> (u16, String) {
    let vectors: Vec<Value> = body["input"].as_array().unwrap().iter().map(vector).collect();
    (200, json!({ "embeddings": vectors }).to_string())
}

fn embedded(profile: Profile, texts: &[&str]) -> Result<Vec<f32>> {
    let mut out = vec![9.0; texts.len() * profile.dim];
    Endpoint::new(profile).embed(texts, &mut out)?;
    Ok(out)
}

#[test]
fn texts_go_in_batches_and_vectors_come_back_in_order_with_unit_length() {
    let service = serve(ollama);
    let texts = ["a", "bb", "ccc", "dddd", "eeeee", "ffffff", "ggggggg"];
    let out = embedded(profile(Api::Ollama, &service.url), &texts).unwrap();
    assert_eq!(service.asked.load(Ordering::SeqCst), 3);
    for (row, text) in out.chunks(2).zip(texts) {
        assert!(
            (row[0] / row[1] - text.len() as f32).abs() < 1e-4,
            "{row:?} {text}"
        );
        assert!((row[0].hypot(row[1]) - 1.0).abs() < 1e-5);
    }
}

#[test]
fn an_openai_answer_is_put_in_the_order_of_its_numbers() {
    let service = serve(|_, head, body| {
        assert!(head.starts_with("POST /v1/embeddings "), "{head}");
        assert_eq!(body["model"], "model");
        let texts = body["input"].as_array().unwrap();
        let mut data: Vec<Value> = (0..texts.len())
            .map(|at| json!({ "index": at, "embedding": vector(&texts[at]) }))
            .collect();
        data.reverse();
        (200, json!({ "data": data, "model": "model" }).to_string())
    });
    let out = embedded(
        profile(Api::OpenAi, &format!("{}/v1", service.url)),
        &["a", "bbb"],
    )
    .unwrap();
    assert!((out[0] / out[1] - 1.0).abs() < 1e-4 && (out[2] / out[3] - 3.0).abs() < 1e-4);
}

#[test]
fn what_may_pass_is_tried_again_and_what_will_not_is_an_error_at_once() {
    let busy = serve(|number, head, body| match number {
        0 => (429, "slowly".into()),
        1 => (503, "later".into()),
        _ => ollama(number, head, body),
    });
    assert!(embedded(profile(Api::Ollama, &busy.url), &["a"]).is_ok());
    assert_eq!(busy.asked.load(Ordering::SeqCst), 3);

    let down = serve(|_, _, _| (500, "broken".into()));
    let error = embedded(profile(Api::Ollama, &down.url), &["a"])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("status 500") && error.contains("broken"),
        "{error}"
    );
    assert_eq!(down.asked.load(Ordering::SeqCst), 3, "the first and two more");

    let unknown = serve(|_, _, _| (404, "model not found".into()));
    let error = embedded(profile(Api::Ollama, &unknown.url), &["a"])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("\"mine\"") && error.contains("model not found"),
        "{error}"
    );
    assert_eq!(unknown.asked.load(Ordering::SeqCst), 1);
}

#[test]
fn each_wait_is_twice_the_one_before_unless_the_service_says_how_long() {
    let waited = |header| {
        let busy = serve_with(header, |number, head, body| match number {
            0 => (429, "slowly".into()),
            1 => (503, "later".into()),
            _ => ollama(number, head, body),
        });
        let begin = std::time::Instant::now();
        embedded(profile(Api::Ollama, &busy.url), &["a"]).unwrap();
        begin.elapsed()
    };
    assert!(waited("") >= WAIT_MIN * 3);
    assert!(waited("retry-after: 1\r\n") >= Duration::from_secs(2));
}

#[test]
fn a_service_that_is_not_there_or_does_not_answer_is_an_error_in_time() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = embedded(profile(Api::Ollama, &format!("http://{closed}")), &["a"]).unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let waiting = Profile {
        timeout_s: 1,
        retries: 0,
        ..profile(Api::Ollama, &format!("http://{}", silent.local_addr().unwrap()))
    };
    let begin = std::time::Instant::now();
    assert!(embedded(waiting, &["a"]).is_err());
    assert!(begin.elapsed() >= Duration::from_secs(1));
}

#[test]
fn the_key_is_read_from_its_file_and_stands_in_no_message() {
    let dir = tempfile::tempdir().unwrap();
    let key_file = dir.path().join("key");
    std::fs::write(&key_file, "s3cr3t\n").unwrap();
    let service = serve(|_, head, _| {
        assert!(
            head.to_lowercase().contains("authorization: bearer s3cr3t"),
            "{head}"
        );
        (401, "wrong key".into())
    });
    let with_key = |key_file: &Path| Profile {
        key_file: Some(key_file.to_owned()),
        ..profile(Api::OpenAi, &service.url)
    };
    let error = embedded(with_key(&key_file), &["a"]).unwrap_err().to_string();
    assert!(
        error.contains("wrong key") && !error.contains("s3cr3t"),
        "{error}"
    );
    assert!(!format!("{:?}", Endpoint::new(with_key(&key_file))).contains("s3cr3t"));
    let error = embedded(with_key(&dir.path().join("none")), &["a"])
        .unwrap_err()
        .to_string();
    assert!(error.contains("key_file"), "{error}");
}

#[test]
fn wrong_numbers_of_vectors_or_components_are_refused() {
    for (answer, expected) in [
        (json!({ "embeddings": [] }), "0 vectors for 1 texts"),
        (json!({ "embeddings": [[1, 2, 3]] }), "3 components"),
        (json!({ "error": "out of memory" }), "out of memory"),
        (json!([]), "not the expected JSON"),
    ] {
        let service = serve(move |_, _, _| (200, answer.to_string()));
        let error = embedded(profile(Api::Ollama, &service.url), &["a"])
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn another_model_or_dimension_is_another_embedder() {
    let mine = profile(Api::Ollama, "http://x");
    let other = Profile {
        model: "other".into(),
        ..mine.clone()
    };
    assert_ne!(identity(&mine), identity(&other));
    assert!(identity(&mine).starts_with("mine-2-"));
}
