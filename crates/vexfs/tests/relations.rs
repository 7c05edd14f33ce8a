//! Relations through the mount and the command line, as a user sees them.

#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

mod mounted;

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use mounted::{Mounted, chmod, stdout, vexfs};
use serde_json::Value;

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

fn related(mount: &Mounted, args: &[&str]) -> Value {
    let mut line = vec!["related", "--json"];
    line.extend_from_slice(args);
    let output = at(mount, &line);
    serde_json::from_str(&stdout(&output)).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// Runs the command with the mount as its directory.
fn at(mount: &Mounted, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vexfs"))
        .args(args)
        .current_dir(mount.path())
        .output()
        .unwrap()
}

fn paths(answer: &Value) -> Vec<&str> {
    let hits = answer["hits"].as_array().unwrap();
    hits.iter().map(|hit| hit["path"].as_str().unwrap()).collect()
}

const NOTES: [(&str, &str); 4] = [
    ("notes/a.md", "Bees visit many flowers on a summer day.\n"),
    ("notes/b.md", "Honey is made in the hive.\n"),
    ("c.md", "Waves roll over the sea at night.\n"),
    ("deep/er/d.md", "A clock needs a new spring.\n"),
];

#[test]
fn links_are_made_listed_followed_and_removed() {
    let mount = Mounted::with(&NOTES, &[]);
    mount.settle();
    let cites = mount.join(".vexfs/rel/notes/a.md/cites");
    // From the scope, from the directory of the link, and absolute through the mount.
    symlink("notes/b.md", cites.join("b.md")).unwrap();
    symlink("../../../../../c.md", cites.join("c.md")).unwrap();
    symlink(mount.join("deep/er/d.md"), cites.join("clock")).unwrap();
    assert_eq!(mount.ls(".vexfs/rel/notes/a.md"), ["cites"]);
    assert_eq!(mount.ls(".vexfs/rel/notes/a.md/cites"), ["b.md", "c.md", "clock"]);
    assert!(
        mount
            .read(".vexfs/rel/notes/a.md/cites/clock")
            .contains("new spring")
    );
    let target = std::fs::read_link(cites.join("b.md")).unwrap();
    assert_eq!(target, Path::new("../../../../../notes/b.md"));
    assert_eq!(
        cites.join("b.md").symlink_metadata().unwrap().len(),
        target.as_os_str().len() as u64
    );
    // The same relations from another directory's scope.
    assert_eq!(mount.ls("notes/.vexfs/rel/a.md/cites"), ["b.md", "c.md", "clock"]);
    assert!(mount.read("notes/.vexfs/rel/a.md/cites/c.md").contains("Waves"));
    assert_eq!(mount.ls(".vexfs/search/linked:cites:notes%2Fa.md").len(), 4);

    std::fs::rename(mount.join("notes/b.md"), mount.join("honey.md")).unwrap();
    mount.settle();
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    assert_eq!(
        mount.ls(".vexfs/rel/notes/a.md/cites"),
        ["c.md", "clock", "honey.md"]
    );

    std::fs::rename(
        cites.join("clock"),
        mount.join(".vexfs/rel/notes/a.md/quotes/clock"),
    )
    .unwrap();
    assert_eq!(mount.ls(".vexfs/rel/notes/a.md/quotes"), ["clock"]);
    std::fs::remove_file(cites.join("c.md")).unwrap();
    std::fs::remove_file(cites.join("honey.md")).unwrap();
    assert_eq!(mount.ls(".vexfs/rel/notes/a.md"), ["quotes"]);
    mount.umount();
    mount.mount(&[]);
    assert_eq!(mount.ls(".vexfs/rel/notes/a.md/quotes"), ["clock"]);
}

#[test]
fn a_dangling_target_is_shown_until_it_exists_and_after_it_is_gone() {
    let mount = Mounted::with(&NOTES, &[]);
    mount.settle();
    let needs = mount.join(".vexfs/rel/c.md/needs");
    symlink("later.md", needs.join("later.md")).unwrap();
    assert_eq!(mount.ls(".vexfs/rel/c.md/needs"), ["later.md"]);
    assert!(std::fs::read(needs.join("later.md")).is_err());
    let answer = related(&mount, &["c.md"]);
    assert_eq!(answer["hits"][0]["dangling"], true, "{answer}");
    std::fs::write(mount.join("later.md"), "It came.\n").unwrap();
    mount.settle();
    assert_eq!(mount.read(".vexfs/rel/c.md/needs/later.md"), "It came.\n");
    assert_eq!(related(&mount, &["c.md"])["hits"][0]["dangling"], false);
    assert_eq!(paths(&related(&mount, &["later.md"])), ["c.md"]);
    std::fs::remove_file(mount.join("later.md")).unwrap();
    mount.settle();
    let answer = related(&mount, &["c.md"]);
    assert_eq!(paths(&answer), ["later.md"]);
    assert_eq!(answer["hits"][0]["dangling"], true, "{answer}");
    assert_eq!(mount.ls(".vexfs/rel/c.md/needs"), ["later.md"]);
}

#[test]
fn what_a_rule_keeps_out_can_be_a_target_and_not_a_source() {
    let files = [("a.md", "A page.\n"), (".git/config", "[core]\n")];
    let mount = Mounted::with(&files, &[]);
    mount.settle();
    assert!(
        at(&mount, &["relate", "a.md", "uses", ".git/config"])
            .status
            .success()
    );
    let answer = related(&mount, &["a.md"]);
    assert_eq!(paths(&answer), [".git/config"]);
    assert_eq!(answer["hits"][0]["dangling"], false, "{answer}");
    assert_eq!(mount.read(".vexfs/rel/a.md/uses/config"), "[core]\n");
    let output = at(&mount, &["relate", ".git/config", "uses", "a.md"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("kept out"),
        "{output:?}"
    );
}

#[test]
fn what_cannot_be_is_refused_with_the_errno_that_says_why() {
    let mount = Mounted::with(&NOTES, &[]);
    mount.settle();
    let rel = mount.join(".vexfs/rel");
    symlink("c.md", rel.join("notes/a.md/cites/c.md")).unwrap();
    assert_eq!(
        errno(symlink("notes/b.md", rel.join("notes/a.md/cites/c.md"))),
        libc::EEXIST
    );
    assert_eq!(
        errno(symlink("c.md", rel.join("notes/a.md/cites/again"))),
        libc::EEXIST
    );
    assert_eq!(
        errno(symlink("c.md", rel.join("none.md/cites/c.md"))),
        libc::ENOENT
    );
    assert_eq!(errno(std::fs::create_dir(rel.join("c.md/@type"))), libc::EINVAL);
    assert_eq!(errno(std::fs::create_dir(rel.join("c.md/.type"))), libc::EINVAL);
    assert_eq!(
        errno(symlink("../../above", rel.join("c.md/cites/x"))),
        libc::EINVAL
    );
    assert_eq!(
        errno(std::fs::remove_file(rel.join("c.md/cites/none"))),
        libc::ENOENT
    );
    assert_eq!(
        errno(std::fs::remove_dir(rel.join("notes/a.md/cites"))),
        libc::ENOTEMPTY
    );
    assert!(std::fs::write(rel.join("c.md/cites/file"), "x").is_err());
    assert_eq!(
        errno(std::fs::hard_link(mount.join("c.md"), rel.join("c.md/cites/x"))),
        libc::EPERM
    );
}

#[test]
fn relations_are_derived_while_files_are_indexed_and_marked_as_such() {
    let long: String = (0..400).map(|n| format!("word{} ", n * 7 % 401)).collect();
    let near = format!("{long} and a last line of its own\n");
    let files = [
        (
            "docs/index.md",
            "Read [the guide](guide.md) and [[Bees]], not [this](missing.md).\n",
        ),
        ("docs/guide.md", "How to begin.\n"),
        ("notes/Bees.md", "They live in hives.\n"),
        (
            "src/main.rs",
            "mod engine;\nuse crate::engine::Engine;\nfn main() {}\n",
        ),
        ("src/engine.rs", "pub struct Engine;\n"),
        ("lib/app.py", "from . import tools\nimport numpy\n"),
        ("lib/tools.py", "def run(): pass\n"),
        (
            "c/main.c",
            "#include \"list.h\"\n#include <stdio.h>\nint main(void) { return 0; }\n",
        ),
        ("c/list.h", "struct list;\n"),
        ("copy/one.txt", &long),
        ("copy/two.txt", &long),
        ("copy/near.txt", &near),
    ];
    let mount = Mounted::with(&files, &[]);
    mount.settle();
    let out = |path: &str, kind: &str| {
        let answer = related(&mount, &["--type", kind, "--direction", "out", path]);
        let mut found: Vec<String> = paths(&answer).iter().map(|path| (*path).to_owned()).collect();
        found.sort();
        found
    };
    assert_eq!(
        out("docs/index.md", "links"),
        ["docs/guide.md", "docs/missing.md", "notes/Bees.md"]
    );
    assert_eq!(out("src/main.rs", "imports"), ["src/engine.rs"]);
    assert_eq!(out("lib/app.py", "imports"), ["lib/tools.py"]);
    assert_eq!(out("c/main.c", "imports"), ["c/list.h"]);
    let both = |path: &str, kind: &str| paths(&related(&mount, &["--type", kind, path])).len();
    assert!(both("copy/one.txt", "duplicates") > 0);
    assert!(both("copy/near.txt", "resembles") > 0);

    let rel = mount.join(".vexfs/rel/docs/index.md/links");
    assert_eq!(mount.ls(".vexfs/rel/docs/index.md"), ["links"]);
    assert_eq!(
        mount.ls(".vexfs/rel/docs/index.md/links"),
        ["Bees.md", "guide.md", "missing.md"]
    );
    let guide = rel.join("guide.md");
    assert_eq!(guide.symlink_metadata().unwrap().mode() & 0o777, 0o555);
    let attribute = |name: &str| {
        let args = ["-h", "--only-values", "-n", name, guide.to_str().unwrap()];
        stdout(&Command::new("getfattr").args(args).output().unwrap())
    };
    assert_eq!(attribute("vexfs.derived"), "1");
    assert_eq!(attribute("vexfs.properties"), "{\"line\":1}");
    assert_eq!(errno(std::fs::remove_file(&guide)), libc::EPERM);
    let output = at(&mount, &["unrelate", "docs/index.md", "links", "docs/guide.md"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("derived"),
        "{output:?}"
    );
    // Another text, other relations.
    std::fs::write(mount.join("docs/index.md"), "See [main](../src/main.rs).\n").unwrap();
    mount.settle();
    assert_eq!(out("docs/index.md", "links"), ["src/main.rs"]);
}

#[test]
fn the_command_line_tells_and_follows_relations() {
    let mount = Mounted::with(&NOTES, &[]);
    mount.settle();
    let ok = |args: &[&str]| {
        let output = at(&mount, args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        stdout(&output)
    };
    ok(&[
        "relate",
        "notes/a.md",
        "cites",
        "notes/b.md",
        "--prop",
        "page=3",
        "--prop",
        "mood=calm",
    ]);
    ok(&["relate", "notes/b.md", "cites", "c.md"]);
    ok(&["relate", "deep/er/d.md", "follows", "c.md"]);
    assert_eq!(ok(&["related", "notes/a.md"]), "notes/b.md\n");
    let answer = related(&mount, &["notes/a.md"]);
    assert_eq!(answer["hits"][0]["properties"]["page"], 3, "{answer}");
    assert_eq!(answer["hits"][0]["properties"]["mood"], "calm");
    assert_eq!(
        paths(&related(&mount, &["--depth", "2", "notes/a.md"])),
        ["notes/b.md", "c.md"]
    );
    let way = related(&mount, &["notes/a.md", "--path", "deep/er/d.md"]);
    assert_eq!(paths(&way), ["notes/b.md", "c.md", "deep/er/d.md"]);
    assert_eq!(way["hits"][2]["direction"], "in", "{way}");
    let none = at(
        &mount,
        &[
            "related",
            "notes/a.md",
            "--path",
            "deep/er/d.md",
            "--direction",
            "out",
        ],
    );
    assert_eq!(none.status.code(), Some(1));
    let near = related(&mount, &["--rank", "notes/a.md"]);
    assert_eq!(paths(&near)[0], "notes/b.md", "{near}");
    assert_eq!(near["hits"][0]["score"], 1.0);
    assert_eq!(
        ok(&["related", "-0", "c.md", "--direction", "in", "--type", "follows"]),
        "deep/er/d.md\0"
    );
    // Ranked by relations a file comes up in which no word of the query is.
    let by_relation = mount.read(".vexfs/search/@mode=rel/flowers bees/results.jsonl");
    assert!(by_relation.contains("notes/b.md"), "{by_relation}");

    ok(&["unrelate", "notes/b.md", "cites", "c.md"]);
    let again = at(&mount, &["unrelate", "notes/b.md", "cites", "c.md"]);
    assert_eq!(again.status.code(), Some(2), "{again:?}");
    assert_eq!(
        at(&mount, &["related", "deep/er/d.md", "--type", "none"])
            .status
            .code(),
        Some(1)
    );
    let lines = "{\"from\":\"c.md\",\"type\":\"x\",\"to\":\"notes/a.md\"}\n\n{\"from\":\"c.md\",\"type\":\"x\",\"to\":\"notes/b.md\"}\n";
    std::fs::write(mount.source().join("../lines"), lines).unwrap();
    ok(&[
        "relate",
        "--import",
        mount.source().join("../lines").to_str().unwrap(),
        ".",
    ]);
    assert_eq!(paths(&related(&mount, &["c.md", "--type", "x"])).len(), 2);
    // Without a mount the same store answers.
    mount.umount();
    let source = mount.source();
    let output = vexfs(&["related", "-C", source.to_str().unwrap(), "notes/a.md"]);
    assert_eq!(stdout(&output), "notes/b.md\nc.md\n", "{output:?}");
    mount.mount(&[]);
}

#[test]
fn a_stranger_learns_of_no_relation_to_a_private_file() {
    if !rustix::process::geteuid().is_root() {
        return; // Only root can become a stranger.
    }
    let files = [
        ("public.md", "See [it](closed/secret.md) and [b](b.md).\n"),
        ("b.md", "A second page.\n"),
        ("closed/secret.md", "The treasure. Back to [b](../b.md).\n"),
        ("c.md", "A third page.\n"),
    ];
    let mount = Mounted::for_all(&files);
    chmod(&mount.join("closed"), 0o700);
    chmod(&mount.join("c.md"), 0o666);
    mount.settle();
    for args in [
        ["relate", "public.md", "cites", "closed/secret.md"],
        ["relate", "closed/secret.md", "cites", "c.md"],
        ["relate", "public.md", "cites", "closed/never.md"],
    ] {
        assert!(at(&mount, &args).status.success());
    }
    let exe = env!("CARGO_BIN_EXE_vexfs");
    let stranger = |command: &str| {
        let output = mount.as_stranger(command);
        format!("{}{}", stdout(&output), String::from_utf8_lossy(&output.stderr))
    };
    // The owner sees all of it.
    assert_eq!(mount.ls(".vexfs/rel/public.md/cites"), ["never.md", "secret.md"]);
    assert!(paths(&related(&mount, &["b.md"])).contains(&"closed/secret.md"));
    for command in [
        "ls -R .vexfs/rel/public.md .vexfs/rel/public.md/cites .vexfs/rel/public.md/links",
        "getfattr -n user.vexfs.rel.cites public.md",
        "ls '.vexfs/search/linked:b.md/' '.vexfs/search/linked:public.md/'",
        "ls '.vexfs/search/@mode=rel/second page/'",
        &format!("{exe} related --json public.md"),
        &format!("{exe} related --json --depth 4 b.md"),
        &format!("{exe} related --json --rank b.md"),
        &format!("{exe} related --json c.md --path public.md"),
    ] {
        let told = stranger(command);
        let leaks = told.contains("secret") || told.contains("closed") || told.contains("never");
        assert!(!leaks, "{command}: {told}");
    }
    assert!(
        stranger(&format!("{exe} related public.md")).contains("b.md"),
        "but of public ones"
    );
    // Of what lies in a closed directory not even whether it is there.
    for name in ["secret.md", "none.md"] {
        let told = stranger(&format!("ls '.vexfs/search/linked:closed%2F{name}/'"));
        assert!(told.contains("No such file"), "{told}");
        let told = stranger(&format!("ln -s closed/{name} .vexfs/rel/c.md/cites/{name}"));
        assert!(told.contains("Permission denied"), "{told}");
        let told = stranger(&format!("{exe} relate c.md cites closed/{name}"));
        assert!(told.contains("permission denied"), "{told}");
    }
    // Whoever may not write a file may not relate it.
    assert!(stranger("ln -s c.md .vexfs/rel/b.md/cites/c.md").contains("Permission denied"));
    assert!(stranger("rm .vexfs/rel/public.md/cites/secret.md").contains("No such file"));
    assert!(
        stranger("ln -s b.md .vexfs/rel/c.md/cites/b.md").is_empty(),
        "a file that they may write"
    );
    assert!(stranger("ls .vexfs/rel/c.md/cites").contains("b.md"));
}
