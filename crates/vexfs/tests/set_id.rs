//! Set-user-id and set-group-id bits under every change of a file: on the mount as on the backing filesystem.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::thread;

mod place;

use place::{NOBODY, Place, can_mount};

type Change = (&'static str, fn(&Path));

/// Everything that changes what is in a file, or whose it is.
const CHANGES: [Change; 8] = [
    ("write", |path| {
        write_to(path).write_all_at(b"other", 0).expect("write")
    }),
    ("append", |path| {
        let file = OpenOptions::new().append(true).open(path).expect("open");
        (&file).write_all(b"more").expect("write");
    }),
    ("open truncating", |path| {
        drop(
            OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(path)
                .expect("open"),
        );
    }),
    ("ftruncate", |path| write_to(path).set_len(3).expect("ftruncate")),
    ("truncate", |path| {
        // There is no safe truncate(2) by path; a descriptor for /proc is the next best.
        let at = rustix::fs::open(path, rustix::fs::OFlags::PATH, 0.into()).expect("open");
        let proc = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&at));
        write_to(Path::new(&proc)).set_len(2).expect("truncate");
    }),
    ("fallocate", |path| {
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(write_to(path), flags, 0, 8192).expect("fallocate");
    }),
    ("copy_file_range", |path| {
        let from = File::open(path.with_file_name("other")).expect("open");
        rustix::fs::copy_file_range(&from, None, write_to(path), None, 4).expect("copy_file_range");
    }),
    ("chown to nobody else", |path| {
        // Not allowed to everybody; then nothing changes, on both sides.
        let _ = chown(path, None, None);
    }),
];

fn write_to(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).expect("open")
}

/// Runs with the filesystem ids of a user, which take CAP_FSETID away from all but root.
fn as_user(uid: u32, f: impl FnOnce() + Send) {
    thread::scope(|scope| {
        scope
            .spawn(move || {
                // SAFETY: these calls change numbers of the calling thread, which ends with the test case.
                unsafe {
                    libc::setfsgid(uid);
                    libc::setfsuid(uid);
                }
                f();
            })
            .join()
            .expect("the change works");
    });
}

/// The mode of a file after a change, as both its reader and the backing filesystem see it.
fn mode_after(
    change: fn(&Path),
    mode: u32,
    owner: u32,
    caller: u32,
    dir: &Path,
    backing: &Path,
) -> (u32, u32) {
    let path = dir.join("file");
    fs::write(&path, "program").expect("write");
    fs::write(dir.join("other"), "other").expect("write");
    chown(&path, Some(owner), Some(owner)).expect("chown");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
    fs::set_permissions(dir.join("other"), fs::Permissions::from_mode(0o666)).expect("chmod");
    // Before the change the kernel has seen, and may believe, the bits.
    assert_eq!(fs::metadata(&path).expect("stat").mode() & 0o7777, mode);
    as_user(caller, || change(&path));
    let seen = |dir: &Path| fs::metadata(dir.join("file")).expect("stat").mode() & 0o7777;
    (seen(dir), seen(backing))
}

#[test]
fn bits_fall_as_on_the_backing_filesystem() {
    if !can_mount() {
        return;
    }
    let bare = Place::new();
    fs::set_permissions(bare.at("source"), fs::Permissions::from_mode(0o777)).expect("chmod");
    for options in [
        "allow_other,suid",
        "allow_other,suid,passthrough=off",
        "allow_other,suid,ttl=0",
    ] {
        let place = Place::new();
        fs::set_permissions(place.at("source"), fs::Permissions::from_mode(0o777)).expect("chmod");
        place.mount(&format!("mount -o {options} @/source @/mnt"));
        for (what, change) in CHANGES {
            for mode in [0o6777, 0o4777, 0o2777, 0o666] {
                for (owner, caller) in [(0, NOBODY), (NOBODY, NOBODY), (0, 0)] {
                    let native = mode_after(
                        change,
                        mode,
                        owner,
                        caller,
                        &bare.at("source"),
                        &bare.at("source"),
                    )
                    .0;
                    let (seen, kept) =
                        mode_after(change, mode, owner, caller, &place.at("mnt"), &place.at("source"));
                    let case = format!("{options}: {what} of {mode:o}, owner {owner}, by {caller}");
                    assert_eq!(seen, kept, "{case}: the kernel believes what is no more");
                    // Root may keep the bits on the backing filesystem; not here.
                    let stricter = caller == 0 && kept == mode & 0o777;
                    assert!(
                        kept == native || stricter,
                        "{case}: {kept:o}, natively {native:o}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_program_that_is_being_changed_has_no_bits_at_once() {
    if !can_mount() {
        return;
    }
    for options in ["allow_other,suid", "allow_other,suid,passthrough=off"] {
        let place = Place::new();
        place.mount(&format!("mount -o {options} @/source @/mnt"));
        let path = place.at("mnt/file");
        // Opened by somebody else before it gets the bits.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("chmod");
        as_user(NOBODY, || {
            let file = write_to(&path);
            thread::scope(|scope| {
                let give = || fs::set_permissions(place.at("mnt/file"), fs::Permissions::from_mode(0o4777));
                let root = scope.spawn(move || {
                    // SAFETY: as above.
                    unsafe { libc::setfsuid(0) };
                    give().expect("chmod");
                });
                root.join().expect("root may");
            });
            file.write_all_at(b"evil", 0).expect("write");
            let mode = fs::metadata(&path).expect("stat").mode();
            assert_eq!(mode & 0o7777, 0o777, "{options}: while it is open");
        });
        assert_eq!(fs::metadata(&path).expect("stat").mode() & 0o7777, 0o777);
    }
}
