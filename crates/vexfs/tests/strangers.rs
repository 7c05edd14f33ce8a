//! Another user finds nothing of what they may not read, through any way in, and cannot tell from any answer that it is
//! there.

#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

mod mounted;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use mounted::{Mounted, chmod, stdout};

const PUBLIC: [(&str, &str); 4] = [
    (
        "oaks.md",
        "# Oaks\n\nAn old oak stands at the crossing, its roots are deep.\n",
    ),
    ("chest.txt", "A chest of drawers made of oak.\n"),
    ("bread.md", "Knead the dough and let it rise.\n"),
    ("ferry.md", "The ferry to the island leaves at noon.\n"),
];
const SECRET: &str = "The treasure is buried under the old oak.\n";

fn shared() -> Mounted {
    let mount = Mounted::for_all(&PUBLIC);
    mount.settle();
    mount
}

fn stranger(mount: &Mounted, command: &str) -> (String, bool) {
    let output = mount.as_stranger(command);
    (stdout(&output), output.status.success())
}

fn hide(mount: &Mounted) {
    fs::write(mount.join("secret.txt"), SECRET).unwrap();
    chmod(&mount.join("secret.txt"), 0o600);
    fs::create_dir(mount.join("closed")).unwrap();
    fs::write(mount.join("closed/map.txt"), SECRET).unwrap();
    chmod(&mount.join("closed"), 0o700);
    mount.settle();
}

#[test]
fn every_way_in_answers_as_if_private_files_did_not_exist() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can become a stranger");
    }
    let mount = shared();
    let (made, _) = stranger(
        &mount,
        "mkdir .vexfs/q/mine && printf 'old oak treasure' > .vexfs/q/mine/query && echo made",
    );
    assert_eq!(made.trim(), "made");
    // What is shown, without the scores' last digits, the time and the generation.
    let ways = [
        "ls '.vexfs/search/old oak treasure' | cut -d- -f1,3-",
        "ls '.vexfs/search/@k=3,@mode=text/old oak treasure' | cut -d- -f1,3-",
        "ls '.vexfs/search/@k=3,@mode=vec/old oak treasure' | cut -d- -f1,3-",
        "grep -c path '.vexfs/search/old oak treasure/results.jsonl'",
        "grep '^## ' '.vexfs/ask/where is the old oak' | cut -d' ' -f2",
        "ls .vexfs/like/oaks.md | cut -d- -f1,3-",
        "ls .vexfs/q/mine/results | cut -d- -f1,3-",
        "grep -c path .vexfs/q/mine/results.jsonl",
        "\"$VEXFS\" search 'old oak treasure'",
        "\"$VEXFS\" search -k 1 'treasure'",
        "\"$VEXFS\" search '\"buried under\"'; echo $?",
        "\"$VEXFS\" search 'ext:txt'",
        "\"$VEXFS\" like oaks.md",
    ];
    // Also what failed and what was said of it: an answer that could not be given is not an empty one.
    let shown = || {
        ways.map(|way| {
            let output = mount.as_stranger(way);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            (stdout(&output), output.status.code(), said)
        })
    };
    let before = shown();
    for (way, (shown, _, said)) in ways.iter().zip(&before) {
        assert!(!shown.is_empty() && said.is_empty(), "{way}: {shown}{said}");
    }
    assert!(
        before[0].0.contains("oaks.md") && before[8].0.contains("oaks.md"),
        "{before:?}"
    );
    hide(&mount);
    let owner = mount.read(".vexfs/search/old oak treasure/results.jsonl");
    assert!(
        owner.contains("secret.txt") && owner.contains("closed/map.txt"),
        "the owner finds both"
    );
    for ((way, before), after) in ways.iter().zip(before).zip(shown()) {
        assert_eq!(before, after, "{way}");
    }
}

#[test]
fn a_private_file_cannot_be_named_marked_or_compared_by_another() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can become a stranger");
    }
    let mount = shared();
    hide(&mount);
    let tagged = Command::new(env!("CARGO_BIN_EXE_vexfs"))
        .arg("tag")
        .arg(mount.join("secret.txt"))
        .arg("gold")
        .output();
    assert!(tagged.unwrap().status.success());
    for command in [
        "ls .vexfs/like/secret.txt",
        "ls .vexfs/like/closed/map.txt",
        "ls closed/.vexfs/search/oak",
        "\"$VEXFS\" like secret.txt",
        "\"$VEXFS\" tag secret.txt",
        "\"$VEXFS\" tag secret.txt mine",
        "\"$VEXFS\" tag closed/map.txt mine",
        "\"$VEXFS\" vec set secret.txt '[1,2]'",
        "\"$VEXFS\" vec get secret.txt",
        "\"$VEXFS\" index why closed/map.txt",
        "\"$VEXFS\" search tag:gold",
    ] {
        let (shown, success) = stranger(&mount, command);
        assert!(!success, "{command}: {shown}");
        assert!(
            !shown.contains("treasure") && !shown.contains("gold"),
            "{command}: {shown}"
        );
    }
}

#[test]
fn the_feed_tells_a_stranger_of_public_files_only() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can become a stranger");
    }
    let mount = shared();
    let mut feed = mount
        .stranger("exec cat .vexfs/events")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(feed.stdout.take().unwrap()).lines();
    // The empty line of a feed in which nothing happens: from here on it hears all.
    assert_eq!(lines.next().unwrap().unwrap(), "");
    hide(&mount);
    fs::write(mount.join("public.txt"), "The ferry is late.\n").unwrap();
    mount.settle();
    let mut heard = Vec::new();
    while heard
        .last()
        .is_none_or(|line: &String| !line.contains("public.txt"))
    {
        heard.push(lines.next().expect("the feed goes on").unwrap());
    }
    feed.kill().unwrap();
    feed.wait().unwrap();
    let heard = heard.join("\n");
    assert!(!heard.contains("secret") && !heard.contains("map.txt"), "{heard}");
}
