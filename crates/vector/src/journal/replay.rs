//! Reading a journal back.

use super::record::{self, Record};
use super::{HEADER, MAGIC, PAGE, SLOT, SLOT_LEN, VERSION, slot};

/// How a journal ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// After a whole record.
    Clean,
    /// In a record that was never acknowledged; the whole records end at this length.
    Torn(u64),
    /// In a bad record, or a bad header, although it had been synced. What is wrong, and where.
    Corrupt(String),
    /// A newer format version.
    Newer(u32),
}

/// Calls `each` for every whole record in order, and says how the journal ends. The records must be numbered from
/// `first_seq`; a journal that was created but never used ends cleanly without records.
pub(crate) fn replay(bytes: &[u8], dim: usize, first_seq: u64, mut each: impl FnMut(Record<'_>)) -> End {
    let Some(page) = bytes.get(..PAGE) else {
        return End::Torn(0);
    };
    // The page is synced before the first record is written. Until then power loss may leave any of its sectors.
    let unwritten = |part: &[u8]| part.iter().all(|&byte| byte == 0);
    if unwritten(&page[..HEADER]) || bytes.len() == PAGE && unwritten(&page[SLOT..SLOT + SLOT_LEN]) {
        return End::Torn(0);
    }
    let u32_at = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    let header_sum = u32_at(HEADER - 4);
    if &page[..8] != MAGIC || crc32c::crc32c(&page[..HEADER - 4]) != header_sum {
        return End::Corrupt("the header's checksum does not fit".into());
    }
    if u32_at(8) > VERSION {
        return End::Newer(u32_at(8));
    }
    if u32_at(12) as usize != dim {
        return End::Corrupt(format!("it has dimension {}, the space {dim}", u32_at(12)));
    }
    let synced = u64_at(SLOT);
    let slot_fits = page[SLOT..SLOT + SLOT_LEN] == slot(header_sum, synced);
    let rest_is_zero = unwritten(&page[HEADER..SLOT]) && unwritten(&page[SLOT + SLOT_LEN..]);
    if !slot_fits || !rest_is_zero {
        return End::Corrupt("the header page's checksum does not fit".into());
    }

    let (mut at, mut chain, mut seq) = (PAGE, header_sum, first_seq);
    if u64_at(24) != seq && bytes.len() > PAGE {
        return End::Corrupt(format!("it begins with commit {}, expected {seq}", u64_at(24)));
    }
    while at < bytes.len() {
        match record::decode(&bytes[at..], chain, dim) {
            Ok(record) if record.seq == seq => {
                (at, chain, seq) = (at + record.len, record.chain, seq + 1);
                each(record);
            }
            Ok(record) => return End::Corrupt(format!("byte {at}: commit {}, expected {seq}", record.seq)),
            Err(what) if (at as u64) < synced => return End::Corrupt(format!("byte {at}: {what}")),
            Err(_) => return End::Torn(at as u64),
        }
    }
    if (at as u64) < synced {
        return End::Corrupt(format!(
            "it ends at byte {at}, but had been synced to byte {synced}"
        ));
    }
    End::Clean
}
