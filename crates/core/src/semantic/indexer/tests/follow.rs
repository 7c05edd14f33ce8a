//! Changes are followed: through events, behind the mount, and across a restart.

use super::*;
use crate::store::file::ROOT;

#[test]
fn an_edit_is_found_and_only_its_passages_are_embedded_anew() {
    let paragraph = |word: &str| {
        format!(
            "{}\n\n",
            format!("The {word} stands in this paragraph. ").repeat(12)
        )
    };
    let text = |last: &str| ["apple", "birch", "cedar", last].map(paragraph).concat();
    let world = World::with(&[("trees.txt", &text("dogwood"))]);
    let slots = |world: &World| {
        let id = world.id("trees.txt");
        let passages = world.run().store.read(|rows| rows.passages(id)).unwrap();
        passages
            .known()
            .iter()
            .map(|row| (row.hash, row.slot))
            .collect::<BTreeMap<_, _>>()
    };
    let before = slots(&world);
    world.edit("trees.txt", &text("elm"));
    assert!(world.run().indexer.pending() > 0);
    world.settle();
    let after = slots(&world);
    assert_eq!(world.find("elm"), ["trees.txt"]);
    assert_eq!(world.find("dogwood"), Vec::<String>::new());
    let kept = before
        .iter()
        .filter(|(hash, slot)| after.get(*hash) == Some(slot))
        .count();
    assert!(
        kept >= 2 && kept < before.len(),
        "{kept} of {} passages kept",
        before.len()
    );
    world.assert_equals_rebuilt();
}

#[test]
fn names_come_go_and_move_with_their_content() {
    let world = World::with(&[("a/one.txt", "first words"), ("b/two.txt", "second words")]);
    let id = world.id("a/one.txt");
    world.create("a/new.txt", "third words");
    world.settle();
    assert_eq!(world.find("words").len(), 3);
    world.forget_youth();
    let generation = world.run().store.generation();
    world.rename("a", "c");
    world.settle();
    assert_eq!(world.find("first"), ["c/one.txt"]);
    assert_eq!(world.id("c/one.txt"), id);
    assert_eq!(world.run().store.generation().0, generation.0 + 1, "one commit");
    world.rename("c/one.txt", "b/uno.txt");
    world.settle();
    assert_eq!(world.id("b/uno.txt"), id);
    fs::remove_file(world.path("b/two.txt")).unwrap();
    world.name_changed("b/two.txt");
    world.settle();
    assert_eq!(world.find("second"), Vec::<String>::new());
    world.assert_equals_rebuilt();
}

#[test]
fn a_hard_link_is_embedded_once_and_found_by_both_names() {
    let world = World::with(&[("a.txt", "linked words")]);
    fs::hard_link(world.path("a.txt"), world.path("b.txt")).unwrap();
    world.name_changed("b.txt");
    world.settle();
    assert_eq!(world.find("linked"), ["a.txt", "b.txt"]);
    assert_eq!(world.run().indexer.status().files, 1);
    fs::remove_file(world.path("a.txt")).unwrap();
    world.name_changed("a.txt");
    world.settle();
    assert_eq!(world.find("linked"), ["b.txt"]);
    world.assert_equals_rebuilt();
}

#[test]
fn an_editors_save_by_rename_keeps_tags_and_finds_the_new_text() {
    let world = World::with(&[("a.txt", "old words")]);
    let id = world.id("a.txt");
    world.run().store.write(|tx| tx.add_tag(id, "mine")).unwrap();
    world.create(".a.txt.swp", "new words");
    world.rename(".a.txt.swp", "a.txt");
    world.settle();
    assert_eq!(world.id("a.txt"), id);
    assert_eq!(world.run().store.read(|rows| rows.tags(id)).unwrap(), ["mine"]);
    assert_eq!(
        (world.find("old"), world.find("new")),
        (vec![], vec!["a.txt".to_owned()])
    );
    world.assert_equals_rebuilt();
}

#[test]
fn what_changed_while_nobody_watched_is_found_by_the_scan() {
    let mut world = World::with(&[
        ("stay.txt", "staying words"),
        ("edit.txt", "old words"),
        ("gone.txt", "lost words"),
        ("from/move.txt", "moving words"),
        ("swap.txt", "swapped words"),
    ]);
    let (moved, swapped) = (world.id("from/move.txt"), world.id("swap.txt"));
    world.run().store.write(|tx| tx.add_tag(swapped, "mine")).unwrap();
    world.stop();
    world.write("edit.txt", "newer words");
    fs::remove_file(world.path("gone.txt")).unwrap();
    fs::rename(world.path("from"), world.path("to")).unwrap();
    // A new file takes the name of one that moved elsewhere: the tag goes where the file went.
    fs::rename(world.path("swap.txt"), world.path("to/zzz.txt")).unwrap();
    world.write("swap.txt", "another file");
    world.start();
    world.scan();
    world.settle();
    assert_eq!(world.find("newer"), ["edit.txt"]);
    assert_eq!(world.find("lost"), Vec::<String>::new());
    assert_eq!(
        (world.id("to/move.txt"), world.id("to/zzz.txt")),
        (moved, swapped)
    );
    assert_ne!(world.id("swap.txt"), swapped);
    world.assert_equals_rebuilt();
}

#[test]
fn a_restored_copy_of_the_tree_keeps_tags_and_embeds_nothing() {
    let mut world = World::with(&[("d/a.txt", "some words"), ("b.txt", "other words")]);
    let id = world.id("d/a.txt");
    world.run().store.write(|tx| tx.add_tag(id, "mine")).unwrap();
    let vectors = world.vectors.state.lock().clone();
    world.stop();
    let copy = world.root.with_extension("copy");
    let status = std::process::Command::new("cp")
        .arg("-a")
        .args([&world.root, &copy])
        .status()
        .unwrap();
    assert!(status.success());
    fs::rename(&world.root, world.root.with_extension("old")).unwrap();
    fs::rename(&copy, &world.root).unwrap();
    world.start();
    world.scan();
    world.settle();
    assert_eq!(world.id("d/a.txt"), id);
    assert_eq!(world.run().store.read(|rows| rows.tags(id)).unwrap(), ["mine"]);
    assert_eq!(*world.vectors.state.lock(), vectors);
    world.assert_equals_rebuilt();
}

#[test]
fn a_marked_file_is_compared_even_when_its_times_say_nothing() {
    let mut world = World::with(&[("a.txt", "old words")]);
    std::thread::sleep(Duration::from_millis(30));
    world.edit("a.txt", "mid words");
    world.settle();
    let node = world.key(Path::new("a.txt"));
    world.run().sink.maybe_changed(node);
    world.stop();
    // The row claims to have seen exactly what stands there now.
    world.write("a.txt", "new words");
    let tree = Tree::new(fs::File::open(&world.root).unwrap().into());
    let facts = tree
        .facts_of(fs::File::open(world.path("a.txt")).unwrap())
        .unwrap();
    let store = Store::open(&world.state.join("store.db")).unwrap();
    store
        .write(|tx| {
            let id = tx.rows().resolve(Path::new("a.txt"))?.unwrap();
            let (hash, passages) = (tx.rows().file(id)?.unwrap().hash, tx.rows().passages(id)?);
            let state = State::Ready;
            tx.set_indexed(
                id,
                crate::store::catalog::Indexed {
                    facts,
                    hash,
                    passages,
                    state,
                },
                false,
            )
        })
        .unwrap();
    drop(store);
    world.start();
    world.scan();
    world.settle();
    assert_eq!(world.find("new"), ["a.txt"]);
    world.assert_equals_rebuilt();
}

#[test]
fn changed_rules_take_files_out_and_in() {
    let world = World::with(&[("keep/a.log", "logged words"), ("b.txt", "plain words")]);
    world.create(".vexfsignore", "keep/\n");
    world.settle();
    assert_eq!(world.find("logged"), Vec::<String>::new());
    assert_eq!(
        world.state("keep/a.log"),
        State::Excluded(".vexfsignore: keep/".into())
    );
    world.edit(".vexfsignore", "*.txt\n");
    world.settle();
    assert_eq!(
        (world.find("logged"), world.find("plain")),
        (vec!["keep/a.log".to_owned()], vec![])
    );
    fs::remove_file(world.path(".vexfsignore")).unwrap();
    world.name_changed(".vexfsignore");
    world.settle();
    assert_eq!(world.find("words").len(), 2);
    world.assert_equals_rebuilt();
}

#[test]
fn a_folder_that_arrives_whole_is_scanned() {
    let world = World::with(&[("a.txt", "words")]);
    let outside = world.root.with_extension("outside");
    fs::create_dir_all(outside.join("x/y")).unwrap();
    fs::write(outside.join("x/y/z.txt"), "imported words").unwrap();
    fs::rename(&outside, world.path("in")).unwrap();
    world.name_changed("in");
    world.settle();
    assert_eq!(world.find("imported"), ["in/x/y/z.txt"]);
    fs::rename(world.path("in"), &outside).unwrap();
    world.name_changed("in");
    world.settle();
    assert_eq!(world.find("imported"), Vec::<String>::new());
    world.assert_equals_rebuilt();
}

#[test]
fn a_synchronous_caller_finds_its_file_at_once() {
    let world = World::with(&[("a.txt", "old words")]);
    for round in 0..20 {
        world.edit("a.txt", &format!("round{round} words"));
        assert!(
            world
                .run()
                .indexer
                .wait_file(world.key(Path::new("a.txt")), PATIENCE)
        );
        assert_eq!(world.find(&format!("round{round}")), ["a.txt"]);
    }
}

#[test]
fn the_feed_tells_what_happened() {
    let world = World::with(&[("a.txt", "old words")]);
    let feed = world.run().indexer.subscribe();
    world.edit("a.txt", "new words");
    world.settle();
    let events: Vec<_> = feed.try_iter().map(|event| (event.path, event.what)).collect();
    let path = PathBuf::from("a.txt");
    assert_eq!(
        events,
        [(path.clone(), feed::What::Changed), (path, feed::What::Indexed)]
    );
}

#[test]
fn lost_events_are_made_good_by_a_scan() {
    let world = World::with(&[("a.txt", "old words")]);
    world.write("b/c.txt", "unseen words");
    world.run().sink.changed(Change::Everything);
    world.settle();
    assert_eq!(world.find("unseen"), ["b/c.txt"]);
    assert_eq!(world.run().store.mirror().path(ROOT), Some(PathBuf::new()));
}
