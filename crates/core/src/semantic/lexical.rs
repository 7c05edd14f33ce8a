//! The lexical index: passages by their words, scored by BM25 (Robertson and Zaragoza, 2009), on tantivy.
//!
//! One document is one passage. It is derived from the files: the generation up to which it is complete stands in its
//! commit, and whatever came after is indexed again. A document added is found after the next [`LexicalIndex::commit`].

mod analyzer;
mod scoring;
mod search;
mod statistics;

use std::path::{Path, PathBuf};

use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tantivy::indexer::{IndexWriterOptions, LogMergePolicy};
use tantivy::schema::{
    FAST, Field, INDEXED, IndexRecordOption, STORED, Schema, TextFieldIndexing, TextOptions,
};
use tantivy::{Index, IndexReader, IndexSettings, IndexWriter, ReloadPolicy, TantivyDocument, Term};

pub use analyzer::Analyzer;
pub use search::{Hit, Limit, Snapshot, StoredPassage, Wanted, Words};

use crate::error::{Error, Result};
use crate::ids::{FileId, Generation, PassageId};
use statistics::Statistics;

/// Memory for documents not yet written, a thread. A larger buffer makes fewer, larger segments; the smallest that
/// tantivy takes is 15 MB.
const BUFFER_BYTES: usize = 48 << 20;
/// Texts are packed in blocks of this size, about seven passages: an answer unpacks a block for each that it shows.
const STORED_BLOCK_BYTES: usize = 4096;
/// A segment with a larger share of dead documents is written anew.
const DEAD_SHARE_MAX: f32 = 0.2;
/// The name under which the analyzer is registered; it changes when terms change, so an older index is rebuilt.
const ANALYZER: &str = "vexfs-1";

/// A passage as it is indexed.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its id.
    pub id: PassageId,
    /// File name and headings: found like the text, with a weight of their own.
    pub title: &'a str,
    /// Its text.
    pub text: &'a str,
    /// Its first and last line in the file, from 1.
    pub lines: (u32, u32),
    /// The byte of the extracted text at which it begins.
    pub start: u64,
}

/// The index of words.
pub struct LexicalIndex {
    index: Index,
    fields: Fields,
    reader: IndexReader,
    /// The last commit as readers see it.
    current: RwLock<Snapshot>,
    threads: usize,
    /// Shared to add and delete, alone to commit. None after a failure, until it is wanted again.
    writer: RwLock<Option<IndexWriter>>,
}

#[derive(Clone, Copy)]
struct Fields {
    passage: Field,
    file: Field,
    title: Field,
    body: Field,
    lines: Field,
    start: Field,
}

impl Fields {
    fn schema() -> (Schema, Fields) {
        let mut schema = Schema::builder();
        let words = TextFieldIndexing::default()
            .set_tokenizer(ANALYZER)
            .set_index_option(IndexRecordOption::WithFreqsAndPositions);
        let words = TextOptions::default().set_indexing_options(words).set_stored();
        let fields = Fields {
            passage: schema.add_u64_field("passage", FAST | INDEXED),
            file: schema.add_u64_field("file", INDEXED),
            title: schema.add_text_field("title", words.clone()),
            body: schema.add_text_field("body", words),
            lines: schema.add_u64_field("lines", STORED),
            start: schema.add_u64_field("start", STORED),
        };
        (schema.build(), fields)
    }
}

impl LexicalIndex {
    /// Opens the index in a directory, or makes it there. `threads` build documents. An index of another version or
    /// with damaged metadata is [`Error::Corrupt`]: delete the directory and index again.
    pub fn open(dir: &Path, threads: usize) -> Result<LexicalIndex> {
        std::fs::create_dir_all(dir)?;
        let (schema, fields) = Fields::schema();
        let corrupt = |at: String| Error::Corrupt {
            what: "lexical index".into(),
            at,
        };
        let directory = tantivy::directory::MmapDirectory::open(dir).map_err(|e| corrupt(e.to_string()))?;
        let settings = IndexSettings {
            docstore_blocksize: STORED_BLOCK_BYTES,
            ..IndexSettings::default()
        };
        let index = Index::builder()
            .schema(schema)
            .settings(settings)
            .open_or_create(directory);
        let index = index.map_err(|e| match e {
            tantivy::TantivyError::IoError(_) => Error::Lexical(e),
            e => corrupt(e.to_string()),
        })?;
        index.tokenizers().register(ANALYZER, Analyzer::default());
        let writer = open_writer(&index, threads)?;
        let reader = index
            .reader_builder()
            .reload_policy(ReloadPolicy::Manual)
            .try_into()?;
        let current = Snapshot::new(reader.searcher(), fields, &Statistics::default())?;
        Ok(LexicalIndex {
            index,
            fields,
            reader,
            current: RwLock::new(current),
            threads,
            writer: RwLock::new(Some(writer)),
        })
    }

    fn writer(&self) -> Result<MappedRwLockReadGuard<'_, IndexWriter>> {
        let mut guard = self.writer.read();
        if guard.is_none() {
            drop(guard);
            let mut alone = self.writer.write();
            if alone.is_none() {
                *alone = Some(open_writer(&self.index, self.threads)?);
            }
            guard = RwLockWriteGuard::downgrade(alone);
        }
        Ok(RwLockReadGuard::map(guard, |writer| {
            writer
                .as_ref()
                .expect("opened above, and not closed while the lock is held")
        }))
    }

    /// Adds a passage. Passages of a file that is indexed already have to be deleted first.
    pub fn add(&self, entry: Entry<'_>) -> Result<()> {
        let mut document = TantivyDocument::new();
        document.add_u64(self.fields.passage, entry.id.0);
        document.add_u64(self.fields.file, entry.id.file().0);
        document.add_text(self.fields.title, entry.title);
        document.add_text(self.fields.body, entry.text);
        document.add_u64(
            self.fields.lines,
            u64::from(entry.lines.0) << 32 | u64::from(entry.lines.1),
        );
        document.add_u64(self.fields.start, entry.start);
        self.writer()?.add_document(document)?;
        Ok(())
    }

    /// Removes every passage of a file that was added before.
    pub fn delete_file(&self, file: FileId) -> Result<()> {
        self.writer()?
            .delete_term(Term::from_field_u64(self.fields.file, file.0));
        Ok(())
    }

    /// Removes one passage that was added before.
    pub fn delete_passage(&self, id: PassageId) -> Result<()> {
        self.writer()?
            .delete_term(Term::from_field_u64(self.fields.passage, id.0));
        Ok(())
    }

    /// Makes everything so far durable and visible, and remembers the generation that it stands for. After an error
    /// the last commit stands.
    pub fn commit(&self, generation: Generation) -> Result<()> {
        drop(self.writer()?);
        let mut writer = self.writer.write();
        let Some(open) = writer.as_mut() else {
            return Err(Error::Stopped);
        };
        let mut prepared = open.prepare_commit()?;
        prepared.set_payload(&generation.0.to_string());
        prepared.commit()?;
        drop(writer);
        self.reader.reload()?;
        let before = self.snapshot();
        let current = Snapshot::new(self.reader.searcher(), self.fields, before.statistics())?;
        *self.current.write() = current;
        Ok(())
    }

    /// The generation of the last commit; none in a new index.
    pub fn committed(&self) -> Result<Option<Generation>> {
        let payload = self.index.load_metas()?.payload;
        let parse = |text: String| {
            text.parse().map(Generation).map_err(|_| Error::Corrupt {
                what: "lexical index".into(),
                at: text,
            })
        };
        payload.map(parse).transpose()
    }

    /// Forgets everything added or deleted since the last commit. Whatever state a failure left the writer in, the
    /// next use begins with a new one.
    pub fn rollback(&self) {
        *self.writer.write() = None;
    }

    /// Removes every passage of every file. Visible after the next commit.
    pub fn clear(&self) -> Result<()> {
        self.writer()?.delete_all_documents()?;
        Ok(())
    }

    /// Reads every byte of the index. Gives the files whose checksums do not fit.
    pub fn damaged(&self) -> Result<Vec<PathBuf>> {
        let mut damaged: Vec<PathBuf> = self.index.validate_checksum()?.into_iter().collect();
        damaged.sort_unstable();
        Ok(damaged)
    }

    /// What was committed last, as long as one holds it.
    pub fn snapshot(&self) -> Snapshot {
        self.current.read().clone()
    }
}

fn open_writer(index: &Index, threads: usize) -> Result<IndexWriter> {
    let options = IndexWriterOptions::builder()
        .memory_budget_per_thread(BUFFER_BYTES)
        .num_worker_threads(threads.max(1))
        .num_merge_threads(1)
        .build();
    let writer = index.writer_with_options(options)?;
    let mut merging = LogMergePolicy::default();
    merging.set_del_docs_ratio_before_merge(DEAD_SHARE_MAX);
    writer.set_merge_policy(Box::new(merging));
    Ok(writer)
}

#[cfg(test)]
mod tests;
