//! The outside of the worker processes: one for each hostile file, fed and watched, and parsers of programming languages
//! that take one source after the other.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};

use super::parsers::Parsers;
use super::syntax::Language;
use super::worker::{CODE, FAILED, MARKDOWN, NO_TEXT, PROSE, Task};
use super::{Extracted, Format};
use crate::pool;
use crate::semantic::passages::{Form, Mark};

/// What a worker may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Wall-clock and processor time of one file.
    pub time: Duration,
    /// Address space of a worker.
    pub memory_bytes: u64,
    /// Text of one file; what follows is cut off.
    pub text_bytes: usize,
    /// Workers at a time.
    pub processes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            time: Duration::from_secs(20),
            memory_bytes: 1 << 30,
            text_bytes: 32 << 20,
            processes: 2,
        }
    }
}

static DECLARED: OnceLock<String> = OnceLock::new();

/// Says that this program calls [`super::worker_main`] when its first argument is `subcommand`. A program that does
/// not say so is never started as a worker: it would run as itself, again and again.
pub fn declare_worker(subcommand: &str) {
    let _ = DECLARED.set(subcommand.to_owned());
}

/// Starts workers, so many at a time.
pub struct Workers {
    program: Option<PathBuf>,
    args: Vec<OsString>,
    limits: Limits,
    free: Mutex<usize>,
    freed: Condvar,
    parsers: Parsers,
}

impl Workers {
    /// Workers that are this program, when it has said by [`declare_worker`] that it can be one; else none.
    pub fn if_declared(limits: Limits) -> Workers {
        match DECLARED.get() {
            Some(subcommand) => Workers::of_this_program(subcommand, limits),
            None => Workers::none(limits),
        }
    }

    /// Workers that are this program, started again with the hidden subcommand that calls
    /// [`super::worker_main`]. The running program is meant, also after its file was replaced.
    pub fn of_this_program(subcommand: &str, limits: Limits) -> Workers {
        Workers::of(Some("/proc/self/exe".into()), vec![subcommand.into()], limits)
    }

    /// Workers that are another program, given these arguments before the task's.
    pub fn of_program(program: impl Into<PathBuf>, args: &[&str], limits: Limits) -> Workers {
        Workers::of(
            Some(program.into()),
            args.iter().map(OsString::from).collect(),
            limits,
        )
    }

    /// No workers: files in the formats that need one fail.
    pub fn none(limits: Limits) -> Workers {
        Workers::of(None, Vec::new(), limits)
    }

    fn of(program: Option<PathBuf>, args: Vec<OsString>, limits: Limits) -> Workers {
        Workers {
            program,
            args,
            limits,
            free: Mutex::new(limits.processes.max(1)),
            freed: Condvar::new(),
            parsers: Parsers::default(),
        }
    }

    /// What a worker may use.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Reads a file in a worker of its own. Waits for a free place first. The error says in a few words what
    /// became of it: what the parser said, or that it crashed, hung or ran out of memory.
    pub(super) fn run(&self, format: Format, name: &OsStr, content: &[u8]) -> Result<Reading, String> {
        let Some(program) = &self.program else {
            return Err("no worker process to read it".into());
        };
        let _place = self.place();
        let mut input = File::from(memfd_create("vexfs-extract", MemfdFlags::CLOEXEC).map_err(failed)?);
        input.write_all(content).map_err(failed)?;
        input.rewind().map_err(failed)?;
        let task = Task {
            format,
            name: name.to_owned(),
            text_bytes: self.limits.text_bytes,
            memory_bytes: self.limits.memory_bytes,
            seconds: self.limits.time.as_secs(),
        };
        let child = Command::new(program)
            .args(&self.args)
            .args(task.to_args())
            .env_clear()
            .current_dir("/")
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        Worker { child }.result(Instant::now() + self.limits.time, self.limits.text_bytes + 1)
    }

    /// Where a source of this language may be cut, by a parser in a process of its own. None if there is no such process,
    /// or it gave up.
    pub(super) fn marks(&self, language: Language, text: &str) -> Option<Vec<Mark>> {
        let start = || {
            let mut command = Command::new(self.program.as_ref()?);
            command.args(&self.args);
            Some(command)
        };
        let found = self.parsers.marks(start, &self.limits, language, text);
        found.unwrap_or_else(|why| {
            tracing::debug!(?language, why, "a source is cut by the look of its lines");
            None
        })
    }

    /// Ends the processes that wait for more to read. To be called when nothing more is expected soon.
    pub fn rest(&self) {
        self.parsers.rest();
    }

    fn place(&self) -> Place<'_> {
        let mut free = self.free.lock();
        while *free == 0 {
            self.freed.wait(&mut free);
        }
        *free -= 1;
        Place(self)
    }
}

/// What a worker said.
#[derive(Debug)]
pub(super) enum Reading {
    Text(Extracted),
    NoText(&'static str),
}

fn failed(error: impl std::fmt::Display) -> String {
    format!("worker: {error}")
}

struct Place<'a>(&'a Workers);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.freed.notify_one();
    }
}

/// A running worker; dropped, it is dead and waited for.
struct Worker {
    child: Child,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Worker {
    fn result(mut self, deadline: Instant, output_bytes: usize) -> Result<Reading, String> {
        let output = self.output(deadline, output_bytes)?;
        let status = loop {
            match self.child.try_wait().map_err(failed)? {
                Some(status) => break status,
                None if Instant::now() >= deadline => return Err("out of time".into()),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        match (status.code(), status.signal(), output.split_first()) {
            (Some(0), _, Some((kind, body))) => understand(*kind, body),
            (_, Some(signal), _) if signal == libc::SIGXCPU || signal == libc::SIGKILL => {
                Err("out of time".into())
            }
            (_, Some(signal), _) => Err(format!("crashed by signal {signal}, out of memory perhaps")),
            (code, ..) => Err(format!("worker ended with {}", code.unwrap_or(-1))),
        }
    }

    /// Everything that the worker writes until it closes its output.
    fn output(&mut self, deadline: Instant, bytes_max: usize) -> Result<Vec<u8>, String> {
        let mut pipe = self.child.stdout.take().ok_or("worker: no output")?;
        let mut output = Vec::new();
        let mut buffer = pool::take(64 << 10);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            let ready = match poll(&mut [PollFd::new(&pipe.as_fd(), PollFlags::IN)], Some(&wait)) {
                Err(rustix::io::Errno::INTR) => continue,
                ready => ready.map_err(failed)?,
            };
            if ready == 0 {
                return Err("out of time".into());
            }
            match pipe.read(&mut buffer).map_err(failed)? {
                0 => return Ok(output),
                n if output.len() + n > bytes_max => return Err("more text than it may have".into()),
                n => output.extend_from_slice(&buffer[..n]),
            }
        }
    }
}

fn understand(kind: u8, body: &[u8]) -> Result<Reading, String> {
    let text = || String::from_utf8(body.to_vec()).map_err(|_| "worker: text that is not UTF-8".to_owned());
    let extracted = |form| Ok(Reading::Text(Extracted::new(text()?, form)));
    match kind {
        PROSE => extracted(Form::Prose),
        MARKDOWN => extracted(Form::Markdown),
        CODE => extracted(Form::Code),
        NO_TEXT => Ok(Reading::NoText(if body == b"archive" {
            "archive"
        } else {
            "binary"
        })),
        FAILED => Err(text()?),
        _ => Err("worker: an answer that is none".into()),
    }
}
