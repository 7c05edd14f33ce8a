//! A process that is killed while it writes loses nothing that it was told is done.
//!
//! The writer is this test binary itself, started again with a directory in its environment. Commit n is a function of
//! n, so that the checker knows the contents after every commit.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests fail their test, too"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use vexfs_vector::{Batch, Database, Error, Measure, Options, SpaceConfig};

const DIRECTORY: &str = "VEXFS_KILL_TEST_DIRECTORY";
const IDS: u64 = 300;

fn options() -> Options {
    // Small, so that flushes and merges are met by the kill as often as commits.
    Options {
        memory_bytes: 6000,
        graph_rows: 100,
        ..Options::default()
    }
}

fn roll(dice: &mut u64) -> u64 {
    *dice = dice
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *dice >> 33
}

/// Applies commit `seq` to the model and returns it.
fn commit(seq: u64, model: &mut BTreeMap<u64, Vec<f32>>) -> Batch {
    let (mut dice, mut batch) = (seq, Batch::new());
    if roll(&mut dice).is_multiple_of(4) {
        let start = roll(&mut dice) % IDS;
        batch.delete_range(start..start + 20);
        model.retain(|id, _| !(start..start + 20).contains(id));
    }
    for _ in 0..1 + roll(&mut dice) % 6 {
        let id = roll(&mut dice) % IDS;
        let vector = vec![seq as f32, roll(&mut dice) as f32, id as f32];
        batch.upsert(id, &vector);
        model.insert(id, vector);
    }
    batch.tag(seq);
    batch
}

#[test]
fn writer() {
    let Some(dir) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let space = Database::open(Path::new(&dir), options()).map(|d| (d.space("s").unwrap(), d));
    let (space, _database) = space.unwrap();
    let mut model = BTreeMap::new();
    (1..=space.stats().seq).for_each(|seq| drop(commit(seq, &mut model)));
    for seq in space.stats().seq + 1.. {
        let done = space.apply(&commit(seq, &mut model)).unwrap();
        assert_eq!(done.seq, seq);
        println!("done {seq}");
        std::io::stdout().flush().unwrap();
    }
}

/// Starts a writer, kills it after a while, and returns the last commit that it reported.
fn write_and_kill(dir: &Path, after: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["writer", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reader = std::thread::spawn(move || {
        let report = |line: String| line.rsplit_once("done ")?.1.parse::<u64>().ok();
        lines.map_while(Result::ok).filter_map(report).last().unwrap_or(0)
    });
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

fn kill_writers(rounds: u64) {
    let dir = tempfile::tempdir().unwrap();
    Database::open(dir.path(), options())
        .unwrap()
        .create_space("s", SpaceConfig::new(3, Measure::L2))
        .unwrap();
    let (mut dice, mut model, mut reached) = (rounds, BTreeMap::new(), 0);
    for round in 0..rounds {
        let acknowledged = write_and_kill(dir.path(), Duration::from_millis(20 + roll(&mut dice) % 120));
        let database = Database::open(
            dir.path(),
            Options {
                background: false,
                ..options()
            },
        )
        .unwrap();
        let space = database.space("s").unwrap();
        let seq = space.stats().seq;
        assert!(
            seq >= acknowledged.max(reached),
            "round {round}: {seq} after {acknowledged} was acknowledged"
        );
        assert!(
            seq <= acknowledged.max(reached) + 1,
            "round {round}: more than the one in flight"
        );
        (reached + 1..=seq).for_each(|seq| drop(commit(seq, &mut model)));
        reached = seq;
        let mut found = BTreeMap::new();
        space
            .snapshot()
            .for_each(|id, vector| {
                found.insert(id, vector.to_vec());
                Ok::<(), Error>(())
            })
            .unwrap();
        assert_eq!(found, model, "round {round}, commit {seq}");
        assert_eq!(space.verify(), [], "round {round}");
        assert_eq!(space.committed_tag(), (seq > 0).then_some(seq));
    }
    assert!(
        reached > rounds,
        "the writers made {reached} commits in {rounds} rounds"
    );
}

#[test]
fn killed_writers_lose_nothing() {
    kill_writers(12);
}

#[test]
#[ignore = "a minute; `just kill-vectors`"]
fn two_hundred_killed_writers_lose_nothing() {
    kill_writers(200);
}
