//! Files made to hurt: the daemon keeps its memory bound, goes on answering, and says of each what became of it.

#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

mod mounted;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mounted::{Mounted, stdout, vexfs};

/// Resident memory of the daemon that is its own, at most. Mapped index files are the kernel's to drop.
const OWN_BYTES_MAX: u64 = 700 << 20;
/// Files in one folder; `VEXFS_MANY=100000` makes the full number.
const MANY: usize = 8_000;

/// Bytes of a field of the daemon's `/proc/PID/status`.
fn memory(mount: &Mounted, field: &str) -> u64 {
    let pid = fs::read_to_string(mount.source().join(".vexfs/lock")).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    let kilobytes: u64 = line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().unwrap();
    kilobytes << 10
}

/// The most memory of its own that the daemon was seen to have while `work` went on.
fn watched<T>(mount: &Mounted, work: impl FnOnce() -> T) -> (T, u64) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(memory(mount, "RssAnon"));
                std::thread::sleep(Duration::from_millis(5));
            }
            most
        });
        let value = work();
        done.store(true, Ordering::Relaxed);
        (value, watcher.join().unwrap())
    })
}

fn why(mount: &Mounted, path: &str) -> String {
    stdout(&vexfs(&["index", "why", mount.join(path).to_str().unwrap()]))
}

fn finds(mount: &Mounted, question: &str) -> Vec<String> {
    let answer = stdout(&vexfs(&[
        "search",
        "--json",
        "-k",
        "50",
        question,
        mount.path().to_str().unwrap(),
    ]));
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let hits = answer["hits"].as_array().unwrap();
    hits.iter()
        .map(|hit| hit["path"].as_str().unwrap().to_owned())
        .collect()
}

/// One member that inflates to `bytes` of the pattern.
fn deflated(pattern: &[u8], bytes: usize, mut into: impl Write) {
    let block = pattern.repeat((1 << 20) / pattern.len());
    for _ in 0..bytes / block.len() {
        into.write_all(&block).unwrap();
    }
}

/// A document whose text inflates to a quarter of a gigabyte.
fn zip_bomb() -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_level(Some(9));
    writer.start_file("word/document.xml", options).unwrap();
    writer.write_all(b"<w:document><w:p><w:t>").unwrap();
    deflated(b"bomb ", 256 << 20, &mut writer);
    writer.write_all(b"</w:t></w:p></w:document>").unwrap();
    writer.finish().unwrap().into_inner()
}

/// A PDF whose page inflates to a quarter of a gigabyte of drawing.
fn pdf_bomb() -> Vec<u8> {
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    deflated(b"(bomb) Tj ", 256 << 20, &mut packed);
    let packed = packed.finish().unwrap();
    let head = format!("<< /Length {} /Filter /FlateDecode >>\nstream\n", packed.len());
    let objects: [Vec<u8>; 4] = [
        b"<< /Type /Catalog /Pages 2 0 R >>".to_vec(),
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_vec(),
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R >>".to_vec(),
        [head.as_bytes(), &packed, b"\nendstream"].concat(),
    ];
    let mut out = b"%PDF-1.4\n".to_vec();
    let mut places = Vec::new();
    for (number, object) in objects.iter().enumerate() {
        places.push(out.len());
        out.extend(format!("{} 0 obj\n", number + 1).bytes());
        out.extend(object);
        out.extend(b"\nendobj\n");
    }
    let table = out.len();
    out.extend(b"xref\n0 5\n0000000000 65535 f \n");
    places
        .iter()
        .for_each(|place| out.extend(format!("{place:010} 00000 n \n").bytes()));
    out.extend(format!("trailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n").bytes());
    out
}

#[test]
fn bombs_long_lines_and_odd_files_cost_neither_memory_nor_answers() {
    let bread = [("bread.md", "Knead the dough and let it rise.\n")];
    let mount = Mounted::with(&bread, &[]);
    mount.umount();
    let source = mount.source();
    // A sparse line of 2 GiB, and one that is short enough to be read and has no break anywhere.
    File::create(source.join("sparse.txt"))
        .unwrap()
        .set_len(2 << 30)
        .unwrap();
    fs::write(source.join("line.txt"), "dough ".repeat(2 << 20)).unwrap();
    fs::write(source.join("unbroken.txt"), "x".repeat(8 << 20)).unwrap();
    fs::write(source.join("bomb.docx"), zip_bomb()).unwrap();
    fs::write(source.join("bomb.pdf"), pdf_bomb()).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    deflated(b"bomb bomb bomb\n", 256 << 20, &mut gzip);
    fs::write(source.join("bomb.txt.gz"), gzip.finish().unwrap()).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        source.join("fifo.txt"),
        rustix::fs::FileType::Fifo,
        0o644.into(),
        0,
    )
    .unwrap();
    std::os::unix::fs::symlink("/dev/zero", source.join("zero.txt")).unwrap();
    std::os::unix::fs::symlink("loop.txt", source.join("loop.txt")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(source.join("socket.txt")).unwrap();
    mount.mount(&[]);
    let ((), most) = watched(&mount, || mount.settle());
    assert!(most < OWN_BYTES_MAX, "{} MiB", most >> 20);
    assert_eq!(finds(&mount, "\"let it rise\""), ["bread.md"]);
    assert!(
        why(&mount, "sparse.txt").contains("excluded"),
        "{}",
        why(&mount, "sparse.txt")
    );
    for bomb in ["bomb.docx", "bomb.pdf", "bomb.txt.gz"] {
        let why = why(&mount, bomb);
        assert!(
            why.contains("ready") || why.contains("failed") || why.contains("excluded"),
            "{bomb}: {why}"
        );
    }
    for odd in ["fifo.txt", "socket.txt", "zero.txt", "loop.txt"] {
        let why = why(&mount, odd);
        assert!(why.contains("excluded:no regular file"), "{odd}: {why}");
    }
    let found = finds(&mount, "dough");
    assert!(found.contains(&"line.txt".to_owned()), "{found:?}");
    // Nothing that is no regular file is opened: the fifo would have kept a worker for ever.
    assert!(
        !found
            .iter()
            .any(|path| path.starts_with("fifo") || path.starts_with("zero")),
        "{found:?}"
    );
}

#[test]
fn odd_names_are_found_shown_safely_and_reached_exactly() {
    let mount = Mounted::with(&[], &[]);
    let names: [&[u8]; 5] = [
        b"new\nline.txt",
        b"escape\x1b[2J.txt",
        b"caf\xe9.txt",
        b"-rf.txt",
        "r\u{202e}txt.exe.txt".as_bytes(),
    ];
    for (i, name) in names.iter().enumerate() {
        fs::write(
            mount.join(OsStr::from_bytes(name)),
            format!("hawthorn hedge {i}\n"),
        )
        .unwrap();
    }
    mount.settle();
    let path = mount.path();
    let hits = mount.read(".vexfs/search/hawthorn hedge/results.jsonl");
    assert_eq!(hits.lines().count(), names.len(), "{hits}");
    assert!(hits.contains("\"path_hex\":\"636166e92e747874\""), "{hits}");
    let shown = mount.read(".vexfs/ask/hawthorn hedge");
    assert!(
        !shown.contains('\x1b') && !shown.contains('\u{202e}'),
        "{shown:?}"
    );
    assert_eq!(shown.matches("\n## ").count(), names.len(), "{shown}");
    // To a program in a pipe the exact bytes are given, with an end that no name can have.
    let output = vexfs(&["search", "-0", "hawthorn hedge", path.to_str().unwrap()]);
    let mut given: Vec<&[u8]> = output
        .stdout
        .split(|b| *b == 0)
        .filter(|path| !path.is_empty())
        .collect();
    given.sort();
    let mut paths: Vec<Vec<u8>> = names
        .iter()
        .map(|name| [path.as_os_str().as_bytes(), b"/", name].concat())
        .collect();
    paths.sort();
    assert_eq!(given, paths);
    // The links of a directory of results lead to the very files.
    let links: Vec<_> = fs::read_dir(path.join(".vexfs/search/hawthorn hedge"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name() != Some(OsStr::new("results.jsonl")))
        .collect();
    assert_eq!(links.len(), names.len());
    for link in links {
        assert!(
            fs::read_to_string(&link).unwrap().starts_with("hawthorn"),
            "{}",
            link.display()
        );
    }
    let why = why(&mount, "escape\x1b[2J.txt");
    assert!(why.contains("escape\\x1b[2J.txt: ready"), "{why:?}");
    // Attributes by the command and its socket reach a name that is not UTF-8.
    let mut odd = path.clone();
    odd.push(OsStr::from_bytes(b"caf\xe9.txt"));
    let tag = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vexfs"));
        let output = command.arg("tag").arg(&odd).args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        stdout(&output)
    };
    tag(&["odd"]);
    assert_eq!(tag(&[]).trim(), "odd");
    assert_eq!(finds(&mount, "tag:odd").len(), 1);
}

#[test]
fn files_that_vanish_or_change_while_they_are_read_do_no_harm() {
    let mount = Mounted::with(&[("kept.md", "The ferry leaves at noon.\n")], &[]);
    for round in 0..40 {
        for i in 0..20 {
            let path = mount.join(format!("v{i}.txt"));
            fs::write(&path, format!("vanishing {round} {i} ").repeat(500)).unwrap();
        }
        for i in 0..20 {
            let path = mount.join(format!("v{i}.txt"));
            match (round + i) % 3 {
                0 => fs::remove_file(&path).unwrap(),
                1 => File::options()
                    .write(true)
                    .open(&path)
                    .unwrap()
                    .set_len(10)
                    .unwrap(),
                _ => fs::rename(&path, mount.join(format!("w{i}.txt"))).unwrap(),
            }
        }
    }
    (0..20).for_each(|i| {
        let _ = fs::remove_file(mount.join(format!("v{i}.txt")));
        let _ = fs::remove_file(mount.join(format!("w{i}.txt")));
    });
    mount.settle();
    assert_eq!(finds(&mount, "\"vanishing\""), Vec::<String>::new());
    assert_eq!(finds(&mount, "\"ferry\""), ["kept.md"]);
}

#[test]
fn a_folder_of_very_many_files_is_indexed_within_the_memory_bound() {
    let many = std::env::var("VEXFS_MANY").map_or(MANY, |text| text.parse().unwrap());
    let mount = Mounted::with_patience(&[], &[], Duration::from_secs(600 + many as u64 / 100));
    mount.umount();
    fs::create_dir(mount.source().join("many")).unwrap();
    for i in 0..many {
        fs::write(
            mount.source().join(format!("many/{i}.txt")),
            format!("the word of number{i}\n"),
        )
        .unwrap();
    }
    mount.mount(&[]);
    let ((), most) = watched(&mount, || {
        let output = vexfs(&["status", "--watch", "--json", mount.path().to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
    });
    assert!(most < OWN_BYTES_MAX, "{} MiB", most >> 20);
    let last = format!("number{}", many - 1);
    assert_eq!(
        finds(&mount, &format!("\"{last}\"")),
        [format!("many/{}.txt", many - 1)]
    );
}

#[test]
fn reading_a_tree_runs_no_query_and_indexes_nothing() {
    let mount = Mounted::with(
        &[
            ("a/bread.md", "Knead the dough.\n"),
            ("b.txt", "The ferry leaves at noon.\n"),
        ],
        &[],
    );
    mount.settle();
    let facts = || {
        let status: serde_json::Value = serde_json::from_str(&mount.read(".vexfs/status.json")).unwrap();
        (
            status["generation"].clone(),
            status["pending"].clone(),
            status["queries"].clone(),
        )
    };
    let before = facts();
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program)
            .args(args)
            .current_dir(mount.path())
            .output();
        assert!(
            output.is_ok_and(|output| output.status.code().is_some_and(|code| code < 2)),
            "{program} {args:?}"
        );
    };
    run("find", &[".", "-type", "f"]);
    run("grep", &["-r", "dough", "."]);
    run("tar", &["cf", "/dev/null", "--ignore-failed-read", "."]);
    run("ls", &["-lR", "."]);
    run("du", &["-s", "."]);
    let copy = tempfile::tempdir().unwrap();
    run("cp", &["-a", ".", copy.path().to_str().unwrap()]);
    assert!(!copy.path().join(".vexfs").exists());
    mount.settle();
    assert_eq!(before, facts());
    mount.ls(".vexfs/search/dough/");
    assert_ne!(before.2, facts().2, "a query is counted");
    assert!(Path::new(&mount.join(".vexfs")).exists());
}
