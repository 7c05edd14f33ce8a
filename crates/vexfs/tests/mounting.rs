//! Mounting as a user of mount(8) expects it: what works, and what is refused with one line and the right exit code.
//! Every command has a time limit, and nothing stays mounted. What cannot be tried here (no FUSE, no root) is said and
//! skipped.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

mod place;

use place::{NOBODY, Place, VEXFS, can_mount, eventually, is_mounted, run};

#[test]
fn bad_input_gets_one_line_and_the_exit_code_of_mount() {
    let place = Place::new();
    fs::create_dir(place.at("source/inner")).expect("mkdir");
    fs::create_dir_all(place.at("foreign/.vexfs/mine")).expect("mkdir");
    fs::create_dir(place.at("linked")).expect("mkdir");
    symlink("/tmp", place.at("linked/.vexfs")).expect("symlink");
    for (line, code, says) in [
        (
            "mount @/source @/mnt -o nonsense",
            1,
            "unknown option 'nonsense'; valid: ro rw",
        ),
        (
            "@/source @/mnt -o remount,ro",
            1,
            "cannot be changed in place (remount)",
        ),
        (
            "@/source @/mnt -o ttl=soon",
            1,
            "option ttl=soon: expected seconds",
        ),
        ("mount -t ntfs @/source @/mnt", 1, "the type is fuse.vexfs"),
        ("mount @/missing @/mnt", 32, "SOURCE does not exist"),
        ("mount @/source/file @/mnt", 32, "not a directory"),
        ("mount @/source @/missing", 32, "mount point does not exist"),
        (
            "mount @/source @/source/file",
            32,
            "mount point is not a directory",
        ),
        ("mount @/source/inner @/source", 32, "lies inside the mount point"),
        (
            "mount @/foreign @/mnt",
            32,
            "it is not a VexFS store; choose another name with -o ctlname=NAME",
        ),
        (
            "mount @/linked @/mnt",
            32,
            "it is a symbolic link; choose another name with -o ctlname=NAME",
        ),
        (
            "mount @/source @/mnt -o ctlname=a/b",
            32,
            "ctlname=a/b: not a file name",
        ),
        (
            "mount @/source @/mnt -o store=@/source/state",
            1,
            "lies inside SOURCE",
        ),
        (
            "mount @/source @/mnt -o store=@/missing/state",
            32,
            "No such file or directory",
        ),
        ("umount @/mnt", 32, "not a VexFS mount"),
        ("umount @/missing", 32, "not a VexFS mount"),
    ] {
        for foreground in [false, true] {
            let words = if foreground && !line.starts_with("umount") {
                format!("{line} -f")
            } else {
                line.to_owned()
            };
            let ended = place.vexfs(&words);
            assert_eq!(ended.code, code, "{words}: {ended:?}");
            assert!(ended.stderr.contains(says), "{words}: {ended:?}");
            assert_eq!(ended.stderr.trim_end().lines().count(), 1, "{words}: {ended:?}");
            assert!(
                ended.stdout.is_empty() && !is_mounted(&place.at("mnt")),
                "{words}"
            );
        }
    }
    assert!(!place.at("source/state").exists());
    assert_eq!(
        fs::read_dir(place.at("foreign/.vexfs"))
            .expect("readable")
            .count(),
        1
    );
}

#[test]
fn a_wrong_call_is_1_for_mount_and_2_elsewhere() {
    let place = Place::new();
    for (line, code) in [
        ("mount", 1),
        ("mount --nonsense a b", 1),
        ("serach words", 2),
        ("mounts extra", 2),
    ] {
        assert_eq!(place.vexfs(line).code, code, "{line}");
    }
    assert_eq!(
        place.vexfs("--version").stdout,
        concat!("vexfs ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn the_tree_is_the_same_and_the_store_is_hidden() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.mount("mount @/source @/mnt");
    assert_eq!(fs::read(place.at("mnt/file")).expect("read"), b"content");
    fs::write(place.at("mnt/new"), "new").expect("write");
    assert_eq!(fs::read(place.at("source/new")).expect("read"), b"new");
    let names: Vec<_> = fs::read_dir(place.at("mnt"))
        .expect("list")
        .map(|e| e.expect("entry").file_name())
        .collect();
    assert!(
        names.len() == 2 && !names.iter().any(|name| name == ".vexfs"),
        "{names:?}"
    );
    assert!(place.at("source/.vexfs/SIGNATURE").exists());
    let listed = place.vexfs("mounts --json");
    let rows: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let row = rows
        .as_array()
        .expect("an array")
        .iter()
        .find(|row| row["source"] == place.at("source").to_str().unwrap());
    let row = row.expect("listed");
    assert_eq!(
        (&row["state"], &row["passthrough"]),
        (&"alive".into(), &true.into())
    );
    let second = place.vexfs("mount @/source @/mnt");
    let daemon = place.daemon("source");
    assert_eq!(second.code, 32);
    assert!(
        second.stderr.contains(&format!("in use by process {daemon}")),
        "{second:?}"
    );
    place.mount("umount @/mnt");
    let stat = fs::read_to_string(format!("/proc/{daemon}/stat")).unwrap_or_default();
    assert!(
        stat.is_empty() || stat.contains(") Z "),
        "umount waits for the daemon: {stat}"
    );
    assert_eq!(fs::read_dir(place.at("mnt")).expect("list").count(), 0);
}

#[test]
fn fstab_and_mount_vexfs_shapes_mount_over_source_itself() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    symlink(VEXFS, place.at("mount.vexfs")).expect("symlink");
    let source = place.at("source");
    let helper = run(Command::new(place.at("mount.vexfs"))
        .arg(&source)
        .arg(&source)
        .args(["-n", "-o", "rw,dev"]));
    assert_eq!(helper.code, 0, "{helper:?}");
    assert!(is_mounted(&source));
    fs::write(place.at("source/through"), "mount").expect("write");
    assert_eq!(fs::read(place.at("source/file")).expect("read"), b"content");
    // The index works behind the mount that covers its store.
    fs::write(place.at("source/money.txt"), "customers get refunds").expect("write");
    let found = place.vexfs("search --wait=30 refunds @/source");
    assert!(found.code == 0 && found.stdout.contains("money.txt"), "{found:?}");
    let again = place.vexfs("mount @/source @/source");
    assert!(
        again.code == 32 && again.stderr.contains("is mounted by VexFS already"),
        "{again:?}"
    );
    place.mount("umount @/source");
    assert_eq!(fs::read(place.at("source/through")).expect("below"), b"mount");
    place.mount("@/source @/mnt -o ro,noatime");
    let refused = fs::write(place.at("mnt/file"), "x").expect_err("read-only");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    place.mount("umount @/mnt");
}

#[test]
fn a_mountpoint_inside_source_is_cut_out_of_the_view() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    fs::create_dir(place.at("source/inner")).expect("mkdir");
    place.mount("mount @/source @/source/inner");
    // Without the cut this would ask the daemon through itself, again and again.
    let found = run(Command::new("find").arg(place.at("source/inner")));
    assert!(found.code == 0 && found.stdout.lines().count() < 10, "{found:?}");
    place.mount("umount @/source/inner");
}

#[test]
fn signals_end_the_daemon_cleanly_even_while_files_are_open() {
    if !can_mount() {
        return;
    }
    for signal in ["-TERM", "-INT", "-HUP"] {
        let place = Place::new();
        place.mount("mount @/source @/mnt");
        let open = fs::File::open(place.at("mnt/file")).expect("open");
        let daemon = place.daemon("source");
        run(Command::new("kill").args([signal, &daemon.to_string()]));
        eventually("the mount goes", || !is_mounted(&place.at("mnt")));
        drop(open);
        eventually("the daemon ends", || {
            !Path::new(&format!("/proc/{daemon}")).exists()
        });
    }
}

#[test]
fn after_kill_9_the_next_mount_needs_no_hand() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    for round in 0..9 {
        place.mount("mount @/source @/mnt");
        fs::write(place.at("mnt/kept"), format!("round {round}")).expect("write");
        // In some rounds the kernel remembers the attributes of the root when the daemon dies.
        let remembered = round % 3 == 0;
        if remembered {
            thread::sleep(Duration::from_millis(20));
            fs::metadata(place.at("mnt")).expect("stat");
        }
        run(Command::new("kill").args(["-9", &place.daemon("source").to_string()]));
        // In the other rounds the next mount asks while the connection is being cut.
        if round % 2 == 0 && !remembered {
            eventually("the mount is dead", || {
                fs::metadata(place.at("mnt")).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN))
            });
        }
        assert_eq!(
            fs::read_to_string(place.at("source/kept")).expect("below"),
            format!("round {round}")
        );
    }
    place.mount("mount @/source @/mnt");
    assert_eq!(fs::read_to_string(place.at("mnt/kept")).expect("read"), "round 8");
    place.mount("umount @/mnt");
    assert!(!is_mounted(&place.at("mnt")), "no dead mount is left below");
}

#[test]
fn the_foreground_logs_to_stderr_and_ends_with_the_mount() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mut daemon: Child = Command::new(VEXFS)
        .args(["mount", "-f", "-v"])
        .args([place.at("source"), place.at("mnt")])
        .stderr(Stdio::piped())
        .spawn()
        .expect("spawn");
    eventually("mounted", || is_mounted(&place.at("mnt")));
    place.mount("umount @/mnt");
    eventually("ends", || daemon.try_wait().expect("wait").is_some());
    assert!(daemon.wait().expect("wait").success());
    let mut log = String::new();
    daemon
        .stderr
        .take()
        .expect("piped")
        .read_to_string(&mut log)
        .expect("text");
    assert!(log.contains("mounted"), "{log}");
}

#[test]
fn a_normal_user_mounts_through_fusermount3_without_passthrough() {
    if !can_mount() || !Path::new("/usr/bin/fusermount3").exists() {
        return;
    }
    let place = Place::new();
    fs::copy(VEXFS, place.at("vexfs")).expect("copy");
    for name in ["source", "source/file", "mnt"] {
        chown(place.at(name), Some(NOBODY), Some(NOBODY)).expect("chown");
    }
    // The device as distributions have it, whatever its mode is here, seen by this script alone.
    let as_root = r#"
        mknod -m 666 fuse c 10 229 && mount --bind fuse /dev/fuse
        setpriv --reuid 65534 --regid 65534 --clear-groups sh -ec "$0"
        cat mnt/file && exit 1
        setpriv --reuid 65534 --regid 65534 --clear-groups sh -c './vexfs umount mnt; ./vexfs mount source /mnt'"#;
    let as_user =
        "export HOME=/nonexistent; ./vexfs mount source mnt; echo text >mnt/new; cat mnt/file mnt/new
        mkdir mnt/d; mv mnt/new mnt/d/; ls mnt/d; ls -a mnt; ./vexfs mounts --json | grep alive | grep -c 'passthrough.:false' >&2";
    let mut command = Command::new("unshare");
    let ended = run(command
        .args(["-m", "sh", "-ec", as_root, as_user])
        .current_dir(place.at("")));
    assert_eq!(ended.stdout, "contenttext\nnew\n.\n..\nd\nfile\n", "{ended:?}");
    let said: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(said.len(), 3, "{ended:?}");
    assert!(
        said[0] == "1" && said[1].contains("Permission denied"),
        "not even root, without allow_other: {ended:?}"
    );
    assert!(
        said[2].starts_with("vexfs: fusermount3: ") && ended.code == 1,
        "somebody else's directory: {ended:?}"
    );
    assert_eq!(fs::read_dir(place.at("source/d")).expect("made").count(), 1);
}

#[test]
fn without_the_device_the_reason_is_said() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let script = r#"mount -t tmpfs none /dev && exec "$0" mount "$1" "$2""#;
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", script, VEXFS])
        .args([place.at("source"), place.at("mnt")]);
    let ended = run(&mut command);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(
        ended.stderr.contains("/dev/fuse: No such file or directory") && ended.stderr.lines().count() == 1,
        "{ended:?}"
    );
}

#[test]
fn a_read_only_source_keeps_its_state_below_xdg_state_home() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let script = r#"mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && "$0" mount "$1" "$2" && cat "$2/file"
        test ! -e "$1/.vexfs" && "$0" umount "$2""#;
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-ec", script, VEXFS])
        .args([place.at("source"), place.at("mnt")]);
    let ended = run(command.env("XDG_STATE_HOME", place.at("state")));
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "content"), "{ended:?}");
    assert_eq!(fs::read_dir(place.at("state/vexfs")).expect("made").count(), 1);
}
