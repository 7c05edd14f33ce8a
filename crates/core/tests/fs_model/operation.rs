//! The operations, and a strategy that draws them.

use proptest::prelude::*;

pub(super) const NAMES: [&str; 4] = ["a", "b", "c", "\u{1f600} d"];
pub(super) const FILE_MAX: u64 = 20_000;
pub(super) const HANDLES_MAX: usize = 4;
pub(super) const TARGET: &str = "../a target";

/// A name in one of the directories that exist, which is chosen by number.
pub(super) type At = (usize, usize);

#[derive(Clone, Debug)]
pub(super) enum Op {
    Create {
        at: At,
        exclusive: bool,
    },
    Mkdir {
        at: At,
    },
    Symlink {
        at: At,
    },
    Link {
        from: At,
        to: At,
    },
    Unlink {
        at: At,
    },
    Rmdir {
        at: At,
    },
    Rename {
        from: At,
        to: At,
        flags: u32,
    },
    Open {
        at: At,
        truncate: bool,
    },
    Write {
        handle: usize,
        offset: u64,
        len: usize,
        byte: u8,
        append: bool,
    },
    Close {
        handle: usize,
    },
    Truncate {
        at: At,
        size: u64,
    },
    Chmod {
        at: At,
        mode: u32,
    },
    SetXattr {
        at: At,
        value: u8,
    },
    RemoveXattr {
        at: At,
    },
    Copy {
        from: usize,
        to: usize,
        offset: u64,
        len: usize,
    },
    Forget,
    Reopen,
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let at = || (0..6usize, 0..NAMES.len());
    let flags =
        prop_oneof![4 => Just(0), 1 => Just(libc::RENAME_NOREPLACE), 1 => Just(libc::RENAME_EXCHANGE)];
    let handle = 0..HANDLES_MAX;
    prop_oneof![
        4 => (at(), any::<bool>()).prop_map(|(at, exclusive)| Op::Create { at, exclusive }),
        3 => at().prop_map(|at| Op::Mkdir { at }),
        1 => at().prop_map(|at| Op::Symlink { at }),
        2 => (at(), at()).prop_map(|(from, to)| Op::Link { from, to }),
        2 => at().prop_map(|at| Op::Unlink { at }),
        1 => at().prop_map(|at| Op::Rmdir { at }),
        4 => (at(), at(), flags).prop_map(|(from, to, flags)| Op::Rename { from, to, flags }),
        3 => (at(), any::<bool>()).prop_map(|(at, truncate)| Op::Open { at, truncate }),
        6 => (handle.clone(), 0..FILE_MAX / 2, 1..5000usize, any::<u8>(), any::<bool>()).prop_map(
            |(handle, offset, len, byte, append)| Op::Write { handle, offset, len, byte, append }
        ),
        2 => handle.clone().prop_map(|handle| Op::Close { handle }),
        2 => (at(), 0..FILE_MAX).prop_map(|(at, size)| Op::Truncate { at, size }),
        1 => (at(), 0..0o100u32).prop_map(|(at, mode)| Op::Chmod { at, mode: mode | 0o700 }),
        1 => (at(), any::<u8>()).prop_map(|(at, value)| Op::SetXattr { at, value }),
        1 => at().prop_map(|at| Op::RemoveXattr { at }),
        1 => (handle.clone(), handle, 0..FILE_MAX / 4, 1..5000usize)
            .prop_map(|(from, to, offset, len)| Op::Copy { from, to, offset, len }),
        1 => Just(Op::Forget),
        1 => Just(Op::Reopen),
    ]
}
