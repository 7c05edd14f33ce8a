//! The promises of docs/SEMANTICS.md, each under its heading there, on a real mount.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

mod place;

use place::{NOBODY, Place, can_mount, eventually, run};

/// A mounted place, or nothing where nothing can be mounted.
fn mounted(options: &str) -> Option<Place> {
    if !can_mount() {
        return None;
    }
    let place = Place::new();
    let options = if options.is_empty() {
        String::new()
    } else {
        format!(" -o {options}")
    };
    place.mount(&format!("mount @/source @/mnt{options}"));
    Some(place)
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result
        .expect_err("an error")
        .raw_os_error()
        .expect("of the system")
}

/// Runs a shell script as a normal user without groups, in the place's directory.
fn as_nobody(place: &Place, script: &str) -> place::Ended {
    let id = NOBODY.to_string();
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        &id,
        "--regid",
        &id,
        "--clear-groups",
        "sh",
        "-c",
        script,
    ]);
    run(command.current_dir(place.at("")))
}

#[test]
fn errors_are_those_of_the_backing_filesystem() {
    let Some(place) = mounted("") else { return };
    let at = |name: &str| place.at("mnt").join(name);
    fs::create_dir_all(at("full/inner")).expect("mkdir");
    symlink("loop", at("loop")).expect("symlink");
    assert_eq!(errno(fs::metadata(at("missing"))), libc::ENOENT);
    assert_eq!(errno(fs::create_dir(at("file"))), libc::EEXIST);
    assert_eq!(errno(fs::remove_dir(at("full"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::metadata(at("file/below"))), libc::ENOTDIR);
    assert_eq!(errno(fs::write(at("full"), "")), libc::EISDIR);
    assert_eq!(errno(fs::metadata(at("loop"))), libc::ELOOP);
    assert_eq!(errno(fs::write(at(&"x".repeat(256)), "")), libc::ENAMETOOLONG);
    assert_eq!(
        errno(fs::rename(at("full"), at("full/inner/deeper"))),
        libc::EINVAL
    );
    assert_eq!(errno(fs::hard_link(at("full"), at("link"))), libc::EPERM);
    assert_eq!(errno(fs::rename(at("file"), place.at("elsewhere"))), libc::EXDEV);
}

#[test]
fn the_control_name_cannot_be_made_and_the_store_cannot_be_reached() {
    let Some(place) = mounted("") else { return };
    for dir in ["mnt", "mnt/sub"] {
        fs::create_dir_all(place.at(dir)).expect("mkdir");
        let name = place.at(dir).join(".vexfs");
        for refused in [fs::create_dir(&name), fs::write(&name, ""), symlink("x", &name)] {
            let errno = errno(refused);
            assert!(
                [libc::EPERM, libc::EEXIST, libc::EISDIR].contains(&errno),
                "{dir}: {errno}"
            );
        }
        assert!(!name.join("SIGNATURE").exists());
    }
}

#[test]
fn a_visible_control_directory_is_listed_in_the_root_and_nowhere_else() {
    for (options, listed) in [("ctl=visible", true), ("", false)] {
        let Some(place) = mounted(options) else { return };
        fs::create_dir(place.at("mnt/dir")).expect("mkdir");
        let has = |dir: &str| {
            let names: Vec<_> = fs::read_dir(place.at(dir))
                .expect("list")
                .map(|e| e.expect("entry").file_name())
                .collect();
            assert!(
                dir != "mnt" || names.iter().any(|name| name == "file"),
                "{names:?}"
            );
            names.iter().filter(|name| *name == ".vexfs").count()
        };
        assert_eq!(has("mnt"), usize::from(listed), "{options}");
        assert_eq!(
            has("mnt"),
            usize::from(listed),
            "{options}, from the kernel's memory"
        );
        assert_eq!(has("mnt/dir"), 0);
        let long = run(Command::new("ls").arg("-laU").arg(place.at("mnt")));
        assert_eq!(
            (long.code, long.stdout.contains(".vexfs")),
            (0, listed),
            "{long:?}"
        );
    }
}

#[test]
fn names_are_bytes() {
    let Some(place) = mounted("") else { return };
    for name in [
        &b"\xff\xfe"[..],
        b"new\nline",
        b" ",
        b"%2F",
        b"a\\b",
        &[b'x'; 255],
    ] {
        let name = OsStr::from_bytes(name);
        fs::write(place.at("mnt").join(name), "x").expect("write");
        assert!(place.at("source").join(name).exists(), "{name:?}");
        let listed = fs::read_dir(place.at("mnt"))
            .expect("list")
            .any(|e| e.expect("entry").file_name() == name);
        assert!(listed, "{name:?}");
        fs::remove_file(place.at("mnt").join(name)).expect("remove");
    }
}

#[test]
fn open_files_outlive_their_names() {
    let Some(place) = mounted("") else { return };
    for options in ["auto", "off"] {
        place.mount("umount @/mnt");
        place.mount(&format!("mount @/source @/mnt -o passthrough={options}"));
        let path = place.at("mnt/open");
        fs::write(&path, "first").expect("write");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .expect("open");
        fs::write(place.at("mnt/other"), "second").expect("write");
        fs::rename(place.at("mnt/other"), &path).expect("rename over an open file");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("read");
        assert_eq!(
            (text.as_str(), fs::read_to_string(&path).expect("read").as_str()),
            ("first", "second")
        );
        file.write_all(b" more").expect("write without a name");
        file.set_len(7).expect("truncate without a name");
        let meta = file.metadata().expect("stat without a name");
        assert_eq!((meta.nlink(), meta.len()), (0, 7), "passthrough={options}");
        file.seek(SeekFrom::Start(0)).expect("seek");
        text.clear();
        file.read_to_string(&mut text).expect("read");
        assert_eq!(text, "first m");
    }
}

#[test]
fn links_are_one_file() {
    let Some(place) = mounted("") else { return };
    fs::hard_link(place.at("mnt/file"), place.at("mnt/link")).expect("link");
    OpenOptions::new()
        .append(true)
        .open(place.at("mnt/link"))
        .expect("open")
        .write_all(b"!")
        .expect("append");
    assert_eq!(fs::read(place.at("mnt/file")).expect("read"), b"content!");
    let (a, b) = (
        fs::metadata(place.at("mnt/file")),
        fs::metadata(place.at("mnt/link")),
    );
    let (a, b) = (a.expect("stat"), b.expect("stat"));
    assert_eq!((a.ino(), a.nlink(), a.len()), (b.ino(), 2, 8));
    fs::remove_file(place.at("mnt/file")).expect("remove");
    assert_eq!(fs::metadata(place.at("mnt/link")).expect("stat").nlink(), 1);
}

#[test]
fn what_was_written_is_seen_at_once_through_every_handle() {
    for options in ["", "passthrough=off"] {
        let Some(place) = mounted(options) else { return };
        let path = place.at("mnt/shared");
        let writer = File::create(&path).expect("create");
        let reader = File::open(&path).expect("open");
        for round in 0..50_u64 {
            writer
                .write_all_at(&round.to_le_bytes(), round * 4096)
                .expect("write");
            let mut seen = [0; 8];
            reader.read_exact_at(&mut seen, round * 4096).expect("read");
            assert_eq!(u64::from_le_bytes(seen), round);
            assert_eq!(
                fs::metadata(&path).expect("stat").len(),
                round * 4096 + 8,
                "{options}"
            );
            assert_eq!(
                fs::metadata(place.at("source/shared")).expect("stat").len(),
                round * 4096 + 8
            );
        }
    }
}

#[test]
fn times_after_a_store_through_a_mapping_are_right_after_close() {
    let Some(place) = mounted("") else { return };
    let script = "import mmap, os, sys\n\
        fd = os.open(sys.argv[1], os.O_RDWR)\n\
        m = mmap.mmap(fd, 4096); m[0:1] = b'x'; m.flush(); m.close(); os.close(fd)";
    fs::write(place.at("mnt/mapped"), [0; 4096]).expect("write");
    let then = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    File::open(place.at("mnt/mapped"))
        .expect("open")
        .set_modified(then)
        .expect("utimens");
    assert_eq!(fs::metadata(place.at("mnt/mapped")).expect("stat").mtime(), 1);
    let python = Command::new("python3")
        .args(["-c", script])
        .arg(place.at("mnt/mapped"))
        .status();
    let Ok(status) = python else { return };
    assert!(status.success());
    // RELEASE is asynchronous: the kernel sends it when close(2) has returned.
    eventually("the time is seen", || {
        fs::metadata(place.at("mnt/mapped")).expect("stat").mtime() > 1
    });
}

#[test]
fn changes_behind_the_mount_are_seen_within_the_ttl() {
    let Some(place) = mounted("ttl=0.2") else { return };
    assert_eq!(fs::metadata(place.at("mnt/file")).expect("stat").len(), 7);
    fs::write(place.at("source/file"), "longer content").expect("behind");
    fs::write(place.at("source/new"), "").expect("behind");
    fs::metadata(place.at("mnt/new")).expect("a new name is seen at once");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(fs::metadata(place.at("mnt/file")).expect("stat").len(), 14);
    assert_eq!(fs::read(place.at("mnt/file")).expect("read"), b"longer content");
    fs::remove_file(place.at("source/new")).expect("behind");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(errno(fs::metadata(place.at("mnt/new"))), libc::ENOENT);
}

#[test]
fn callers_keep_their_identity() {
    let Some(place) = mounted("allow_other") else {
        return;
    };
    fs::set_permissions(place.at("mnt"), fs::Permissions::from_mode(0o1777)).expect("chmod");
    fs::create_dir(place.at("mnt/private")).expect("mkdir");
    fs::write(place.at("mnt/private/secret"), "secret").expect("write");
    fs::set_permissions(place.at("mnt/private"), fs::Permissions::from_mode(0o700)).expect("chmod");
    // Cached by root: a check by identity alone would let the other user through.
    fs::metadata(place.at("mnt/private/secret")).expect("stat");
    let ended = as_nobody(
        &place,
        "umask 027; echo x >mnt/mine; mkdir mnt/dir; cat mnt/private/secret; rm -f mnt/file",
    );
    assert_eq!(ended.stdout, "");
    for (name, mode) in [("source/mine", 0o100_640), ("source/dir", 0o040_750)] {
        let meta = fs::metadata(place.at(name)).expect("made");
        assert_eq!(
            (meta.uid(), meta.gid(), meta.mode()),
            (NOBODY, NOBODY, mode),
            "{name}"
        );
    }
    assert!(
        place.at("source/file").exists(),
        "the sticky bit keeps what is not one's own"
    );
}

#[test]
fn links_out_of_the_tree_stay_links() {
    let Some(place) = mounted("ttl=0") else {
        return;
    };
    fs::create_dir(place.at("source/dir")).expect("mkdir");
    fs::write(place.at("source/dir/f"), "inside").expect("write");
    fs::create_dir(place.at("other")).expect("mkdir");
    fs::write(place.at("other/f"), "outside").expect("write");
    // Somebody swaps a directory of the backing tree for a link that leads out of it, again and again.
    let (source, other) = (place.at("source"), place.at("other"));
    let until = Instant::now() + Duration::from_secs(2);
    let swapper = thread::spawn(move || {
        while Instant::now() < until {
            fs::rename(source.join("dir"), source.join("was")).expect("rename");
            symlink(&other, source.join("dir")).expect("symlink");
            fs::remove_file(source.join("dir")).expect("remove");
            fs::rename(source.join("was"), source.join("dir")).expect("rename");
        }
    });
    let mut inside = 0;
    while Instant::now() < until {
        // The caller follows no link; so what he reads was found by the daemon, and must lie in the tree.
        let how = rustix::fs::ResolveFlags::NO_SYMLINKS;
        let flags = rustix::fs::OFlags::RDONLY;
        let opened = rustix::fs::openat2(rustix::fs::CWD, place.at("mnt/dir/f"), flags, 0.into(), how);
        if let Ok(file) = opened {
            let mut text = String::new();
            File::from(file).read_to_string(&mut text).expect("read");
            assert_eq!(text, "inside");
            inside += 1;
        }
    }
    swapper.join().expect("no panic");
    assert!(inside > 0, "the directory was never found");
}

#[test]
fn locks_exclude_within_the_mount() {
    let Some(place) = mounted("") else { return };
    let (first, second) = (File::open(place.at("mnt/file")), File::open(place.at("mnt/file")));
    let (first, second) = (first.expect("open"), second.expect("open"));
    first.lock().expect("lock");
    assert!(second.try_lock().is_err());
    first.unlock().expect("unlock");
    second.try_lock().expect("free");
}

#[test]
fn holes_are_kept_and_found() {
    for options in ["", "passthrough=off"] {
        let Some(place) = mounted(options) else { return };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(place.at("mnt/holes"));
        let file = file.expect("create");
        file.set_len(64 << 20).expect("extend");
        file.write_all_at(b"data", 32 << 20).expect("write");
        assert!(file.metadata().expect("stat").blocks() < 1024);
        let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).expect("seek");
        assert_eq!(data, 32 << 20, "{options}");
        let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, punch, 32 << 20, 4096).expect("punch");
        let mut seen = [1; 4];
        file.read_exact_at(&mut seen, 32 << 20).expect("read");
        assert_eq!((seen, file.metadata().expect("stat").len()), ([0; 4], 64 << 20));
    }
}

#[test]
fn a_killed_daemon_loses_nothing_that_was_written() {
    let Some(place) = mounted("") else { return };
    let mut file = File::create(place.at("mnt/log")).expect("create");
    for line in 0..1000 {
        writeln!(file, "{line}").expect("write");
    }
    place.kill_daemon("source");
    // The mount is dead, the bytes are in the backing file.
    assert_eq!(
        fs::read_to_string(place.at("source/log"))
            .expect("read")
            .lines()
            .count(),
        1000
    );
    eventually("dead", || fs::metadata(place.at("mnt")).is_err());
    drop(file);
    place.mount("mount @/source @/mnt");
    assert_eq!(
        fs::read_to_string(place.at("mnt/log"))
            .expect("read")
            .lines()
            .count(),
        1000
    );
}

#[test]
fn fsync_reaches_the_backing_file_and_directory() {
    for options in ["", "passthrough=off"] {
        let Some(place) = mounted(options) else { return };
        let trace = place.at("trace");
        let daemon = place.daemon("source").to_string();
        let strace = Command::new("strace")
            .args(["-f", "-e", "trace=fsync,fdatasync", "-p", &daemon, "-o"])
            .arg(&trace)
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut strace) = strace else { return };
        let mut said = BufReader::new(strace.stderr.take().expect("piped"));
        let mut attached = String::new();
        while !attached.contains("attached") {
            assert!(said.read_line(&mut attached).expect("text") > 0, "{attached}");
        }
        // A full pipe would stop it.
        let rest = thread::spawn(move || io::copy(&mut said, &mut io::sink()));
        let file = File::create(place.at("mnt/synced")).expect("create");
        file.sync_all().expect("fsync");
        file.sync_data().expect("fdatasync");
        File::open(place.at("mnt"))
            .expect("open")
            .sync_all()
            .expect("fsync of the directory");
        run(Command::new("kill").args(["-INT", &strace.id().to_string()]));
        strace.wait().expect("ends");
        rest.join().expect("no panic").expect("readable");
        let calls = fs::read_to_string(&trace).expect("a trace");
        let count = |call: &str| calls.matches(call).count();
        assert!(
            count(" fsync(") >= 2 && count(" fdatasync(") >= 1,
            "{options}: {calls}"
        );
    }
}

#[test]
fn descriptors_stay_bounded_while_a_large_tree_is_walked() {
    let Some(place) = mounted("") else { return };
    for dir in 0..200 {
        let dir = place.at("source").join(format!("d{dir}"));
        fs::create_dir(&dir).expect("mkdir");
        for file in 0..100 {
            File::create(dir.join(format!("f{file}"))).expect("create");
        }
    }
    let found = run(Command::new("find").arg(place.at("mnt")).args(["-size", "-1k"]));
    assert!(
        found.stdout.lines().count() >= 20_000,
        "{}",
        found.stdout.lines().count()
    );
    let open = fs::read_dir(format!("/proc/{}/fd", place.daemon("source")))
        .expect("list")
        .count();
    assert!(open <= 4500, "{open} descriptors");
}

#[test]
fn what_this_version_lacks_says_so() {
    let Some(place) = mounted("") else { return };
    let unnamed = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .open(place.at("mnt"));
    assert_eq!(errno(unnamed), libc::EOPNOTSUPP);
}
