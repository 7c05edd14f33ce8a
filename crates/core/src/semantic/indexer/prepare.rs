//! One file: read, hash, extract, cut into passages, embed what is new. No lock is held, nothing is written.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use super::derived::VectorChanges;
use super::inbox::Place;
use super::{Consequence, Shared};
use crate::error::{Error, Result};
use crate::ids::{FileId, PassageId};
use crate::semantic::extract::{Extracted, Outcome as Extraction, extract};
use crate::semantic::passages::Passage;
use crate::semantic::scan::tree::is_gone;
use crate::store::catalog::Indexed;
use crate::store::file::{Facts, FileRow, Kind, State};
use crate::store::mirror::Name;
use crate::store::naming::{CONTENT_RULE, Trust, Want, now_ns};
use crate::store::passages::{PassageRow, Passages, name_hash};

/// A file that was changed so shortly before it was read could be changed again within the same tick of the
/// kernel's clock, which is 1 to 10 ms: its times prove nothing.
const TICK_NS: i64 = 20_000_000;

/// What is to be done with a file.
pub(super) enum Step {
    /// Nothing: it does not wait any more.
    Skip,
    /// It is not where its row says.
    Park,
    /// This, in one commit with others.
    Commit(Box<Job>),
}

/// What is to be committed of a file.
pub(super) struct Job {
    pub(super) id: FileId,
    pub(super) outcome: Outcome,
    pub(super) vectors: VectorChanges,
    pub(super) words: WordChanges,
    /// What else follows from the text.
    pub(super) consequence: Option<Consequence>,
    /// How often the derived indexes had been thrown away when it was prepared.
    pub(super) epoch: u64,
    /// Bytes of memory that it holds, roughly.
    pub(super) bytes: usize,
}

/// What becomes of the row.
pub(super) enum Outcome {
    Removed,
    Indexed(Indexed),
}

/// Changes of the lexical index: all passages of the file are replaced.
#[derive(Default)]
pub(super) struct WordChanges {
    pub(super) replace: bool,
    pub(super) text: String,
    pub(super) name: String,
    pub(super) passages: Vec<(PassageId, Passage)>,
}

/// A file as its rows have it.
struct Known {
    row: FileRow,
    passages: Passages,
    /// The name under which it is found, and its path.
    place: Option<(Name, PathBuf)>,
}

/// Works out what has to be committed of an awaiting file.
pub(super) fn prepare(shared: &Shared, id: FileId) -> Result<Step> {
    let Some(known) = rows_of(shared, id)? else {
        return Ok(Step::Skip);
    };
    if !known.row.state.is_awaiting() {
        return Ok(Step::Skip);
    }
    let job = |outcome, vectors| {
        let words = WordChanges {
            replace: known.passages != Passages::None,
            ..WordChanges::default()
        };
        Ok(Step::Commit(Box::new(Job {
            id,
            outcome,
            vectors,
            words,
            // Nothing follows from a text that is not there any more.
            consequence: known
                .place
                .as_ref()
                .and_then(|(_, path)| shared.consequence(path, "")),
            epoch: 0,
            bytes: 256,
        })))
    };
    let emptied = |state, facts, hash| {
        let indexed = Indexed {
            facts,
            hash,
            passages: Passages::None,
            state,
        };
        job(Outcome::Indexed(indexed), removal(id, &known.passages))
    };
    if known.row.state == State::Leaving {
        return job(Outcome::Removed, removal(id, &known.passages));
    }
    let Some((at, path)) = &known.place else {
        return Ok(Step::Park);
    };
    let again = || {
        let name = at.as_os_str().to_owned();
        shared.inbox.push_late([Place {
            folder: at.parent,
            name,
            trust: Trust::Mtime,
        }]);
        Ok(Step::Park)
    };
    let (folder, rules) = match shared.open_folder(at.parent) {
        Ok(Some(folder)) => folder,
        Ok(None) => return again(),
        Err(error) => return emptied(State::Failed(error.to_string()), known.row.facts, None),
    };
    let Some(found) = shared.tree.look(folder.as_fd(), at.as_os_str())? else {
        return again();
    };
    if !found.facts.same_inode(&known.row.facts) || found.facts.kind != Kind::File {
        return again();
    }
    if let Want::Exclude(rule) = shared.rules.verdict(&rules, at.as_os_str(), &found) {
        return emptied(State::Excluded(rule), found.facts, None);
    }
    let file = match shared.tree.open_file(path) {
        Ok(file) => file,
        Err(error) if is_gone(&error) => return again(),
        Err(error) => return emptied(State::Failed(error.to_string()), found.facts, None),
    };
    let facts = shared.tree.facts_of(&file)?;
    if !facts.same_inode(&found.facts) {
        return again();
    }
    let content = match read(file, shared.options.rules.size_max) {
        Ok(content) => content,
        Err(error) => return emptied(State::Failed(error.to_string()), facts, None),
    };
    let facts = provable(facts);
    let hash = *blake3::hash(&content).as_bytes();
    if known.row.hash == Some(hash)
        && matches!(&known.passages, Passages::Known { name, .. } if *name == name_hash(&at.name))
    {
        let indexed = Indexed {
            facts,
            hash: Some(hash),
            passages: known.passages.clone(),
            state: State::Ready,
        };
        let (vectors, words) = (VectorChanges::default(), WordChanges::default());
        return Ok(Step::Commit(Box::new(Job {
            id,
            outcome: Outcome::Indexed(indexed),
            vectors,
            words,
            consequence: None,
            epoch: 0,
            bytes: 256,
        })));
    }
    match extract(at.as_os_str(), &content, &shared.options.extraction) {
        Extraction::Text(text) => {
            let consequence = shared.consequence(path, &text.text);
            let mut job = index(shared, id, &known.passages, at, facts, hash, text)?;
            job.consequence = consequence;
            Ok(Step::Commit(Box::new(job)))
        }
        Extraction::NoText(rule) => emptied(
            State::Excluded(format!("{CONTENT_RULE} {rule}")),
            facts,
            Some(hash),
        ),
        Extraction::Failed(why) => emptied(State::Failed(why), facts, Some(hash)),
    }
}

/// Gives an awaiting file up, until it changes.
pub(super) fn fail(shared: &Shared, id: FileId, why: &str) -> Result<Step> {
    let Some(Known { row, passages, .. }) = rows_of(shared, id)? else {
        return Ok(Step::Skip);
    };
    if !row.state.is_awaiting() || row.state == State::Leaving {
        return Ok(Step::Skip);
    }
    let vectors = removal(id, &passages);
    let words = WordChanges {
        replace: passages != Passages::None,
        ..WordChanges::default()
    };
    let indexed = Indexed {
        facts: row.facts,
        hash: None,
        passages: Passages::None,
        state: State::Failed(why.to_owned()),
    };
    let outcome = Outcome::Indexed(indexed);
    Ok(Step::Commit(Box::new(Job {
        id,
        outcome,
        vectors,
        words,
        consequence: None,
        epoch: 0,
        bytes: 256,
    })))
}

fn rows_of(shared: &Shared, id: FileId) -> Result<Option<Known>> {
    shared.store.read(|rows| {
        let Some(row) = rows.file(id)? else {
            return Ok(None);
        };
        let name = rows.names(id)?.into_iter().min_by(|a, b| a.name.cmp(&b.name));
        let place = match name {
            Some(name) => {
                let path = rows.path_of_name(&name)?;
                Some((name, path))
            }
            None => None,
        };
        Ok(Some(Known {
            row,
            passages: rows.passages(id)?,
            place,
        }))
    })
}

/// Reads a whole file, and not more than its limit.
fn read(file: OwnedFd, size_max: u64) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    File::from(file)
        .take(size_max.saturating_add(1))
        .read_to_end(&mut content)?;
    if content.len() as u64 > size_max {
        return Err(Error::Invalid(format!("grew beyond {size_max} bytes")));
    }
    Ok(content)
}

/// The facts to keep: a ctime of 0 makes the next scan compare the content.
fn provable(facts: Facts) -> Facts {
    let young = now_ns() - facts.mtime.max(facts.ctime) < TICK_NS;
    Facts {
        ctime: if young { 0 } else { facts.ctime },
        ..facts
    }
}

/// What removes all vectors of a file.
fn removal(id: FileId, passages: &Passages) -> VectorChanges {
    let files = if *passages == Passages::None {
        Vec::new()
    } else {
        vec![id]
    };
    VectorChanges {
        files,
        ..VectorChanges::default()
    }
}

/// Cuts a text into passages and embeds those that are new. Unchanged ones, by hash, keep slot and vector.
fn index(
    shared: &Shared,
    id: FileId,
    before: &Passages,
    at: &Name,
    facts: Facts,
    hash: [u8; 32],
    text: Extracted,
) -> Result<Job> {
    let cut = text.passages(shared.tokenizer());
    let inputs: Vec<Cow<'_, str>> = cut.iter().map(|passage| passage.embedded(&text.text)).collect();
    let hashes: Vec<[u8; 16]> = inputs.iter().map(|input| passage_hash(input)).collect();
    let (slots, fresh) = assign_slots(before.known(), &hashes);

    let inputs: Vec<&str> = fresh.iter().map(|i| &*inputs[*i]).collect();
    let embedder = &shared.model.load().embedder;
    let dim = embedder.dim();
    let mut values = vec![0.0; inputs.len() * dim];
    embedder.embed(&inputs, &mut values)?;

    let mut vectors = VectorChanges::default();
    match before {
        Passages::None => {}
        Passages::Unknown => vectors.files.push(id),
        Passages::Known { rows, .. } => {
            let kept: HashSet<u32> = slots.iter().copied().collect();
            let gone = rows.iter().filter(|row| !kept.contains(&row.slot));
            vectors
                .passages
                .extend(gone.map(|row| PassageId::new(id, row.slot)));
        }
    }
    for (i, vector) in fresh.iter().zip(values.chunks(dim)) {
        let passage = PassageId::new(id, slots[*i]);
        // Zeros stand for a text of unknown words; they are near to nothing.
        if vector.iter().any(|number| *number != 0.0) {
            vectors.upserts.push(passage);
            vectors.values.extend_from_slice(vector);
        } else if before.known().iter().any(|row| row.slot == passage.slot()) {
            vectors.passages.push(passage);
        }
    }

    let rows = cut
        .iter()
        .zip(&slots)
        .zip(&hashes)
        .map(|((passage, slot), hash)| PassageRow {
            bytes: passage.bytes.start as u32..passage.bytes.end as u32,
            lines: (passage.first_line, passage.last_line),
            slot: *slot,
            hash: *hash,
        });
    let passages = Passages::Known {
        name: name_hash(&at.name),
        rows: rows.collect(),
    };
    let bytes = text.text.len() + vectors.values.len() * 4 + cut.len() * 128;
    let words = WordChanges {
        replace: *before != Passages::None,
        name: String::from_utf8_lossy(&at.name).into_owned(),
        passages: slots
            .iter()
            .map(|slot| PassageId::new(id, *slot))
            .zip(cut)
            .collect(),
        text: text.text,
    };
    let indexed = Indexed {
        facts,
        hash: Some(hash),
        passages,
        state: State::Ready,
    };
    Ok(Job {
        id,
        outcome: Outcome::Indexed(indexed),
        vectors,
        words,
        consequence: None,
        epoch: 0,
        bytes,
    })
}

fn passage_hash(embedded: &str) -> [u8; 16] {
    let mut hash = [0; 16];
    blake3::Hasher::new()
        .update(embedded.as_bytes())
        .finalize_xof()
        .fill(&mut hash);
    hash
}

/// The slot of each passage, and which passages are new. A new one gets the lowest slot that is free.
fn assign_slots(before: &[PassageRow], hashes: &[[u8; 16]]) -> (Vec<u32>, Vec<usize>) {
    let mut old: HashMap<[u8; 16], VecDeque<u32>> = HashMap::new();
    before
        .iter()
        .for_each(|row| old.entry(row.hash).or_default().push_back(row.slot));
    let kept: Vec<Option<u32>> = hashes
        .iter()
        .map(|hash| old.get_mut(hash).and_then(VecDeque::pop_front))
        .collect();
    let taken: HashSet<u32> = kept.iter().flatten().copied().collect();
    let mut free = (0..PassageId::SLOTS_MAX).filter(|slot| !taken.contains(slot));
    let mut fresh = Vec::new();
    let slots = kept.into_iter().enumerate().map(|(i, slot)| {
        slot.unwrap_or_else(|| {
            fresh.push(i);
            free.next()
                .expect("a file is cut into at most as many passages as there are slots")
        })
    });
    (slots.collect(), fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unchanged_passages_keep_their_slots_and_new_ones_take_the_lowest_free() {
        let row = |slot, hash| PassageRow {
            bytes: 0..1,
            lines: (1, 1),
            slot,
            hash: [hash; 16],
        };
        let before = [row(0, 1), row(3, 2), row(1, 3)];
        let hashes = [[2; 16], [9; 16], [1; 16], [8; 16]];
        assert_eq!(assign_slots(&before, &hashes), (vec![3, 1, 0, 2], vec![1, 3]));
        assert_eq!(assign_slots(&[], &hashes[..2]), (vec![0, 1], vec![0, 1]));
    }

    #[test]
    fn equal_passages_have_a_slot_each() {
        let row = |slot| PassageRow {
            bytes: 0..1,
            lines: (1, 1),
            slot,
            hash: [1; 16],
        };
        assert_eq!(
            assign_slots(&[row(0), row(1)], &[[1; 16]; 3]),
            (vec![0, 1, 2], vec![2])
        );
    }
}
