//! The stack that operations use, as a mounted daemon measures it on its own threads: every kind of request, and the
//! stages of a search.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{Access, AtFlags, CWD, FallocateFlags, Mode, OFlags, XattrFlags};
use vexfs_core::metrics::stack::BYTES_MAX;

use super::daemon::Daemon;
use super::metric::{Measured, Metric, Table};
use super::{Run, STACK};

/// Everything is done so often: the daemon measures the second call of each of its threads.
const ROUNDS: usize = 24;
/// A file's data goes through the daemon, and nothing is answered from the kernel's cache.
const OPTIONS: &str = "passthrough=off,ttl=0,index=sync";

/// Does everything a few times, and reads the marks from the metrics.
pub(super) fn measure(run: &Run) -> Result<Measured> {
    let source = tempfile::tempdir_in(&run.work)?;
    let daemon = Daemon::mount_with(source.path(), OPTIONS)?;
    for round in 0..ROUNDS {
        run.progress
            .set_message(format!("round {} of {ROUNDS}", round + 1));
        do_everything(daemon.at(), round)?;
    }
    let text = fs::read_to_string(daemon.at().join(".vexfs/metrics"))?;
    let marks = marks(&text);
    let of = |threads: &str| -> Vec<(String, f64)> {
        let mut marks: Vec<_> = marks
            .iter()
            .filter(|mark| mark.threads == threads)
            .map(|mark| (mark.operation.clone(), mark.bytes))
            .collect();
        marks.sort_by(|a, b| b.1.total_cmp(&a.1));
        marks
    };
    let (session, control) = (of("session"), of("control"));
    let worst = session.first().context("no request was measured")?;
    Ok(Measured {
        metrics: vec![
            Metric::lower(STACK, "bytes", worst.1, 0.0)
                .against("wanted at most", BYTES_MAX as f64)
                .workload(format!(
                    "the deepest of {} kinds of requests for files, {}, below the engine's entry",
                    session.len(),
                    worst.0
                )),
        ],
        tables: vec![
            table("Stack of requests for files, bytes", session),
            table(
                "Stack of requests for the control directory, searches among them, bytes",
                control,
            ),
        ],
        ..Measured::default()
    })
}

fn table(title: &str, marks: Vec<(String, f64)>) -> Table {
    Table {
        title: title.into(),
        columns: vec!["the most seen".into()],
        rows: marks
            .into_iter()
            .map(|(operation, bytes)| (operation, vec![format!("{bytes:.0}")]))
            .collect(),
    }
}

/// A line of the metrics.
struct Mark {
    operation: String,
    threads: String,
    bytes: f64,
}

fn marks(text: &str) -> Vec<Mark> {
    let parse = |line: &str| {
        let (labels, bytes) = line.strip_prefix("vexfs_stack_bytes{")?.split_once("} ")?;
        let label = |name: &str| {
            let at = labels.split(',').find_map(|label| label.strip_prefix(name))?;
            Some(at.trim_matches(['=', '"']).to_owned())
        };
        Some(Mark {
            operation: label("operation")?,
            threads: label("threads")?,
            bytes: bytes.parse().ok()?,
        })
    };
    text.lines().filter_map(parse).collect()
}

/// Every kind of request once or more.
fn do_everything(at: &Path, round: usize) -> Result<()> {
    let dir = at.join(format!("dir{round}"));
    fs::create_dir(&dir)?;
    on_a_file(&dir)?;
    on_names(&dir)?;
    let listed = fs::read_dir(&dir)?.map(|entry| entry?.metadata()).count();
    anyhow::ensure!(listed > 1, "{listed} entries in {}", dir.display());
    rustix::fs::statfs(&dir)?;
    File::open(&dir)?.sync_all()?;
    // A search by text, by a question and by a file, and a look at what the mount says of itself.
    fs::read_dir(at.join(format!(".vexfs/search/a glacier of round {round}")))?.count();
    fs::read(at.join(format!(".vexfs/ask/what is a glacier {round}")))?;
    fs::read_dir(at.join(".vexfs/like").join(format!("dir{round}/text.md")))?.count();
    fs::read(at.join(".vexfs/status.json"))?;
    fs::remove_dir_all(&dir)?;
    Ok(())
}

/// Contents, attributes and extents.
fn on_a_file(dir: &Path) -> Result<()> {
    let path = dir.join("text.md");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)?;
    file.write_all(b"A glacier is a body of ice that moves under its own weight.\n")?;
    file.write_all_at(&[b'.'; 5000], 4096)?;
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut Vec::new())?;
    file.sync_all()?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0))?;
    // What the filesystem below cannot do was asked for all the same.
    let _ = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 20_000);
    let copy = File::create(dir.join("copy"))?;
    rustix::fs::copy_file_range(&file, Some(&mut 0), &copy, Some(&mut 0), 4096)?;
    let _ = rustix::fs::setxattr(&path, "user.note", b"a value", XattrFlags::empty());
    let _ = rustix::fs::getxattr(&path, "user.note", &mut [0; 64]);
    rustix::fs::listxattr(&path, &mut [0; 1024])?;
    let _ = rustix::fs::removexattr(&path, "user.note");
    file.set_len(100)?;
    fs::set_permissions(&path, fs::metadata(&path)?.permissions())?;
    rustix::fs::access(&path, Access::READ_OK)?;
    Ok(())
}

/// Names: links, special files, renames, removals.
fn on_names(dir: &Path) -> Result<()> {
    let (text, linked, moved) = (dir.join("text.md"), dir.join("linked"), dir.join("moved"));
    symlink("text.md", dir.join("symlink"))?;
    fs::read_link(dir.join("symlink"))?;
    fs::hard_link(&text, &linked)?;
    fs::rename(&linked, &moved)?;
    fs::remove_file(&moved)?;
    rustix::fs::mkfifoat(CWD, dir.join("fifo"), Mode::RUSR)?;
    fs::create_dir(dir.join("below"))?;
    rustix::fs::unlinkat(CWD, dir.join("below"), AtFlags::REMOVEDIR)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty())?;
    // Of a name that is not there, too.
    let _ = fs::metadata(dir.join("nothing"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_from_the_metrics() {
        let text = "# HELP vexfs_stack_bytes most\nvexfs_stack_bytes{operation=\"lookup\",threads=\"session\"} 1504\n\
                    vexfs_other{operation=\"x\"} 1\n";
        let marks = marks(text);
        assert_eq!(marks.len(), 1);
        assert_eq!(
            (&marks[0].operation[..], &marks[0].threads[..], marks[0].bytes),
            ("lookup", "session", 1504.0)
        );
    }
}
