//! Embedders behind an endpoint, through the commands: going over to one and back while questions are answered, across
//! a killed daemon, and without any. The endpoint is a small server here: it counts words of four subjects.

#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

mod place;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use place::{Ended, Place, VEXFS, can_mount, eventually, run};
use serde_json::{Value, json};

const SUBJECTS: [&str; 4] = ["dog", "ship", "bread", "star"];

/// An Ollama that counts words.
struct Service {
    url: String,
    texts: Arc<AtomicUsize>,
    /// How long it takes for an answer.
    pause_ms: Arc<AtomicU64>,
}

impl Service {
    fn start() -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let service = Service {
            url: format!("http://{}", listener.local_addr().unwrap()),
            texts: Arc::default(),
            pause_ms: Arc::default(),
        };
        let (texts, pause_ms) = (service.texts.clone(), service.pause_ms.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (texts, pause_ms) = (texts.clone(), pause_ms.clone());
                std::thread::spawn(move || answer(&stream, &texts, &pause_ms));
            }
        });
        service
    }

    fn asked(&self) -> usize {
        self.texts.load(Ordering::SeqCst)
    }
}

fn answer(stream: &TcpStream, texts: &AtomicUsize, pause_ms: &AtomicU64) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let input = body["input"].as_array().unwrap();
        texts.fetch_add(input.len(), Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(pause_ms.load(Ordering::SeqCst)));
        let vector =
            |text: &Value| SUBJECTS.map(|word| 0.01 + text.as_str().unwrap().matches(word).count() as f32);
        let vectors: Vec<_> = input.iter().map(vector).collect();
        let text = json!({ "embeddings": vectors }).to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
        if (&*stream).write_all((head + &text).as_bytes()).is_err() {
            return;
        }
    }
}

struct Tree {
    place: Place,
}

impl Tree {
    /// Sixty files about one subject each, and a profile `mine`.
    fn new(service: &Service) -> Tree {
        let tree = Tree { place: Place::new() };
        let profiles = tree.config().join("vexfs/embedders");
        fs::create_dir_all(&profiles).unwrap();
        let profile = json!({ "api": "ollama", "url": service.url, "model": "counts", "dim": 4, "batch": 4 });
        fs::write(profiles.join("mine.json"), profile.to_string()).unwrap();
        for number in 0..60 {
            let subject = SUBJECTS[number % 4];
            let text = format!("# Note {number}\n\nAbout a {subject}, a good {subject}, number {number}.\n");
            fs::write(
                tree.place.at("source").join(format!("{subject}{number}.md")),
                text,
            )
            .unwrap();
        }
        tree
    }

    fn config(&self) -> PathBuf {
        self.place.at("config")
    }

    fn vexfs(&self, words: &[&str]) -> Ended {
        run(Command::new(VEXFS)
            .args(words)
            .env("XDG_CONFIG_HOME", self.config())
            .current_dir(self.place.at("")))
    }

    fn mount(&self, options: &str) {
        let ended = self.vexfs(&["mount", "-o", options, "source", "mnt"]);
        assert_eq!(ended.code, 0, "{ended:?}");
        let ended = self.vexfs(&["status", "--watch", "mnt"]);
        assert_eq!(ended.code, 0, "{ended:?}");
    }

    fn unmount(&self) {
        assert_eq!(self.vexfs(&["umount", "mnt"]).code, 0);
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.vexfs(&["status", "--json", "mnt"]).stdout).unwrap()
    }

    fn embedder(&self) -> String {
        self.status()["embedder"].as_str().unwrap().to_owned()
    }

    /// The best file by meaning alone.
    fn best(&self, question: &str) -> String {
        let listing = self
            .place
            .at("mnt")
            .join(".vexfs/search/@mode=vec,@k=1")
            .join(question);
        let names = fs::read_dir(listing)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("001")).collect()
    }
}

#[test]
fn a_tree_goes_over_to_another_embedder_and_back_while_questions_are_answered() {
    if !can_mount() {
        return;
    }
    let service = Service::start();
    let tree = Tree::new(&service);
    tree.mount("embed=auto");
    let built_in = tree.embedder();
    assert!(built_in.starts_with("vexfs-static"), "{built_in}");

    // While the new vectors are made, answers come from the old ones.
    service.pause_ms.store(150, Ordering::SeqCst);
    let ended = tree.vexfs(&["space", "migrate", "mine", "--background", "mnt"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(tree.embedder(), built_in);
    assert_eq!(tree.status()["migration"]["running"], true);
    assert!(!tree.best("a dog").is_empty());
    let again = tree.vexfs(&["space", "migrate", "mine", "mnt"]);
    assert_eq!(again.code, 2, "one at a time: {again:?}");
    // What changes meanwhile is there in the end as well.
    fs::write(
        tree.place.at("mnt").join("late.md"),
        "star star star star star star ship\n",
    )
    .unwrap();
    fs::remove_file(tree.place.at("mnt").join("dog0.md")).unwrap();
    eventually("the migration ends", || {
        tree.status()["migration"]["running"] == false
    });
    assert_eq!(
        tree.status()["migration"]["error"],
        Value::Null,
        "{}",
        tree.status()
    );
    service.pause_ms.store(0, Ordering::SeqCst);
    let mine = tree.embedder();
    assert!(mine.starts_with("mine-4-"), "{mine}");
    assert!(
        tree.best("ship ship").contains("ship"),
        "{}",
        tree.best("ship ship")
    );
    assert!(tree.best("star star star star star star ship").contains("late"));
    let verified = tree.vexfs(&["index", "verify", "mnt"]);
    assert_eq!(verified.code, 0, "{verified:?}");

    // It stays, and nothing is embedded again.
    tree.unmount();
    let asked = service.asked();
    tree.mount("embed=auto");
    assert_eq!(tree.embedder(), mine);
    assert_eq!(service.asked(), asked);

    let back = tree.vexfs(&["space", "migrate", "built-in", "mnt"]);
    assert_eq!(back.code, 0, "{back:?}");
    assert_eq!(tree.embedder(), built_in);
    tree.unmount();
}

#[test]
fn a_migration_that_a_kill_interrupts_goes_on_at_the_next_mount() {
    if !can_mount() {
        return;
    }
    let service = Service::start();
    let tree = Tree::new(&service);
    tree.mount("embed=auto");
    service.pause_ms.store(100, Ordering::SeqCst);
    let ended = tree.vexfs(&["space", "migrate", "mine", "--background", "mnt"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    eventually("some are asked for", || service.asked() > 8);
    let daemon = rustix::process::Pid::from_raw(tree.place.daemon("source")).unwrap();
    rustix::process::kill_process(daemon, rustix::process::Signal::KILL).unwrap();
    service.pause_ms.store(0, Ordering::SeqCst);
    tree.mount("embed=auto");
    eventually("the migration ends", || tree.embedder().starts_with("mine-4-"));
    assert!(tree.best("bread bread").contains("bread"));
    assert_eq!(tree.vexfs(&["index", "verify", "mnt"]).code, 0);
    tree.unmount();
}

#[test]
fn an_embedder_that_is_not_there_is_said_and_changes_nothing() {
    if !can_mount() {
        return;
    }
    let service = Service::start();
    let tree = Tree::new(&service);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dead = json!({ "api": "openai", "url": format!("http://{closed}/v1"), "model": "m", "dim": 4, "retries": 0 });
    fs::write(tree.config().join("vexfs/embedders/dead.json"), dead.to_string()).unwrap();
    let refused = tree.vexfs(&["mount", "-o", "embed=unknown", "source", "mnt"]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("unknown.json"), "{refused:?}");
    tree.mount("embed=auto");
    for (name, expected) in [("unknown", "/etc/vexfs/embedders"), ("dead", "refused")] {
        let ended = tree.vexfs(&["space", "migrate", name, "mnt"]);
        assert!(ended.code != 0 && ended.stderr.contains(expected), "{ended:?}");
    }
    assert!(tree.embedder().starts_with("vexfs-static"));
    tree.unmount();
}

#[test]
fn a_mount_may_have_a_profile_or_no_embedder_at_all() {
    if !can_mount() {
        return;
    }
    let service = Service::start();
    let tree = Tree::new(&service);
    tree.mount("embed=mine");
    assert!(tree.embedder().starts_with("mine-4-"));
    assert!(tree.best("dog dog").contains("dog"));
    tree.unmount();
    tree.mount("embed=off");
    assert_eq!(tree.embedder(), "none");
    let found = tree.vexfs(&["search", "bread", "mnt"]);
    assert!(found.code == 0 && found.stdout.contains("bread"), "{found:?}");
    tree.unmount();
}
