//! The numbers by which things are named. None of them is interchangeable with another, so each is a type.

use std::fmt;

/// An inode number as the kernel sees it. It dies with the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory of the mount (FUSE_ROOT_ID).
    pub const ROOT: Ino = Ino(1);

    /// Inode numbers with this bit belong to the control directory, never to a backing file.
    pub const CONTROL_BIT: u64 = 1 << 62;

    /// Inode numbers with this bit belong to the view of a transaction.
    pub const STAGED_BIT: u64 = 1 << 63;

    /// Whether the number belongs to the view of a transaction.
    pub fn is_staged(self) -> bool {
        self.0 & Self::STAGED_BIT != 0
    }

    /// Whether the number belongs to the control directory.
    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL_BIT != 0
    }
}

/// The durable name of a file. It survives rename, hard links and remount, and is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u64);

/// The number of a commit. Every answer names the generation that it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Generation(pub u64);

/// A passage of a file: the file's id and the passage's slot in it, packed so that a hit names its file
/// without a look-up. `FileId` takes the upper 44 bits, the slot the lower 20.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PassageId(pub u64);

impl PassageId {
    /// Bits of the slot.
    pub const SLOT_BITS: u32 = 20;
    /// The largest number of passages in one file.
    pub const SLOTS_MAX: u32 = 1 << Self::SLOT_BITS;

    /// Packs a file and a slot.
    pub fn new(file: FileId, slot: u32) -> PassageId {
        assert!(slot < Self::SLOTS_MAX && file.0 < 1 << 44);
        PassageId(file.0 << Self::SLOT_BITS | u64::from(slot))
    }

    /// The file in which the passage stands.
    pub fn file(self) -> FileId {
        FileId(self.0 >> Self::SLOT_BITS)
    }

    /// The slot in that file.
    pub fn slot(self) -> u32 {
        (self.0 & u64::from(Self::SLOTS_MAX - 1)) as u32
    }
}

/// Which inode of the backing filesystems: unique while the inode lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeKey {
    /// Device number (`st_dev`).
    pub dev: u64,
    /// Inode number (`st_ino`).
    pub ino: u64,
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passage_ids_give_back_file_and_slot() {
        for (file, slot) in [(0, 0), (1, 0), (7, 1_048_575), ((1 << 44) - 1, 3)] {
            let id = PassageId::new(FileId(file), slot);
            assert_eq!((id.file(), id.slot()), (FileId(file), slot));
        }
    }
}
