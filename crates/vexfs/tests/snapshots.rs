//! Snapshots through a real mount of the real program. Where FUSE or root is missing the tests say so and pass.
#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use killable::{Mounted, snapshot, text};

mod killable;
mod mounted;

/// The lines of a diff.
fn diff(m: &Mounted, args: &str) -> Vec<String> {
    let out = m.sh(&format!("vexfs snapshot diff {args}"));
    out.lines().map(str::to_owned).collect()
}

/// What a command says when it fails, and its exit code.
fn refused(m: &Mounted, script: &str) -> (i32, String) {
    let output = m.try_sh(script);
    (output.status.code().unwrap(), text(&output.stderr))
}

#[test]
fn a_diff_lists_every_way_of_changing_files_and_what_was_told() {
    let files = [
        ("edited", "one"),
        ("touched", "same"),
        ("moved", "here"),
        ("removed", "gone"),
        ("replaced", "by another"),
        ("mode", "same"),
        ("dir/inner", "stays"),
        ("linked", "two names"),
        ("untouched", "as it is"),
    ];
    let Some(m) = Mounted::indexed(&files) else { return };
    m.sh("vexfs tag moved keep; vexfs tag edited old; vexfs relate edited cites moved");
    m.sh("vexfs status --watch >/dev/null; vexfs snapshot create before");
    assert_eq!(diff(&m, "before"), [""; 0]);
    m.sh(
        "echo more >> edited; touch -d 2001-02-03 touched; mv moved elsewhere; rm removed; \
          rm replaced; echo anew > replaced; chmod 600 mode; mv dir folder; ln linked second; \
          echo new > added; mkdir empty; ln -s edited soft; echo x >> folder/inner",
    );
    m.sh("vexfs tag edited -old; vexfs tag elsewhere more; vexfs relate added cites elsewhere");
    m.sh("vexfs unrelate edited cites elsewhere; vexfs status --watch >/dev/null");
    let expected = [
        "A added",
        "M edited",
        "R moved -> elsewhere",
        "A empty",
        "R dir -> folder",
        "M folder/inner",
        "T mode",
        "D removed",
        "M replaced",
        "A second",
        "A soft",
        "T touched",
        "A added#user.vexfs.rel.cites -> elsewhere",
        "D edited#user.vexfs.rel.cites -> moved",
        "D edited#user.vexfs.tag.old",
        "A elsewhere#user.vexfs.tag.more",
    ];
    assert_eq!(diff(&m, "before"), expected);
    m.sh("vexfs snapshot create after; rm added; vexfs tag elsewhere late");
    assert_eq!(diff(&m, "before after"), expected);
    assert_eq!(
        diff(&m, "after"),
        [
            "D added",
            "D added#user.vexfs.rel.cites -> elsewhere",
            "A elsewhere#user.vexfs.tag.late"
        ]
    );
    let json: serde_json::Value =
        serde_json::from_str(&m.sh("vexfs snapshot diff before after --json")).unwrap();
    assert_eq!(json["files"][2]["from"], "moved");
}

#[test]
fn snapshots_outlive_the_daemon_and_what_is_changed_behind_the_mount_is_seen() {
    let Some(mut m) = Mounted::start(&[("a", "one"), ("b", "two")]) else {
        return;
    };
    m.sh("vexfs tag a t; vexfs snapshot create s; vexfs tag a u; echo x > b");
    m.crash();
    let expected = ["M b", "A a#user.vexfs.tag.u"];
    assert_eq!(diff(&m, "s"), expected);
    m.die();
    fs::write(m.source().join("a"), "changed while nobody looked").unwrap();
    m.revive(None);
    let lost = "M a  (the old content was not kept)";
    assert_eq!(diff(&m, "s"), [lost, "M b", "A a#user.vexfs.tag.u"]);
    let (code, said) = refused(&m, "vexfs snapshot restore s");
    assert!(
        code == 2 && said.contains("a: the old content was not kept"),
        "{said}"
    );
    assert_eq!(m.sh("cat .vexfs/txn/restore-s/diff"), "M b\n");
    m.sh("vexfs txn commit restore-s");
    assert_eq!(
        (m.read("a").as_str(), m.read("b").as_str()),
        ("changed while nobody looked", "two")
    );
    assert_eq!(m.xattr("a", "user.vexfs.tag.u"), None);
}

#[test]
fn wrong_names_are_refused_and_a_snapshot_that_was_dropped_is_gone() {
    let Some(m) = Mounted::start(&[("a", "one")]) else {
        return;
    };
    m.sh("vexfs snapshot create one; vexfs snapshot create two");
    let (code, said) = refused(&m, "vexfs snapshot create one");
    assert!(code == 2 && said.contains("exists already"), "{said}");
    for name in ["a/b", ".x", "@x", "now", "''"] {
        let (code, said) = refused(&m, &format!("vexfs snapshot create {name}"));
        assert!(code == 2 && said.contains("no name of a snapshot"), "{said}");
    }
    let (code, said) = refused(&m, "vexfs snapshot drop three");
    assert!(code == 2 && said.contains("\"three\" does not exist"), "{said}");
    let (code, said) = refused(&m, "vexfs snapshot diff two one");
    assert!(code == 2 && said.contains("older one first"), "{said}");
    let names = || -> Vec<String> {
        let list = m.sh("vexfs snapshot list");
        list.lines()
            .map(|line| line.split('\t').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(), ["one", "two"]);
    m.sh("vexfs snapshot drop one");
    assert_eq!(names(), ["two"]);
    assert!(m.sh("vexfs snapshot list --json").contains("\"created_ns\":"));
}

#[test]
fn snapshots_are_for_the_user_of_the_daemon() {
    if std::fs::metadata("/dev/fuse").is_err() || !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs root and /dev/fuse");
    }
    let mount = mounted::Mounted::for_all(&[("secret/plan", "x")]);
    let create = mounted::vexfs(&["snapshot", "create", "s", "-C", mount.path().to_str().unwrap()]);
    assert!(create.status.success(), "{}", text(&create.stderr));
    for command in ["create x", "diff s", "drop s"] {
        let asked = mount.as_stranger(&format!("$VEXFS snapshot {command}"));
        assert_eq!(asked.status.code(), Some(5), "{command}: {}", text(&asked.stderr));
    }
    let list = mount.as_stranger("$VEXFS snapshot list");
    assert!(text(&list.stdout).starts_with("s\t"), "names are no secret");
}

/// Files and links as they are, but for their inodes. Times of directories are those of their last change.
fn tree(m: &Mounted) -> BTreeMap<PathBuf, String> {
    snapshot(&m.at(""), false)
}

/// Fails with what differs, and goes on to. A commit that is not settled has further links.
fn assert_same(m: &Mounted, expected: &BTreeMap<PathBuf, String>, what: &str) {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let now = tree(m);
        let paths = now.keys().chain(expected.keys());
        let differs = paths.filter(|path| now.get(*path) != expected.get(*path));
        let brief = |entry: Option<&String>| entry.map(|text| text.chars().take(80).collect::<String>());
        let lines: Vec<_> = differs
            .map(|path| {
                let (now, expected) = (brief(now.get(path)), brief(expected.get(path)));
                format!("{}: {now:?}, expected {expected:?}", path.display())
            })
            .collect();
        if lines.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "{what}:\n{}", lines.join("\n"));
        thread::sleep(Duration::from_millis(10));
    }
}

/// Brings a snapshot back by a transaction.
fn restore(m: &Mounted, args: &str) {
    let dir = m.sh(&format!("vexfs snapshot restore {args}"));
    let name = dir.trim().rsplit('/').next().unwrap();
    m.sh(&format!("vexfs txn commit {name}"));
}

const EVERY_WAY: &str = "echo more >> appended; echo x > cut; sed -i s/one/uno/ saved; truncate -s 2 short; rm gone; \
    rm -r d/deep; mv d e; echo in > e/new; rm again; echo other > again; mv over under; rm soft; ln -s under soft; \
    rm kind; mkdir kind; echo y > kind/inside; chmod 600 mode; touch -d 2001-02-03 time; rm l2; ln l1 l3; echo z >> l1; \
    mkfifo pipe; rm p; mv a1 t; mv a2 a1; mv t a2; dd if=/dev/zero of=big bs=1 count=1 seek=70000 conv=notrunc 2>/dev/null";

fn every_way() -> Option<Mounted> {
    let big = "0123456789".repeat(10_000);
    let names = [
        "appended",
        "cut",
        "saved",
        "short",
        "gone",
        "d/f",
        "d/deep/er/g",
        "d/deep/h",
        "again",
        "over",
        "under",
        "kind",
        "mode",
        "time",
        "l1",
        "a1",
        "a2",
        "same",
    ];
    let mut files: Vec<(&str, &str)> = names.iter().map(|name| (*name, "one two three")).collect();
    files.push(("big", &big));
    let m = Mounted::indexed(&files)?;
    m.sh("ln l1 l2; ln -s over soft; mkfifo p; echo first > a1; chmod 4711 saved; setfattr -n user.x -v 1 saved 2>/dev/null || true");
    m.sh("touch -d 2011-01-01 appended cut saved gone d/f d/deep/h; mkdir d/empty; chmod 700 d/deep");
    m.sh("vexfs tag gone lost; vexfs tag saved stays; vexfs relate gone cites d/f; vexfs relate d/f cites gone");
    Some(m)
}

#[test]
fn a_restore_brings_back_the_tree_and_what_was_told() {
    let Some(m) = every_way() else { return };
    m.set_xattr("saved", "user.vexfs.vec.s", &1f32.to_le_bytes());
    m.set_xattr("gone", "user.vexfs.meta.key", b"value");
    let id = m.xattr("saved", "user.vexfs.id");
    let before = tree(&m);
    m.sh("vexfs snapshot create s");
    m.sh(EVERY_WAY);
    m.sh("vexfs tag saved -stays; vexfs tag saved other; vexfs unrelate e/f cites gone || true");
    m.set_xattr("saved", "user.vexfs.vec.s", &2f32.to_le_bytes());
    let changed = tree(&m);
    assert_ne!(changed, before);
    let dir = m.sh("vexfs snapshot restore s");
    assert_eq!(tree(&m), changed, "nothing is brought back before the commit");
    let staged = snapshot(&PathBuf::from(dir.trim()).join("root"), false);
    assert_eq!(
        staged.keys().collect::<Vec<_>>(),
        before.keys().collect::<Vec<_>>()
    );
    m.sh("vexfs txn commit restore-s");
    assert_same(&m, &before, "before");
    assert_eq!(
        m.xattr("saved", "user.vexfs.vec.s"),
        Some(1f32.to_le_bytes().to_vec())
    );
    assert!(m.xattr("saved", "user.vexfs.tag.stays").is_some());
    assert!(m.xattr("saved", "user.vexfs.tag.other").is_none());
    assert_eq!(m.xattr("saved", "user.vexfs.id"), id, "the same file");
    assert!(m.xattr("gone", "user.vexfs.tag.lost").is_some());
    assert_eq!(m.xattr("gone", "user.vexfs.meta.key"), Some(b"value".to_vec()));
    // Where the file is now to which it leads, the catalog hears a moment after the commit.
    m.sh("vexfs status --watch >/dev/null");
    assert_eq!(m.xattr("gone", "user.vexfs.rel.cites"), Some(b"d/f".to_vec()));
    assert_eq!(
        fs::metadata(m.at("l1")).unwrap().ino(),
        fs::metadata(m.at("l2")).unwrap().ino()
    );
    let told = |line: &String| line.contains('#');
    let left = diff(&m, "s");
    assert!(!left.iter().any(told), "{left:?}");
    let (code, said) = refused(&m, "vexfs snapshot restore t");
    assert!(code == 2 && said.contains("does not exist"), "{said}");
}

#[test]
fn what_was_kept_outlives_the_daemon_and_a_restore_can_be_undone() {
    let Some(mut m) = every_way() else { return };
    let before = tree(&m);
    m.sh("vexfs snapshot create first");
    m.sh("echo new > cut; rm gone");
    m.crash();
    m.sh(&EVERY_WAY.replace("rm gone;", ""));
    let middle = tree(&m);
    m.sh("vexfs snapshot create second; rm -r e kind; echo w > cut; echo w > big");
    let last = tree(&m);
    m.crash();
    m.sh("vexfs snapshot create third");
    restore(&m, "first");
    assert_same(&m, &before, "before");
    restore(&m, "second");
    assert_same(&m, &middle, "middle");
    restore(&m, "third");
    assert_same(&m, &last, "last");
    // The one before takes over what it needs of one that goes.
    m.sh("vexfs snapshot drop second");
    restore(&m, "first --txn again");
    assert_same(&m, &before, "before");
    m.sh("vexfs snapshot drop first; vexfs snapshot drop third");
    assert_eq!(
        fs::read_dir(m.source().join(".vexfs/snapshots")).unwrap().count(),
        0
    );
}

#[test]
fn a_restore_of_a_path_leaves_the_rest() {
    let Some(m) = Mounted::start(&[("d/a", "one"), ("d/b", "two"), ("c", "three")]) else {
        return;
    };
    m.sh("vexfs snapshot create s; echo x > d/a; mv d/b out; echo x > c; echo n > d/new; mv c d/c");
    restore(&m, "s --path d");
    assert_eq!(m.read("d/a"), "one");
    assert_eq!(m.read("d/b"), "two");
    assert_eq!(m.read("d/c"), "x\n", "it came from elsewhere");
    assert!(!m.at("d/new").exists() && !m.at("out").exists());
}

#[test]
fn what_a_commit_replaces_is_kept() {
    let Some(m) = Mounted::start(&[("a", "one"), ("d/b", "two"), ("d/e/c", "three"), ("l1", "four")]) else {
        return;
    };
    m.sh("ln l1 l2");
    let before = tree(&m);
    m.sh("vexfs snapshot create s; vexfs txn begin t >/dev/null");
    m.sh("cd .vexfs/txn/t/root; echo x > a; rm -r d; echo y >> l2; mkdir d; echo z > d/b");
    m.sh("vexfs txn commit t");
    assert_ne!(tree(&m), before);
    restore(&m, "s");
    assert_same(&m, &before, "before");
}

#[test]
fn a_file_is_kept_however_it_is_written() {
    let text = "x".repeat(50_000);
    let names = ["held", "mapped", "cut", "opened", "unlinked"];
    let files: Vec<_> = names.iter().map(|name| (*name, text.as_str())).collect();
    let Some(m) = Mounted::start(&files) else { return };
    // Open for writing when the snapshot is made, and written by the same descriptor afterwards.
    let write = |name: &str| {
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(m.at(name))
            .unwrap()
    };
    let mut held = write("held");
    held.write_all(b"before").unwrap();
    let expected = format!("before{}", "x".repeat(50_000 - 6));
    m.sh("vexfs snapshot create s");
    held.seek(SeekFrom::Start(0)).unwrap();
    held.write_all(b"after!").unwrap();
    m.sh(
        "python3 -c 'import mmap, os; fd = os.open(\"mapped\", os.O_RDWR); m = mmap.mmap(fd, 4096); \
          os.close(fd); m[100:101] = b\"y\"; m.flush(); m.close()'",
    );
    assert!(m.read("mapped").contains('y'));
    write("cut").set_len(10).unwrap();
    let mut unlinked = write("unlinked");
    fs::remove_file(m.at("unlinked")).unwrap();
    unlinked.write_all(b"into nowhere").unwrap();
    write("opened").write_all_at(b"z", 49_999).unwrap();
    drop((held, unlinked));
    restore(&m, "s");
    for name in ["mapped", "cut", "opened", "unlinked"] {
        assert!(m.read(name) == text, "{name}");
    }
    assert!(m.read("held") == expected);
}

#[test]
fn a_full_disk_refuses_what_cannot_be_kept_and_dropping_makes_room() {
    let Some(m) = Mounted::in_memory(&[("big", ""), ("small", "text")], 64 << 20) else {
        return;
    };
    let half = vec![b'a'; 20 << 20];
    fs::write(m.at("big"), &half).unwrap();
    m.sh("vexfs snapshot create s");
    fs::write(m.at("filler"), vec![0; 24 << 20]).unwrap();
    let refused = fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(m.at("big"));
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    let mut content = Vec::new();
    fs::File::open(m.at("big"))
        .unwrap()
        .read_to_end(&mut content)
        .unwrap();
    assert!(content == half, "the file is as it was");
    m.sh("vexfs snapshot drop s; echo x > big; rm filler; vexfs snapshot create t; rm big");
    let kept = || m.sh("vexfs snapshot list --json");
    let kept: serde_json::Value = serde_json::from_str(&kept()).unwrap();
    assert!(kept["snapshots"][0]["kept_bytes"].as_u64() > Some(0));
    restore(&m, "t");
    assert_eq!(m.read("big"), "x\n");
    m.sh("vexfs snapshot drop t");
    let left = m.source().join(".vexfs/snapshots");
    assert_eq!(fs::read_dir(left).unwrap().count(), 0, "all of it is given back");
}

#[test]
fn folders_that_came_with_what_was_told_below_them_are_known_whole() {
    let Some(m) = Mounted::start(&[("a", "one")]) else {
        return;
    };
    m.sh("vexfs snapshot create s; vexfs txn begin t >/dev/null; mkdir -p .vexfs/txn/t/root/d/e");
    m.sh("cd .vexfs/txn/t/root/d; echo x > told; echo y > silent; echo z > e/deep");
    m.set_xattr(".vexfs/txn/t/root/d/told", "user.vexfs.tag.t", b"");
    m.sh("vexfs txn commit t");
    let expected = [
        "A d",
        "A d/e",
        "A d/e/deep",
        "A d/silent",
        "A d/told",
        "A d/told#user.vexfs.tag.t",
    ];
    assert_eq!(diff(&m, "s"), expected);
}

/// Numbers that look random, the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn path(&mut self) -> String {
        let dirs = ["", "d/", "d/e/", "f/"];
        format!(
            "{}{}",
            dirs[self.roll(4) as usize],
            ["x", "y", "z"][self.roll(3) as usize]
        )
    }

    /// A change that may fail, since what it names may not be there.
    fn change(&mut self) -> String {
        let (one, two, number) = (self.path(), self.path(), self.roll(1000));
        match self.roll(14) {
            0 | 1 => format!("echo {number} > {one}"),
            2 => format!("echo {number} >> {one}"),
            3 => format!("rm {one}"),
            4 | 5 => format!("mv -T {one} {two}"),
            6 => format!("ln {one} {two}"),
            7 => format!("ln -s {number} {one}"),
            8 => "mv -T d g; mkdir d; mv -T g/e d/e".into(),
            9 => "mv -T d/e f/e; mv -T f d/e".into(),
            10 => "rm -r d/e; mkdir -p d/e f".into(),
            11 => format!("chmod {} {one}", 600 + self.roll(2) * 44),
            12 => format!("echo {number} > {one}.new; mv -T {one}.new {one}"),
            _ => format!("mkdir -p {one}"),
        }
    }

    fn changes(&mut self, m: &Mounted, count: u64) {
        let all: Vec<_> = (0..count)
            .map(|_| format!("({}) 2>/dev/null || true", self.change()))
            .collect();
        m.sh(&all.join("\n"));
    }
}

#[test]
fn whatever_happens_a_restore_brings_back_what_was_there() {
    for seed in 0..8 {
        let Some(m) = Mounted::start(&[("x", "1"), ("d/x", "2"), ("d/e/y", "3"), ("f/z", "4")]) else {
            return;
        };
        let mut dice = Dice(seed);
        dice.changes(&m, 10);
        let first = tree(&m);
        m.sh("vexfs snapshot create first");
        dice.changes(&m, 15);
        let second = tree(&m);
        m.sh("vexfs snapshot create second");
        dice.changes(&m, 15);
        restore(&m, "first");
        assert_same(&m, &first, &format!("seed {seed}"));
        restore(&m, "second");
        assert_same(&m, &second, &format!("seed {seed}"));
    }
}
