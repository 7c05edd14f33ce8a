//! The commands beside search: grep, vectors in bulk, spaces, export, check, doctor, completions.

#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

mod mounted;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use mounted::{Mounted, chmod, stdout, vexfs};
use serde_json::Value;

const FILES: [(&str, &str); 5] = [
    (
        "src/engine.rs",
        "pub struct Engine;\n\nimpl Engine {\n    pub fn start() {}\n}\n",
    ),
    (
        "src/main.rs",
        "use engine::Engine;\n\nfn main() {\n    Engine::start();\n}\n",
    ),
    (
        "notes/engine.md",
        "# The engine\n\nThe engine starts when somebody asks.\nIt stops by itself.\n",
    ),
    ("notes/sea.md", "Waves roll over the sea.\r\nSalt.\r\n"),
    ("page.html", "<p>An <b>engine</b> in a page.</p>\n"),
];

/// Runs the command with the mount as its directory.
fn at(mount: &Mounted, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vexfs"))
        .args(args)
        .current_dir(mount.path())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn ok(mount: &Mounted, args: &[&str]) -> String {
    let output = at(mount, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    stdout(&output)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn grep_finds_exact_words_under_conditions() {
    let mount = Mounted::with(&FILES, &[]);
    mount.settle();
    let check = |args: &[&str], want: &str| {
        let mut line = vec!["grep"];
        line.extend_from_slice(args);
        assert_eq!(ok(&mount, &line), want, "{args:?}");
    };
    check(
        &["Engine", "-q", "ext:rs"],
        "src/engine.rs:1:pub struct Engine;\nsrc/engine.rs:3:impl Engine {\nsrc/main.rs:1:use engine::Engine;\nsrc/main.rs:4:    Engine::start();\n",
    );
    check(&["-l", "-i", "engine", "notes"], "notes/engine.md\n");
    check(&["-c", "Engine", "src"], "src/engine.rs:2\nsrc/main.rs:2\n");
    check(
        &["-w", "start", "--include", "*.rs"],
        "src/engine.rs:4:    pub fn start() {}\nsrc/main.rs:4:    Engine::start();\n",
    );
    check(
        &["-F", "::start(", "--exclude", "*.md"],
        "src/main.rs:4:    Engine::start();\n",
    );
    check(&["Salt.$", "notes/sea.md"], "notes/sea.md:2:Salt.\n");
    check(
        &["-rn", "--context", "1", "somebody", "notes"],
        "notes/engine.md-2-\nnotes/engine.md:3:The engine starts when somebody asks.\nnotes/engine.md-4-It stops by itself.\n",
    );
    check(
        &["-0", "-m", "1", "Engine", "src"],
        "src/engine.rs\0src/main.rs\0",
    );
    let answer = json(&ok(&mount, &["grep", "--json", "engine", "page.html"]));
    assert_eq!(answer["hits"][0]["line"], 1, "{answer}");
    let code = |args: &[&str]| at(&mount, args).status.code().unwrap();
    assert_eq!(code(&["grep", "nowhere to be found"]), 1);
    assert_eq!(code(&["grep", "a(b"]), 2);
    assert_eq!(code(&["grep", "x", "-q", "ranking words"]), 2);
    // A file that is written now is searched before it is indexed.
    std::fs::write(mount.join("notes/new.md"), "zyxwvut\n").unwrap();
    mount.settle();
    check(&["zyxwvut"], "notes/new.md:1:zyxwvut\n");
}

#[test]
fn grep_and_export_show_a_stranger_nothing_private() {
    if !rustix::process::geteuid().is_root() {
        return; // Only root can become a stranger.
    }
    let files = [
        ("open.md", "A common word.\n"),
        ("closed.md", "A common secret.\n"),
    ];
    let mount = Mounted::for_all(&files);
    chmod(&mount.join("closed.md"), 0o600);
    mount.settle();
    let stranger = |words: &str| {
        let output = mount.as_stranger(&format!("\"$VEXFS\" {words}"));
        (output.status.code().unwrap(), stdout(&output))
    };
    assert_eq!(stranger("grep common"), (0, "open.md:1:A common word.\n".into()));
    let (code, lines) = stranger("export");
    assert!(
        code == 0 && lines.contains("open.md") && !lines.contains("closed"),
        "{lines}"
    );
    assert_eq!(stranger("check").0, 5);
    assert_eq!(stranger("grep common closed.md").0, 5);
}

#[test]
fn vectors_come_and_go_in_bulk() {
    let mount = Mounted::with(&FILES, &[]);
    mount.settle();
    let outside = mount.source().join("..");
    let lines = outside.join("vectors.jsonl");
    std::fs::write(
        &lines,
        "{\"path\":\"src/main.rs\",\"vector\":[1,0,0]}\n\n{\"path\":\"notes/sea.md\",\"vector\":[0,1,0.5]}\n",
    )
    .unwrap();
    ok(
        &mount,
        &["space", "create", "mine", "--dim", "3", "--measure", "dot"],
    );
    assert_eq!(
        ok(
            &mount,
            &["vec", "import", lines.to_str().unwrap(), "--space", "mine"]
        ),
        "2\n"
    );
    let spaces = ok(&mount, &["space", "list"]);
    assert!(spaces.lines().any(|line| line == "mine\t3\tdot\t2"), "{spaces}");
    let exported = ok(&mount, &["vec", "export", "--space", "mine"]);
    assert_eq!(exported.lines().count(), 2);
    assert!(
        exported.contains("{\"path\":\"notes/sea.md\",\"vector\":[0.0,1.0,0.5]}"),
        "{exported}"
    );
    // NumPy and a list of paths, there and back into another space.
    let (npy, paths) = (outside.join("v.npy"), outside.join("paths"));
    let (npy, paths) = (npy.to_str().unwrap(), paths.to_str().unwrap());
    ok(
        &mount,
        &[
            "vec", "export", "--space", "mine", "-o", npy, "--paths", paths, "src",
        ],
    );
    assert_eq!(std::fs::read_to_string(paths).unwrap(), "main.rs\n");
    ok(
        &mount,
        &["vec", "import", npy, "src", "--paths", paths, "--space", "other"],
    );
    let got = ok(&mount, &["vec", "get", "--space", "other", "src/main.rs"]);
    assert_eq!(got.trim(), "[1.0,0.0,0.0]");
    let like = ok(&mount, &["like", "--space", "mine", "src/main.rs"]);
    assert_eq!(like, "notes/sea.md\n");

    let code = |args: &[&str]| at(&mount, args).status.code().unwrap();
    assert_eq!(code(&["space", "create", "mine", "--dim", "4"]), 2, "other terms");
    assert_eq!(
        code(&["vec", "import", npy, "--space", "mine"]),
        2,
        "no list of paths"
    );
    std::fs::write(
        &lines,
        "{\"path\":\"src/main.rs\",\"vector\":[9,9,9]}\n{\"path\":\"none\",\"vector\":[1,1,1]}\n",
    )
    .unwrap();
    let failed = at(
        &mount,
        &["vec", "import", lines.to_str().unwrap(), "--space", "mine"],
    );
    assert_eq!(failed.status.code(), Some(2), "{failed:?}");
    assert!(
        String::from_utf8_lossy(&failed.stderr).contains("none"),
        "{failed:?}"
    );
    assert!(
        ok(&mount, &["vec", "get", "--space", "mine", "src/main.rs"]).contains("1.0"),
        "all or none"
    );
    ok(&mount, &["vec", "rm", "--space", "mine", "src/main.rs"]);
    ok(&mount, &["space", "drop", "mine"]);
    assert_eq!(code(&["space", "drop", "mine"]), 2);
    assert_eq!(code(&["vec", "get", "--space", "mine", "notes/sea.md"]), 2);
    assert!(json(&ok(&mount, &["check", "--json"]))["sound"] == true);
}

#[test]
fn an_export_has_everything_that_was_told() {
    let mount = Mounted::with(&FILES, &[]);
    mount.settle();
    ok(&mount, &["tag", "notes/sea.md", "calm"]);
    ok(
        &mount,
        &[
            "relate",
            "notes/sea.md",
            "near",
            "notes/engine.md",
            "--prop",
            "km=3",
        ],
    );
    ok(&mount, &["vec", "set", "notes/sea.md", "[1,2]"]);
    assert_eq!(
        mount.ls(".vexfs/search/tag:calm/").len(),
        2,
        "the file and results.jsonl"
    );
    assert!(
        mount
            .read(".vexfs/search/linked:near:notes%2Fengine.md/results.jsonl")
            .contains("sea.md")
    );
    let all = ok(&mount, &["export"]);
    // Five files and two folders.
    assert_eq!(all.lines().count(), 7, "{all}");
    let told = ok(&mount, &["export", "--told", "notes"]);
    assert_eq!(told.lines().count(), 1, "{told}");
    let sea = json(told.trim());
    assert_eq!(sea["path"], "notes/sea.md");
    assert_eq!(sea["tags"][0], "calm");
    assert_eq!(sea["vectors"][""], serde_json::json!([1.0, 2.0]));
    assert_eq!(sea["relations"][0]["properties"]["km"], 3);
    assert_eq!(sea["state"], "ready");
    assert_eq!(at(&mount, &["export", "--told", "src"]).status.code(), Some(1));
}

#[test]
fn a_check_waits_for_nothing_that_is_held_back() {
    let mount = Mounted::with(&FILES, &["-o", "index=manual"]);
    std::fs::write(mount.join("notes/later.md"), "Not indexed by itself.\n").unwrap();
    let told = ok(&mount, &["check"]);
    assert!(told.starts_with("sound: ") && told.contains(" pending"), "{told}");
}

#[test]
fn check_tells_what_does_not_agree() {
    let mount = Mounted::with(&FILES, &[]);
    mount.settle();
    assert!(ok(&mount, &["check"]).starts_with("sound: "));
    assert!(ok(&mount, &["index", "verify"]).starts_with("sound: "));
    // Other bytes behind the mount, with the size and times of before.
    let behind = mount.source().join("notes/sea.md");
    let before = std::fs::metadata(&behind).unwrap();
    mount.umount();
    std::fs::write(&behind, "Winds roll over the sea.\r\nSalt.\r\n").unwrap();
    let file = std::fs::File::options().write(true).open(&behind).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    drop(file);
    let source = mount.source();
    let dir = source.to_str().unwrap();
    // The scan sees that the ctime moved, and indexes the file again: nothing is wrong.
    let output = vexfs(&["check", "-C", dir]);
    assert!(output.status.success(), "{output:?}");
    // A byte of a segment of the index turns.
    let segments = walk(&source.join(".vexfs/derived"));
    let victim = segments
        .iter()
        .find(|path| path.extension().is_some_and(|e| e == "store"))
        .unwrap();
    let mut bytes = std::fs::read(victim).unwrap();
    bytes[4] ^= 0x10;
    std::fs::write(victim, bytes).unwrap();
    let output = vexfs(&["check", "-C", dir, "--json"]);
    let verdict = json(&stdout(&output));
    assert_eq!(output.status.code(), Some(2), "{verdict}");
    assert_eq!(verdict["faults"][0]["part"], "words", "{verdict}");
    let output = vexfs(&["index", "rebuild", "-C", dir]);
    assert!(output.status.success(), "{output:?}");
    assert!(vexfs(&["check", "-C", dir]).status.success());
    mount.mount(&[]);
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(walk(&path)),
            false => files.push(path),
        }
    }
    files
}

#[test]
fn doctor_and_completions_need_no_mount() {
    let mount = Mounted::with(&FILES, &[]);
    mount.settle();
    let findings = json(&ok(&mount, &["doctor", "--json"]));
    let about = |name: &str| {
        let all = findings["findings"].as_array().unwrap();
        all.iter()
            .find(|finding| finding["about"] == name)
            .cloned()
            .unwrap_or_default()
    };
    assert_eq!(about("/dev/fuse")["health"], "ok", "{findings}");
    assert!(
        about("store")["what"].as_str().unwrap().contains("5 files"),
        "{findings}"
    );
    let dir = tempfile::tempdir().unwrap();
    let output = vexfs(&["doctor", dir.path().to_str().unwrap()]);
    assert!(
        output.status.success() && stdout(&output).contains("kernel"),
        "{output:?}"
    );
    std::fs::create_dir(dir.path().join(".vexfs")).unwrap();
    std::fs::write(dir.path().join(".vexfs/mine"), "x").unwrap();
    let output = vexfs(&["doctor", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    for shell in ["bash", "zsh", "fish"] {
        let output = vexfs(&["completions", shell]);
        assert!(
            output.status.success() && stdout(&output).contains("related"),
            "{shell}"
        );
    }
    assert!(stdout(&vexfs(&["bench", "--help"])).contains("--quick"));
}

#[test]
fn a_reader_that_goes_away_ends_a_command_in_silence() {
    let mount = Mounted::with(&FILES, &[]);
    mount.settle();
    let exe = env!("CARGO_BIN_EXE_vexfs");
    for command in [
        "completions bash",
        "export",
        "grep e",
        "search engine",
        "related src/main.rs",
        "status",
    ] {
        let script = format!("{exe} {command} | true");
        let output = Command::new("sh")
            .args(["-c", &script])
            .current_dir(mount.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.is_empty(), "{command}: {said}");
    }
}

#[test]
fn standard_input_gives_vectors_and_relations() {
    let mount = Mounted::with(&FILES, &[]);
    mount.settle();
    let mut child = Command::new(env!("CARGO_BIN_EXE_vexfs"))
        .args(["vec", "import", "-", "--space", "piped"])
        .current_dir(mount.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: String = (0..2_000)
        .map(|n| format!("{{\"path\":\"src/main.rs\",\"vector\":[{n},{},1]}}\n", n * 2))
        .collect();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(stdout(&output), "2000\n");
    assert_eq!(
        ok(&mount, &["vec", "get", "--space", "piped", "src/main.rs"]).trim(),
        "[1999.0,3998.0,1.0]"
    );
}
