//! Changes behind the mount: what other programs do to the backing directory directly, by fanotify(7).
//!
//! With it the kernel may believe names and attributes for long, and the index hears of changes that did not come
//! through us. It needs CAP_SYS_ADMIN and covers the filesystem of the backing directory, not those mounted below it;
//! where it is missing, things are believed for a second only.
//!
//! A file's content is looked at when its writer closes it, as network filesystems do: an event for each write would
//! also come for each write that the kernel passes through for our own users.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::Stack;
use super::change::Change;
use super::handle::{Handle, last_errno};
use super::node::Node;
use super::stat::{Stamp, stat_at, stat_fd};
use crate::ids::Ino;
use crate::{Error, Result};

/// Events whose subject is a name in a directory.
const NAMES: u64 = libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;
/// Events whose subject is an inode.
const INODES: u64 = libc::FAN_CLOSE_WRITE | libc::FAN_ATTRIB;
/// Some hundred events; the kernel's queue holds 16,384 before it gives up.
const BUFFER_LEN: usize = 64 * 1024;
/// After what was read the thread rests, so that it is not woken for every file that our own users make: each time costs
/// them 5 to 15 us. A change behind the mount is seen at once if it comes alone, and after this time in a stream.
const REST: Duration = Duration::from_millis(5);
/// How soon the thread notices that the stack is gone.
const PATIENCE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// `struct fanotify_event_metadata`: event_len u32, vers u8, reserved u8, metadata_len u16, mask u64, fd i32, pid i32.
const METADATA_LEN: usize = 24;
/// `struct fanotify_event_info_header` (type u8, pad u8, len u16) and the filesystem's id.
const INFO_HEAD_LEN: usize = 12;

/// One event, taken apart.
#[derive(Debug, Default, PartialEq)]
struct Event<'a> {
    mask: u64,
    /// The directory and the name in it.
    name: Option<(Handle, &'a OsStr)>,
    /// The inode.
    target: Option<Handle>,
}

impl Stack {
    /// Begins to watch the backing filesystem, in a thread that ends with the stack.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN, EOPNOTSUPP or ENODEV where file handles or events are not supported; then
    /// nothing changes.
    pub fn watch(self: &Arc<Stack>) -> Result<()> {
        let mount = self.mounts.get(0);
        if !mount.handles {
            return Err(Error::Os(libc::EOPNOTSUPP));
        }
        let flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_REPORT_DFID_NAME_TARGET;
        // SAFETY: the call takes numbers and returns a descriptor or -1.
        let fd = unsafe { libc::fanotify_init(flags, (libc::O_RDONLY | libc::O_CLOEXEC) as u32) };
        if fd < 0 {
            return Err(last_errno().into());
        }
        // SAFETY: the call just returned this descriptor, nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: without a path the descriptor names the filesystem; it is open during the call.
        let rc = unsafe {
            libc::fanotify_mark(
                fd.as_raw_fd(),
                libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM,
                NAMES | INODES | libc::FAN_ONDIR,
                mount.fd.as_raw_fd(),
                std::ptr::null(),
            )
        };
        if rc != 0 {
            return Err(last_errno().into());
        }
        let stack = Arc::downgrade(self);
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || follow(&fd, &stack))?;
        self.watched.store(true, Relaxed);
        Ok(())
    }

    /// What happened to the backing filesystem, told to the kernel's caches and to the index, as far as either knows
    /// the place. What we did ourselves both know already.
    fn happened(&self, event: &Event<'_>) {
        if event.mask & libc::FAN_Q_OVERFLOW != 0 {
            return self.lost();
        }
        let place = event
            .name
            .as_ref()
            .and_then(|(dir, name)| Some((self.known(dir)?, *name)));
        if event.mask & NAMES != 0
            && let Some((dir, name)) = place
        {
            self.name_happened(dir, name);
        }
        if let Some(target) = &event.target
            && let Some(ino) = self.known(target)
        {
            self.inode_happened(ino, event.mask, place);
        }
    }

    fn name_happened(&self, dir: Ino, name: &OsStr) {
        if self.is_reserved(name) {
            return;
        }
        if let Some(kernel) = self.kernel() {
            kernel.entry(dir, name);
            kernel.inode(dir, true);
        }
        if let Some(parent) = self.node_key(dir) {
            self.changes.changed(Change::Name {
                parent,
                name: name.to_owned(),
            });
        }
    }

    fn inode_happened(&self, ino: Ino, mask: u64, place: Option<(Ino, &OsStr)>) {
        let Some(node) = self.table.get(ino) else { return };
        let wrote = mask & libc::FAN_CLOSE_WRITE != 0;
        if wrote && self.is_settled(&node, place) {
            return;
        }
        node.forget_absent();
        if let Some(kernel) = self.kernel() {
            kernel.inode(ino, wrote);
        }
        let node = self.key(&node);
        if wrote {
            self.changes.changed(Change::Content { node });
        } else if mask & libc::FAN_ATTRIB != 0 {
            self.changes.changed(Change::Attributes { node });
        }
    }

    /// Whether a file that somebody wrote is as we left it: then the writer came through the mount.
    fn is_settled(&self, node: &Arc<Node>, place: Option<(Ino, &OsStr)>) -> bool {
        let settled = {
            if node.is_being_written() {
                // Its release will look.
                return true;
            }
            node.look(|uses| uses.settled).flatten()
        };
        settled.is_some() && settled == self.stamp_now(node, place)
    }

    /// The file as it is. By the name that the event gave if that still leads to it: its directory is open, usually.
    fn stamp_now(&self, node: &Arc<Node>, place: Option<(Ino, &OsStr)>) -> Option<Stamp> {
        let by_name = || {
            let (dir, name) = place?;
            let stat = stat_at(self.table.get(dir)?.kept_fd()?, name).ok()?;
            (stat.stx_ino == node.number).then_some(stat)
        };
        let by_handle = || stat_fd(self.fd(node).ok()?).ok();
        Some(Stamp::of(&by_name().or_else(by_handle)?))
    }

    /// The number of an inode, if the kernel knows it.
    fn known(&self, handle: &Handle) -> Option<Ino> {
        let number = handle.number().or_else(|| {
            let opened = handle.open(&self.mounts.get(0).fd, libc::O_PATH).ok()?;
            Some(stat_fd(opened).ok()?.stx_ino)
        })?;
        let ino = self.mounts.known_ino(0, number)?;
        self.table.get(ino).map(|node| node.ino)
    }

    /// Events were lost: nothing may be believed that was not asked for again.
    fn lost(&self) {
        tracing::warn!("too many changes behind the mount at once: caches are dropped");
        if let Some(kernel) = self.kernel() {
            for ino in self.table.all() {
                kernel.inode(ino, true);
            }
        }
        // Names stay believed until their time is over; from now on that is soon.
        self.watched.store(false, Relaxed);
        self.changes.changed(Change::Everything);
    }
}

/// The thread: reads events until the stack is gone.
fn follow(fd: &OwnedFd, stack: &Weak<Stack>) {
    let ourselves = std::process::id();
    let mut buffer = vec![0; BUFFER_LEN];
    while stack.strong_count() > 0 {
        let mut poll = [PollFd::new(fd, PollFlags::IN)];
        if !matches!(rustix::event::poll(&mut poll, Some(&PATIENCE)), Ok(1..)) {
            continue;
        }
        let len = match rustix::io::read(fd.as_fd(), &mut buffer[..]) {
            Ok(len) => len,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
            Err(e) => {
                if let Some(stack) = stack.upgrade() {
                    tracing::error!("watching the backing filesystem failed: {e}");
                    stack.lost();
                }
                return;
            }
        };
        let Some(stack) = stack.upgrade() else { return };
        let mut rest = &buffer[..len];
        while let Some((event, tail)) = split(rest, ourselves) {
            if let Some(event) = event {
                stack.happened(&event);
            }
            rest = tail;
        }
        drop(stack);
        std::thread::sleep(REST);
    }
}

/// The first event of what was read, unless `ourselves` (a process id) caused it, and what comes after it.
fn split(bytes: &[u8], ourselves: u32) -> Option<(Option<Event<'_>>, &[u8])> {
    let len = number(bytes, 0)? as usize;
    let metadata_len = usize::from(u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?));
    if len < METADATA_LEN || metadata_len < METADATA_LEN {
        return None;
    }
    let (event, tail) = bytes.split_at_checked(len)?;
    let mask = u64::from_ne_bytes(event.get(8..16)?.try_into().ok()?);
    if number(event, 20)? == ourselves && mask & libc::FAN_Q_OVERFLOW == 0 {
        return Some((None, tail));
    }
    let mut found = Event {
        mask,
        ..Event::default()
    };
    let mut infos = event.get(metadata_len..)?;
    while let Some(head) = infos.get(..4) {
        let info_len = usize::from(u16::from_ne_bytes([head[2], head[3]]));
        let Some((info, others)) = infos
            .split_at_checked(info_len)
            .filter(|_| info_len >= INFO_HEAD_LEN)
        else {
            break;
        };
        match head[0] {
            libc::FAN_EVENT_INFO_TYPE_DFID_NAME => found.name = handle_and_rest(info).map(with_name),
            libc::FAN_EVENT_INFO_TYPE_FID => found.target = handle_and_rest(info).map(|(handle, _)| handle),
            _ => {}
        }
        infos = others;
    }
    Some((Some(found), tail))
}

/// The file handle of an information record (handle_bytes u32, handle_type i32, the handle), and what follows it.
fn handle_and_rest(info: &[u8]) -> Option<(Handle, &[u8])> {
    let raw = info.get(INFO_HEAD_LEN..)?;
    let (len, kind) = (number(raw, 0)? as usize, number(raw, 4)? as i32);
    let (bytes, rest) = raw.get(8..)?.split_at_checked(len)?;
    Some((Handle::new(kind, bytes), rest))
}

fn with_name((handle, rest): (Handle, &[u8])) -> (Handle, &OsStr) {
    let len = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
    (handle, OsStr::from_bytes(&rest[..len]))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use parking_lot::Mutex;

    use super::*;
    use crate::fs::change::ChangeSink;
    use crate::fs::{Invalidate, StackOptions};
    use crate::ids::NodeKey;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Invalidate for Heard {
        fn entry(&self, parent: Ino, name: &OsStr) {
            self.0.lock().push(format!("entry {parent} {}", name.display()));
        }
        fn inode(&self, ino: Ino, data: bool) {
            self.0.lock().push(format!("inode {ino} {data}"));
        }
    }

    impl ChangeSink for Heard {
        fn maybe_changed(&self, _node: NodeKey) {}
        fn changed(&self, change: Change) {
            self.0.lock().push(match change {
                Change::Name { name, .. } => format!("name {}", name.display()),
                Change::Content { .. } => "content".into(),
                Change::Attributes { .. } => "attributes".into(),
                Change::Everything => "everything".into(),
            });
        }
    }

    fn hears(heard: &Heard, what: &[String]) -> bool {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            if what.iter().all(|w| heard.0.lock().contains(w)) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    #[test]
    fn what_another_process_does_is_heard_and_what_we_do_is_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("old"), b"x").unwrap();
        let heard = Arc::new(Heard::default());
        let root: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
        let stack = Arc::new(Stack::new(root, StackOptions::default(), heard.clone()).unwrap());
        stack.connect(heard.clone());
        if let Err(e) = stack.watch() {
            let may = rustix::thread::capabilities(None).unwrap().effective;
            let may = may.contains(rustix::thread::CapabilitySet::SYS_ADMIN) && stack.uses_handles();
            assert!(!may || e.errno() != libc::EPERM, "{e}");
            return;
        }
        let old = stack.lookup(Ino::ROOT, OsStr::new("old")).unwrap().attr.ino;
        assert_eq!(stack.ttl_of(old), super::super::WATCHED_TTL);
        std::fs::write(dir.path().join("ours"), b"x").unwrap();
        let script = "echo more >> old; echo new > new; chmod 600 old";
        std::process::Command::new("sh")
            .args(["-c", script])
            .current_dir(&dir)
            .status()
            .unwrap();
        let expected = [
            format!("inode {old} true"),
            "content".into(),
            format!("entry {} new", Ino::ROOT),
            format!("inode {} true", Ino::ROOT),
            "name new".into(),
            "attributes".into(),
        ];
        assert!(hears(&heard, &expected), "{:?}", heard.0.lock());
        assert!(
            !heard.0.lock().iter().any(|w| w.contains("ours")),
            "{:?}",
            heard.0.lock()
        );
    }

    #[test]
    fn torn_events_are_not_read_beyond_their_end() {
        let mut event = Vec::new();
        let (name, handle) = (b"name\0", [7u8; 8]);
        let info_len = INFO_HEAD_LEN + 8 + handle.len() + name.len();
        event.extend(((METADATA_LEN + info_len) as u32).to_ne_bytes());
        event.extend([3, 0]);
        event.extend((METADATA_LEN as u16).to_ne_bytes());
        event.extend(libc::FAN_CREATE.to_ne_bytes());
        event.extend((-1i32).to_ne_bytes());
        event.extend(42i32.to_ne_bytes());
        event.extend([libc::FAN_EVENT_INFO_TYPE_DFID_NAME, 0]);
        event.extend((info_len as u16).to_ne_bytes());
        event.extend([0; 8]);
        event.extend((handle.len() as u32).to_ne_bytes());
        event.extend(1i32.to_ne_bytes());
        event.extend(handle);
        event.extend(name);
        let (read, rest) = split(&event, 41).unwrap();
        assert!(rest.is_empty());
        let read = read.unwrap();
        assert_eq!(read.mask, libc::FAN_CREATE);
        assert_eq!(read.name, Some((Handle::new(1, &handle), OsStr::new("name"))));
        assert!(split(&event, 42).unwrap().0.is_none(), "what we did ourselves");
        for len in 0..event.len() {
            assert!(split(&event[..len], 0).is_none(), "{len} bytes");
        }
        for at in 0..event.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut broken = event.clone();
                broken[at] = byte;
                let _ = split(&broken, 0);
            }
        }
    }
}
