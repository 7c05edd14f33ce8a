//! Transactions through a mount: begin, stage, commit and abort by the number of files, what readers notice of a
//! commit, and what an open transaction costs those who are not in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::fs::XattrFlags;
use vexfs_mount::unmounting;

use super::metric::{Measured, Metric};
use super::sample::{Latencies, median_and_noise};
use super::{NATIVE, Result, Run, mount};
use crate::cli::client::Client;

/// Bytes of a file.
const FILE_BYTES: usize = 2_000;
/// Files with a vector, of those that are staged.
const VECTORS_MAX: usize = 1_000;
/// Numbers of a vector.
const DIMENSIONS: usize = 64;
/// Repetitions of each size.
const ROUNDS: usize = 5;
/// Files that are read by turns.
const WARM_FILES: usize = 200;
/// Turns of reading outside and inside.
const TURNS: usize = 25;
/// Transactions that are begun and given up in trees of two sizes.
const BEGINS: usize = 40;

/// Measures over a tree of 10,000 files; a quick run over 100.
pub fn measure(run: &Run) -> Result<Measured> {
    let (largest, rounds) = if run.quick { (100, 3) } else { (10_000, ROUNDS) };
    let case = Case::mount(&run.work, largest.max(WARM_FILES))?;
    let mut metrics = Vec::new();
    for files in [1, 10, 100, 1_000, 10_000] {
        if files <= largest {
            run.progress.set_message(format!("{files} files"));
            metrics.extend(case.by_size(files, rounds)?);
        }
    }
    run.progress.set_message("readers during a commit");
    metrics.push(case.readers(largest)?);
    run.progress.set_message("an open transaction");
    metrics.extend(case.idle()?);
    drop(case);
    // Whatever the tree's size: there is nothing to copy or to look through.
    for files in [100, largest * 10] {
        run.progress
            .set_message(format!("begin and abort over {files} files"));
        metrics.extend(Case::mount(&run.work.join(files.to_string()), files)?.of_tree(files)?);
    }
    Ok(Measured {
        metrics,
        conditions: vec![format!(
            "{largest} files of {FILE_BYTES} bytes; a transaction rewrites files and sets vectors of {DIMENSIONS} numbers on up \
             to {VECTORS_MAX} of them; native is cp -a of the same files, a rename of each into place, and one sync of the \
             filesystem, on the same filesystem"
        )],
        ..Measured::default()
    })
}

/// A mounted tree; unmounted on drop.
struct Case {
    source: PathBuf,
    mount: PathBuf,
    daemon: Client,
}

impl Case {
    fn mount(work: &Path, files: usize) -> Result<Case> {
        mount::available()?;
        let (source, mount) = (work.join("source"), work.join("mount"));
        fs::create_dir_all(source.join("d"))?;
        fs::create_dir_all(&mount)?;
        for n in 0..files {
            fs::write(source.join(name(n)), content(n, 0))?;
        }
        let daemon = Client::new(source.join(".vexfs/socket"));
        let case = Case {
            source,
            mount,
            daemon,
        };
        let mut command = Command::new(std::env::current_exe().context("finding this program")?);
        run(command
            .args(["mount", "-o", "index=manual"])
            .arg(&case.source)
            .arg(&case.mount))?;
        ensure!(case.txn("").is_dir(), "the mount has no transactions");
        Ok(case)
    }

    fn txn(&self, path: &str) -> PathBuf {
        self.mount.join(".vexfs/txn").join(path)
    }

    fn begin(&self) -> Result<Duration> {
        let begin = Instant::now();
        fs::create_dir(self.txn("t"))?;
        Ok(begin.elapsed())
    }

    fn commit(&self) -> Result<Duration> {
        let begin = Instant::now();
        if let Err(error) = fs::rename(self.txn("t"), self.txn("@committed/t")) {
            let conflicts = fs::read_to_string(self.txn("t/conflicts")).unwrap_or_default();
            return Err(error).with_context(|| format!("the commit failed; conflicts: {conflicts:?}"));
        }
        Ok(begin.elapsed())
    }

    /// As `vexfs txn abort` does, without the start of the program.
    fn abort(&self) -> Result<Duration> {
        let begin = Instant::now();
        let answer = self.daemon.bytes("DELETE", "/v1/txn/t", b"");
        answer.map_err(|failure| anyhow::anyhow!("abort: {}", failure.message))?;
        Ok(begin.elapsed())
    }

    fn rmdir(&self) -> Result<Duration> {
        let begin = Instant::now();
        fs::remove_dir(self.txn("t"))?;
        Ok(begin.elapsed())
    }

    /// Rewrites files in the open transaction and sets their vectors.
    fn stage(&self, files: usize, round: usize) -> Result<Duration> {
        let begin = Instant::now();
        let root = self.txn("t/root");
        for n in 0..files {
            fs::write(root.join(name(n)), content(n, round))?;
            if n < VECTORS_MAX {
                let vector: Vec<u8> = (0..DIMENSIONS)
                    .flat_map(|i| ((n + i + round) as f32).to_le_bytes())
                    .collect();
                rustix::fs::setxattr(
                    root.join(name(n)),
                    "user.vexfs.vec.bench",
                    &vector,
                    XattrFlags::empty(),
                )?;
            }
        }
        Ok(begin.elapsed())
    }

    fn by_size(&self, files: usize, rounds: usize) -> Result<Vec<Metric>> {
        let mut times: [Vec<f64>; 7] = Default::default();
        let mut told = Vec::new();
        for round in 1..=rounds {
            let native = self.native(files, round)?;
            let begin = self.begin()?;
            let stage = self.stage(files, round)?;
            let check = Instant::now();
            fs::read(self.txn("t/conflicts"))?;
            let check = check.elapsed();
            let before = self.invalidations()?;
            let commit = self.commit()?;
            told.push(self.invalidations()? - before);
            ensure!(
                fs::read(self.mount.join(name(0)))? == content(0, round),
                "not committed"
            );
            self.begin()?;
            self.stage(files, round + ROUNDS)?;
            let abort = self.abort()?;
            self.begin()?;
            self.stage(files, round + ROUNDS)?;
            let rmdir = self.rmdir()?;
            let took = [begin, stage, check, commit, abort, rmdir, native];
            for (list, time) in times.iter_mut().zip(took) {
                list.push(time.as_secs_f64() * 1e6);
            }
        }
        let (native, _) = median_and_noise(&times[6]);
        let workload = format!("{files} files of {FILE_BYTES} bytes with vectors");
        let names = ["begin", "stage", "check", "commit", "abort", "rmdir"];
        let metrics = names.iter().zip(&times).map(|(what, times)| {
            let (us, noise) = median_and_noise(times);
            let metric = Metric::lower(format!("crosslayer.{what}.{files}"), "us", us, noise)
                .workload(workload.clone());
            match *what {
                "commit" => metric.against(NATIVE, native),
                _ => metric,
            }
        });
        let mut metrics: Vec<_> = metrics.collect();
        let (count, noise) = median_and_noise(&told);
        let told = Metric::lower(
            format!("crosslayer.invalidations.{files}"),
            "messages",
            count,
            noise,
        );
        metrics.push(told.workload(format!(
            "names and pages that the kernel is told to forget: {workload}"
        )));
        Ok(metrics)
    }

    /// What the kernel was told to forget since the mount.
    fn invalidations(&self) -> Result<f64> {
        let metrics = fs::read_to_string(self.mount.join(".vexfs/metrics"))?;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("vexfs_invalidations_total "));
        Ok(line.context("the count of invalidations")?.parse()?)
    }

    /// Begin and abort in a tree of so many files.
    fn of_tree(&self, files: usize) -> Result<Vec<Metric>> {
        let (mut begins, mut aborts) = (Latencies::default(), Latencies::default());
        for _ in 0..BEGINS {
            begins.add(self.begin()?);
            self.stage(1, 1)?;
            aborts.add(self.abort()?);
        }
        let metric = |what: &str, latencies: &Latencies| {
            let summary = latencies.summary();
            Metric::lower(
                format!("crosslayer.{what}_in_tree.{files}"),
                "us",
                summary.p50_us,
                0.0,
            )
            .latency(summary)
            .workload(format!("one file staged, in a tree of {files} files"))
        };
        Ok(vec![metric("begin", &begins), metric("abort", &aborts)])
    }

    /// The same change without transactions: copies, renames, one sync.
    fn native(&self, files: usize, round: usize) -> Result<Duration> {
        let (from, to) = (self.source.join("from"), self.source.join("to"));
        fs::create_dir_all(from.join("d"))?;
        for n in 0..files {
            fs::write(from.join(name(n)), content(n, round))?;
        }
        sync(&self.source)?;
        let begin = Instant::now();
        run(Command::new("cp").arg("-a").arg(&from).arg(&to))?;
        for n in 0..files {
            fs::rename(to.join(name(n)), from.join(name(n)))?;
        }
        sync(&self.source)?;
        let took = begin.elapsed();
        fs::remove_dir_all(&from)?;
        fs::remove_dir_all(&to)?;
        sync(&self.source)?;
        Ok(took)
    }

    /// A reader that opens, reads and closes one file after the other while many are committed.
    fn readers(&self, files: usize) -> Result<Metric> {
        let mut latencies = Latencies::default();
        for round in 1..=3 {
            self.begin()?;
            self.stage(files, 100 + round)?;
            let done = AtomicBool::new(false);
            let read = std::thread::scope(|scope| -> Result<Vec<Duration>> {
                let reader = scope.spawn(|| -> Result<Vec<Duration>> {
                    let mut took = Vec::new();
                    while !done.load(Ordering::Relaxed) {
                        let path = self.mount.join(name(took.len() % files));
                        let begin = Instant::now();
                        fs::read(path)?;
                        took.push(begin.elapsed());
                    }
                    Ok(took)
                });
                let committed = self.commit();
                done.store(true, Ordering::Relaxed);
                let read = reader
                    .join()
                    .map_err(|_| anyhow::anyhow!("the reader panicked"))?;
                committed.and(read)
            })?;
            read.into_iter().for_each(|took| latencies.add(took));
        }
        let summary = latencies.summary();
        Ok(Metric::lower("crosslayer.reader_p99", "us", summary.p99_us, 0.0)
            .latency(summary)
            .workload(format!(
                "open, read, close outside while {files} files are committed; {} reads",
                latencies.count()
            )))
    }

    /// Plain reads outside with and without an open transaction, and inside one, by turns.
    fn idle(&self) -> Result<Vec<Metric>> {
        let mut rounds: [Vec<f64>; 3] = Default::default();
        let read = |dir: &Path| -> Result<f64> {
            let begin = Instant::now();
            for n in 0..WARM_FILES {
                fs::read(dir.join(name(n)))?;
            }
            Ok(begin.elapsed().as_secs_f64() * 1e6 / WARM_FILES as f64)
        };
        let inside = self.txn("t/root");
        for _ in 0..TURNS {
            // The first reading of each is not counted: it fills the kernel's caches.
            read(&self.mount)?;
            rounds[0].push(read(&self.mount)?);
            self.begin()?;
            self.stage(1, 1)?;
            read(&inside)?;
            read(&self.mount)?;
            rounds[1].push(read(&self.mount)?);
            rounds[2].push(read(&inside)?);
            self.abort()?;
        }
        let [(alone, alone_noise), (beside, noise), (inside, inside_noise)] =
            rounds.map(|times| median_and_noise(&times));
        let workload = "open, read and close of small files that were read before";
        Ok(vec![
            Metric::lower("crosslayer.read_alone", "us", alone, alone_noise).workload(workload),
            Metric::lower("crosslayer.read_beside", "us", beside, noise)
                .workload("the same while a transaction is open")
                .against("crosslayer.read_alone", alone),
            Metric::lower("crosslayer.read_inside", "us", inside, inside_noise)
                .workload("the same in a transaction")
                .against("crosslayer.read_beside", beside),
        ])
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let unmounted = std::env::current_exe()
            .map_err(anyhow::Error::from)
            .and_then(|program| run(Command::new(program).arg("umount").arg(&self.mount)));
        if unmounted.is_err() {
            // Nothing may stay mounted, whatever holds it.
            let _ = unmounting::unmount_lazily(&self.mount);
        }
    }
}

fn name(n: usize) -> String {
    format!("d/f{n:05}")
}

fn content(n: usize, round: usize) -> Vec<u8> {
    format!("file {n} as of {round}\n")
        .into_bytes()
        .into_iter()
        .cycle()
        .take(FILE_BYTES)
        .collect()
}

/// One sync of the filesystem.
fn sync(dir: &Path) -> Result<()> {
    Ok(rustix::fs::syncfs(fs::File::open(dir)?)?)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
