//! Searches that run while a transaction commits. Where FUSE or root is missing the tests say so and pass.
#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use killable::Mounted;

mod killable;

/// Files that each commit changes.
const FILES: usize = 150;
/// Commits.
const ROUNDS: u32 = 8;

/// How many files a search finds by the tag of a round.
fn tagged(m: &Mounted, round: u32) -> usize {
    let answer = fs::read_to_string(m.at(&format!(".vexfs/search/@k=1000/tag:r{round}/results.jsonl")));
    answer.unwrap().lines().count()
}

fn round_of(m: &Mounted, file: usize) -> u32 {
    let text = m.read(&format!("d/f{file}.md"));
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_search_during_a_commit_finds_all_that_was_told_or_nothing_and_agrees_with_the_files() {
    let names: Vec<_> = (0..FILES).map(|n| format!("d/f{n}.md")).collect();
    let files: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), "round 0 of it\n"))
        .collect();
    let Some(m) = Mounted::indexed(&files) else { return };
    m.sh("vexfs search --wait=60 round > /dev/null");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..2usize)
            .map(|client| {
                let (m, done, names) = (&m, &done, &names);
                scope.spawn(move || {
                    let (mut next, mut asked) = (1, 0);
                    let mut file = client;
                    while !done.load(Ordering::Relaxed) {
                        file = (file + 7) % FILES;
                        // A file that is new is followed by answers that are.
                        let seen = round_of(m, file);
                        if seen > 0 {
                            assert_eq!(tagged(m, seen), FILES, "{} is of round {seen}", names[file]);
                        }
                        let found = tagged(m, next);
                        assert!(found == 0 || found == FILES, "{found} files of round {next}");
                        if found > 0 {
                            // An answer that is new is followed by files that are.
                            let behind: Vec<_> = (0..FILES).filter(|n| round_of(m, *n) < next).collect();
                            assert!(behind.is_empty(), "round {next}: {behind:?} are still old");
                            next += 1;
                        }
                        asked += 1;
                    }
                    asked
                })
            })
            .collect();
        for round in 1..=ROUNDS {
            m.sh("mkdir .vexfs/txn/t");
            m.sh(&format!(
                "cd .vexfs/txn/t/root/d; for f in *; do echo round {round} of it > $f; done"
            ));
            for name in &names {
                let path = format!(".vexfs/txn/t/root/{name}");
                m.set_xattr(&path, &format!("user.vexfs.tag.r{round}"), b"");
            }
            assert_eq!(tagged(&m, round), 0, "nothing is seen before");
            fs::rename(m.at(".vexfs/txn/t"), m.at(".vexfs/txn/@committed/t")).unwrap();
            assert_eq!(
                tagged(&m, round),
                FILES,
                "all is seen when the commit has returned"
            );
        }
        done.store(true, Ordering::Relaxed);
        for client in clients {
            assert!(client.join().unwrap() > 0);
        }
    });
}
