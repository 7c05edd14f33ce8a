//! `vexfs mount`, also in the shape in which mount(8) calls its helpers.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use vexfs_mount::options::MountOptions;
use vexfs_mount::{MountError, Result};

use crate::background::{self, Ready};
use crate::daemon::{self, MountRequest};
use crate::logging;

/// Mount SOURCE at MOUNTPOINT: the same tree, and everything in it can be found
#[derive(Args, Debug)]
pub(super) struct MountArgs {
    /// The directory to see; it may be MOUNTPOINT itself
    source: PathBuf,
    /// Where to see it
    mountpoint: PathBuf,
    /// Options, separated by commas; an unknown one is answered with the list of all
    #[arg(short, long = "options", value_name = "OPT,OPT")]
    options: Vec<OsString>,
    /// Keep the state in this directory instead of SOURCE/.vexfs
    #[arg(long, value_name = "PATH")]
    store: Option<PathBuf>,
    /// Stay in the foreground and log to standard error
    #[arg(short, long)]
    foreground: bool,
    /// Log more; twice: much more
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Read-only, like -o ro
    #[arg(short, long, conflicts_with = "read_write")]
    read_only: bool,
    /// Read-write, like -o rw
    #[arg(short = 'w', long = "rw")]
    read_write: bool,
    /// Pass over what is unknown (of mount(8); a misspelt option is refused all the same)
    #[arg(short = 's', hide = true)]
    sloppy: bool,
    /// Write no /etc/mtab (of mount(8); nothing writes it today)
    #[arg(short = 'n', hide = true)]
    no_mtab: bool,
    /// The type (of mount(8))
    #[arg(short = 't', value_name = "TYPE", hide = true)]
    fstype: Option<String>,
}

pub(super) fn run(args: &MountArgs) -> ExitCode {
    let outcome = request(args).and_then(|request| match args.foreground {
        true => {
            logging::to_stderr(args.verbose);
            daemon::run(request, Ready::nobody_waits())
        }
        false => background::run(|ready| {
            logging::to_syslog(args.verbose);
            daemon::run(request, ready)
        }),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vexfs: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn request(args: &MountArgs) -> Result<MountRequest> {
    if let Some(other) = args
        .fstype
        .as_deref()
        .filter(|t| !matches!(*t, "vexfs" | "fuse.vexfs" | "fuse"))
    {
        return Err(MountError::Usage(format!("-t {other}: the type is fuse.vexfs")));
    }
    let of_flag = match (args.read_only, args.read_write) {
        (true, _) => Some(OsStr::new("ro")),
        (_, true) => Some(OsStr::new("rw")),
        _ => None,
    };
    let lists = args.options.iter().map(OsString::as_os_str).chain(of_flag);
    let mut options = MountOptions::parse(lists)?;
    if let Some(store) = &args.store {
        options.store = Some(store.clone());
    }
    Ok(MountRequest {
        source: args.source.clone(),
        mountpoint: args.mountpoint.clone(),
        options,
    })
}
