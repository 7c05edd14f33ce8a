//! Whatever happens to a tree, in whatever order, with whatever interruptions: when the queue has drained, what is found
//! equals what an index made from nothing finds, and nothing is left over.

use proptest::prelude::*;

use super::super::commit::CrashPoint;
use super::*;

const FOLDERS: [&str; 4] = ["", "d1", "d2", "d1/inner"];
const NAMES: [&str; 4] = ["a.txt", "b.md", "c.rs", "d.txt"];
const WORDS: [&str; 8] = [
    "apple", "birch", "cedar", "dogwood", "elm", "fir", "ginkgo", "hazel",
];

/// Something that happens. Numbers choose among folders, names and words.
#[derive(Clone, Debug)]
enum Op {
    Write {
        file: (usize, usize),
        words: usize,
        seen: bool,
    },
    Rename {
        from: (usize, usize),
        to: (usize, usize),
        seen: bool,
    },
    Link {
        from: (usize, usize),
        to: (usize, usize),
        seen: bool,
    },
    Remove {
        file: (usize, usize),
        seen: bool,
    },
    RenameFolder {
        from: usize,
        to: usize,
        seen: bool,
    },
    RemoveFolder {
        folder: usize,
        seen: bool,
    },
    Tag {
        file: (usize, usize),
    },
    Settle,
    Rebuild,
    Restart,
    Crash {
        after_words: bool,
    },
}

fn operation() -> impl Strategy<Value = Op> {
    let file = || (0..FOLDERS.len(), 0..NAMES.len());
    let folder = || 1..FOLDERS.len();
    let seen = || prop::bool::weighted(0.8);
    prop_oneof![
        8 => (file(), 0..64usize, seen()).prop_map(|(file, words, seen)| Op::Write { file, words, seen }),
        4 => (file(), file(), seen()).prop_map(|(from, to, seen)| Op::Rename { from, to, seen }),
        2 => (file(), file(), seen()).prop_map(|(from, to, seen)| Op::Link { from, to, seen }),
        3 => (file(), seen()).prop_map(|(file, seen)| Op::Remove { file, seen }),
        2 => (folder(), folder(), seen()).prop_map(|(from, to, seen)| Op::RenameFolder { from, to, seen }),
        1 => (folder(), seen()).prop_map(|(folder, seen)| Op::RemoveFolder { folder, seen }),
        2 => file().prop_map(|file| Op::Tag { file }),
        2 => Just(Op::Settle),
        1 => Just(Op::Rebuild),
        1 => Just(Op::Restart),
        2 => any::<bool>().prop_map(|after_words| Op::Crash { after_words }),
    ]
}

fn path((folder, name): (usize, usize)) -> PathBuf {
    Path::new(FOLDERS[folder]).join(NAMES[name])
}

/// A text of several passages, the same for the same number.
fn text(words: usize) -> String {
    let paragraph =
        |i: usize| format!("The {} is paragraph {i}. ", WORDS[(words >> i) % WORDS.len()]).repeat(14);
    (0..1 + words % 4).map(|i| paragraph(i) + "\n\n").collect()
}

impl World {
    /// The event of a name, unless its folder is gone again.
    fn tell(&self, path: &Path) {
        let Some(parent) = path.parent() else { return };
        if let (Ok(stat), Some(name)) = (fs::symlink_metadata(self.root.join(parent)), path.file_name()) {
            let parent = NodeKey {
                dev: stat.dev(),
                ino: stat.ino(),
            };
            self.run().sink.changed(Change::Name {
                parent,
                name: name.to_owned(),
            });
        }
    }

    /// Does something; what cannot be done, such as removing what is not there, is left.
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Write { file, words, seen } => {
                let path = path(*file);
                let full = self.root.join(&path);
                let existed = full.exists();
                if existed && *seen {
                    self.run().sink.maybe_changed(self.key(&path));
                }
                if fs::create_dir_all(full.parent().unwrap()).is_err()
                    || fs::write(&full, text(*words)).is_err()
                {
                    return;
                }
                if *seen {
                    path.ancestors().skip(1).for_each(|folder| self.tell(folder));
                    self.tell(&path);
                    self.run().sink.changed(Change::Content {
                        node: self.key(&path),
                    });
                }
            }
            Op::Rename { from, to, seen } => self.rename_any(&path(*from), &path(*to), *seen),
            Op::RenameFolder { from, to, seen } => {
                self.rename_any(Path::new(FOLDERS[*from]), Path::new(FOLDERS[*to]), *seen);
            }
            Op::Link { from, to, seen } => {
                let (from, to) = (path(*from), path(*to));
                if fs::hard_link(self.root.join(from), self.root.join(&to)).is_ok() && *seen {
                    self.tell(&to);
                }
            }
            Op::Remove { file, seen } => {
                if fs::remove_file(self.root.join(path(*file))).is_ok() && *seen {
                    self.tell(&path(*file));
                }
            }
            Op::RemoveFolder { folder, seen } => {
                let folder = Path::new(FOLDERS[*folder]);
                if fs::remove_dir_all(self.root.join(folder)).is_ok() && *seen {
                    self.tell(folder);
                }
            }
            Op::Tag { file } => {
                let store = &self.run().store;
                let tagged = store.write(|tx| match tx.rows().resolve(&path(*file))? {
                    Some(id) => tx.add_tag(id, "kept"),
                    None => Ok(()),
                });
                tagged.unwrap();
            }
            Op::Settle => {
                self.run().indexer.wait_idle(PATIENCE);
            }
            Op::Rebuild => self.run().indexer.rebuild().unwrap(),
            Op::Restart => {
                self.stop();
                self.start();
                self.scan();
            }
            Op::Crash { after_words } => {
                let point = if *after_words {
                    CrashPoint::DerivedCommitted
                } else {
                    CrashPoint::WordsAdded
                };
                *self.run().indexer.shared.crash.lock() = Some(point);
                self.run().indexer.wait_idle(Duration::from_millis(40));
                self.stop();
                self.start();
                self.scan();
            }
        }
    }

    fn rename_any(&self, from: &Path, to: &Path, seen: bool) {
        if fs::rename(self.root.join(from), self.root.join(to)).is_ok() && seen {
            self.tell(to);
            self.tell(from);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn after_any_history_the_index_equals_a_rebuilt_one(ops in prop::collection::vec(operation(), 1..40)) {
        let mut world = World::new();
        world.start();
        ops.iter().for_each(|op| world.apply(op));
        // What nobody was told about is found by a scan.
        world.scan();
        world.settle();
        world.assert_equals_rebuilt();
    }
}
