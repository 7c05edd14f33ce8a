//! Whatever happens to a mounted tree and its daemon: when nothing is pending, what is found equals what an index made
//! anew finds, and nothing that was set by hand is lost.

#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

mod mounted;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use mounted::{Mounted, stdout, vexfs};
use rustix::fs::XattrFlags;

/// Kills in a run of all tests; `just kill-daemon` makes 200.
const KILLS: usize = 6;

const SUBJECTS: [&str; 8] = [
    "The ferry to the island leaves at noon",
    "Knead the dough and let it rise in a warm place",
    "Replace worn brake pads before the disc is damaged",
    "The annual tax return is due in May",
    "Water tomato plants in the morning",
    "A quartz clock needs a new battery",
    "The kernel schedules threads by their priority",
    "Antibodies bind to the receptor of a cell",
];

const QUESTIONS: [&str; 6] = [
    "boat to an island",
    "how to bake bread",
    "worn brakes",
    "tax receipts",
    "thread scheduling",
    "antibodies of a cell",
];

/// A text about one of the subjects, of several passages.
fn text(number: usize) -> String {
    let subject = SUBJECTS[number % SUBJECTS.len()];
    (0..1 + number % 5)
        .map(|i| {
            format!("# Part {i} of note {number}\n\n")
                + &format!("{subject}, {number} {i}. ").repeat(30)
                + "\n\n"
        })
        .collect()
}

/// What is found: for each question the hits with their places and scores.
fn found(mount: &Mounted) -> Vec<String> {
    let path = mount.path();
    let ask = |question: &&'static str| {
        let question = *question;
        let answer = stdout(&vexfs(&[
            "search",
            "--json",
            "-k",
            "200",
            question,
            path.to_str().unwrap(),
        ]));
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        let hits = answer["hits"].as_array().unwrap().clone();
        hits.into_iter().map(move |hit| {
            assert_eq!(hit["stale"], false, "{hit}");
            format!(
                "{question}: {} {:.3} {}",
                hit["path"],
                hit["score"].as_f64().unwrap(),
                hit["chunk"]
            )
        })
    };
    let mut all: Vec<String> = QUESTIONS.iter().flat_map(ask).collect();
    all.sort();
    all
}

fn assert_equals_rebuilt(mount: &Mounted) {
    mount.settle();
    let before = found(mount);
    assert!(!before.is_empty());
    let rebuilt = vexfs(&["index", "rebuild", mount.path().to_str().unwrap()]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    mount.settle();
    assert_eq!(before, found(mount));
    // Nothing is found that is not there.
    for line in &before {
        let path = line.split('"').nth(1).unwrap();
        assert!(mount.join(path).exists(), "{line}");
    }
}

fn run(dir: &Path, program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

fn has(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

#[test]
fn checkouts_copies_moves_and_replacements_leave_what_a_rebuilt_index_has() {
    let mount = Mounted::with(&[], &[]);
    let at = mount.path();
    for i in 0..60 {
        fs::create_dir_all(at.join(format!("d{}", i % 4))).unwrap();
        fs::write(at.join(format!("d{}/note{i}.md", i % 4)), text(i)).unwrap();
    }
    let git = |args: &[&str]| {
        let identity = [
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            "-c",
            "commit.gpgsign=false",
        ];
        run(&at, "git", &[&identity, args].concat());
    };
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "one"]);
    git(&["checkout", "-q", "-b", "other"]);
    for i in (0..60).step_by(3) {
        fs::write(at.join(format!("d{}/note{i}.md", i % 4)), text(i + 1)).unwrap();
    }
    fs::remove_dir_all(at.join("d3")).unwrap();
    git(&["mv", "d2", "moved"]);
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "two"]);
    assert_equals_rebuilt(&mount);
    git(&["checkout", "-q", "main"]);
    assert_equals_rebuilt(&mount);
    git(&["checkout", "-q", "other"]);

    // An editor's save, a hard link, a file over another, a folder into another.
    fs::write(at.join("d0/.note0.md.tmp"), text(7)).unwrap();
    fs::rename(at.join("d0/.note0.md.tmp"), at.join("d0/note0.md")).unwrap();
    fs::hard_link(at.join("d0/note4.md"), at.join("linked.md")).unwrap();
    fs::rename(at.join("d1/note1.md"), at.join("d1/note5.md")).unwrap();
    fs::rename(at.join("moved"), at.join("d1/moved")).unwrap();
    assert_equals_rebuilt(&mount);

    // Behind the mount: found by a scan, which a new mount makes.
    if has("rsync") {
        let elsewhere = tempfile::tempdir().unwrap();
        for i in 0..20 {
            fs::write(elsewhere.path().join(format!("note{i}.md")), text(i + 3)).unwrap();
        }
        let from = format!("{}/", elsewhere.path().display());
        let to = mount.source().join("d0");
        run(
            Path::new("/"),
            "rsync",
            &["-a", "--delete", &from, to.to_str().unwrap()],
        );
        mount.umount();
        mount.mount(&[]);
        assert_equals_rebuilt(&mount);
    }
}

#[test]
fn a_folder_of_many_files_is_moved_by_one_row_and_found_at_its_new_place() {
    let mount = Mounted::with(&[], &[]);
    let source = mount.source();
    fs::create_dir(source.join("many")).unwrap();
    mount.umount();
    for i in 0..1_500 {
        fs::write(
            source.join(format!("many/{i}.txt")),
            format!("{} {i}\n", SUBJECTS[i % 8]),
        )
        .unwrap();
    }
    mount.mount(&[]);
    mount.settle();
    let generation = |mount: &Mounted| -> u64 {
        let status: serde_json::Value = serde_json::from_str(&mount.read(".vexfs/status.json")).unwrap();
        status["generation"].as_u64().unwrap()
    };
    let before = generation(&mount);
    fs::rename(mount.join("many"), mount.join("elsewhere")).unwrap();
    mount.settle();
    assert!(generation(&mount) <= before + 2, "nothing was indexed again");
    let hits = mount.read(".vexfs/search/@k=20/boat to an island/results.jsonl");
    assert_eq!(hits.matches("\"path\":\"elsewhere/").count(), 20, "{hits}");
    assert_equals_rebuilt(&mount);
}

/// The daemon's process id.
fn daemon(mount: &Mounted) -> i32 {
    let lock = fs::read_to_string(mount.source().join(".vexfs/lock")).unwrap();
    lock.trim().parse().unwrap()
}

/// Kills the daemon and takes the dead mount away.
fn kill(mount: &Mounted) {
    let pid = rustix::process::Pid::from_raw(daemon(mount)).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    // A process that nobody has waited for yet is as dead.
    let lives = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    while lives() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
    }
    run(Path::new("/"), "umount", &["-l", mount.path().to_str().unwrap()]);
}

#[test]
fn a_daemon_killed_while_it_indexes_comes_back_with_every_vector_and_the_same_index() {
    let kills = std::env::var("VEXFS_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let mount = Mounted::with_patience(&[], &[], Duration::from_secs(600 + 10 * kills as u64));
    let mut acknowledged: Vec<(String, [f32; 3])> = Vec::new();
    for round in 0..kills {
        for i in 0..30 {
            let path = mount.join(format!("note{}.md", (round * 17 + i) % 90));
            fs::write(&path, text(round * 31 + i)).unwrap();
        }
        let name = format!("kept{}.md", round % 12);
        fs::write(mount.join(&name), text(round)).unwrap();
        let vector = [round as f32, 1.0, 0.5];
        let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
        let set = rustix::fs::setxattr(
            mount.join(&name),
            "user.vexfs.vec.mine",
            &bytes,
            XattrFlags::empty(),
        );
        set.unwrap_or_else(|e| panic!("round {round}: {e}"));
        acknowledged.retain(|(known, _)| *known != name);
        acknowledged.push((name, vector));
        if round % 5 == 4 {
            // A rename is no commit of its own.
            let (from, to) = (&acknowledged[0].0.clone(), format!("renamed{round}.md"));
            fs::rename(mount.join(from), mount.join(&to)).unwrap();
            acknowledged[0].0 = to;
        }
        // From "nothing committed yet" to "all of it".
        std::thread::sleep(Duration::from_millis((round as u64 * 37) % 180));
        kill(&mount);
        mount.mount(&[]);
        for (name, vector) in &acknowledged {
            let mut bytes = [0u8; 64];
            let got = rustix::fs::getxattr(mount.join(name), "user.vexfs.vec.mine", &mut bytes);
            let length = got.unwrap_or_else(|e| panic!("round {round}: {name}: {e}"));
            let expect: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            assert_eq!(&bytes[..length], expect, "round {round}: {name}");
        }
    }
    assert_equals_rebuilt(&mount);
}
