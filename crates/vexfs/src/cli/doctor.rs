//! `vexfs doctor`: what this machine offers, and whether a directory's store is well.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::Args;
use rustix::process::Resource;
use rustix::thread::CapabilitySet;
use serde_json::{Value, json};
use vexfs_core::store::dir::{CTLNAME_DEFAULT, StoreDir};
use vexfs_mount::mountinfo::{self, MountEntry};

use super::failure::{ERROR, Failure};
use super::mounts::{Probe, State};

/// Say what this machine offers and what stands in the way
///
/// Exit code 0 when a mount would work, 2 when something stands in its way.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// A directory to mount, or a path in a mount
    #[arg(default_value = ".")]
    path: PathBuf,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// The first kernel that lets a FUSE server hand reads and writes to the backing file.
const PASSTHROUGH_SINCE: (u32, u32) = (6, 9);
/// Memory below which indexing is cramped: the model, the caches of both indexes, and some workers.
const MEMORY_MIN: u64 = 512 << 20;
/// Descriptors below which a busy tree runs out: one a file that is open in passthrough.
const DESCRIPTORS_MIN: u64 = 4_096;
/// Free space below which the store may not be able to grow.
const SPACE_MIN: u64 = 256 << 20;

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Ok,
    /// It works, but something is slower or missing.
    Warning,
    /// A mount does not work so.
    Failure,
}

impl Health {
    fn word(self) -> &'static str {
        match self {
            Health::Ok => "ok",
            Health::Warning => "warning",
            Health::Failure => "failure",
        }
    }
}

/// One line of the answer: how it is, what it is about, and what to do.
#[derive(Clone, Debug)]
struct Finding {
    health: Health,
    about: &'static str,
    what: String,
}

fn ok(about: &'static str, what: impl Into<String>) -> Finding {
    finding(Health::Ok, about, what)
}

fn warning(about: &'static str, what: impl Into<String>) -> Finding {
    finding(Health::Warning, about, what)
}

fn failure(about: &'static str, what: impl Into<String>) -> Finding {
    finding(Health::Failure, about, what)
}

fn finding(health: Health, about: &'static str, what: impl Into<String>) -> Finding {
    Finding {
        health,
        about,
        what: what.into(),
    }
}

pub(crate) fn doctor(args: &DoctorArgs) -> Result<u8, Failure> {
    let path = fs::canonicalize(&args.path).map_err(|e| Failure::from_io(&e, &args.path))?;
    let root = rustix::process::geteuid().is_root();
    let mut findings = vec![device(), helper(root), kernel(), passthrough(), others(root)];
    findings.extend([memory(), descriptors(), simd()]);
    findings.extend(directory(&path));
    let worst = findings.iter().any(|finding| finding.health == Health::Failure);
    print(&findings, args.json)?;
    Ok(if worst { ERROR } else { 0 })
}

fn print(findings: &[Finding], as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if as_json {
        let rows: Vec<Value> = findings
            .iter()
            .map(|f| json!({ "health": f.health.word(), "about": f.about, "what": f.what }))
            .collect();
        return writeln!(out, "{}", json!({ "findings": rows }));
    }
    for f in findings {
        writeln!(out, "{:<8} {:<12} {}", f.health.word(), f.about, f.what)?;
    }
    Ok(())
}

fn device() -> Finding {
    let opened = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    match opened {
        Ok(_) => ok("/dev/fuse", "can be opened"),
        Err(e) if e.kind() == io::ErrorKind::NotFound => failure(
            "/dev/fuse",
            "is missing: load the kernel module fuse; in a container, pass the device in (--device /dev/fuse)",
        ),
        Err(e) => failure("/dev/fuse", format!("cannot be opened: {e}")),
    }
}

/// The set-user-id program through which normal users mount.
fn helper(root: bool) -> Finding {
    const NAME: &str = "fusermount3";
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(NAME))
        .find_map(|file| Some((fs::metadata(&file).ok()?, file)));
    match found {
        Some((meta, file)) => {
            let set_uid = meta.permissions().mode() & 0o4000 != 0 && meta.uid() == 0;
            match set_uid || root {
                true => ok(NAME, file.display().to_string()),
                false => failure(NAME, format!("{} is not set-user-id root", file.display())),
            }
        }
        None if root => ok(NAME, "is not installed; root does without"),
        None => failure(
            NAME,
            "is not installed: normal users mount through it (package fuse3)",
        ),
    }
}

fn kernel() -> Finding {
    let release = release();
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    match known
        .lines()
        .any(|line| line.trim_start_matches("nodev").trim() == "fuse")
    {
        true => ok("kernel", format!("Linux {release} with FUSE")),
        // A module may still be loaded by the first mount.
        false => warning(
            "kernel",
            format!("Linux {release} does not list fuse: its module is not loaded yet"),
        ),
    }
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn passthrough() -> Finding {
    const ABOUT: &str = "passthrough";
    let release = release();
    let mighty = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    if version(&release) < PASSTHROUGH_SINCE {
        let (major, minor) = PASSTHROUGH_SINCE;
        return warning(
            ABOUT,
            format!("needs Linux {major}.{minor}: file data goes through the daemon"),
        );
    }
    match mighty {
        true => ok(ABOUT, "file data goes past the daemon"),
        false => warning(ABOUT, "needs CAP_SYS_ADMIN: file data goes through the daemon"),
    }
}

/// Whether other users may use a mount.
fn others(root: bool) -> Finding {
    let allowed = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    let allowed = allowed.lines().any(|line| line.trim() == "user_allow_other");
    match root || allowed {
        true => ok("allow_other", "may be given"),
        false => warning(
            "allow_other",
            "is refused to normal users: user_allow_other is not in /etc/fuse.conf",
        ),
    }
}

/// What this process may take: the least of the machine's and its control groups'.
fn memory() -> Finding {
    const ABOUT: &str = "memory";
    let available = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = available
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemAvailable:")?
                .trim()
                .strip_suffix("kB")?
                .trim()
                .parse::<u64>()
                .ok()
        })
        .map_or(u64::MAX, |kib| kib << 10);
    let limit = group_limit();
    let least = available.min(limit.unwrap_or(u64::MAX));
    if least == u64::MAX {
        return warning(ABOUT, "/proc/meminfo does not say how much there is");
    }
    let what = match limit {
        Some(limit) if limit < available => format!("{} MiB, the limit of the control group", limit >> 20),
        _ => format!("{} MiB available", available >> 20),
    };
    match least < MEMORY_MIN {
        true => warning(ABOUT, format!("{what}: indexing wants {} MiB", MEMORY_MIN >> 20)),
        false => ok(ABOUT, what),
    }
}

/// The least `memory.max` of this process's control group and those above it.
fn group_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group = Path::new("/sys/fs/cgroup").join(group);
    let above = group
        .ancestors()
        .take_while(|dir| dir.starts_with("/sys/fs/cgroup"));
    above
        .filter_map(|dir| {
            fs::read_to_string(dir.join("memory.max"))
                .ok()?
                .trim()
                .parse()
                .ok()
        })
        .min()
}

fn descriptors() -> Finding {
    let limit = rustix::process::getrlimit(Resource::Nofile).maximum;
    match limit {
        Some(most) if most < DESCRIPTORS_MIN => warning(
            "descriptors",
            format!(
                "at most {most} open files: raise the hard limit (ulimit -Hn) to {DESCRIPTORS_MIN} or more"
            ),
        ),
        Some(most) => ok("descriptors", format!("at most {most} open files")),
        None => ok("descriptors", "no limit"),
    }
}

fn simd() -> Finding {
    let name = vexfs_vector::kernel::Kernels::get().simd().name();
    match name {
        "scalar" => warning(
            "processor",
            "no vector instructions that are used here: searches are slower",
        ),
        name => ok("processor", format!("distances by {name}")),
    }
}

/// The directory: its filesystem, its store or its mount.
fn directory(path: &Path) -> Vec<Finding> {
    let mount = mountinfo::containing(path).ok().flatten();
    match mount.filter(MountEntry::is_vexfs) {
        Some(mount) => vec![mounted(&mount)],
        None => vec![backing(path), space(path), store(path)],
    }
}

fn mounted(mount: &MountEntry) -> Finding {
    const ABOUT: &str = "mount";
    let at = mount.mountpoint.display();
    match Probe::of(mount).state {
        State::Dead => failure(
            ABOUT,
            format!("{at}: its daemon is gone; vexfs umount {at} removes it"),
        ),
        State::Silent => failure(ABOUT, format!("{at}: its daemon does not answer")),
        State::Private => warning(ABOUT, format!("{at} belongs to another user")),
        State::Alive => health(mount),
    }
}

/// What a living daemon says of its store.
fn health(mount: &MountEntry) -> Finding {
    let at = mount.mountpoint.display();
    let status = fs::read(mount.mountpoint.join(".vexfs/status.json")).unwrap_or_default();
    let status: Value = serde_json::from_slice(&status).unwrap_or_default();
    if let Some(error) = status["error"].as_str() {
        return failure("store", format!("{at}: nothing is indexed any more: {error}"));
    }
    if status.is_null() {
        return warning(
            "store",
            format!("{at} is mounted without its control directory (ctl=off)"),
        );
    }
    let count = |name: &str| status[name].as_u64().unwrap_or(0);
    let data = match status["passthrough"].as_bool() {
        Some(true) => "past the daemon",
        _ => "through the daemon",
    };
    let what = format!(
        "{at}: {} files, {} pending, {} failed; file data goes {data}",
        count("files"),
        count("pending"),
        count("failed")
    );
    ok("store", what)
}

fn backing(path: &Path) -> Finding {
    const ABOUT: &str = "filesystem";
    let Ok(stat) = rustix::fs::statfs(path) else {
        return failure(ABOUT, format!("{} cannot be asked", path.display()));
    };
    let kind = stat.f_type as u32;
    let name = match kind {
        0xef53 => "ext4",
        0x5846_5342 => "XFS",
        0x9123_683e => "Btrfs",
        0x0102_1994 => "tmpfs",
        0x2fc1_2fc1 => "ZFS",
        0xf2f5_2010 => "F2FS",
        0xca45_1a4e => "bcachefs",
        0x794c_7630 => "overlayfs",
        0x6969 => "NFS",
        0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x6573_5546 => "FUSE",
        0x00c3_6400 => "Ceph",
        _ => "of an unknown type",
    };
    match name {
        "NFS" | "SMB" | "Ceph" => warning(
            ABOUT,
            format!("{name}: what other machines change is noticed late, by scans and lookups"),
        ),
        "FUSE" => warning(
            ABOUT,
            "FUSE: renames of directories may not be atomic, and passthrough is not stacked",
        ),
        "of an unknown type" => warning(ABOUT, format!("of the type {kind:#x}, which was not tried")),
        name => ok(ABOUT, name),
    }
}

fn space(path: &Path) -> Finding {
    let Ok(stat) = rustix::fs::statvfs(path) else {
        return failure("space", format!("{} cannot be asked", path.display()));
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    match free < SPACE_MIN {
        true => warning(
            "space",
            format!("{} MiB free: the store may not be able to grow", free >> 20),
        ),
        false => ok("space", format!("{} MiB free", free >> 20)),
    }
}

fn store(path: &Path) -> Finding {
    const ABOUT: &str = "store";
    match StoreDir::open(path, None, CTLNAME_DEFAULT.as_ref()) {
        Err(e) => failure(ABOUT, e.to_string()),
        Ok(None) if is_taken(&path.join(CTLNAME_DEFAULT)) => failure(
            ABOUT,
            format!("{CTLNAME_DEFAULT} in it is something else: mount with -o ctlname=NAME or -o store=PATH"),
        ),
        Ok(None) => match rustix::fs::access(path, rustix::fs::Access::WRITE_OK) {
            Ok(()) => ok(ABOUT, "none yet: the first mount makes it"),
            Err(_) => warning(
                ABOUT,
                "none yet, and the directory is read-only: it will be below $XDG_STATE_HOME",
            ),
        },
        Ok(Some(store)) => match store.locked_by() {
            Ok(Some(pid)) => ok(
                ABOUT,
                format!("{} in use by process {pid}", store.location().display()),
            ),
            Ok(None) => ok(
                ABOUT,
                format!("{}; vexfs check -C looks into it", store.location().display()),
            ),
            Err(e) => failure(ABOUT, format!("{}: {e}", store.location().display())),
        },
    }
}

/// Whether something other than an empty directory has this name.
fn is_taken(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => fs::symlink_metadata(path).is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_kernels_are_read() {
        assert_eq!(version("6.18.44"), (6, 18));
        assert_eq!(version("6.9-rc1"), (6, 9));
        assert_eq!(version("5.15.0-91-generic"), (5, 15));
        assert!(version("6.8.12") < PASSTHROUGH_SINCE && version("7.0") > PASSTHROUGH_SINCE);
    }

    #[test]
    fn a_directory_without_a_store_can_be_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let findings = directory(dir.path());
        assert!(
            findings.iter().all(|f| f.health != Health::Failure),
            "{findings:?}"
        );
        assert!(
            findings.iter().any(|f| f.what.contains("first mount makes it")),
            "{findings:?}"
        );
    }

    #[test]
    fn a_foreign_store_stands_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".vexfs"), "mine").unwrap();
        assert!(directory(dir.path()).iter().any(|f| f.health == Health::Failure));
    }
}
