use proptest::prelude::*;

use super::*;

const ALL: Limit = Limit {
    files: 100,
    passages_per_file: 100,
};

fn words(text: &str) -> Words {
    Words {
        any: text.split_whitespace().map(str::to_owned).collect(),
        all: Vec::new(),
    }
}

fn add(index: &LexicalIndex, file: u64, slot: u32, title: &str, text: &str) {
    let id = PassageId::new(FileId(file), slot);
    index
        .add(Entry {
            id,
            title,
            text,
            lines: (slot * 10 + 1, slot * 10 + 9),
            start: 7,
        })
        .unwrap();
}

fn found(index: &LexicalIndex, words: &Words) -> Vec<(u64, u32)> {
    let hits = index.snapshot().search(words, ALL, None).unwrap();
    hits.iter().map(|hit| (hit.id.file().0, hit.id.slot())).collect()
}

fn sample(dir: &Path) -> LexicalIndex {
    let index = LexicalIndex::open(dir, 1).unwrap();
    add(&index, 1, 0, "wings.txt", "the lift of a swept wing");
    add(&index, 1, 1, "wings.txt", "boundary layers of flat plates");
    add(&index, 2, 0, "rivers.md > Floods", "a river floods its plain");
    add(&index, 3, 0, "server.rs", "fn parseHttpHeader(line: &str)");
    index.commit(Generation(7)).unwrap();
    index
}

#[test]
fn passages_are_found_by_words_stems_titles_and_parts_of_identifiers() {
    let dir = tempfile::tempdir().unwrap();
    let index = sample(dir.path());
    assert_eq!(
        found(&index, &words("wings")),
        [(1, 0), (1, 1)],
        "in the text before in the name alone"
    );
    assert_eq!(found(&index, &words("plate")), [(1, 1)]);
    assert_eq!(found(&index, &words("flood")), [(2, 0)]);
    assert_eq!(found(&index, &words("http headers")), [(3, 0)]);
    assert_eq!(found(&index, &words("parsehttpheader")), [(3, 0)]);
    assert_eq!(found(&index, &words("the of")), []);
    assert_eq!(found(&index, &words("")), []);
}

#[test]
fn a_phrase_must_occur_in_its_order() {
    let dir = tempfile::tempdir().unwrap();
    let index = sample(dir.path());
    let phrase = |text: &str| Words {
        any: Vec::new(),
        all: vec![vec![text.to_owned()]],
    };
    assert_eq!(found(&index, &phrase("swept wing")), [(1, 0)]);
    assert_eq!(found(&index, &phrase("wing swept")), []);
    assert_eq!(found(&index, &phrase("lift of a swept wing")), [(1, 0)]);
    assert_eq!(found(&index, &phrase("http header")), [(3, 0)]);
    assert_eq!(found(&index, &phrase("parseHttpHeader")), [(3, 0)]);
    let either = Words {
        any: vec!["river".into()],
        all: vec![vec!["swept wing".into(), "flat plates".into()]],
    };
    let mut both = found(&index, &either);
    both.sort_unstable();
    assert_eq!(both, [(1, 0), (1, 1)]);
    let files = index.snapshot().files_with("floods its plain").unwrap();
    assert_eq!(files.into_iter().collect::<Vec<_>>(), [FileId(2)]);
}

#[test]
fn a_deleted_file_is_gone_after_the_commit() {
    let dir = tempfile::tempdir().unwrap();
    let index = sample(dir.path());
    let before = index.snapshot();
    index.delete_file(FileId(1)).unwrap();
    add(&index, 1, 0, "wings.txt", "nothing of that kind");
    index.commit(Generation(8)).unwrap();
    assert_eq!(index.snapshot().passages(), 3);
    assert_eq!(found(&index, &words("swept plates")), []);
    assert_eq!(found(&index, &words("kind")), [(1, 0)]);
    assert_eq!(before.passages(), 4, "a snapshot keeps what it saw");
    assert!(before.passage(PassageId::new(FileId(1), 1)).unwrap().is_some());
    assert!(
        index
            .snapshot()
            .passage(PassageId::new(FileId(1), 1))
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_deleted_passage_leaves_the_others_of_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let index = sample(dir.path());
    index.delete_passage(PassageId::new(FileId(1), 0)).unwrap();
    index.commit(Generation(8)).unwrap();
    assert_eq!(index.snapshot().passages(), 3);
    assert_eq!(found(&index, &words("swept plates")), [(1, 1)]);
    assert!(
        index
            .snapshot()
            .passage(PassageId::new(FileId(1), 0))
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_reopened_index_has_what_was_committed_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let index = sample(dir.path());
    add(&index, 9, 0, "late.txt", "uncommitted words");
    drop(index);
    let index = LexicalIndex::open(dir.path(), 1).unwrap();
    assert_eq!(index.committed().unwrap(), Some(Generation(7)));
    assert_eq!(found(&index, &words("uncommitted")), []);
    assert_eq!(found(&index, &words("river")), [(2, 0)]);
    let passage = index
        .snapshot()
        .passage(PassageId::new(FileId(1), 1))
        .unwrap()
        .unwrap();
    assert_eq!(
        (passage.text.as_str(), passage.lines),
        ("boundary layers of flat plates", (11, 19))
    );
    assert_eq!((passage.title.as_str(), passage.start), ("wings.txt", 7));
}

#[test]
fn filters_are_applied_before_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let index = LexicalIndex::open(dir.path(), 1).unwrap();
    for file in 0..2000 {
        add(
            &index,
            file,
            0,
            "",
            &format!("common word {}", "filler ".repeat(file as usize % 50)),
        );
    }
    index.commit(Generation(1)).unwrap();
    let limit = Limit {
        files: 3,
        passages_per_file: 1,
    };
    let even = |file: FileId| file.0 % 400 == 49;
    let hits = index
        .snapshot()
        .search(&words("common"), limit, Some(&even))
        .unwrap();
    assert_eq!(
        hits.iter().map(|hit| hit.id.file().0).collect::<Vec<_>>(),
        [49, 449, 849]
    );
}

#[test]
fn a_damaged_index_is_reported_not_used() {
    let dir = tempfile::tempdir().unwrap();
    drop(sample(dir.path()));
    std::fs::write(dir.path().join("meta.json"), b"{").unwrap();
    assert!(matches!(
        LexicalIndex::open(dir.path(), 1),
        Err(Error::Corrupt { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// Pruning, grouping and the filter give what sorting all hits gives.
    #[test]
    fn the_limited_answer_is_the_head_of_the_full_one(
        texts in prop::collection::vec((0u64..40, "[abc]( [abcdef]){0,8}"), 1..300),
        files in 1usize..20, per_file in 1usize..4, modulus in 1u64..4,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let index = LexicalIndex::open(dir.path(), 1).unwrap();
        for (slot, (file, text)) in texts.iter().enumerate() {
            add(&index, *file, slot as u32, "", text);
            if slot % 100 == 99 {
                index.commit(Generation(slot as u64)).unwrap();
            }
        }
        index.commit(Generation(999)).unwrap();
        let snapshot = index.snapshot();
        let query = words("b c d");
        let allowed = |file: FileId| file.0.is_multiple_of(modulus);
        let full = snapshot.search(&query, Limit { files: 1000, passages_per_file: 1000 }, None).unwrap();
        let limit = Limit { files, passages_per_file: per_file };
        let some = snapshot.search(&query, limit, Some(&allowed)).unwrap();
        let mut of_file = std::collections::HashMap::new();
        let expect: Vec<Hit> = full.into_iter().filter(|hit| allowed(hit.id.file())).filter(|hit| {
            if of_file.len() == files && !of_file.contains_key(&hit.id.file()) {
                return false;
            }
            let count = of_file.entry(hit.id.file()).or_insert(0);
            *count += 1;
            *count <= per_file
        }).collect();
        let key = |hits: &[Hit]| hits.iter().map(|h| (h.id, (h.score * 1e4) as i64)).collect::<Vec<_>>();
        prop_assert_eq!(key(&some).len(), key(&expect).len());
        for (a, b) in some.iter().zip(&expect) {
            prop_assert!((a.score - b.score).abs() < 1e-4);
        }
    }
}

#[test]
fn scores_do_not_depend_on_what_was_deleted_before() {
    let texts = |round: u64| {
        (0..40u64).map(move |file| {
            let words = ["wing", "river", "table", "green", "plate"];
            let text: Vec<&str> = (0..3 + (file + round) % 9)
                .map(|i| words[((file + round) * 7 + i * i) as usize % 5])
                .collect();
            (file, text.join(" "))
        })
    };
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (old, new) = (
        LexicalIndex::open(old.path(), 1).unwrap(),
        LexicalIndex::open(new.path(), 1).unwrap(),
    );
    for round in 0..5 {
        for (file, text) in texts(round) {
            old.delete_file(FileId(file)).unwrap();
            add(&old, file, 0, "a name", &text);
            if file % 10 == round {
                old.commit(Generation(round)).unwrap();
            }
        }
    }
    old.commit(Generation(9)).unwrap();
    for (file, text) in texts(4) {
        add(&new, file, 0, "a name", &text);
    }
    new.commit(Generation(9)).unwrap();
    let query = words("wing river name");
    let [old, new] = [old, new].map(|index| index.snapshot().search(&query, ALL, None).unwrap());
    assert_eq!(old, new);
    assert!(old.len() > 20, "{}", old.len());
}
