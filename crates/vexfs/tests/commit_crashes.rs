//! Commits whose daemon dies at each of their points, as by kill -9: all or nothing after the next start. Where FUSE
//! or root is missing the tests say so and pass.
#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use killable::{Mounted, snapshot};

mod killable;

/// The size of the disk that gets full, in bytes.
const DISK: u64 = 24 << 20;

/// What the transactions change, and how. Times are set, so that two runs give the same tree.
const SHAPES: [&str; 3] = [
    // Many files changed and made.
    "for i in $(seq 64); do echo new > d/f$i; touch -d 2001-02-03 d/f$i; echo new > g$i; touch -d 2001-02-03 g$i; done",
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

/// The tree on a filesystem in memory, and a copy of it beside the mount. What a killed daemon has handed to a filesystem
/// is there whether it reached a disk or not.
fn start() -> Option<Mounted> {
    let files = files();
    let files: Vec<_> = files
        .iter()
        .map(|(path, content)| (path.as_str(), content.as_str()))
        .collect();
    let m = Mounted::in_memory(&files, 256 << 20)?;
    m.sh("ln hard1 hard2; find . -exec touch -h -d 2001-01-01 {} +; cp -a . ../pristine");
    Some(m)
}

/// The tree as it was at the start, by the mount.
fn reset(m: &Mounted) {
    m.sh("find . -mindepth 1 -delete; cp -a ../pristine/. .");
}

/// Stages a shape and a tag.
fn stage(m: &Mounted, shape: &str, tag: &str) {
    m.sh(&format!("mkdir .vexfs/txn/t; cd .vexfs/txn/t/root; {shape}"));
    m.set_xattr(".vexfs/txn/t/root/kept/k", tag, b"");
}

/// The tag of a commit that is killed at a point. A file that is removed and comes back has its old ones again.
fn tag(point: u64) -> String {
    format!("user.vexfs.tag.killed{point}")
}

/// Whether the commit came to its end; else the daemon died.
fn commit(m: &Mounted) -> bool {
    std::fs::rename(m.at(".vexfs/txn/t"), m.at(".vexfs/txn/@committed/t")).is_ok()
}

fn tree(m: &Mounted) -> BTreeMap<PathBuf, String> {
    snapshot(&m.at(""), false)
}

/// Kills at each `every`th point. Gives the number of kills.
fn check(shape: &str, every: u64) -> usize {
    let Some(mut m) = start() else { return 0 };
    let before = tree(&m);
    stage(&m, shape, "user.vexfs.tag.whole");
    assert!(commit(&m));
    let after = tree(&m);
    assert_ne!(before, after);
    m.die();
    let mut seen = [0; 2];
    for point in (0..).step_by(every as usize) {
        m.revive(Some(point));
        reset(&m);
        assert_eq!(tree(&m), before);
        stage(&m, shape, &tag(point));
        let ended = commit(&m);
        if ended {
            assert_eq!(tree(&m), after);
            break;
        }
        m.revive(None);
        let found = tree(&m);
        let committed = found == after;
        assert!(
            committed || found == before,
            "killed at point {point}: neither the old tree nor the new one"
        );
        let tagged = m.xattr("kept/k", &tag(point)).is_some();
        assert_eq!(tagged, committed, "point {point}: files and tags disagree");
        assert_eq!(m.sh("ls .vexfs/txn"), "@committed\n");
        seen[usize::from(committed)] += 1;
        m.die();
    }
    assert!(seen[1] > 0, "{seen:?}");
    seen.iter().sum()
}

#[test]
fn a_daemon_killed_at_some_points_leaves_all_or_nothing() {
    thread::scope(|scope| {
        for shape in SHAPES {
            scope.spawn(move || check(shape, 17));
        }
    });
}

#[test]
#[ignore = "minutes: just kill-commits"]
fn a_daemon_killed_at_every_point_leaves_all_or_nothing() {
    let kills: usize = thread::scope(|scope| {
        let checks = SHAPES.map(|shape| scope.spawn(move || check(shape, 1)));
        checks.into_iter().map(|check| check.join().unwrap()).sum()
    });
    println!("{kills} kills");
    assert!(kills >= 300 || kills == 0, "{kills} kills");
}

/// Fills the disk with `filler` but for `free` bytes. The file is cut and never removed: who has it open in passing would
/// keep the space of a removed one.
fn leave(mut filler: &File, free: u64) {
    for _ in 0..500 {
        filler.set_len(0).unwrap();
        filler.rewind().unwrap();
        filler.write_all(&vec![0; DISK as usize]).unwrap_err();
        let filled = filler.metadata().unwrap().len();
        if let Some(kept) = filled.checked_sub(free) {
            return filler.set_len(kept).unwrap();
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("the disk stays full with {free} bytes asked for");
}

#[test]
fn a_disk_that_gets_full_at_any_place_of_a_commit_leaves_all_or_nothing() {
    for shape in SHAPES {
        let Some(m) = Mounted::in_memory(&[], DISK) else {
            return;
        };
        for (path, content) in files() {
            std::fs::create_dir_all(m.at(&path).parent().unwrap()).unwrap();
            std::fs::write(m.at(&path), content).unwrap();
        }
        m.sh("ln hard1 hard2; find . -exec touch -h -d 2001-01-01 {} +");
        stage(&m, shape, "user.vexfs.tag.done");
        // Outside of the tree that is compared, but on its filesystem.
        let filler = std::fs::File::create(m.source().join(".vexfs/filler")).unwrap();
        let before = tree(&m);
        let mut refused = 0;
        for free in (0..).map(|pages| pages * 4096) {
            leave(&filler, free);
            let committed = std::fs::rename(m.at(".vexfs/txn/t"), m.at(".vexfs/txn/@committed/t"));
            filler.set_len(0).unwrap();
            match committed {
                Ok(()) => break,
                Err(error) => assert_eq!(error.raw_os_error(), Some(28), "{free} bytes free: {error}"),
            }
            assert_eq!(tree(&m), before, "{free} bytes were free");
            assert!(m.xattr("kept/k", "user.vexfs.tag.done").is_none());
            refused += 1;
        }
        assert!(refused > 0);
        assert_ne!(tree(&m), before);
        assert!(m.xattr("kept/k", "user.vexfs.tag.done").is_some());
        println!("refused with up to {refused} pages free");
    }
}
