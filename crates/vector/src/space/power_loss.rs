//! Tests of durability: power lost at every step, errors at every step, a byte flipped in every file.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Batch, Options, Snapshot, Space, SpaceConfig};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::measure::Measure;
use crate::storage::fake::{Fake, Fault, roll};

type Contents = BTreeMap<u64, Vec<f32>>;

const OPTIONS: Options = Options {
    durable: true,
    memory_bytes: 400,
    merge_bytes_per_s: 0,
    graph_rows: 12,
    background: false,
};

/// A space, what must be in it, and what happened.
struct Workload {
    dice: u64,
    options: Options,
    /// The contents after each commit so far, the last of which may be in flight.
    history: Vec<Contents>,
    /// Commits that returned, of which the power may take nothing.
    acknowledged: usize,
}

impl Workload {
    fn new(seed: u64, options: Options) -> Workload {
        Workload {
            dice: seed,
            options,
            history: vec![Contents::new()],
            acknowledged: 0,
        }
    }

    /// Runs commits and upkeep until one fails, or `steps` are done.
    fn run(&mut self, space: &Space, steps: usize) -> Result<()> {
        for _ in 0..steps {
            match roll(&mut self.dice) % 12 {
                0 => space.checkpoint()?,
                1 => drop(space.maintain(Duration::ZERO)?),
                2 => drop(space.maintain(Duration::from_secs(60))?),
                3 if !self.options.durable => {
                    space.flush()?;
                    self.acknowledged = self.history.len() - 1;
                }
                _ => self.commit(space)?,
            }
        }
        Ok(())
    }

    fn commit(&mut self, space: &Space) -> Result<()> {
        let mut batch = Batch::new();
        let mut next = self.history.last().unwrap().clone();
        let start = roll(&mut self.dice) % 40;
        if roll(&mut self.dice).is_multiple_of(3) {
            batch.delete_range(start..start + 6);
            next.retain(|id, _| !(start..start + 6).contains(id));
        }
        for _ in 0..1 + roll(&mut self.dice) % 5 {
            let id = roll(&mut self.dice) % 40;
            let vector = vec![(roll(&mut self.dice) % 1000) as f32, self.history.len() as f32];
            batch.upsert(id, &vector);
            next.insert(id, vector);
        }
        batch.tag(self.history.len() as u64);
        self.history.push(next);
        space.apply(&batch)?;
        if self.options.durable {
            self.acknowledged = self.history.len() - 1;
        }
        Ok(())
    }
}

fn contents(snapshot: &Snapshot) -> Contents {
    let mut all = Contents::new();
    snapshot
        .for_each(|id, vector| {
            assert!(all.insert(id, vector.to_vec()).is_none());
            Ok(())
        })
        .unwrap();
    assert_eq!(all.len() as u64, snapshot.len());
    all
}

fn database(fake: &Fake, options: Options) -> Database {
    Database::open_in(Arc::new(fake.clone()), options).unwrap()
}

fn new_space(fake: &Fake, options: Options) -> Arc<Space> {
    database(fake, options)
        .create_space("s", SpaceConfig::new(2, Measure::L2))
        .unwrap()
}

/// Reopens after a power loss: what is there must be a commit that was acknowledged or a later one, whole.
fn check_after_power_loss(fake: &Fake, work: &Workload, what: &str) {
    let space = database(fake, work.options).space("s").unwrap();
    assert_eq!(space.findings(), [], "{what}");
    let seq = space.stats().seq as usize;
    assert!(
        (work.acknowledged..work.history.len()).contains(&seq),
        "{what}: commit {seq}, not {}",
        work.acknowledged
    );
    assert_eq!(
        contents(&space.snapshot()),
        work.history[seq],
        "{what}: commit {seq}"
    );
    assert_eq!(space.committed_tag(), (seq > 0).then_some(seq as u64), "{what}");

    let mut more = Workload::new(7, work.options);
    more.history = work.history[..=seq].to_vec();
    more.run(&space, 10).unwrap();
    space.flush().unwrap();
    drop(space);
    let space = database(fake, work.options).space("s").unwrap();
    assert_eq!(
        &contents(&space.snapshot()),
        more.history.last().unwrap(),
        "{what}, then written and reopened"
    );
}

fn lose_power_at_every_step(options: Options) {
    const STEPS: usize = 60;
    for seed in 0..4 {
        let fake = Fake::default();
        let space = new_space(&fake, options);
        let before = fake.steps();
        Workload::new(seed, options).run(&space, STEPS).unwrap();
        for step in 1..=fake.steps() - before {
            let fake = Fake::default();
            let space = new_space(&fake, options);
            let mut work = Workload::new(seed, options);
            fake.fail_at(step, Fault::PowerLoss, seed + step);
            // Steps whose failure does no harm, such as removing an obsolete file, fail unseen.
            let _ = work.run(&space, STEPS);
            assert!(fake.has_failed(), "seed {seed} step {step} was not reached");
            for outcome in 0..3 {
                let left = fake.lose_power(1000 * step + outcome);
                check_after_power_loss(
                    &left,
                    &work,
                    &format!("seed {seed} step {step} outcome {outcome}"),
                );
            }
        }
    }
}

#[test]
fn power_loss_at_any_step_leaves_the_last_acknowledged_commit_or_the_one_in_flight() {
    lose_power_at_every_step(OPTIONS);
}

#[test]
fn without_syncs_power_loss_leaves_a_prefix_of_the_commits() {
    lose_power_at_every_step(Options {
        durable: false,
        ..OPTIONS
    });
}

#[test]
fn an_error_at_any_step_leaves_the_space_readable_and_loses_nothing() {
    for kind in [ErrorKind::StorageFull, ErrorKind::Other] {
        for step in 1.. {
            let fake = Fake::default();
            let space = new_space(&fake, OPTIONS);
            let mut work = Workload::new(step, OPTIONS);
            fake.fail_at(step, Fault::Once(kind), step);
            let mut result = work.run(&space, 40);
            if !fake.has_failed() {
                break;
            }
            let acknowledged = &work.history[work.acknowledged];
            match result {
                // Best-effort steps, such as removing a file, may fail unseen.
                Ok(()) => {}
                Err(Error::Stopped) => {}
                Err(ref error) => {
                    if kind == ErrorKind::StorageFull
                        && !space.stopped.load(std::sync::atomic::Ordering::Relaxed)
                    {
                        assert!(matches!(error, Error::Full(_)), "step {step}: {error}");
                    }
                    assert_eq!(&contents(&space.snapshot()), acknowledged, "step {step}: {error}");
                }
            }
            if !space.stopped.load(std::sync::atomic::Ordering::Relaxed) {
                work.history.truncate(work.acknowledged + 1);
                result = work.run(&space, 20);
                assert!(
                    result.is_ok(),
                    "step {step}: unusable after the error: {result:?}"
                );
                assert_eq!(
                    &contents(&space.snapshot()),
                    work.history.last().unwrap(),
                    "step {step}"
                );
            }
            check_after_power_loss(&fake.lose_power(step), &work, &format!("{kind:?} at step {step}"));
        }
    }
}

#[test]
fn after_a_failed_sync_nothing_is_written_until_reopened() {
    let fake = Fake::default();
    let space = new_space(&fake, OPTIONS);
    space.upsert(&[(1, &[1.0, 1.0])]).unwrap();
    // A commit is a write and a sync.
    fake.fail_at(2, Fault::Once(ErrorKind::Other), 0);
    assert!(matches!(space.upsert(&[(2, &[2.0, 2.0])]), Err(Error::Io { .. })));
    let steps = fake.steps();
    assert!(matches!(space.upsert(&[(3, &[3.0, 3.0])]), Err(Error::Stopped)));
    assert!(matches!(space.checkpoint(), Err(Error::Stopped)));
    assert_eq!(fake.steps(), steps, "nothing may touch the storage");
    assert!(space.contains(1) && !space.contains(2));
    drop(space);
    database(&fake, OPTIONS)
        .space("s")
        .unwrap()
        .upsert(&[(3, &[3.0, 3.0])])
        .unwrap();
}

#[test]
fn power_loss_while_spaces_are_made_and_dropped_leaves_a_database() {
    let script = |database: &Database| -> Result<()> {
        database
            .create_space("a", SpaceConfig::new(2, Measure::L2))?
            .upsert(&[(1, &[1.0, 1.0])])?;
        database.create_space("b", SpaceConfig::new(3, Measure::Dot))?;
        database.rename_space("b", "a")?;
        database.create_space("c", SpaceConfig::new(1, Measure::L2))?;
        database.drop_space("a")
    };
    let names = |database: &Database| {
        let spaces = database.spaces();
        assert!(spaces.iter().all(|space| space.problem.is_none()), "{spaces:?}");
        spaces
            .iter()
            .map(|space| format!("{}{}", space.name, space.config.unwrap().dim))
            .collect::<Vec<_>>()
            .join(" ")
    };
    for step in 1.. {
        let fake = Fake::default();
        let open = database(&fake, OPTIONS);
        fake.fail_at(step, Fault::PowerLoss, step);
        let outcome = script(&open);
        for seed in 0..4 {
            let left = database(&fake.lose_power(seed), OPTIONS);
            let names = names(&left);
            assert!(
                ["", "a2", "a2 b3", "a3", "a3 c1", "c1"].contains(&names.as_str()),
                "step {step}: {names}"
            );
            left.create_space("new", SpaceConfig::new(1, Measure::L2))
                .unwrap();
        }
        if outcome.is_ok() && !fake.has_failed() {
            return;
        }
    }
}

/// A database with a segment, its codes, and a journal that has not been flushed.
pub(super) fn sample() -> (Fake, Contents) {
    let fake = Fake::default();
    let options = Options {
        memory_bytes: 1 << 20,
        ..OPTIONS
    };
    let space = database(&fake, options)
        .create_space("s", SpaceConfig::new(3, Measure::L2))
        .unwrap();
    let vector = |id: u64| vec![id as f32, (id * id % 97) as f32, -1.0];
    for ids in [0..300, 300..600] {
        let mut batch = Batch::new();
        for id in ids {
            batch.upsert(id, &vector(id));
        }
        space.apply(&batch).unwrap();
    }
    space.checkpoint().unwrap();
    space
        .apply(Batch::new().upsert(1000, &vector(1000)).delete(5))
        .unwrap();
    space.upsert(&[(1001, &vector(1001))]).unwrap();
    (fake, contents(&space.snapshot()))
}

#[test]
fn a_flipped_byte_of_any_file_is_detected_and_never_served() {
    let (fake, whole) = sample();
    for (path, bytes) in fake.files() {
        if path == Path::new("LOCK") {
            continue;
        }
        let mut dice = 1;
        for at in 0..bytes.len() {
            // Every byte of the structures, a sample of the long columns.
            if bytes.len() > 6000
                && at > 4600
                && at + 200 < bytes.len()
                && !roll(&mut dice).is_multiple_of(40)
            {
                continue;
            }
            let mask = 1 << (roll(&mut dice) % 8);
            let flipped = fake.with_flipped(&path, at, mask);
            let what = format!("{} byte {at}", path.display());
            check_flipped(&flipped, &whole, &path, &what);
        }
    }
}

#[test]
fn a_flipped_byte_of_a_graph_is_detected_and_the_graph_built_again() {
    let options = Options {
        graph_rows: 100,
        ..OPTIONS
    };
    let fake = Fake::default();
    let space = database(&fake, options)
        .create_space("s", SpaceConfig::new(3, Measure::L2))
        .unwrap();
    let vector = |id: u64| vec![id as f32, (id * id % 97) as f32, -1.0];
    let mut batch = Batch::new();
    for id in 0..150 {
        batch.upsert(id, &vector(id));
    }
    space.apply(&batch).unwrap();
    space.checkpoint().unwrap();
    while space.maintain(Duration::from_secs(1)).unwrap() {}
    assert_eq!((space.stats().graph_rows, space.verify()), (150, Vec::new()));
    let is_graph = |path: &Path| path.extension().is_some_and(|e| e == "graph");
    let (path, bytes) = fake.files().into_iter().find(|(path, _)| is_graph(path)).unwrap();
    let mut dice = 1;
    for at in (0..bytes.len()).filter(|&at| at < 200 || at + 200 > bytes.len() || at.is_multiple_of(487)) {
        let flipped = fake.with_flipped(&path, at, 1 << (roll(&mut dice) % 8));
        let database = Database::open_in(Arc::new(flipped.clone()), options).unwrap();
        let space = database.space("s").unwrap();
        let named =
            |findings: &[super::Finding]| findings.iter().any(|f| f.file == path.display().to_string());
        assert!(named(&space.verify()), "byte {at}");
        while space.maintain(Duration::from_secs(1)).unwrap() {}
        assert!(named(&space.findings()), "byte {at}");
        assert_eq!(space.stats().graph_rows, 150, "byte {at}: built again");
        let params = super::SearchParams::new(1).index(super::Index::Graph);
        assert_eq!(space.search(&vector(77), &params).unwrap()[0].id, 77, "byte {at}");
        drop((space, database));
        let again = Database::open_in(Arc::new(flipped), options).unwrap();
        assert_eq!(again.space("s").unwrap().verify(), [], "byte {at}");
    }
}

/// Options with which nothing is indexed: each of thousands of damaged copies is kept up.
const FLAT: Options = Options {
    graph_rows: usize::MAX,
    ..OPTIONS
};

fn check_flipped(flipped: &Fake, whole: &Contents, path: &Path, what: &str) {
    let names_it = |error: &Error| match error {
        Error::Corrupt { .. } => true,
        other => panic!("{what}: {other}"),
    };
    let database = match Database::open_in(Arc::new(flipped.clone()), FLAT) {
        Ok(database) => database,
        Err(error) => {
            return assert!(
                names_it(&error) && path == Path::new("CATALOG"),
                "{what}: {error}"
            );
        }
    };
    let space = match database.space("s") {
        Ok(space) => space,
        Err(error) => return assert!(names_it(&error) && path.ends_with("MANIFEST"), "{what}: {error}"),
    };
    let findings = space.verify();
    assert!(
        findings
            .iter()
            .any(|finding| finding.file == path.display().to_string()),
        "{what}: {findings:?}"
    );
    // Rows may be missing, and updates of the journal too, but what is served was written.
    for (id, vector) in contents_as_served(&space) {
        assert!(
            whole.get(&id) == Some(&vector) || id == 5,
            "{what}: id {id} is {vector:?}"
        );
    }
    space
        .search(&[1.0, 2.0, 3.0], &super::SearchParams::new(5))
        .unwrap();
    space.upsert(&[(7, &[0.0, 0.0, 0.0])]).unwrap();
    space.checkpoint().unwrap();
    while space.maintain(Duration::from_secs(1)).unwrap() {}
    drop((space, database));
    let again = Database::open_in(Arc::new(flipped.clone()), FLAT)
        .unwrap()
        .space("s")
        .unwrap();
    assert_eq!(again.verify(), [], "{what}: still there after upkeep");
    assert!(again.contains(7));
}

fn contents_as_served(space: &Space) -> Contents {
    let mut all = Contents::new();
    space
        .snapshot()
        .for_each(|id, vector| {
            all.insert(id, vector.to_vec());
            Ok(())
        })
        .unwrap();
    all
}
