//! What is done to each system: metadata on many small files, then data in one large file a thread.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use memmap2::Mmap;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, renameat, statat, unlinkat};
use rustix::io::{pread, pwrite};

use super::backing::Backing;
use super::systems::{Mounted, System};
use crate::bench::Settings;
use crate::bench::quantiles::{Summary, Times};

/// Bytes of a small file, and of a random access.
const SMALL: usize = 4096;
/// Bytes of a sequential access.
const LARGE: usize = 1 << 20;

/// Rounds of stats that the kernel answers alone; one takes milliseconds.
const CACHED_ROUNDS: usize = 9;

/// How much is done.
pub(super) struct Work {
    /// Files of each thread in each directory.
    pub(super) files: usize,
    /// Size of each thread's data file.
    pub(super) data_mib: usize,
    /// Random accesses of each thread.
    random: usize,
    /// Microseconds that every getattr is made to sleep.
    slow_getattr: Option<u64>,
}

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    Create,
    Create4k,
    StatCold,
    StatWarm,
    OpenReadCold,
    OpenReadWarm,
    Rewrite4k,
    StatWritten,
    ListLongCold,
    ListLongWarm,
    ReaddirCold,
    ReaddirWarm,
    Rename,
    Unlink,
    SeqWrite,
    SeqOverwrite,
    SeqReadCold,
    SeqReadWarm,
    RandReadCold,
    RandReadWarm,
    RandWrite,
    MmapReadCold,
    MmapReadWarm,
}

/// What a phase is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Microseconds an operation; the ratio is time over bare time.
    Operation,
    /// MiB/s in accesses of this many bytes; the ratio is bandwidth over bare bandwidth.
    Bytes(usize),
}

/// A phase, how it is shown, and the goal for its ratio.
pub(super) struct PhaseInfo {
    pub(super) phase: Phase,
    pub(super) name: &'static str,
    pub(super) unit: Unit,
    pub(super) goal: f64,
    /// Mounted again before it.
    cold: bool,
}

const fn op(phase: Phase, name: &'static str, goal: f64, cold: bool) -> PhaseInfo {
    PhaseInfo {
        phase,
        name,
        unit: Unit::Operation,
        goal,
        cold,
    }
}

const fn bytes(phase: Phase, name: &'static str, each: usize, cold: bool) -> PhaseInfo {
    PhaseInfo {
        phase,
        name,
        unit: Unit::Bytes(each),
        goal: 0.92,
        cold,
    }
}

/// All phases in the order in which they run.
pub(super) const PHASES: [PhaseInfo; 23] = [
    op(Phase::Create, "create", 3.2, false),
    op(Phase::Create4k, "create + write 4 KiB", 2.7, false),
    op(Phase::StatCold, "stat cold", 8.0, true),
    op(Phase::StatWarm, "stat warm", 1.3, false),
    op(Phase::OpenReadCold, "open + read 4 KiB cold", 6.4, true),
    op(Phase::OpenReadWarm, "open + read 4 KiB warm", 4.4, false),
    op(Phase::Rewrite4k, "open + write 4 KiB", 6.0, false),
    op(Phase::StatWritten, "stat after a write", 8.0, false),
    op(Phase::ListLongCold, "ls -l cold, an entry", 3.6, true),
    op(Phase::ListLongWarm, "ls -l warm, an entry", 1.0, false),
    op(Phase::ReaddirCold, "readdir cold, an entry", 2.5, true),
    op(Phase::ReaddirWarm, "readdir warm, an entry", 1.0, false),
    op(Phase::Rename, "rename", 2.4, true),
    op(Phase::Unlink, "unlink", 3.0, true),
    bytes(Phase::SeqWrite, "sequential write", LARGE, false),
    bytes(Phase::SeqOverwrite, "sequential overwrite", LARGE, false),
    bytes(Phase::SeqReadCold, "sequential read cold", LARGE, true),
    bytes(Phase::SeqReadWarm, "sequential read warm", LARGE, false),
    bytes(Phase::RandReadCold, "random read 4 KiB cold", SMALL, true),
    bytes(Phase::RandReadWarm, "random read 4 KiB warm", SMALL, false),
    bytes(Phase::RandWrite, "random write 4 KiB", SMALL, false),
    bytes(Phase::MmapReadCold, "mmap read cold", SMALL, true),
    bytes(Phase::MmapReadWarm, "mmap read warm", SMALL, false),
];

impl Work {
    pub(super) fn sized(settings: &Settings) -> Work {
        let (files, data_mib, random) = if settings.quick {
            (1000, 32, 4096)
        } else {
            (4000, 128, 16384)
        };
        Work {
            files: settings.files.unwrap_or(files).max(1),
            data_mib,
            random,
            slow_getattr: settings.slow_getattr,
        }
    }
}

/// One round of one system: all phases, on an empty directory that is removed again.
pub(super) fn run(
    system: System,
    threads: usize,
    work: &Work,
    backing: &Backing,
) -> anyhow::Result<Vec<(Phase, Summary)>> {
    let source = backing.fresh_source()?;
    let mounted = Mounted::mount(system, source.path(), &backing.mountpoint()?, work.slow_getattr)?;
    let clients: Vec<Client> = (0..threads)
        .map(|n| Client::new(n, mounted.path(), work))
        .collect();
    for client in &clients {
        client.make_directories()?;
    }
    let mut results = Vec::with_capacity(PHASES.len());
    for info in &PHASES {
        if info.cold {
            mounted.remount()?;
        }
        let (times, wall) = all_at_once(&clients, info.phase).with_context(|| info.name)?;
        let summary = times
            .summary(wall)
            .with_context(|| format!("{}: nothing measured", info.name))?;
        results.push((info.phase, summary));
    }
    Ok(results)
}

/// What the kernel answers from its caches: stats of files that all clients have asked for before, the best of a few
/// rounds. The summary's mean is of all clients together.
pub(super) fn run_cached(
    system: System,
    threads: usize,
    work: &Work,
    backing: &Backing,
) -> anyhow::Result<Summary> {
    let source = backing.fresh_source()?;
    let mounted = Mounted::mount(system, source.path(), &backing.mountpoint()?, work.slow_getattr)?;
    let clients: Vec<Client> = (0..threads)
        .map(|n| Client::new(n, mounted.path(), work))
        .collect();
    for client in &clients {
        client.make_directories()?;
    }
    all_at_once(&clients, Phase::Create4k)?;
    all_at_once(&clients, Phase::StatCold)?;
    let mut best = None::<Summary>;
    for _ in 0..CACHED_ROUNDS {
        let (times, wall) = all_at_once(&clients, Phase::StatWarm)?;
        let summary = times.summary(wall).context("nothing measured")?;
        best = best
            .filter(|kept| kept.mean_us <= summary.mean_us)
            .or(Some(summary));
    }
    best.context("no round was measured")
}

/// All clients do the phase, beginning together. The wall time goes from the first begin to the last end.
fn all_at_once(clients: &[Client], phase: Phase) -> anyhow::Result<(Times, Duration)> {
    let barrier = Barrier::new(clients.len());
    let outcomes: Vec<anyhow::Result<(Times, Instant, Instant)>> = thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter()
            .map(|client| {
                scope.spawn(|| {
                    barrier.wait();
                    let begin = Instant::now();
                    let times = client.run(phase)?;
                    anyhow::Ok((times, begin, Instant::now()))
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("a client does not panic"))
            .collect()
    });
    let mut all = Times::default();
    let mut span = None::<(Instant, Instant)>;
    for outcome in outcomes {
        let (times, begin, end) = outcome?;
        all.append(times);
        span = Some(span.map_or((begin, end), |(b, e)| (b.min(begin), e.max(end))));
    }
    let wall = span.map_or(Duration::ZERO, |(begin, end)| end - begin);
    Ok((all, wall))
}

/// One thread's files.
struct Client<'a> {
    work: &'a Work,
    empty_dir: PathBuf,
    empty: Vec<PathBuf>,
    renamed: Vec<PathBuf>,
    filled: Vec<PathBuf>,
    data: PathBuf,
}

impl<'a> Client<'a> {
    fn new(number: usize, root: &Path, work: &'a Work) -> Client<'a> {
        let dir = root.join(format!("client{number}"));
        let names = |dir: &Path, prefix: &str| -> Vec<PathBuf> {
            (0..work.files)
                .map(|n| dir.join(format!("{prefix}{n:06}")))
                .collect()
        };
        let (empty_dir, filled_dir) = (dir.join("empty"), dir.join("filled"));
        Client {
            work,
            empty: names(&empty_dir, "f"),
            renamed: names(&empty_dir, "g"),
            filled: names(&filled_dir, "f"),
            empty_dir,
            data: dir.join("data"),
        }
    }

    fn make_directories(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.empty_dir)?;
        Ok(std::fs::create_dir(self.empty_dir.with_file_name("filled"))?)
    }

    fn run(&self, phase: Phase) -> anyhow::Result<Times> {
        let mut small = [7; SMALL];
        match phase {
            Phase::Create => each(&self.empty, |path| create(path).map(drop)),
            Phase::Create4k => each(&self.filled, |path| pwrite(create(path)?, &small, 0).map(drop)),
            Phase::StatCold | Phase::StatWarm | Phase::StatWritten => each(&self.filled, |path| stat(path)),
            Phase::OpenReadCold | Phase::OpenReadWarm => each(&self.filled, |path| {
                pread(open(path, OFlags::RDONLY)?, &mut small, 0).map(drop)
            }),
            Phase::Rewrite4k => each(&self.filled, |path| {
                pwrite(open(path, OFlags::WRONLY)?, &small, 0).map(drop)
            }),
            Phase::ListLongCold | Phase::ListLongWarm => self.list(true),
            Phase::ReaddirCold | Phase::ReaddirWarm => self.list(false),
            Phase::Rename => each(&pairs(&self.empty, &self.renamed), |(from, to)| {
                renameat(CWD, from.as_path(), CWD, to.as_path())
            }),
            Phase::Unlink => each(&self.renamed, |path| {
                unlinkat(CWD, path.as_path(), AtFlags::empty())
            }),
            _ => self.move_data(phase),
        }
    }

    /// One listing by the C library, 32 KiB a call like `ls` and `find`; each entry counts as an operation.
    fn list(&self, long: bool) -> anyhow::Result<Times> {
        let mut times = Times::default();
        let begin = Instant::now();
        let mut entries = 0;
        for entry in std::fs::read_dir(&self.empty_dir)? {
            let entry = entry?;
            if long {
                entry.metadata()?;
            }
            entries += 1;
        }
        anyhow::ensure!(entries == self.work.files, "{entries} entries listed");
        times.push_many(begin.elapsed(), entries);
        Ok(times)
    }

    fn move_data(&self, phase: Phase) -> anyhow::Result<Times> {
        let bytes = self.work.data_mib << 20;
        let mut large = vec![3; LARGE];
        let sequential: Vec<u64> = (0..bytes as u64).step_by(LARGE).collect();
        let file = match phase {
            Phase::SeqWrite => create(&self.data)?,
            Phase::SeqOverwrite | Phase::RandWrite => open(&self.data, OFlags::WRONLY)?,
            _ => open(&self.data, OFlags::RDONLY)?,
        };
        match phase {
            Phase::SeqWrite | Phase::SeqOverwrite => {
                each(&sequential, |&at| pwrite(&file, &large, at).map(drop))
            }
            Phase::SeqReadCold | Phase::SeqReadWarm => {
                each(&sequential, |&at| pread(&file, &mut large, at).map(drop))
            }
            Phase::RandWrite => each(&self.scattered(bytes), |&at| {
                pwrite(&file, &large[..SMALL], at).map(drop)
            }),
            Phase::RandReadCold | Phase::RandReadWarm => each(&self.scattered(bytes), |&at| {
                pread(&file, &mut large[..SMALL], at).map(drop)
            }),
            _ => read_mapped(&File::from(file)),
        }
    }

    /// Offsets without order, the same in every run (a linear congruential generator, constants of Knuth's MMIX).
    fn scattered(&self, bytes: usize) -> Vec<u64> {
        let mut state = 42_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % (bytes / SMALL) as u64 * SMALL as u64
        };
        (0..self.work.random).map(|_| next()).collect()
    }
}

/// Times each operation.
fn each<T>(items: &[T], mut operation: impl FnMut(&T) -> rustix::io::Result<()>) -> anyhow::Result<Times> {
    let mut times = Times::with_capacity(items.len());
    for item in items {
        let begin = Instant::now();
        operation(item)?;
        times.push(begin.elapsed());
    }
    Ok(times)
}

fn pairs(from: &[PathBuf], to: &[PathBuf]) -> Vec<(PathBuf, PathBuf)> {
    from.iter().cloned().zip(to.iter().cloned()).collect()
}

fn create(path: &Path) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::from_raw_mode(0o644))
}

fn open(path: &Path, access: OFlags) -> rustix::io::Result<std::os::fd::OwnedFd> {
    openat(CWD, path, access | OFlags::CLOEXEC, Mode::empty())
}

fn stat(path: &Path) -> rustix::io::Result<()> {
    statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).map(drop)
}

/// Touches one byte of each page, in order; a page counts as an operation.
fn read_mapped(file: &File) -> anyhow::Result<Times> {
    let begin = Instant::now();
    // SAFETY: the file is this benchmark's own; nobody truncates it while it is mapped.
    let map = unsafe { Mmap::map(file)? };
    let sum: u64 = map.iter().step_by(SMALL).map(|&byte| u64::from(byte)).sum();
    anyhow::ensure!(sum > 0, "the file is empty");
    let mut times = Times::default();
    times.push_many(begin.elapsed(), map.len() / SMALL);
    Ok(times)
}
