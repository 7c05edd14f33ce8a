//! Embedders behind an endpoint, through the commands: going over to one and back while questions are answered, across
//! a killed daemon, by HTTPS, and without any.

#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

mod endpoint;
mod place;

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use endpoint::{SUBJECTS, Service};
use place::{Ended, Place, VEXFS, can_mount, eventually, is_mounted, run};
use serde_json::{Value, json};

struct Tree {
    place: Place,
    /// What the commands find in their environment.
    environment: Vec<(&'static str, String)>,
}

impl Tree {
    /// So many files about one subject each, and a profile `mine`.
    fn new(service: &Service, files: usize) -> Tree {
        let tree = Tree {
            place: Place::new(),
            environment: Vec::new(),
        };
        fs::create_dir_all(tree.config().join("vexfs/embedders")).unwrap();
        tree.describe("mine", &service.url, &json!({}));
        for number in 0..files {
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

    /// Writes a profile, with what is special about it.
    fn describe(&self, name: &str, url: &str, special: &Value) {
        let mut profile =
            json!({ "api": "ollama", "url": url, "model": "counts", "dim": 4, "batch": 4, "retries": 1 });
        let special = special.as_object().unwrap().clone();
        profile.as_object_mut().unwrap().extend(special);
        let path = self.config().join(format!("vexfs/embedders/{name}.json"));
        fs::write(path, profile.to_string()).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.place.at("config")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(VEXFS);
        command
            .args(words)
            .env("XDG_CONFIG_HOME", self.config())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.place.at(""));
        command
    }

    fn vexfs(&self, words: &[&str]) -> Ended {
        run(&mut self.command(words))
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
    let tree = Tree::new(&service, 60);
    tree.mount("embed=auto");
    let built_in = tree.embedder();
    assert!(built_in.starts_with("vexfs-static"), "{built_in}");

    // While the new vectors are made, answers come from the old ones.
    service.answer_only(9);
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
    service.answer_only(usize::MAX);
    eventually("the migration ends", || {
        tree.status()["migration"]["running"] == false
    });
    assert_eq!(
        tree.status()["migration"]["error"],
        Value::Null,
        "{}",
        tree.status()
    );
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
    let answered = service.answered();
    tree.mount("embed=auto");
    assert_eq!(tree.embedder(), mine);
    assert_eq!(service.answered(), answered);

    let back = tree.vexfs(&["space", "migrate", "built-in", "mnt"]);
    assert_eq!(back.code, 0, "{back:?}");
    assert_eq!(tree.embedder(), built_in);
    tree.unmount();
}

#[test]
fn a_migration_that_a_kill_interrupts_goes_on_where_it_was() {
    if !can_mount() {
        return;
    }
    let service = Service::start();
    let tree = Tree::new(&service, 700);
    tree.mount("embed=auto");
    // One to see whether it is there, and two batches of vectors of 256; in the third it hangs.
    service.answer_only(1 + 512 + 20);
    let ended = tree.vexfs(&["space", "migrate", "mine", "--background", "mnt"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    eventually("it hangs in the third batch", || service.answered() == 533);
    assert!(tree.embedder().starts_with("vexfs-static"));
    tree.place.kill_daemon("source");
    // Changed while nobody looked: it is among those that come last.
    fs::write(
        tree.place.at("source/dog0.md"),
        "star star star star star star ship\n",
    )
    .unwrap();

    let answered = service.answered();
    tree.mount("embed=auto");
    assert_eq!(tree.status()["migration"]["running"], true);
    assert!(
        tree.embedder().starts_with("vexfs-static"),
        "until all are there the old ones answer"
    );
    assert!(tree.best("dog dog").contains("dog"));
    service.answer_only(usize::MAX);
    eventually("the migration ends", || tree.embedder().starts_with("mine-4-"));
    let more = service.answered() - answered;
    assert!((188..=200).contains(&more), "{more} of 700 texts, 512 were done");
    assert!(tree.best("bread bread").contains("bread"));
    assert!(tree.best("star star star star star star ship").contains("dog0"));
    assert_eq!(tree.vexfs(&["index", "verify", "mnt"]).code, 0);
    tree.unmount();
}

#[test]
fn a_service_by_https_is_asked_when_its_certificate_is_right_and_refused_when_it_is_not() {
    if !can_mount() {
        return;
    }
    let (service, authority) = Service::start_tls("127.0.0.1");
    let (elsewhere, other_authority) = Service::start_tls("elsewhere.example");
    let mut tree = Tree::new(&service, 20);
    tree.describe("elsewhere", &elsewhere.url, &json!({}));

    // An authority that nobody here knows.
    tree.mount("embed=auto");
    let built_in = tree.embedder();
    let refused = tree.vexfs(&["space", "migrate", "mine", "mnt"]);
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains("not trusted: invalid peer certificate")
            && refused.stderr.contains(&service.url),
        "{refused:?}"
    );
    assert_eq!((service.answered(), tree.embedder()), (0, built_in));
    tree.unmount();

    let known = tree.place.at("authorities.pem");
    fs::write(&known, authority + &other_authority).unwrap();
    tree.environment
        .push(("SSL_CERT_FILE", known.display().to_string()));
    tree.mount("embed=auto");
    // A certificate for another name.
    let refused = tree.vexfs(&["space", "migrate", "elsewhere", "mnt"]);
    assert!(
        refused.code != 0 && refused.stderr.contains("certificate"),
        "{refused:?}"
    );
    assert_eq!(elsewhere.answered(), 0);
    let ended = tree.vexfs(&["space", "migrate", "mine", "mnt"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(tree.best("ship ship").contains("ship"));
    assert_eq!(service.answered(), 23, "a first one, the files, the question");
    tree.unmount();
}

#[test]
fn keys_from_a_file_and_the_environment_reach_the_service_and_no_log() {
    if !can_mount() {
        return;
    }
    let service = Service::start();
    let mut tree = Tree::new(&service, 20);
    let key_file = tree.place.at("key");
    fs::write(&key_file, "k3y-in-file\n").unwrap();
    tree.describe("filed", &service.url, &json!({ "key_file": key_file }));
    tree.describe(
        "named",
        &service.url,
        &json!({ "key_env": "EMBEDDER_KEY", "model": "other" }),
    );
    tree.environment
        .push(("EMBEDDER_KEY", "k3y-in-environment".into()));
    tree.environment.push(("VEXFS_LOG", "trace".into()));
    let log = tree.place.at("log");
    let mut daemon = tree
        .command(&["mount", "-f", "-o", "embed=filed", "source", "mnt"])
        .stderr(fs::File::create(&log).unwrap())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    eventually("mounted", || is_mounted(&tree.place.at("mnt")));
    assert_eq!(tree.vexfs(&["status", "--watch", "mnt"]).code, 0);
    let ended = tree.vexfs(&["space", "migrate", "named", "mnt"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    tree.unmount();
    assert!(daemon.wait().unwrap().success());
    let heads = service.heads();
    for key in ["k3y-in-file", "k3y-in-environment"] {
        assert!(heads.contains(&format!("Bearer {key}")), "{heads}");
    }
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains("gone over to another embedder"), "{log}");
    assert!(!log.contains("k3y-in"), "{log}");
}

#[test]
fn an_embedder_that_is_not_there_is_said_and_changes_nothing() {
    if !can_mount() {
        return;
    }
    let service = Service::start();
    let tree = Tree::new(&service, 60);
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
    let tree = Tree::new(&service, 60);
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
