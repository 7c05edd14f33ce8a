//! Commits whose daemon dies at each of their points, as by kill -9: all or nothing after the next start. Where FUSE
//! or root is missing the tests say so and pass.
#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

use std::process::{Command, Stdio};

use killable::{Mounted, snapshot};

mod killable;

/// What the transactions change, and how. Times are set, so that two runs give the same tree.
const SHAPES: [&str; 3] = [
    // Many files changed and made.
    "for i in $(seq 40); do echo new > d/f$i; touch -d 2001-02-03 d/f$i; echo new > g$i; touch -d 2001-02-03 g$i; done",
    // Every kind of step: replaced, moved, exchanged, removed, linked, attributes of directories.
    "mv d/sub moved; echo more > moved/x; touch -d 2001-02-03 moved/x; mkdir n; mv big n/big; mv e n/e; rm -r gone; \
     ln n/big n/link; echo 2 >> hard1; touch -d 2001-02-03 hard1; rm d/f1; mkdir d/f1; mv d/f2 d/f1/f2; ln -s n soft; touch -h -d 2001-02-03 soft; \
     chmod 700 kept; mkfifo fifo; touch -d 2001-02-03 fifo; for i in $(seq 20 40); do rm d/f$i; done; \
     for i in $(seq 3 10); do mv d/f$i n/; done",
    // Whole directories come and go.
    "cp -a d copy; for i in $(seq 25); do mkdir -p t/$i; echo $i > t/$i/f; touch -d 2001-02-03 t/$i/f; mv d/f$i t/$i/; done; \
     rm -r gone e; echo last > last; touch -d 2001-02-03 last; for i in $(seq 26 40); do ln d/f$i h$i; done",
];

/// The tree that they change.
fn files() -> Vec<(String, String)> {
    let mut files: Vec<_> = (1..=40)
        .map(|n| (format!("d/f{n}"), format!("old {n}")))
        .collect();
    for path in [
        "d/sub/x", "d/sub/y", "e/z", "gone/a/b", "gone/c", "hard1", "kept/k",
    ] {
        files.push((path.to_owned(), path.to_owned()));
    }
    files.push(("big".into(), "big ".repeat(50_000)));
    files
}

fn start(die_at: Option<u64>) -> Option<Mounted> {
    let files = files();
    let files: Vec<_> = files
        .iter()
        .map(|(path, content)| (path.as_str(), content.as_str()))
        .collect();
    let m = match die_at {
        Some(point) => Mounted::dying_at(&files, point),
        None => Mounted::start(&files),
    }?;
    m.sh("ln hard1 hard2; find . -exec touch -h -d 2001-01-01 {} +");
    Some(m)
}

fn stage(m: &Mounted, shape: &str) {
    m.sh(&format!("mkdir .vexfs/txn/t; cd .vexfs/txn/t/root; {shape}"));
    m.set_xattr(".vexfs/txn/t/root/kept/k", "user.vexfs.tag.done", b"");
}

/// Commits with a daemon that dies at a point. Whether it had come to its end before.
fn commit(m: &mut Mounted) -> bool {
    let mut mv = Command::new("mv");
    mv.args([".vexfs/txn/t", ".vexfs/txn/@committed/t"])
        .current_dir(m.at(""));
    let ended = mv.stderr(Stdio::null()).status().unwrap().success();
    if !ended {
        m.revive();
    }
    ended
}

/// Kills at each `every`th point. Gives the number of kills.
fn check(shape: &str, every: u64) -> usize {
    let Some(mut whole) = start(None) else { return 0 };
    let before = snapshot(&whole.at(""), false);
    stage(&whole, shape);
    assert!(commit(&mut whole));
    let after = snapshot(&whole.at(""), false);
    assert_ne!(before, after);
    let mut seen = [0; 2];
    for point in (0..).step_by(every as usize) {
        let mut m = start(Some(point)).unwrap();
        stage(&m, shape);
        let ended = commit(&mut m);
        let found = snapshot(&m.at(""), false);
        let committed = found == after;
        assert!(
            committed || found == before,
            "killed at point {point}: neither the old tree nor the new one"
        );
        assert!(committed || !ended, "point {point}: told that it is committed");
        let tagged = m.xattr("kept/k", "user.vexfs.tag.done").is_some();
        assert_eq!(tagged, committed, "point {point}: files and tags disagree");
        assert_eq!(m.sh("ls .vexfs/txn"), "@committed\n");
        if ended {
            break;
        }
        seen[usize::from(committed)] += 1;
    }
    assert!(seen[1] > 0, "{seen:?}");
    seen.iter().sum()
}

#[test]
fn a_daemon_killed_at_some_points_leaves_all_or_nothing() {
    for shape in SHAPES {
        check(shape, 17);
    }
}

#[test]
#[ignore = "minutes: just kill-commits"]
fn a_daemon_killed_at_every_point_leaves_all_or_nothing() {
    let kills: usize = SHAPES.iter().map(|shape| check(shape, 1)).sum();
    println!("{kills} kills");
    assert!(kills >= 300 || kills == 0, "{kills} kills");
}
