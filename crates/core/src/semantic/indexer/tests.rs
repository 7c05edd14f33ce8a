//! The indexer on real directories, with the real store, lexical index and embedder, and vectors in memory.

mod follow;
mod random;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::derived::VectorChanges;
use super::*;
use crate::ids::PassageId;
use crate::semantic::lexical::LexicalIndex;
use crate::store::passages::Passages;

/// Vectors in memory, which outlive an indexer as a disk would.
#[derive(Default)]
struct MemoryVectors {
    state: Mutex<(BTreeMap<PassageId, Vec<f32>>, u64)>,
}

impl Vectors for MemoryVectors {
    fn apply(&self, changes: &[&VectorChanges], tag: u64) -> Result<()> {
        let (vectors, last) = &mut *self.state.lock();
        for changes in changes {
            if !changes.files.is_empty() {
                vectors.retain(|id, _| !changes.files.contains(&id.file()));
            }
            changes.passages.iter().for_each(|id| drop(vectors.remove(id)));
            let dim = changes.values.len() / changes.upserts.len().max(1);
            for (id, value) in changes.upserts.iter().zip(changes.values.chunks(dim.max(1))) {
                vectors.insert(*id, value.to_vec());
            }
        }
        *last = tag;
        Ok(())
    }

    fn tag(&self) -> u64 {
        self.state.lock().1
    }

    fn clear(&self, tag: u64) -> Result<()> {
        *self.state.lock() = (BTreeMap::new(), tag);
        Ok(())
    }
}

/// A tree, a store beside it, and an indexer that can be ended and started again.
struct World {
    _dir: tempfile::TempDir,
    root: PathBuf,
    state: PathBuf,
    vectors: Arc<MemoryVectors>,
    running: Option<Running>,
}

struct Running {
    store: Arc<Store>,
    words: Arc<LexicalIndex>,
    indexer: Arc<Indexer>,
    sink: Arc<dyn ChangeSink>,
}

const PATIENCE: Duration = Duration::from_secs(60);

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let (root, state) = (dir.path().join("root"), dir.path().join("state"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&state).unwrap();
        World {
            _dir: dir,
            root,
            state,
            vectors: Arc::default(),
            running: None,
        }
    }

    /// A world with these files, scanned and indexed.
    fn with(files: &[(&str, &str)]) -> World {
        let mut world = World::new();
        files
            .iter()
            .for_each(|(path, content)| world.write(path, content));
        world.start();
        world.scan();
        world.settle();
        world
    }

    fn start(&mut self) {
        let store = Arc::new(Store::open(&self.state.join("store.db")).unwrap());
        let words = Arc::new(LexicalIndex::open(&self.state.join("words"), 1).unwrap());
        let vectors: Arc<dyn Vectors> = Arc::<MemoryVectors>::clone(&self.vectors);
        let indexer = Indexer::start(IndexerParts {
            store: Arc::clone(&store),
            vectors,
            words: Arc::<LexicalIndex>::clone(&words),
            embedder: Arc::new(BuiltIn),
            root: fs::File::open(&self.root).unwrap().into(),
            options: IndexerOptions::new(&self.state.join("marks")),
        })
        .unwrap();
        let sink = indexer.sink();
        self.running = Some(Running {
            store,
            words,
            indexer,
            sink,
        });
    }

    fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.indexer.stop();
        }
    }

    fn run(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    fn scan(&self) {
        self.run().indexer.scan(|_| true).unwrap();
    }

    fn settle(&self) {
        let idle = self.run().indexer.wait_idle(PATIENCE);
        assert!(idle, "not idle: {:?}", self.run().indexer.status());
    }

    /// Lets the files written just now become old enough for their times to prove something.
    fn forget_youth(&self) {
        std::thread::sleep(Duration::from_millis(30));
        self.scan();
        self.settle();
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn write(&self, path: &str, content: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), content).unwrap();
    }

    fn key(&self, path: &Path) -> NodeKey {
        let stat = fs::symlink_metadata(self.root.join(path)).unwrap();
        NodeKey {
            dev: stat.dev(),
            ino: stat.ino(),
        }
    }

    /// Sends the event of a name that was made, removed or replaced.
    fn name_changed(&self, path: &str) {
        let path = Path::new(path);
        let parent = self.key(path.parent().unwrap());
        let name = path.file_name().unwrap().to_owned();
        self.run().sink.changed(Change::Name { parent, name });
    }

    /// Writes through the filesystem, as it were: the mark before, the event after.
    fn edit(&self, path: &str, content: &str) {
        let node = self.key(Path::new(path));
        self.run().sink.maybe_changed(node);
        fs::write(self.path(path), content).unwrap();
        self.run().sink.changed(Change::Content { node });
    }

    fn create(&self, path: &str, content: &str) {
        self.write(path, content);
        self.name_changed(path);
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
        self.name_changed(to);
        self.name_changed(from);
    }

    fn id(&self, path: &str) -> FileId {
        let found = self
            .run()
            .store
            .read(|rows| rows.resolve(Path::new(path)))
            .unwrap();
        found.unwrap_or_else(|| panic!("{path} is not in the catalog"))
    }

    fn state(&self, path: &str) -> State {
        self.run().indexer.why(Path::new(path)).unwrap().state
    }

    /// The paths of the files that have a word.
    fn find(&self, word: &str) -> Vec<String> {
        let files = self.run().words.snapshot().files_with(word).unwrap();
        let mirror = self.run().store.mirror();
        let mut paths: Vec<String> = files
            .into_iter()
            .flat_map(|id| mirror.paths(id))
            .map(|path| path.to_str().unwrap().to_owned())
            .collect();
        paths.sort();
        paths
    }

    /// Everything that can be found, by path: the passages in the order of the text, with their vectors. Checks on the
    /// way that rows, words, vectors and the tree agree and that nothing is left over anywhere.
    fn everything(&self) -> BTreeMap<String, Vec<(String, Vec<f32>)>> {
        let Running {
            store,
            words,
            indexer,
            ..
        } = self.run();
        assert_eq!(store.check().unwrap(), Vec::<String>::new());
        assert_eq!(indexer.pending(), 0);
        let words = words.snapshot();
        let mut vectors = self.vectors.state.lock().0.clone();
        let mut found = BTreeMap::new();
        let mut passages_sum = 0;
        let files: Vec<(FileId, Vec<PathBuf>, State)> = {
            let mirror = store.mirror();
            mirror
                .iter()
                .map(|(id, node)| (id, mirror.paths(id), node.state().clone()))
                .collect()
        };
        for (id, paths, state) in files {
            let passages = store.read(|rows| rows.passages(id)).unwrap();
            if state != State::Ready {
                assert_eq!(passages, Passages::None, "{paths:?} is {state}");
                continue;
            }
            let content = fs::read(self.root.join(&paths[0])).unwrap();
            let row = store.read(|rows| rows.file(id)).unwrap().unwrap();
            assert_eq!(row.hash, Some(*blake3::hash(&content).as_bytes()), "{paths:?}");
            let mut texts = Vec::new();
            for passage in passages.known() {
                let passage_id = PassageId::new(id, passage.slot);
                let stored = words.passage(passage_id).unwrap().expect("a passage has words");
                let bytes = passage.bytes.start as usize..passage.bytes.end as usize;
                assert_eq!(stored.text.as_bytes(), &content[bytes], "{paths:?}");
                assert_eq!(stored.lines, passage.lines);
                let name = paths.iter().filter_map(|path| path.file_name()).min().unwrap();
                assert!(
                    stored.title.starts_with(name.to_str().unwrap()),
                    "{} of {paths:?}",
                    stored.title
                );
                let vector = vectors.remove(&passage_id).unwrap_or_default();
                texts.push((format!("{}|{}", stored.title, stored.text), vector));
            }
            passages_sum += texts.len() as u64;
            for path in paths {
                found.insert(path.to_str().unwrap().to_owned(), texts.clone());
            }
        }
        assert_eq!(
            vectors.keys().collect::<Vec<_>>(),
            Vec::<&PassageId>::new(),
            "vectors of nothing"
        );
        assert_eq!(words.passages(), passages_sum, "words of nothing");
        assert_eq!(indexer.status().passages, passages_sum);
        let mut on_disk = self.files_below(Path::new(""));
        on_disk.sort();
        assert_eq!(found.keys().cloned().collect::<Vec<_>>(), on_disk);
        found
    }

    fn files_below(&self, folder: &Path) -> Vec<String> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.root.join(folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => files.extend(self.files_below(&path)),
                kind if kind.is_file() && !is_hidden(&path) => files.push(path.to_str().unwrap().to_owned()),
                _ => {}
            }
        }
        files
    }

    /// What is found now equals what an index made from nothing finds.
    fn assert_equals_rebuilt(&self) {
        let now = self.everything();
        self.run().indexer.rebuild().unwrap();
        self.settle();
        assert_eq!(now, self.everything());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop();
    }
}

fn is_hidden(path: &Path) -> bool {
    path.iter()
        .any(|part| part.to_str().is_some_and(|part| part.starts_with('.')))
}

/// The built-in model, owned.
struct BuiltIn;

impl Embedder for BuiltIn {
    fn id(&self) -> &str {
        StaticModel::built_in().id()
    }

    fn dim(&self) -> usize {
        StaticModel::built_in().dim()
    }

    fn hybrid_weight(&self) -> f32 {
        StaticModel::built_in().hybrid_weight()
    }

    fn tokens_max(&self) -> usize {
        StaticModel::built_in().tokens_max()
    }

    fn embed(&self, texts: &[&str], out: &mut [f32]) -> Result<()> {
        StaticModel::built_in().embed(texts, out)
    }
}

#[test]
fn a_tree_is_found_after_its_first_scan_and_unchanged_after_the_next() {
    let mut world = World::with(&[
        ("readme.md", "# Bees\n\nHoney is made by bees.\n"),
        ("deep/er/notes.txt", "Wax is made by bees as well."),
        (".hidden/x.txt", "bees nobody shall find"),
    ]);
    assert_eq!(world.find("bees"), ["deep/er/notes.txt", "readme.md"]);
    let before = world.everything();
    // Files that were seen within a tick of their writing are looked at once more.
    std::thread::sleep(Duration::from_millis(100));
    let mut restarted = || {
        world.stop();
        world.start();
        world.scan();
        world.settle();
        assert_eq!(world.everything(), before);
        world.run().store.generation()
    };
    let generation = restarted();
    assert_eq!(
        restarted(),
        generation,
        "a file that did not change costs no commit"
    );
    world.assert_equals_rebuilt();
}

#[test]
fn a_scan_that_has_begun_is_waited_for() {
    let world = World::with(&[("a.txt", "old words")]);
    for round in 0..20 {
        let word = format!("behind{round}");
        world.write("b.txt", &word);
        let scan = world.run().indexer.begin_scan().unwrap();
        world.settle();
        assert_eq!(world.find(&word), ["b.txt"]);
        world.run().indexer.follow_scan(scan, |_| true).unwrap();
    }
}

#[test]
fn binary_and_ignored_files_say_why_they_are_not_found() {
    let world = World::with(&[
        (".gitignore", "*.log\n"),
        ("a.log", "words"),
        ("b.bin", "zero \0 byte"),
        (".git/config", "words"),
        ("c.txt", "words"),
    ]);
    assert_eq!(world.state("a.log"), State::Excluded(".gitignore: *.log".into()));
    assert_eq!(world.state("b.bin"), State::Excluded("content: binary".into()));
    assert_eq!(world.state(".git/config"), State::Excluded("hidden".into()));
    assert_eq!(world.state("c.txt"), State::Ready);
    assert!(matches!(
        world.run().indexer.why(Path::new("none")),
        Err(Error::NotFound(_))
    ));
    let explained = world.run().indexer.why(Path::new("c.txt")).unwrap();
    assert_eq!((explained.file, explained.passages), (Some(world.id("c.txt")), 1));
}

#[test]
fn a_large_folder_is_forgotten_in_several_commits() {
    let mut world = World::with(&[("kept.txt", "some words"), (".vexfsignore", "many*\n")]);
    for i in 0..5_000 {
        world.write(&format!("big/part{}/many{i}.txt", i % 3), "x");
    }
    world.write("big/part1/word.txt", "hawthorn");
    world.scan();
    world.settle();
    assert_eq!(world.find("hawthorn"), ["big/part1/word.txt"]);
    let before = world.run().store.generation();
    fs::remove_dir_all(world.path("big")).unwrap();
    world.name_changed("big");
    world.settle();
    assert!(world.run().store.generation().0 >= before.0 + 4);
    assert_eq!(world.find("hawthorn"), Vec::<String>::new());
    assert_eq!(world.everything().len(), 1);
    assert_eq!(
        world.run().store.mirror().iter().count(),
        3,
        "the root and two files"
    );
    world.stop();
}

#[test]
fn a_rebuild_removes_what_no_file_accounts_for() {
    let world = World::with(&[("a.txt", "some words"), ("b.txt", "other words")]);
    let before = world.everything();
    world
        .vectors
        .state
        .lock()
        .0
        .insert(PassageId::new(FileId(999), 0), vec![1.0]);
    world.run().indexer.rebuild().unwrap();
    world.settle();
    assert_eq!(world.everything(), before);
}

#[test]
fn special_files_and_odd_names_are_no_trouble() {
    let world = World::new();
    let mut world = world;
    world.write("new\nline.txt", "words");
    use std::os::unix::ffi::OsStrExt;
    fs::write(world.root.join(OsStr::from_bytes(b"bad\xff.txt")), "words").unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        world.path("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    std::os::unix::fs::symlink("/dev/zero", world.path("zero")).unwrap();
    world.start();
    world.scan();
    world.settle();
    let status = world.run().indexer.status();
    assert_eq!((status.files, status.ready, status.failed), (2, 2, 0));
    assert_eq!(world.state("fifo"), State::Excluded("no regular file".into()));
    assert_eq!(world.state("zero"), State::Excluded("no regular file".into()));
}
