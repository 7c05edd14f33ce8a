//! `vexfs serve`: a directory's knowledge without a mount.

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use vexfs_mount::options::{Http, MountOptions};

use super::failure::Failure;
use crate::service::Unmounted;

/// Serve the API of a directory without mounting it
///
/// Prints where it listens, and ends with SIGINT or SIGTERM. Nothing tells it of changes: it looks at the whole tree
/// again every so often.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// The directory
    directory: PathBuf,
    /// Also listen on a loopback address, with the key in the store, or on another socket
    #[arg(long, value_name = "ADDR|unix:PATH")]
    http: Option<String>,
    /// Seconds between looks at the tree
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    rescan: u64,
}

/// How soon a signal is noticed.
const NOTICED: Duration = Duration::from_millis(100);

pub(crate) fn serve(args: &ServeArgs) -> Result<u8, Failure> {
    let http = match &args.http {
        Some(text) => {
            let option = format!("http={}", text.replace('\\', "\\\\").replace(',', "\\,"));
            let options = MountOptions::parse([OsStr::new(&option)]);
            options.map_err(|e| Failure::usage(e.to_string()))?.http
        }
        None => Http::Off,
    };
    let root = std::fs::canonicalize(&args.directory).map_err(|e| Failure::from_io(&e, &args.directory))?;
    // Asked for before anything is open: a signal that comes now ends it cleanly, too.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let served = Unmounted::open_and_serve(&root, &http)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", served.address().display())?;
    out.flush()?;
    let mut looked = Instant::now();
    while signals.pending().next().is_none() {
        std::thread::sleep(NOTICED);
        if looked.elapsed() >= Duration::from_secs(args.rescan) {
            served.rescan()?;
            looked = Instant::now();
        }
    }
    Ok(0)
}
