//! The inside of a worker process: reads one file from its input, writes its text, and can do nothing else.
//!
//! Before it looks at the first byte it gives up: other files (Landlock), every system call but those that read, write
//! and manage memory (seccomp), new privileges, memory beyond its limit, its processor time, its parent's life.
//! What the kernel does not offer is left out; the limits on time, memory and output hold everywhere.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::sniff::{Format, Office};
use super::{Extracted, Unreadable, parsers, read};
use crate::semantic::passages::Form;

/// What a worker is told on its command line.
pub(super) struct Task {
    pub(super) format: Format,
    pub(super) name: OsString,
    pub(super) text_bytes: usize,
    pub(super) memory_bytes: u64,
    pub(super) seconds: u64,
}

/// Formats by the names that they have on a worker's command line.
const FORMATS: [(&str, Format); 8] = [
    ("docx", Format::Office(Office::Docx)),
    ("pptx", Format::Office(Office::Pptx)),
    ("xlsx", Format::Office(Office::Xlsx)),
    ("odf", Format::Office(Office::OpenDocument)),
    ("epub", Format::Office(Office::Epub)),
    ("mail", Format::Mail),
    ("pdf", Format::Pdf),
    ("gzip", Format::Gzip),
];

impl Task {
    pub(super) fn to_args(&self) -> Vec<OsString> {
        let format = FORMATS
            .iter()
            .find(|(_, format)| *format == self.format)
            .map_or("", |(name, _)| name);
        let numbers = [self.text_bytes as u64, self.memory_bytes, self.seconds];
        let mut args = vec![OsString::from(format)];
        args.extend(numbers.iter().map(|n| OsString::from(n.to_string())));
        args.push(self.name.clone());
        args
    }

    fn from_args(args: &[OsString]) -> Option<Task> {
        let [format, text_bytes, memory_bytes, seconds, name] = args else {
            return None;
        };
        let format = FORMATS.iter().find(|(name, _)| format == *name)?.1;
        let number = |arg: &OsString| arg.to_str()?.parse::<u64>().ok();
        Some(Task {
            format,
            name: name.clone(),
            text_bytes: number(text_bytes)? as usize,
            memory_bytes: number(memory_bytes)?,
            seconds: number(seconds)?,
        })
    }
}

/// First byte of a worker's output.
pub(super) const FAILED: u8 = b'F';
pub(super) const NO_TEXT: u8 = b'N';
pub(super) const PROSE: u8 = b'P';
pub(super) const MARKDOWN: u8 = b'M';
pub(super) const CODE: u8 = b'C';

/// The whole life of a worker process; `args` are those behind the subcommand's name. The file comes on standard
/// input, the text goes to standard output.
pub fn worker_main(args: &[OsString]) -> ExitCode {
    if let Some(memory_bytes) = parsers::memory_of(args) {
        return match confine(memory_bytes, None) {
            Ok(output) => parsers::serve(std::io::stdin().lock(), output.into()),
            Err(_) => ExitCode::from(3),
        };
    }
    let Some(task) = Task::from_args(args) else {
        return ExitCode::from(2);
    };
    let Ok(output) = confine(task.memory_bytes, Some(task.seconds)) else {
        return ExitCode::from(3);
    };
    let mut content = Vec::new();
    if std::io::stdin().lock().read_to_end(&mut content).is_err() {
        return ExitCode::from(3);
    }
    let result = std::panic::catch_unwind(|| read(task.format, &task.name, &content, task.text_bytes));
    let (kind, body) = match result {
        Ok(Ok(Extracted { text, form, .. })) => {
            let kind = match form {
                Form::Prose => PROSE,
                Form::Markdown => MARKDOWN,
                Form::Code => CODE,
            };
            (kind, cut(text, task.text_bytes))
        }
        Ok(Err(Unreadable::NoText(kind))) => (NO_TEXT, kind.to_owned()),
        Ok(Err(Unreadable::Failed(why))) => (FAILED, why),
        Err(_) => (FAILED, "the parser gave up".to_owned()),
    };
    let mut output = std::fs::File::from(output);
    let written = output
        .write_all(&[kind])
        .and_then(|()| output.write_all(body.as_bytes()));
    if written.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(3)
    }
}

fn cut(mut text: String, bytes_max: usize) -> String {
    let end = (0..=text.len().min(bytes_max))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
    text
}

/// Gives up everything; returns where the output goes. Standard output itself leads nowhere, since parsers print.
fn confine(memory_bytes: u64, seconds: Option<u64>) -> Result<OwnedFd, Box<dyn std::error::Error>> {
    std::panic::set_hook(Box::new(|_| {}));
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    rustix::thread::set_no_new_privs(true)?;
    let output = std::io::stdout().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::options().write(true).open("/dev/null")?;
    // SAFETY: both are open descriptors; 1 is replaced as a whole, and nothing was written through it before.
    if unsafe { libc::dup2(null.as_raw_fd(), libc::STDOUT_FILENO) } < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    let limit = |resource, value| {
        setrlimit(
            resource,
            Rlimit {
                current: Some(value),
                maximum: Some(value),
            },
        )
    };
    limit(Resource::As, memory_bytes)?;
    if let Some(seconds) = seconds {
        limit(Resource::Cpu, seconds.max(1))?;
    }
    limit(Resource::Fsize, 0)?;
    limit(Resource::Core, 0)?;
    forbid_files();
    forbid_system_calls();
    Ok(output)
}

/// No file, no directory and no network can be opened any more (Landlock, since Linux 5.13).
fn forbid_files() {
    use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr};
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(ABI::V5)));
    if let Ok(created) = ruleset.and_then(|ruleset| ruleset.create()) {
        // Without Landlock in the kernel the system call filter below still forbids to open anything.
        let _ = created.restrict_self();
    }
}

/// Everything but reading, writing, memory, time and ending is refused with EPERM (seccomp-bpf).
fn forbid_system_calls() {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    let allowed = [
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_pread64,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_lseek,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_statx,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_getrandom,
        libc::SYS_gettid,
        libc::SYS_getpid,
        libc::SYS_tgkill,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let Ok(arch) = std::env::consts::ARCH.try_into() else {
        return;
    };
    let rules = allowed.into_iter().map(|call| (call, Vec::new())).collect();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        arch,
    );
    if let Ok(program) = filter.and_then(BpfProgram::try_from) {
        // A kernel without seccomp leaves the other limits.
        let _ = seccompiler::apply_filter(&program);
    }
}
