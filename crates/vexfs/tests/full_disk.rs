//! The disk under the store is full: files work on, what is known can be asked, what cannot be written is refused with
//! the right error, and all is made up for when there is room again.

#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

mod mounted;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mounted::Mounted;
use rustix::fs::XattrFlags;

/// A filesystem in memory of so many bytes; unmounted on drop.
struct Small(PathBuf);

impl Small {
    fn new(at: &Path, megabytes: usize) -> Option<Small> {
        fs::create_dir(at).unwrap();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(at)
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then(|| Small(at.to_owned()))
    }

    /// Takes all that is left but so many bytes.
    fn fill(&self, left: usize) {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        let free = (stat.f_bavail * stat.f_frsize) as usize;
        fs::write(self.0.join("filler"), vec![1; free.saturating_sub(left)]).unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn status(mount: &Mounted) -> serde_json::Value {
    serde_json::from_str(&mount.read(".vexfs/status.json")).unwrap()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_full_disk_is_said_and_got_over() {
    let place = tempfile::tempdir().unwrap();
    let at = place.path().join("small");
    let Some(small) = Small::new(&at, 96) else {
        return eprintln!("skipped: needs the right to mount");
    };
    let store = format!("store={}", at.join("store").display());
    let mount = Mounted::with(
        &[("bread.md", "Knead the dough and let it rise.\n")],
        &["-o", &store],
    );
    mount.settle();
    let set = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(mount.join("bread.md"), name, value, XattrFlags::empty())
    };
    set("user.vexfs.vec.mine", b"[1, 2]").unwrap();

    small.fill(200 << 10);
    for i in 0..40 {
        let line = format!("The ferry number {i} to the island leaves at noon. ");
        fs::write(mount.join(format!("ferry{i}.txt")), line.repeat(4_000)).unwrap();
    }
    eventually("the status says that the disk is full", || {
        let error = status(&mount)["error"].as_str().unwrap_or("").to_lowercase();
        error.contains("full") || error.contains("space")
    });
    // Files and questions do not mind; what was told is refused, not lost.
    assert!(mount.read("ferry7.txt").starts_with("The ferry number 7"));
    fs::rename(mount.join("ferry7.txt"), mount.join("boat7.txt")).unwrap();
    assert!(mount.read(".vexfs/ask/how is dough made").contains("bread.md"));
    let mut errors = Vec::new();
    for i in 0..200 {
        let wide = format!("[{}]", vec![i.to_string(); 2_000].join(","));
        if let Err(error) = set(&format!("user.vexfs.vec.wide{i}"), wide.as_bytes()) {
            errors.push(error);
            break;
        }
    }
    assert_eq!(errors, [rustix::io::Errno::NOSPC]);
    let mut bytes = [0; 8];
    let got = rustix::fs::getxattr(mount.join("bread.md"), "user.vexfs.vec.mine", &mut bytes);
    assert_eq!(got, Ok(8));

    small.free();
    mount.settle();
    eventually("the error is gone", || status(&mount)["error"].is_null());
    assert_eq!(status(&mount)["ready"], 41);
    let found = mount.read(".vexfs/search/@k=50/boat to the island/results.jsonl");
    assert_eq!(
        found
            .lines()
            .filter(|line| line.contains("ferry") || line.contains("boat7"))
            .count(),
        40
    );
    set("user.vexfs.vec.mine", b"[3, 4]").unwrap();
    mount.umount();
    mount.mount(&["-o", &store]);
    mount.settle();
    assert_eq!(status(&mount)["ready"], 41);
    mount.umount();
}
