//! The write-ahead journal: commits that no segment holds yet.
//!
//! One file is a header page and then records, each `{header, payload}` and aligned to 8 bytes. A record's checksum is
//! chained to its predecessor's, so that a record cannot be taken for another. The header page has a slot with the
//! length that is known to be synced: a bad record before it is corruption of an acknowledged commit, a bad record
//! behind it is the torn end of a commit that nobody was told about. All bytes are in docs/FORMAT.md.

mod record;
mod replay;

use std::io;
use std::path::{Path, PathBuf};

pub(crate) use record::{Change, Encoded, encode};
pub(crate) use replay::{End, replay};

use crate::error::{Error, Result};
use crate::storage::{Storage, StorageFile};

const MAGIC: &[u8; 8] = b"VXJRNL\r\n";
/// The version of the journal format.
pub(crate) const VERSION: u32 = 1;
/// Bytes before the first record.
const PAGE: usize = 4096;
const HEADER: usize = 64;
/// Where the slot of the synced length stands: a sector of its own, so that rewriting it cannot tear the header.
const SLOT: usize = 512;
const SLOT_LEN: usize = 16;

/// The path of a journal in a space's directory.
pub(crate) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.journal"))
}

/// A journal open for appending.
pub(crate) struct Journal {
    file: Box<dyn StorageFile>,
    path: PathBuf,
    header_sum: u32,
    /// The chained checksum of the last record.
    chain: u32,
    len: u64,
}

/// Why an append failed, and what may be done next.
pub(crate) enum AppendError {
    /// The file is as it was before the append.
    Undone(Error),
    /// Nobody knows what is on disk; nothing may be written any more.
    Unknown(Error),
}

impl Journal {
    /// Creates the journal `number`, whose first record will be commit `first_seq`, and makes its name durable.
    pub(crate) fn create(
        storage: &dyn Storage,
        dir: &Path,
        number: u64,
        first_seq: u64,
        dim: usize,
    ) -> Result<Journal> {
        let path = path(dir, number);
        let mut page = vec![0; PAGE];
        page[..8].copy_from_slice(MAGIC);
        page[8..12].copy_from_slice(&VERSION.to_le_bytes());
        page[12..16].copy_from_slice(&(dim as u32).to_le_bytes());
        page[16..24].copy_from_slice(&number.to_le_bytes());
        page[24..32].copy_from_slice(&first_seq.to_le_bytes());
        let header_sum = crc32c::crc32c(&page[..HEADER - 4]);
        page[HEADER - 4..HEADER].copy_from_slice(&header_sum.to_le_bytes());
        page[SLOT..SLOT + SLOT_LEN].copy_from_slice(&slot(header_sum, PAGE as u64));

        let created = (|| -> io::Result<_> {
            let file = storage.create(&path)?;
            file.write_at(0, &page)?;
            file.sync()?;
            storage.sync_dir(dir)?;
            Ok(file)
        })();
        match created {
            Ok(file) => Ok(Journal {
                file,
                path,
                header_sum,
                chain: header_sum,
                len: PAGE as u64,
            }),
            Err(e) => {
                // An empty journal that stays behind is ignored by the replay and overwritten by the next attempt.
                let _ = storage.remove(&path);
                Err(Error::io("create", &path, e))
            }
        }
    }

    /// Appends encoded records, numbering them from `first_seq`. They are durable only after [`Journal::sync`].
    pub(crate) fn append(&mut self, records: &mut [Encoded], first_seq: u64) -> Result<(), AppendError> {
        let mut chain = self.chain;
        for (record, seq) in records.iter_mut().zip(first_seq..) {
            chain = record.seal(seq, chain);
        }
        let written = match &*records {
            [one] => self.file.write_at(self.len, one.bytes()),
            many => self.file.write_at(
                self.len,
                &many.iter().map(Encoded::bytes).collect::<Vec<_>>().concat(),
            ),
        };
        if let Err(e) = written {
            let error = Error::io("append to", &self.path, e);
            return Err(match self.file.set_len(self.len) {
                Ok(()) => AppendError::Undone(error),
                Err(_) => AppendError::Unknown(error),
            });
        }
        self.chain = chain;
        self.len += records.iter().map(|r| r.bytes().len() as u64).sum::<u64>();
        Ok(())
    }

    /// Makes all appended records durable and notes so in the slot. After an error nothing may be written any more.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.file.sync().map_err(|e| Error::io("sync", &self.path, e))?;
        // The records are durable already: the slot only tells corruption from a torn end, and it rides on the next
        // sync. So an error here is no error of the commit.
        let _ = self.file.write_at(SLOT as u64, &slot(self.header_sum, self.len));
        Ok(())
    }
}

/// The bytes of the slot: the synced length and a checksum that belongs to this journal only.
fn slot(header_sum: u32, synced_len: u64) -> [u8; SLOT_LEN] {
    let mut bytes = [0; SLOT_LEN];
    bytes[..8].copy_from_slice(&synced_len.to_le_bytes());
    let sum = crc32c::crc32c_append(header_sum, &bytes[..SLOT_LEN - 4]);
    bytes[SLOT_LEN - 4..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Reads bytes as a journal of a space with three dimensions, and as a record with the right checksums. For fuzzing.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_any(bytes: &[u8]) {
    use crate::storage::{Aligned, Map};
    let map = Map::Memory(Aligned::copy_of(bytes).into());
    replay(&map, 3, 1, |record| {
        assert_eq!(record.change.components.len(), 3 * record.change.upserts.len())
    });
    let map = Map::Memory(Aligned::copy_of(&record::with_right_sums(bytes)).into());
    if let Ok(record) = record::decode(&map, 0, 3) {
        assert_eq!(record.change.components.len(), 3 * record.change.upserts.len());
    }
}
