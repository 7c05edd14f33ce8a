//! An embedder behind an endpoint, for tests: an Ollama that counts words of four subjects, by HTTP or by HTTPS with a
//! certificate of an authority of its own.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

pub(crate) const SUBJECTS: [&str; 4] = ["dog", "ship", "bread", "star"];

/// The service.
pub(crate) struct Service {
    pub(crate) url: String,
    shared: Arc<Shared>,
}

struct Shared {
    /// Texts that were answered.
    answered: AtomicUsize,
    /// So many are answered; those who ask for more wait.
    answers_max: AtomicUsize,
    /// The heads of all requests.
    heads: Mutex<String>,
}

impl Service {
    pub(crate) fn start() -> Service {
        Service::serve("http", answer)
    }

    /// By HTTPS, with a certificate for this name; the second value is the certificate of the authority, as PEM.
    pub(crate) fn start_tls(name: &str) -> (Service, String) {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = authority.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(authority, key);
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let config = Arc::new(config);
        let service = Service::serve("https", move |stream, shared| {
            let connection = ServerConnection::new(config.clone()).unwrap();
            answer(StreamOwned::new(connection, stream), shared);
        });
        (service, pem)
    }

    fn serve(scheme: &str, answer: impl Fn(TcpStream, &Shared) + Clone + Send + 'static) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let service = Service {
            url: format!("{scheme}://{}", listener.local_addr().unwrap()),
            shared: Arc::new(Shared {
                answered: AtomicUsize::new(0),
                answers_max: AtomicUsize::new(usize::MAX),
                heads: Mutex::default(),
            }),
        };
        let shared = service.shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, answer) = (shared.clone(), answer.clone());
                std::thread::spawn(move || answer(stream, &shared));
            }
        });
        service
    }

    /// Texts that were answered.
    pub(crate) fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::SeqCst)
    }

    /// Answers so many texts more; whoever asks for others waits.
    pub(crate) fn answer_only(&self, texts: usize) {
        let max = self.answered().saturating_add(texts);
        self.shared.answers_max.store(max, Ordering::SeqCst);
    }

    /// The heads of all requests so far.
    pub(crate) fn heads(&self) -> String {
        self.shared.heads.lock().clone()
    }
}

/// Answers the requests of a connection.
fn answer(stream: impl Read + Write, shared: &Shared) {
    let mut reader = BufReader::new(stream);
    while let Some(body) = request(&mut reader, shared) {
        let input = body["input"].as_array().unwrap();
        let (answered, max) = (&shared.answered, &shared.answers_max);
        while answered.load(Ordering::SeqCst) + input.len() > max.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(2));
        }
        answered.fetch_add(input.len(), Ordering::SeqCst);
        let vector =
            |text: &Value| SUBJECTS.map(|word| 0.01 + text.as_str().unwrap().matches(word).count() as f32);
        let vectors: Vec<_> = input.iter().map(vector).collect();
        let text = json!({ "embeddings": vectors }).to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
        let out = reader.get_mut();
        if out
            .write_all((head + &text).as_bytes())
            .and_then(|()| out.flush())
            .is_err()
        {
            return;
        }
    }
}

/// The body of the next request; none at the end, also at that of a client who does not like the certificate.
fn request(reader: &mut impl BufRead, shared: &Shared) -> Option<Value> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        shared.heads.lock().push_str(&line);
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}
