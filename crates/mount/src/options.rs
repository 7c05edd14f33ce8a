//! What may stand after `-o`, and what it means.
//!
//! Options that mount(8) and fstab give to every filesystem are understood or, where they speak to mount(8) only,
//! passed over. A word that nobody knows is an error: a misspelt option must not be lost silently.

use std::ffi::{OsStr, OsString};
use std::num::{NonZeroU32, NonZeroUsize};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use rustix::mount::MountFlags;

use crate::error::{MountError, Result};

/// All options, one value each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Flags of mount(2): `ro`, `nosuid`, `nodev`, `noexec`, `noatime` and the like. `nosuid,nodev` unless asked
    /// for otherwise: a set-user-id program or device node of the backing directory gains nothing by the mount.
    pub flags: MountFlags,
    /// Users other than the one who mounts may use the mount.
    pub allow_other: bool,
    /// The kernel checks permissions by mode and ACL. Always on together with `allow_other`: without it the kernel
    /// would let one user pass through a cached directory that only another may search.
    pub default_permissions: bool,
    /// What mount(8) and df(1) show as the source, instead of SOURCE.
    pub fsname: Option<OsString>,
    /// `store=`: the store directory, instead of `SOURCE/.vexfs`.
    pub store: Option<PathBuf>,
    /// `ctl=`: how the control directory is shown.
    pub ctl: Control,
    /// `ctlname=`: its name.
    pub ctlname: OsString,
    /// `embed=`: which embedder makes vectors of text.
    pub embed: Embed,
    /// `index=`: when files become searchable.
    pub index: Index,
    /// `passthrough=auto`: the kernel reads and writes backing files directly where it may.
    pub passthrough: bool,
    /// `ttl=`: how long the kernel may believe names and attributes; `None` is the daemon's choice.
    pub ttl: Option<Duration>,
    /// `indexcpu=`: percent of one CPU that indexing may take; `None` is all that others leave.
    pub index_cpu: Option<NonZeroU32>,
    /// `threads=`: threads that answer the kernel; `None` is one per CPU.
    pub threads: Option<NonZeroUsize>,
    /// `http=`: where the HTTP interface listens.
    pub http: Http,
}

/// How the control directory is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Found by name in every directory, listed in none.
    Hidden,
    /// Listed in the root directory.
    Visible,
    /// Not there.
    Off,
}

/// Which embedder makes vectors of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Embed {
    /// The one that is built in.
    Auto,
    /// None: search by word only.
    Off,
    /// A named profile.
    Profile(String),
}

/// When files become searchable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// Soon after they are closed.
    OnClose,
    /// Before close or fsync returns.
    Sync,
    /// When `vexfs index` is run.
    Manual,
}

/// Where the HTTP interface listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Http {
    /// Nowhere.
    Off,
    /// On a TCP address.
    Address(String),
    /// On a Unix socket.
    Unix(PathBuf),
}

/// The options that are ours, as the error for an unknown one lists them.
const OWN: &str = "store=PATH ctl=hidden|visible|off ctlname=NAME embed=auto|off|PROFILE \
    index=onclose|sync|manual indexcpu=PERCENT passthrough=auto|off ttl=SECONDS threads=N http=ADDR|unix:PATH|off";
/// The options of every mount.
const GENERIC: &str = "ro rw allow_other default_permissions fsname=NAME suid nosuid dev nodev exec noexec \
    atime noatime nodiratime relatime strictatime sync async dirsync";

/// Words in fstab that speak to mount(8), systemd or users, not to a filesystem.
const FOR_OTHERS: &[&str] = &[
    "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev",
];

/// Threads beyond this gain nothing and cost a megabyte each.
const THREADS_MAX: usize = 256;

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions {
            flags: MountFlags::NOSUID | MountFlags::NODEV,
            allow_other: false,
            default_permissions: false,
            fsname: None,
            store: None,
            ctl: Control::Hidden,
            ctlname: OsString::from(vexfs_core::store::dir::CTLNAME_DEFAULT),
            embed: Embed::Auto,
            index: Index::OnClose,
            passthrough: true,
            ttl: None,
            index_cpu: None,
            threads: None,
            http: Http::Off,
        }
    }
}

impl MountOptions {
    /// Reads the lists that were given with `-o`, the later words ruling. A comma in a value is written `\,`.
    ///
    /// # Errors
    /// [`MountError::UnknownOption`] or [`MountError::OptionValue`] with the words that would have been right.
    pub fn parse<'a>(lists: impl IntoIterator<Item = &'a OsStr>) -> Result<MountOptions> {
        let mut options = MountOptions::default();
        for list in lists {
            for word in split_commas(list.as_bytes()) {
                options.apply(&word)?;
            }
        }
        options.default_permissions |= options.allow_other;
        Ok(options)
    }

    /// Whether nothing may be changed through the mount.
    pub fn read_only(&self) -> bool {
        self.flags.contains(MountFlags::RDONLY)
    }

    fn apply(&mut self, word: &[u8]) -> Result<()> {
        let text = String::from_utf8_lossy(word);
        let (name, value) = match word.iter().position(|&b| b == b'=') {
            Some(at) => (String::from_utf8_lossy(&word[..at]), Some(&word[at + 1..])),
            None => (text.clone(), None),
        };
        match (&*name, value) {
            ("", None) => {}
            (word, None) if FOR_OTHERS.contains(&word) => {}
            (word, _) if word.starts_with("x-") || word.starts_with("X-") || word == "comment" => {}
            ("remount", None) => {
                let instead =
                    "a mount cannot be changed in place (remount): unmount it, then mount it as it should be";
                return Err(MountError::Usage(instead.into()));
            }
            ("allow_other", None) => self.allow_other = true,
            ("default_permissions", None) => self.default_permissions = true,
            ("fsname", Some(value)) => self.fsname = Some(os(value)),
            ("subtype", Some(b"vexfs")) => {}
            ("store", Some(value)) if !value.is_empty() => self.store = Some(os(value).into()),
            ("ctlname", Some(value)) if !value.is_empty() => self.ctlname = os(value),
            ("ctl", Some(value)) => self.ctl = parse_control(value)?,
            ("embed", Some(value)) => self.embed = parse_embed(value)?,
            ("index", Some(value)) => self.index = parse_index(value)?,
            ("passthrough", Some(value)) => self.passthrough = parse_passthrough(value)?,
            ("ttl", Some(value)) => self.ttl = Some(parse_ttl(value)?),
            ("indexcpu", Some(value)) => self.index_cpu = Some(parse_index_cpu(value)?),
            ("threads", Some(value)) => self.threads = Some(parse_threads(value)?),
            ("http", Some(value)) => self.http = parse_http(value)?,
            (word, None) => match kernel_flag(word) {
                Some((flag, true)) => self.flags |= flag,
                Some((flag, false)) => self.flags -= flag,
                None => return Err(unknown(&text)),
            },
            _ => return Err(unknown(&text)),
        }
        Ok(())
    }
}

/// The flag of mount(2) that a word stands for, and whether it sets or clears it.
fn kernel_flag(word: &str) -> Option<(MountFlags, bool)> {
    Some(match word {
        "ro" => (MountFlags::RDONLY, true),
        "rw" => (MountFlags::RDONLY, false),
        "nosuid" => (MountFlags::NOSUID, true),
        "suid" => (MountFlags::NOSUID, false),
        "nodev" => (MountFlags::NODEV, true),
        "dev" => (MountFlags::NODEV, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "noatime" => (MountFlags::NOATIME, true),
        "atime" => (MountFlags::NOATIME, false),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "relatime" => (MountFlags::RELATIME, true),
        "strictatime" => (MountFlags::STRICTATIME, true),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "dirsync" => (MountFlags::DIRSYNC, true),
        _ => return None,
    })
}

fn unknown(word: &str) -> MountError {
    MountError::UnknownOption {
        word: word.to_owned(),
        valid: format!("{GENERIC} {OWN}"),
    }
}

fn bad_value(name: &'static str, value: &[u8], expected: &'static str) -> MountError {
    MountError::OptionValue {
        name,
        value: String::from_utf8_lossy(value).into_owned(),
        expected,
    }
}

fn parse_control(value: &[u8]) -> Result<Control> {
    match value {
        b"hidden" => Ok(Control::Hidden),
        b"visible" => Ok(Control::Visible),
        b"off" => Ok(Control::Off),
        _ => Err(bad_value("ctl", value, "hidden, visible or off")),
    }
}

fn parse_embed(value: &[u8]) -> Result<Embed> {
    match std::str::from_utf8(value) {
        Ok("auto") => Ok(Embed::Auto),
        Ok("off") => Ok(Embed::Off),
        Ok(profile) if !profile.is_empty() => Ok(Embed::Profile(profile.to_owned())),
        _ => Err(bad_value("embed", value, "auto, off or the name of a profile")),
    }
}

fn parse_index(value: &[u8]) -> Result<Index> {
    match value {
        b"onclose" => Ok(Index::OnClose),
        b"sync" => Ok(Index::Sync),
        b"manual" => Ok(Index::Manual),
        _ => Err(bad_value("index", value, "onclose, sync or manual")),
    }
}

fn parse_passthrough(value: &[u8]) -> Result<bool> {
    match value {
        b"auto" => Ok(true),
        b"off" => Ok(false),
        _ => Err(bad_value("passthrough", value, "auto or off")),
    }
}

fn parse_ttl(value: &[u8]) -> Result<Duration> {
    let seconds: Option<f64> = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    match seconds {
        Some(s) if (0.0..=1e9).contains(&s) => Ok(Duration::from_secs_f64(s)),
        _ => Err(bad_value("ttl", value, "seconds, 0 or more")),
    }
}

fn parse_threads(value: &[u8]) -> Result<NonZeroUsize> {
    let threads = std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse::<NonZeroUsize>().ok());
    match threads {
        Some(n) if n.get() <= THREADS_MAX => Ok(n),
        _ => Err(bad_value("threads", value, "a number from 1 to 256")),
    }
}

fn parse_index_cpu(value: &[u8]) -> Result<NonZeroU32> {
    let percent = std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.trim_end_matches('%').parse().ok());
    percent.ok_or_else(|| bad_value("indexcpu", value, "percent of one CPU, 1 or more"))
}

fn parse_http(value: &[u8]) -> Result<Http> {
    match std::str::from_utf8(value) {
        Ok("off") => Ok(Http::Off),
        Ok(text) if text.starts_with("unix:/") => Ok(Http::Unix(PathBuf::from(&text[5..]))),
        Ok(text) if text.contains(':') && !text.starts_with("unix:") => Ok(Http::Address(text.to_owned())),
        _ => Err(bad_value("http", value, "ADDRESS:PORT, unix:/PATH or off")),
    }
}

fn os(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

/// Splits at commas; a backslash takes the next byte literally, as libfuse has it.
fn split_commas(list: &[u8]) -> Vec<Vec<u8>> {
    let mut words = vec![Vec::new()];
    let mut bytes = list.iter();
    while let Some(&byte) = bytes.next() {
        let word = words.last_mut().expect("begins with one word");
        match byte {
            b',' => words.push(Vec::new()),
            b'\\' => word.extend(bytes.next()),
            _ => word.push(byte),
        }
    }
    words
}

/// The reverse for one value: fusermount3 splits its option list like libfuse.
pub(crate) fn escape_commas(value: &OsStr) -> OsString {
    let mut escaped = Vec::with_capacity(value.len());
    for &byte in value.as_bytes() {
        if byte == b',' || byte == b'\\' {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    OsString::from_vec(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Result<MountOptions> {
        MountOptions::parse([OsStr::new(list)])
    }

    #[test]
    fn each_option_sets_its_value() -> Result<()> {
        let all = parse(
            "ro,allow_other,store=/s\\,t,ctl=visible,ctlname=.v,embed=off,index=sync,passthrough=off,ttl=0.5,\
             indexcpu=50,threads=3,http=unix:/run/v.sock,noatime,dev,fsname=n",
        )?;
        let expect = MountOptions {
            flags: MountFlags::NOSUID | MountFlags::RDONLY | MountFlags::NOATIME,
            allow_other: true,
            default_permissions: true,
            fsname: Some("n".into()),
            store: Some("/s,t".into()),
            ctl: Control::Visible,
            ctlname: ".v".into(),
            embed: Embed::Off,
            index: Index::Sync,
            passthrough: false,
            ttl: Some(Duration::from_millis(500)),
            index_cpu: NonZeroU32::new(50),
            threads: NonZeroUsize::new(3),
            http: Http::Unix("/run/v.sock".into()),
        };
        assert_eq!(all, expect);
        Ok(())
    }

    #[test]
    fn words_for_others_and_nothing_change_nothing() -> Result<()> {
        assert_eq!(parse("")?, MountOptions::default());
        assert_eq!(
            parse("defaults,noauto,x-systemd.automount,_netdev,nofail,,rw")?,
            MountOptions::default()
        );
        Ok(())
    }

    #[test]
    fn the_last_word_rules() -> Result<()> {
        let lists = [OsStr::new("ro,ttl=1"), OsStr::new("rw,ttl=2")];
        let options = MountOptions::parse(lists)?;
        assert!(!options.read_only());
        assert_eq!(options.ttl, Some(Duration::from_secs(2)));
        Ok(())
    }

    #[test]
    fn unknown_words_are_refused_with_the_list_of_known_ones() {
        for word in [
            "passthru=auto",
            "alow_other",
            "ro=1",
            "store",
            "store=",
            "subtype=ntfs",
        ] {
            let error = parse(word).expect_err(word);
            let text = error.to_string();
            assert!(text.contains(word) && text.contains("ctlname=NAME"), "{text}");
            assert!(!text.contains('\n'));
            assert_eq!(error.exit_code(), 1);
        }
    }

    #[test]
    fn a_remount_is_refused_with_what_to_do_instead() {
        let error = parse("remount,ro").expect_err("remount");
        let text = error.to_string();
        assert!(text.contains("unmount it") && !text.contains('\n'), "{text}");
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn bad_values_say_what_was_expected() {
        for list in [
            "ctl=no",
            "embed=",
            "index=",
            "passthrough=on",
            "ttl=-1",
            "ttl=x",
            "ttl=inf",
            "indexcpu=0",
            "threads=0",
            "threads=257",
            "threads=two",
            "http=here",
            "http=unix:relative",
        ] {
            let error = parse(list).expect_err(list);
            assert!(matches!(error, MountError::OptionValue { .. }), "{list}: {error}");
            assert_eq!(error.exit_code(), 1);
        }
    }

    #[test]
    fn escaped_values_survive_the_list() {
        for value in ["plain", "a,b", "back\\slash", ",\\,", ""] {
            let escaped = escape_commas(OsStr::new(value));
            assert_eq!(split_commas(escaped.as_bytes()), [value.as_bytes()]);
        }
    }
}
