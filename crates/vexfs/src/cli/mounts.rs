//! `vexfs mounts`: what is mounted, and whether it answers.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use vexfs_mount::mountinfo::{self, MountEntry};
use vexfs_mount::place::is_cut_off;

/// List the VexFS mounts
#[derive(Args, Debug)]
pub(super) struct MountsArgs {
    /// One JSON array
    #[arg(long)]
    json: bool,
}

/// How long a mount may take to answer before it counts as silent.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What a mount said of itself.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) state: State,
    pub(super) pid: Option<u32>,
    pub(super) passthrough: Option<bool>,
}

/// Whether somebody answers in a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The daemon answers.
    Alive,
    /// The daemon is gone; the next mount at this place removes it.
    Dead,
    /// There is a daemon, but no answer came in time.
    Silent,
    /// The mount belongs to another user.
    Private,
}

impl Probe {
    /// Asks the mount, for a bounded time.
    pub(super) fn of(entry: &MountEntry) -> Probe {
        let (answer, answered) = mpsc::channel();
        let mountpoint = entry.mountpoint.clone();
        // Left behind if the mount never answers; the process ends soon.
        std::thread::spawn(move || {
            let stat = rustix::fs::stat(&mountpoint);
            let status = std::fs::read(mountpoint.join(".vexfs/status.json")).unwrap_or_default();
            let status: Value = serde_json::from_slice(&status).unwrap_or_default();
            // The receiver may have given up.
            let _ = answer.send((stat.map(drop), status));
        });
        let (state, status) = match answered.recv_timeout(ANSWER_MAX) {
            Ok((Ok(()), status)) => (State::Alive, status),
            Ok((Err(e), _)) if is_cut_off(e.raw_os_error()) => (State::Dead, Value::Null),
            Ok((Err(_), _)) => (State::Private, Value::Null),
            Err(_) => (State::Silent, Value::Null),
        };
        Probe {
            state,
            pid: status["pid"].as_u64().and_then(|pid| pid.try_into().ok()),
            passthrough: status["passthrough"].as_bool(),
        }
    }
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Alive => "alive",
            State::Dead => "dead",
            State::Silent => "silent",
            State::Private => "private",
        }
    }
}

pub(super) fn run(args: &MountsArgs) -> ExitCode {
    match list(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("vexfs: /proc/self/mountinfo: {e}");
            ExitCode::from(2)
        }
    }
}

fn list(args: &MountsArgs) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let ours: Vec<MountEntry> = mountinfo::read()?
        .into_iter()
        .filter(MountEntry::is_vexfs)
        .collect();
    if args.json {
        let rows: Vec<Value> = ours.iter().map(|entry| row(entry, &Probe::of(entry))).collect();
        return writeln!(out, "{}", Value::from(rows));
    }
    for entry in &ours {
        let (source, state) = (entry.source_path().display(), Probe::of(entry).state.word());
        writeln!(
            out,
            "{source} on {} ({state}, {})",
            entry.mountpoint.display(),
            entry.options
        )?;
    }
    Ok(())
}

fn row(entry: &MountEntry, probe: &Probe) -> Value {
    json!({
        "mountpoint": entry.mountpoint.to_string_lossy(),
        "source": entry.source.to_string_lossy(),
        "device": entry.device,
        "options": entry.options,
        "state": probe.state.word(),
        "pid": probe.pid,
        "passthrough": probe.passthrough,
    })
}
