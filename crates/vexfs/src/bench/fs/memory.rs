//! What a daemon holds when the kernel knows every inode of a large tree, and its catalog every file.

use std::fs::{self, File};
use std::os::unix::fs::DirEntryExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::backing::Backing;
use crate::bench::daemon::Daemon;
use crate::bench::metric::{Measured, Metric, Table};
use crate::bench::resources::{children_of, resident_bytes};
use crate::bench::{Result, Run};

/// Files of the tree, and of a quick run's.
const FILES: usize = 1_000_000;
const FILES_QUICK: usize = 20_000;
/// Files of a folder.
const FOLDER: usize = 1_000;
/// How long the catalog may take to enter them.
const ENTERED_MAX: Duration = Duration::from_secs(1_200);

/// A daemon at one moment.
struct Moment {
    resident: u64,
    descriptors: usize,
}

/// Mounts a tree of empty files, all options as they come; waits until all are in the catalog; then looks at each.
pub(in crate::bench) fn measure(run: &Run) -> Result<Measured> {
    let files = run
        .settings
        .files
        .unwrap_or(if run.quick { FILES_QUICK } else { FILES });
    let backing = Backing::make(&run.settings)?;
    let source = backing.fresh_source()?;
    run.progress.set_message("making files");
    make(source.path(), files)?;

    let daemon = Daemon::mount(source.path())?;
    let started = Moment::of(&daemon)?;
    let progress = &run.progress;
    daemon.wait(files as u64, ENTERED_MAX, &mut |share| {
        progress.set_message(format!("entering files: {:.0} %", share * 100.0));
    })?;
    let entered = Moment::of(&daemon)?;
    run.progress.set_message("looking at every file");
    let seen = look(daemon.at())?;
    ensure!(seen >= files, "{seen} of {files} files were seen");
    let looked = Moment::of(&daemon)?;

    let row = |name: &str, moment: &Moment| {
        let cells = vec![
            format!("{:.1}", moment.resident as f64 / 1e6),
            moment.descriptors.to_string(),
        ];
        (name.to_owned(), cells)
    };
    let table = Table {
        title: "The daemon and its workers".into(),
        columns: vec!["resident, MB".into(), "descriptors".into()],
        rows: vec![
            row("mounted", &started),
            row("every file in the catalog", &entered),
            row("every inode known to the kernel", &looked),
        ],
    };
    let growth = looked.resident.saturating_sub(started.resident) as f64;
    Ok(Measured {
        metrics: vec![
            Metric::lower("memory.resident", "MB", looked.resident as f64 / 1e6, 0.0),
            Metric::lower("memory.each_file", "bytes", growth / files as f64, 0.0),
            Metric::lower(
                "memory.descriptors",
                "descriptors",
                looked.descriptors as f64,
                0.0,
            ),
        ],
        conditions: vec![
            format!("{files} empty files, {FOLDER} a folder, looked at one by one through the mount"),
            format!("all options as they come; backing: {}", backing.description()),
        ],
        tables: vec![table],
        ..Measured::default()
    })
}

impl Moment {
    fn of(daemon: &Daemon) -> Result<Moment> {
        let pid = daemon.pid()?;
        let processes: Vec<u32> = std::iter::once(pid).chain(children_of(pid)?).collect();
        Ok(Moment {
            resident: processes.iter().map(|&pid| resident_bytes(pid)).sum(),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))
                .context("the daemon's descriptors")?
                .count(),
        })
    }
}

fn make(root: &Path, files: usize) -> Result<()> {
    for n in 0..files {
        let folder = root.join(format!("folder{:04}", n / FOLDER));
        if n % FOLDER == 0 {
            fs::create_dir(&folder)?;
        }
        File::create_new(folder.join(format!("file{:06}", n % FOLDER)))?;
    }
    Ok(())
}

/// Asks for the attributes of every file, and gives their number.
fn look(root: &Path) -> Result<usize> {
    let mut seen = 0;
    for folder in fs::read_dir(root)? {
        for file in fs::read_dir(folder?.path())? {
            let file = file?;
            let attributes = file.metadata()?;
            ensure!(
                std::os::unix::fs::MetadataExt::ino(&attributes) == file.ino(),
                "{} changes its number",
                file.path().display()
            );
            seen += 1;
        }
    }
    Ok(seen)
}
