//! Random operations of several clients on a mount - files, folders, hard links, modes, vectors, tags, metadata and
//! relations, some in transactions, strict ones among them, and some not, commits, rebases, rollbacks, kills of the daemon - beside a model in memory: every commit succeeds
//! or is refused as the model says, and everything that can be seen is what the model has. Where FUSE or root is missing
//! the tests say so and pass.
#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use killable::Mounted;
use model::{At, File, Id, Node, ROOT, Tree, Txn};
use rustix::fs::XattrFlags;

mod killable;
mod model;

/// Clients that work in transactions; others work outside.
const TRANSACTIONS: usize = 3;
/// Files outside of the model to which relations lead.
const TARGETS: u64 = 4;

const VECTOR: &str = "user.vexfs.vec.m";
const RELATION: &str = "user.vexfs.rel.cites";
/// What can be told of a file.
const TOLD: [&str; 5] = [
    "user.vexfs.tag.a",
    "user.vexfs.tag.b",
    "user.vexfs.meta.k",
    VECTOR,
    RELATION,
];

#[test]
fn clients_see_what_the_model_says() {
    for seed in 1..=4 {
        run(seed, 250);
    }
}

#[test]
#[ignore = "minutes: just model-txn"]
fn clients_see_what_the_model_says_for_long() {
    let seeds = std::env::var("VEXFS_SEEDS").map_or(100, |seeds| seeds.parse().unwrap());
    for seed in 1000..1000 + seeds {
        run(seed, 600);
    }
}

fn run(seed: u64, steps: u32) {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let files: Vec<_> = (0..TARGETS).map(|n| format!("targets/{n}")).collect();
    let files: Vec<_> = files.iter().map(|path| (path.as_str(), "target")).collect();
    let Some(mounted) = Mounted::start(&files) else {
        return;
    };
    let mut case = Case {
        mounted,
        tree: Tree::new(),
        txns: Default::default(),
        random: Random(seed),
        names: 0,
        log: Vec::new(),
        committed: 0,
        refused: 0,
        rebased: 0,
    };
    for dir in ["a", "b", "c"] {
        let made = case.tree.make((ROOT, dir.into()), Node::Dir(BTreeMap::new()));
        fs::create_dir(case.mounted.at(dir)).unwrap();
        for _ in 0..3 {
            let name = case.fresh_name();
            let path = format!("{dir}/{name}");
            case.create(&path, (made, name));
        }
    }
    for step in 0..steps {
        case.step();
        if step % 10 == 0 {
            case.compare();
        }
    }
    case.compare();
    println!(
        "seed {seed}: {} commits, {} refused, {} rebased",
        case.committed, case.refused, case.rebased
    );
    assert!(case.committed > 0);
}

fn mode_bits(mode: u32) -> fs::Permissions {
    fs::Permissions::from_mode(mode)
}

/// SplitMix64: the same numbers for the same seed on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len() as u64) as usize].clone())
    }
}

/// A path with its place and its node.
type Found = (String, (At, Id));

struct Case {
    mounted: Mounted,
    tree: Tree,
    txns: [Option<Txn>; TRANSACTIONS],
    random: Random,
    names: u64,
    log: Vec<String>,
    committed: u32,
    refused: u32,
    rebased: u32,
}

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log.join("\n"));
        }
    }
}

impl Case {
    fn step(&mut self) {
        let client = self.random.below(TRANSACTIONS as u64 + 2) as usize;
        match self.txns.get_mut(client).map(Option::take) {
            None => self.outside(),
            Some(None) => {
                self.note(client, "begin");
                fs::create_dir(self.txn_path(client)).unwrap();
                let strict = self.random.below(3) == 0;
                if strict {
                    self.note(client, "is strict");
                    self.set_on_txn(client, "user.vexfs.strict", b"1");
                }
                self.txns[client] = Some(Txn::begin(&self.tree, strict));
            }
            Some(Some(txn)) => self.inside(client, txn),
        }
        if self.random.below(120) == 0 {
            self.log.push("the daemon is killed".into());
            self.mounted.crash();
            self.txns = Default::default();
        }
    }

    fn note(&mut self, client: usize, what: &str) {
        self.log.push(format!("{client}: {what}"));
    }

    fn txn_path(&self, client: usize) -> PathBuf {
        self.mounted.at(&format!(".vexfs/txn/{client}"))
    }

    fn fresh_name(&mut self) -> String {
        self.names += 1;
        format!("n{}", self.names)
    }

    fn set_on_txn(&self, client: usize, name: &str, value: &[u8]) {
        rustix::fs::setxattr(self.txn_path(client), name, value, XattrFlags::empty()).unwrap();
    }

    fn mode(&mut self) -> u32 {
        0o400 | self.random.below(0o400) as u32
    }

    fn content(&mut self) -> String {
        let words = self.random.below(40) as usize;
        format!("{} {}", self.random.below(1 << 30), "word ".repeat(words))
    }

    fn value(&mut self, name: &str) -> Vec<u8> {
        let number = self.random.below(1 << 20);
        match name {
            VECTOR => [number as f32, 1.0].map(f32::to_le_bytes).concat(),
            RELATION => format!("targets/{}", number % TARGETS).into_bytes(),
            name if name.contains(".tag.") => b"1".to_vec(),
            _ => number.to_string().into_bytes(),
        }
    }

    fn create(&mut self, path: &str, at: At) {
        let content = self.content();
        fs::write(self.mounted.at(path), &content).unwrap();
        let file = File::new(content);
        self.tree.make(at, Node::File(file));
    }

    /// An operation of somebody who is in no transaction.
    fn outside(&mut self) {
        let paths: Vec<Found> = self.tree.paths().into_iter().collect();
        let is_dir = |found: &&Found| matches!(self.tree.nodes[&found.1.1], Node::Dir(_));
        let (dirs, files): (Vec<&Found>, Vec<&Found>) = paths.iter().partition(is_dir);
        let (dirs, files): (Vec<Found>, Vec<Found>) = (
            dirs.into_iter().cloned().collect(),
            files.into_iter().cloned().collect(),
        );
        let wanted: Vec<At> = self.txns.iter().flatten().flat_map(Txn::wanted).collect();
        let new = self.new_place(&dirs, &wanted);
        match self.random.below(13) {
            11 => {
                let Some((path, (_, id))) = self.random.pick(&files) else {
                    return;
                };
                let mode = self.mode();
                self.log.push(format!("chmod {mode:o} {path}"));
                fs::set_permissions(self.mounted.at(&path), mode_bits(mode)).unwrap();
                self.tree.chmod(id, mode);
            }
            12 => {
                let untold = |found: &Found| self.tree.file(found.1.1).unwrap().told.is_empty();
                let files: Vec<_> = files.into_iter().filter(untold).collect();
                let Some((path, (_, id))) = self.random.pick(&files) else {
                    return;
                };
                let (to, at) = new;
                self.log.push(format!("link {path} {to}"));
                fs::hard_link(self.mounted.at(&path), self.mounted.at(&to)).unwrap();
                self.tree.link(id, at);
            }
            0..3 => {
                let Some((path, (_, id))) = self.random.pick(&files) else {
                    return;
                };
                let content = self.content();
                self.log.push(format!("write {path}"));
                fs::write(self.mounted.at(&path), &content).unwrap();
                self.tree.write(id, content);
            }
            3 => {
                let (path, at) = new;
                self.log.push(format!("create {path}"));
                self.create(&path, at);
            }
            4 => {
                let (path, at) = new;
                self.log.push(format!("mkdir {path}"));
                fs::create_dir(self.mounted.at(&path)).unwrap();
                self.tree.make(at, Node::Dir(BTreeMap::new()));
            }
            5 => {
                let all = [files, dirs].concat();
                let Some((path, (from, _))) = self.random.pick(&all) else {
                    return;
                };
                let (to, at) = new;
                if to.starts_with(&format!("{path}/")) {
                    return;
                }
                self.log.push(format!("rename {path} {to}"));
                fs::rename(self.mounted.at(&path), self.mounted.at(&to)).unwrap();
                self.tree.rename(&from, at);
            }
            6 => {
                // What comes back under a name that was removed would have what was told of the first.
                let keep = |found: &Found| !wanted.contains(&found.1.0);
                let files: Vec<_> = files.into_iter().filter(keep).collect();
                let Some((path, (at, _))) = self.random.pick(&files) else {
                    return;
                };
                self.log.push(format!("remove {path}"));
                fs::remove_file(self.mounted.at(&path)).unwrap();
                self.tree.remove(&at);
            }
            _ => {
                let single = |found: &Found| self.tree.links(found.1.1) == 1;
                let files: Vec<_> = files.into_iter().filter(single).collect();
                let Some((path, (_, id))) = self.random.pick(&files) else {
                    return;
                };
                let name = self.random.pick(&TOLD).unwrap();
                let value = self.change_of(name, self.tree.file(id).unwrap().told.contains_key(name));
                self.log.push(format!("tell {path} {name} {value:?}"));
                self.tell(&path, name, value.as_deref());
                self.tree.tell(id, name, value);
            }
        }
    }

    /// A name that is free, now and then one that a transaction is about to take.
    fn new_place(&mut self, dirs: &[Found], wanted: &[At]) -> (String, At) {
        if self.random.below(4) == 0
            && let Some((dir, name)) = self.random.pick(wanted)
            && !self.tree.was(&name)
            && let Some((path, _)) = dirs.iter().find(|(_, (_, id))| *id == dir)
        {
            return (format!("{path}/{name}"), (dir, name));
        }
        let name = self.fresh_name();
        match self.random.pick(dirs) {
            Some((path, (_, dir))) => (format!("{path}/{name}"), (dir, name)),
            None => (name.clone(), (ROOT, name)),
        }
    }

    fn change_of(&mut self, name: &str, is_set: bool) -> Option<Vec<u8>> {
        match is_set && self.random.below(4) == 0 {
            true => None,
            false => Some(self.value(name)),
        }
    }

    fn tell(&self, path: &str, name: &str, value: Option<&[u8]>) {
        let at = self.mounted.at(path);
        match value {
            Some(value) => rustix::fs::setxattr(&at, name, value, XattrFlags::empty()).unwrap(),
            None => rustix::fs::removexattr(&at, name).unwrap(),
        }
    }

    /// An operation of somebody in a transaction, or its end.
    fn inside(&mut self, client: usize, mut txn: Txn) {
        let steady: Vec<Found> = txn.steady(&self.tree).into_iter().collect();
        let is_dir = |found: &&Found| txn.is_dir(&self.tree, found.1.1);
        let (dirs, files): (Vec<&Found>, Vec<&Found>) = steady.iter().partition(is_dir);
        let (dirs, files): (Vec<Found>, Vec<Found>) = (
            dirs.into_iter().cloned().collect(),
            files.into_iter().cloned().collect(),
        );
        let inside = |path: &str| format!(".vexfs/txn/{client}/root/{path}");
        let (to, place) = self.new_place(&dirs, &[]);
        match self.random.below(20) {
            16 => {
                if let Some((path, (at, id))) = self.random.pick(&files) {
                    let mode = self.mode();
                    self.note(client, &format!("chmod {mode:o} {path}"));
                    fs::set_permissions(self.mounted.at(&inside(&path)), mode_bits(mode)).unwrap();
                    txn.chmod(&self.tree, &at, id, mode);
                }
            }
            17 => {
                let untold = |(_, (_, id)): &Found| {
                    let told = |name: &&str| txn.told(&self.tree, *id, name).is_some();
                    !TOLD.iter().any(told) && !txn.tells(*id)
                };
                let files: Vec<_> = files.into_iter().filter(untold).collect();
                if let Some((path, (at, id))) = self.random.pick(&files) {
                    self.note(client, &format!("link {path} {to}"));
                    fs::hard_link(self.mounted.at(&inside(&path)), self.mounted.at(&inside(&to))).unwrap();
                    txn.link(&self.tree, &at, id, place);
                }
            }
            18..20 => {
                if let Some((path, (_, id))) = self.random.pick(&files) {
                    self.note(client, &format!("read {path}"));
                    assert_eq!(
                        self.mounted.read(&inside(&path)),
                        txn.content(&self.tree, id),
                        "{path}"
                    );
                    txn.read(&self.tree, id);
                }
            }
            0..4 => {
                if let Some((path, (at, id))) = self.random.pick(&files) {
                    let content = self.content();
                    self.note(client, &format!("write {path}"));
                    fs::write(self.mounted.at(&inside(&path)), &content).unwrap();
                    txn.write(&self.tree, &at, id, content);
                }
            }
            4 => {
                let content = self.content();
                self.note(client, &format!("create {to}"));
                fs::write(self.mounted.at(&inside(&to)), &content).unwrap();
                txn.make(&mut self.tree, place, Some(content));
            }
            5 => {
                self.note(client, &format!("mkdir {to}"));
                fs::create_dir(self.mounted.at(&inside(&to))).unwrap();
                txn.make(&mut self.tree, place, None);
            }
            6..8 => {
                let all = [files, dirs].concat();
                if let Some((path, (at, id))) = self.random.pick(&all)
                    && !to.starts_with(&format!("{path}/"))
                {
                    self.note(client, &format!("rename {path} {to}"));
                    fs::rename(self.mounted.at(&inside(&path)), self.mounted.at(&inside(&to))).unwrap();
                    txn.rename(&self.tree, &at, id, place);
                }
            }
            8 => {
                if let Some((path, (at, id))) = self.random.pick(&files) {
                    self.note(client, &format!("remove {path}"));
                    fs::remove_file(self.mounted.at(&inside(&path))).unwrap();
                    txn.remove(&self.tree, &at, id);
                }
            }
            9 => {
                let empty = dirs
                    .into_iter()
                    .filter(|(_, (_, id))| txn.is_empty(&self.tree, *id));
                let empty: Vec<_> = empty.collect();
                if let Some((path, (at, id))) = self.random.pick(&empty) {
                    self.note(client, &format!("rmdir {path}"));
                    fs::remove_dir(self.mounted.at(&inside(&path))).unwrap();
                    txn.remove(&self.tree, &at, id);
                }
            }
            10..13 => {
                let single = |found: &Found| txn.links(&self.tree, found.1.1) == 1;
                let files: Vec<_> = files.into_iter().filter(single).collect();
                if let Some((path, (at, id))) = self.random.pick(&files) {
                    let name = self.random.pick(&TOLD).unwrap();
                    let value = self.change_of(name, txn.told(&self.tree, id, name).is_some());
                    self.note(client, &format!("tell {path} {name} {value:?}"));
                    self.tell(&inside(&path), name, value.as_deref());
                    txn.tell(&self.tree, &at, id, (name, name == VECTOR), value);
                }
            }
            13 => {
                self.note(client, "abort");
                return fs::remove_dir(self.txn_path(client)).unwrap();
            }
            14 => return self.commit(client, txn),
            _ => self.compare_inside(client, &txn),
        }
        self.txns[client] = Some(txn);
    }

    fn commit(&mut self, client: usize, txn: Txn) {
        self.compare_inside(client, &txn);
        let expected = txn.conflicts(&self.tree);
        self.note(
            client,
            &format!("commit; the model has in conflict: {expected:?}"),
        );
        let done = self.mounted.at(&format!(".vexfs/txn/@committed/{client}"));
        let outcome = fs::rename(self.txn_path(client), done);
        let listed = fs::read_to_string(self.txn_path(client).join("conflicts")).unwrap_or_default();
        assert_eq!(
            outcome.as_ref().err().and_then(std::io::Error::raw_os_error),
            (!expected.is_empty()).then_some(125), // ECANCELED
            "{outcome:?} {listed:?}"
        );
        if expected.is_empty() {
            txn.commit(&mut self.tree);
            self.committed += 1;
            return self.compare();
        }
        self.refused += 1;
        assert!(!listed.is_empty());
        if let Some(rebased) = txn.rebased(&self.tree) {
            self.note(client, "rebase");
            self.rebased += 1;
            self.set_on_txn(client, "user.vexfs.rebase", b"ours");
            return self.commit(client, rebased);
        }
        fs::remove_dir(self.txn_path(client)).unwrap();
    }

    /// What a transaction changed can be seen inside of it.
    fn compare_inside(&self, client: usize, txn: &Txn) {
        for (path, (_, id)) in txn.steady(&self.tree) {
            let inside = format!(".vexfs/txn/{client}/root/{path}");
            if let Some(content) = txn.files.get(&id) {
                assert_eq!(self.mounted.read(&inside), *content, "{path} inside");
                self.compare_mode(&inside, txn.mode(&self.tree, id));
                self.compare_told(&inside, |name| txn.told(&self.tree, id, name));
            }
        }
    }

    fn compare_mode(&self, path: &str, expected: u32) {
        let mode = fs::metadata(self.mounted.at(path)).unwrap().mode() & 0o7777;
        assert_eq!(mode, expected, "the mode of {path}: {mode:o}");
    }

    fn compare_told(&self, path: &str, expected: impl Fn(&str) -> Option<Vec<u8>>) {
        for name in TOLD {
            assert_eq!(self.mounted.xattr(path, name), expected(name), "{name} of {path}");
        }
    }

    /// Everything that is committed, and nothing else, can be seen outside.
    fn compare(&self) {
        let expected = self.tree.paths();
        let mut found = self.walk("");
        found.retain(|path| !path.starts_with("targets"));
        found.sort();
        assert_eq!(found, expected.keys().cloned().collect::<Vec<_>>());
        for (path, (_, id)) in expected {
            if let Some(file) = self.tree.file(id) {
                assert_eq!(self.mounted.read(&path), file.content, "{path}");
                self.compare_mode(&path, file.mode);
                let links = fs::metadata(self.mounted.at(&path)).unwrap().nlink();
                assert_eq!(links, self.tree.links(id) as u64, "links of {path}");
                self.compare_told(&path, |name| file.told.get(name).cloned());
            }
        }
    }

    fn walk(&self, dir: &str) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.mounted.at(dir)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = match dir.is_empty() {
                true => name,
                false => format!("{dir}/{name}"),
            };
            if entry.file_type().unwrap().is_dir() {
                found.extend(self.walk(&path));
            }
            found.push(path);
        }
        found
    }
}
