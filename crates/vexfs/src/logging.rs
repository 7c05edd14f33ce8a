//! Where the log goes: standard error in the foreground, syslog in the background. Quiet unless asked.
//!
//! `VEXFS_LOG` rules where it is set, in the words of tracing's `EnvFilter`: `info`, `vexfs_core=debug`.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Where syslogd, or journald in its place, listens.
const SYSLOG: &str = "/dev/log";
/// Facility "daemon" of syslog(3), shifted as it goes over the wire.
const FACILITY: u8 = 3 << 3;
/// Longer lines are cut: RFC 3164 asks no receiver to take more than 1,024 bytes, all take this.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// Logs to standard error. Does nothing if a log is set up already.
pub(crate) fn to_stderr(verbose: u8) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(verbose))
        .with_target(verbose > 1);
    let _ = builder.with_writer(io::stderr).try_init();
}

/// Logs to syslog. Without a syslogd there is no log.
pub(crate) fn to_syslog(verbose: u8) {
    let Ok(socket) = UnixDatagram::unbound() else {
        return;
    };
    // A log that cannot keep up loses lines; a filesystem must not wait for it.
    let _ = socket.set_nonblocking(true);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(verbose))
        .with_ansi(false);
    let _ = builder
        .with_level(false)
        .without_time()
        .with_writer(Syslog { socket })
        .try_init();
}

fn filter(verbose: u8) -> EnvFilter {
    let default = ["warn", "info", "debug"][usize::from(verbose.min(2))];
    EnvFilter::try_from_env("VEXFS_LOG").unwrap_or_else(|_| EnvFilter::new(default))
}

/// One datagram a line.
struct Syslog {
    socket: UnixDatagram,
}

/// A line in the making, with its severity.
struct Line<'a> {
    socket: &'a UnixDatagram,
    severity: u8,
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            socket: &self.socket,
            severity: severity(&Level::INFO),
        }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<'a> {
        Line {
            socket: &self.socket,
            severity: severity(meta.level()),
        }
    }
}

/// Severities of syslog(3).
fn severity(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// The datagram of RFC 3164 as local receivers take it: `<priority>program[pid]: text`.
fn datagram(severity: u8, pid: u32, text: &[u8]) -> Vec<u8> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let mut line = format!("<{}>vexfs[{pid}]: ", FACILITY | severity).into_bytes();
    line.extend_from_slice(&text[..text.len().min(LINE_BYTES_MAX)]);
    line
}

impl Write for Line<'_> {
    /// The subscriber writes each event with one call.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        // syslogd may be away or busy; there is nobody else to tell.
        let _ = self
            .socket
            .send_to(&datagram(self.severity, std::process::id(), text), SYSLOG);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_carries_facility_severity_and_process() {
        assert_eq!(
            datagram(severity(&Level::ERROR), 7, b"no space\n"),
            b"<27>vexfs[7]: no space"
        );
        assert_eq!(datagram(severity(&Level::WARN), 7, b""), b"<28>vexfs[7]: ");
        assert!(datagram(6, 1, &[b'x'; 100_000]).len() < LINE_BYTES_MAX + 32);
    }
}
