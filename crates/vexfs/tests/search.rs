//! Search through the mount, the command line and the attributes, as a user sees it.

#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

mod mounted;

use std::io::Write;
use std::process::Command;

use mounted::{Mounted, stdout, vexfs};

const NOTES: [(&str, &str); 5] = [
    (
        "bread.md",
        "# Baking bread\n\nKnead the dough, let it rise in a warm place, then bake it in a hot oven.\n",
    ),
    (
        "bikes/brakes.md",
        "# Bicycle brakes\n\nReplace worn brake pads before the rim or disc is damaged.\n",
    ),
    (
        "bikes/chain.md",
        "# Chain care\n\nClean and lubricate the bicycle chain every few hundred kilometres.\n",
    ),
    (
        "tax.txt",
        "The annual tax return is due in May. Keep the receipts for seven years.\n",
    ),
    (
        "garden.txt",
        "Water tomato plants in the morning and prune the side shoots.\n",
    ),
];

fn first(names: &[String]) -> &str {
    names
        .first()
        .map_or("", |name| name.splitn(3, '-').nth(2).unwrap_or(""))
}

#[test]
fn a_query_is_a_directory_of_ranked_links() {
    let mount = Mounted::with(&NOTES, &[]);
    mount.settle();
    let names = mount.ls(".vexfs/search/how do I make a loaf/");
    assert_eq!(first(&names), "bread.md", "{names:?}");
    assert_eq!(names.last().map(String::as_str), Some("results.jsonl"));
    for (path, name, expected) in [
        (String::new(), "vexfs.pending", "0"),
        ("/results.jsonl".into(), "vexfs.pending", "0"),
        (format!("/{}", names[0]), "vexfs.rank", "1"),
        (format!("/{}", names[0]), "vexfs.pending", "0"),
    ] {
        let path = mount.join(format!(".vexfs/search/how do I make a loaf{path}"));
        let mut value = [0; 32];
        let length = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap();
        assert_eq!(
            &value[..length],
            expected.as_bytes(),
            "{}: {name}",
            path.display()
        );
    }
    let through_link = mount.read(&format!(".vexfs/search/how do I make a loaf/{}", names[0]));
    assert!(through_link.contains("Knead the dough"));
    // The directory in which it stands is the scope.
    let names = mount.ls("bikes/.vexfs/search/@k=5/baking/");
    assert!(names.iter().all(|name| !name.contains("bread")), "{names:?}");
    assert!(
        mount
            .read("bikes/.vexfs/search/worn pads/results.jsonl")
            .contains("\"path\":\"bikes/brakes.md\"")
    );
}

#[test]
fn an_answer_is_a_file_with_places() {
    let mount = Mounted::with(&NOTES, &[]);
    mount.settle();
    let text = mount.read(".vexfs/ask/when is the tax return due");
    assert!(text.contains("## tax.txt:1-1"), "{text}");
    assert!(text.contains("due in May"));
    let names = mount.ls(".vexfs/like/bikes/brakes.md/");
    assert_eq!(first(&names), "chain.md", "{names:?}");
}

#[test]
fn changes_are_found_and_renames_keep_vectors() {
    let mount = Mounted::with(&NOTES, &[]);
    mount.settle();
    std::fs::write(mount.join("sea.txt"), "The ferry to the island leaves at noon.\n").unwrap();
    mount.settle();
    assert_eq!(first(&mount.ls(".vexfs/search/boat to an island/")), "sea.txt");
    std::fs::rename(mount.join("bikes"), mount.join("cycling")).unwrap();
    std::fs::remove_file(mount.join("tax.txt")).unwrap();
    std::fs::write(mount.join("garden.txt"), "A quartz clock needs a new battery.\n").unwrap();
    mount.settle();
    assert!(
        mount
            .read(".vexfs/search/brake pads/results.jsonl")
            .contains("cycling/brakes.md")
    );
    assert!(
        !mount
            .read(".vexfs/search/tax return/results.jsonl")
            .contains("tax.txt")
    );
    let names = mount.ls(".vexfs/search/\"tomato plants\"/");
    assert_eq!(names, ["results.jsonl"], "an old version is not found");
    assert_eq!(first(&mount.ls(".vexfs/search/replace a battery/")), "garden.txt");
}

#[test]
fn links_in_texts_and_told_relations_lead_from_either_end() {
    let notes = [
        ("a.md", "See [b](b.md) about bees.\n"),
        ("b.md", "Bees make honey.\n"),
        ("c.md", "Waves at sea.\n"),
    ];
    let mount = Mounted::with(&notes, &[]);
    mount.settle();
    assert_eq!(first(&mount.ls(".vexfs/search/linked:b.md/")), "a.md");
    let attribute = |args: &[&str]| Command::new(args[0]).args(&args[1..]).output().unwrap();
    let c = mount.join("c.md");
    let c = c.to_str().unwrap();
    let set = attribute(&["setfattr", "-n", "user.vexfs.rel.cites", "-v", "a.md", c]);
    assert!(set.status.success(), "{set:?}");
    assert_eq!(first(&mount.ls(".vexfs/search/linked:cites:a.md/")), "c.md");
    let get = attribute(&["getfattr", "--only-values", "-n", "user.vexfs.rel.cites", c]);
    assert_eq!(stdout(&get), "a.md");
}

#[test]
fn vectors_and_tags_are_attributes_that_follow_a_rename_and_survive_a_remount() {
    let mount = Mounted::with(&NOTES, &[]);
    mount.settle();
    let set = |path: &str, name: &str, value: &str| {
        let status = Command::new("setfattr")
            .args(["-n", name, "-v", value])
            .arg(mount.join(path))
            .status()
            .unwrap();
        status.success()
    };
    assert!(set("bread.md", "user.vexfs.vec.mine", "[1, 0, 0.5]"));
    assert!(set("bread.md", "user.vexfs.tag.food", "1"));
    assert!(
        !set("tax.txt", "user.vexfs.vec.mine", "[1, 0]"),
        "another dimension is refused"
    );
    std::fs::rename(mount.join("bread.md"), mount.join("loaf.md")).unwrap();
    mount.settle();
    mount.umount();
    mount.mount(&[]);
    mount.settle();
    let file = mount.join("loaf.md");
    let output = vexfs(&["vec", "get", "--space", "mine", file.to_str().unwrap()]);
    assert_eq!(stdout(&output).trim(), "[1.0,0.0,0.5]", "{output:?}");
    assert_eq!(first(&mount.ls(".vexfs/search/tag:food/")), "loaf.md");
    // They are not listed, so that copies with attributes do not fail on them.
    let listed = Command::new("getfattr").arg("-m-").arg(&file).output().unwrap();
    assert!(!stdout(&listed).contains("vexfs"), "{listed:?}");
}

#[test]
fn the_control_directory_is_looked_up_everywhere_and_listed_nowhere() {
    let mount = Mounted::with(&NOTES, &[]);
    assert!(!mount.ls("").contains(&".vexfs".to_owned()));
    assert!(mount.read("bikes/.vexfs/status").contains("generation"));
    let status: serde_json::Value = serde_json::from_str(&mount.read("bikes/.vexfs/status.json")).unwrap();
    assert_eq!(status["scope"], "bikes");
    let find = Command::new("find").arg(mount.path()).output().unwrap();
    assert!(!stdout(&find).contains(".vexfs"));
    let error = std::fs::read_dir(mount.join(".vexfs/search/\"no end")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    assert!(std::fs::create_dir(mount.join(".vexfs/search/x/y")).is_err());
    assert!(std::fs::write(mount.join(".vexfs/status"), "x").is_err());
    let error = std::fs::write(mount.join(".vexfs/mine"), "x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
}

#[test]
fn a_directory_that_is_new_or_kept_out_has_its_control_directory_too() {
    let mount = Mounted::with(&NOTES, &[]);
    for path in ["fresh", ".hidden", "bikes/deeper"] {
        std::fs::create_dir(mount.join(path)).unwrap();
        assert!(
            mount
                .read(&format!("{path}/.vexfs/status"))
                .contains("generation")
        );
        let status: serde_json::Value =
            serde_json::from_str(&mount.read(&format!("{path}/.vexfs/status.json"))).unwrap();
        assert_eq!(status["scope"], path);
        assert_eq!(
            mount.ls(&format!("{path}/.vexfs/search/brakes/")),
            ["results.jsonl"]
        );
        std::fs::rename(mount.join(path), mount.join(format!("{path}.moved"))).unwrap();
        let ask = mount.read(&format!("{path}.moved/.vexfs/ask/brakes"));
        assert!(ask.contains("0 hits"), "{ask}");
    }
}

#[test]
fn a_renamed_directory_has_its_new_name_at_once() {
    let mount = Mounted::with(&[("d/notes/a.md", "Bees visit many flowers.\n")], &[]);
    mount.settle();
    let mut name = "d".to_owned();
    for turn in 0..100 {
        let next = format!("d{turn}");
        std::fs::rename(mount.join(&name), mount.join(&next)).unwrap();
        let status = std::fs::read(mount.join(format!("{next}/notes/.vexfs/status.json"))).unwrap();
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
        assert_eq!(status["scope"], format!("{next}/notes"));
        name = next;
    }
}

#[test]
fn the_command_line_answers_in_forms_for_people_and_programs() {
    let mount = Mounted::with(&NOTES, &[]);
    mount.settle();
    let path = mount.path();
    let path = path.to_str().unwrap();
    let output = vexfs(&["search", "worn brake pads", path]);
    assert_eq!(
        stdout(&output).lines().next(),
        Some(&*format!("{path}/bikes/brakes.md"))
    );
    let json = stdout(&vexfs(&["search", "--json", "-k", "2", "worn brake pads", path]));
    let answer: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(answer["hits"][0]["path"], "bikes/brakes.md");
    assert_eq!(answer["pending"], 0);
    let check = |args: &[&str], code: i32| {
        let output = vexfs(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
    };
    check(&["search", "tag:none", path], 1);
    check(&["search", "\"no end", path], 2);
    check(&["search", "x", "/"], 4);
    check(&["search", "--require-fresh", "--wait", "brakes", path], 0);
    check(&["index", "why", &format!("{path}/tax.txt")], 0);
    let ask = stdout(&vexfs(&["ask", "how often is the chain cleaned", path]));
    assert!(ask.contains("bikes/chain.md:"), "{ask}");
}

#[test]
fn what_is_written_is_pending_before_it_is_closed_and_found_by_who_waits() {
    for options in [&[][..], &["-o", "passthrough=off"]] {
        let mount = Mounted::with(&NOTES, options);
        mount.settle();
        let path = mount.path();
        let path = path.to_str().unwrap();
        let pending = || {
            let answer = stdout(&vexfs(&["search", "--json", "ferry", path]));
            let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
            answer["pending"].as_u64().unwrap()
        };
        assert_eq!(pending(), 0);
        let mut open = std::fs::File::options()
            .append(true)
            .open(mount.join("tax.txt"))
            .unwrap();
        open.write_all(b"The ferry to the island leaves at noon.\n")
            .unwrap();
        assert!(pending() > 0);
        assert!(
            mount
                .ls(".vexfs/search/\"ferry to the island\"")
                .iter()
                .all(|name| name == "results.jsonl")
        );
        let output = vexfs(&[
            "search",
            "--wait=60",
            "--require-fresh",
            "\"ferry to the island\"",
            path,
        ]);
        assert_eq!(
            stdout(&output).lines().next(),
            Some(&*format!("{path}/tax.txt")),
            "{output:?}"
        );
        assert_eq!(pending(), 0);
        open.write_all(b"A quartz clock needs a new battery.\n").unwrap();
        mount.settle();
        assert_eq!(first(&mount.ls(".vexfs/search/\"quartz clock\"/")), "tax.txt");
    }
}

#[test]
fn without_a_mount_the_same_store_answers() {
    let mount = Mounted::with(&NOTES, &[]);
    mount.settle();
    mount.umount();
    std::fs::write(
        mount.source().join("sea.txt"),
        "The ferry to the island leaves at noon.\n",
    )
    .unwrap();
    let source = mount.source();
    let output = vexfs(&[
        "search",
        "-C",
        source.to_str().unwrap(),
        "--wait",
        "boat to an island",
    ]);
    assert_eq!(stdout(&output).lines().next(), Some("sea.txt"), "{output:?}");
}

#[test]
fn with_index_sync_a_closed_file_is_found_at_once() {
    let mount = Mounted::with(&NOTES, &["-o", "index=sync"]);
    mount.settle();
    for i in 0..20 {
        let word = format!("zyx{i}w");
        std::fs::write(mount.join("note.txt"), format!("remember {word}\n")).unwrap();
        let names = mount.ls(&format!(".vexfs/search/\"{word}\"/"));
        assert_eq!(first(&names), "note.txt", "{i}");
    }
}
