//! Mounting without privileges: the set-user-id program `fusermount3` mounts and hands the device over.
//!
//! The protocol is that of libfuse: the helper finds a socket in `_FUSE_COMMFD`, checks that the user may mount
//! there, mounts, sends one byte with the descriptor of /dev/fuse attached, and ends.

use std::ffi::OsString;
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::error::{MountError, Result};

/// Mounts at `mountpoint` with the comma-separated `options` and gives back the open device.
///
/// # Errors
/// [`MountError::NoHelper`] when the program is missing; [`MountError::NotPermitted`] with its own words when it
/// refused. Nothing is mounted then.
pub(crate) fn mount(mountpoint: &Path, options: &OsString) -> Result<OwnedFd> {
    let kernel = |what| move |source| MountError::Kernel { what, source };
    let (ours, theirs) = UnixStream::pair().map_err(kernel("socketpair"))?;
    // Inherited by the helper. No other thread starts programs at this point, so that nobody else gets it.
    fcntl_setfd(&theirs, FdFlags::empty()).map_err(|e| kernel("fcntl")(e.into()))?;
    let helper = Command::new("fusermount3")
        .arg("-o")
        .arg(options)
        .arg("--")
        .arg(mountpoint)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(MountError::NoHelper)?;
    // Ours alone must keep the socket open: when the helper dies, receiving ends.
    drop(theirs);
    let received = receive_descriptor(&ours);
    let refusal = last_words(helper);
    match received {
        Ok(Some(device)) => Ok(device),
        Ok(None) => Err(MountError::NotPermitted(refusal)),
        Err(e) => Err(kernel("receiving from fusermount3")(e.into())),
    }
}

/// What the helper wrote to its standard error, and its end.
fn last_words(mut helper: Child) -> String {
    let mut words = String::new();
    if let Some(mut stderr) = helper.stderr.take() {
        // What cannot be read is missing from the message, no more.
        let _ = stderr.read_to_string(&mut words);
    }
    let status = helper.wait();
    match (words.lines().next(), status) {
        (Some(line), _) => line.to_owned(),
        (None, Ok(status)) => format!("fusermount3 ended with {status}"),
        (None, Err(e)) => format!("fusermount3: {e}"),
    }
}

/// The descriptor that comes with the next message, `None` if the other side closes without one.
fn receive_descriptor(socket: &UnixStream) -> rustix::io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::io::retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags))?;
    Ok(ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}
