//! Snapshots through a real mount of the real program. Where FUSE or root is missing the tests say so and pass.
#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

use killable::{Mounted, text};

mod killable;
mod mounted;

/// The lines of a diff.
fn diff(m: &Mounted, args: &str) -> Vec<String> {
    let out = m.sh(&format!("vexfs snapshot diff {args}"));
    out.lines().map(str::to_owned).collect()
}

/// What a command says when it fails, and its exit code.
fn refused(m: &Mounted, script: &str) -> (i32, String) {
    let output = m.try_sh(script);
    (output.status.code().unwrap(), text(&output.stderr))
}

#[test]
fn a_diff_lists_every_way_of_changing_files_and_what_was_told() {
    let files = [
        ("edited", "one"),
        ("touched", "same"),
        ("moved", "here"),
        ("removed", "gone"),
        ("replaced", "by another"),
        ("mode", "same"),
        ("dir/inner", "stays"),
        ("linked", "two names"),
        ("untouched", "as it is"),
    ];
    let Some(m) = Mounted::indexed(&files) else { return };
    m.sh("vexfs tag moved keep; vexfs tag edited old; vexfs relate edited cites moved");
    m.sh("vexfs status --watch >/dev/null; vexfs snapshot create before");
    assert_eq!(diff(&m, "before"), [""; 0]);
    m.sh(
        "echo more >> edited; touch -d 2001-02-03 touched; mv moved elsewhere; rm removed; \
          rm replaced; echo anew > replaced; chmod 600 mode; mv dir folder; ln linked second; \
          echo new > added; mkdir empty; ln -s edited soft; echo x >> folder/inner",
    );
    m.sh("vexfs tag edited -old; vexfs tag elsewhere more; vexfs relate added cites elsewhere");
    m.sh("vexfs unrelate edited cites elsewhere; vexfs status --watch >/dev/null");
    let expected = [
        "A added",
        "M edited",
        "R moved -> elsewhere",
        "A empty",
        "R dir -> folder",
        "M folder/inner",
        "T mode",
        "D removed",
        "M replaced",
        "A second",
        "A soft",
        "T touched",
        "A added#user.vexfs.rel.cites -> elsewhere",
        "D edited#user.vexfs.rel.cites -> moved",
        "D edited#user.vexfs.tag.old",
        "A elsewhere#user.vexfs.tag.more",
    ];
    assert_eq!(diff(&m, "before"), expected);
    m.sh("vexfs snapshot create after; rm added; vexfs tag elsewhere late");
    assert_eq!(diff(&m, "before after"), expected);
    assert_eq!(
        diff(&m, "after"),
        [
            "D added",
            "D added#user.vexfs.rel.cites -> elsewhere",
            "A elsewhere#user.vexfs.tag.late"
        ]
    );
    let json: serde_json::Value =
        serde_json::from_str(&m.sh("vexfs snapshot diff before after --json")).unwrap();
    assert_eq!(json["files"][2]["from"], "moved");
}

#[test]
fn snapshots_outlive_the_daemon_and_what_is_changed_behind_the_mount_is_seen() {
    let Some(mut m) = Mounted::start(&[("a", "one"), ("b", "two")]) else {
        return;
    };
    m.sh("vexfs tag a t; vexfs snapshot create s; vexfs tag a u; echo x > b");
    m.crash();
    let expected = ["M b", "A a#user.vexfs.tag.u"];
    assert_eq!(diff(&m, "s"), expected);
    m.die();
    std::fs::write(m.source().join("a"), "changed while nobody looked").unwrap();
    m.revive(None);
    assert_eq!(diff(&m, "s"), ["M a", "M b", "A a#user.vexfs.tag.u"]);
}

#[test]
fn wrong_names_are_refused_and_a_snapshot_that_was_dropped_is_gone() {
    let Some(m) = Mounted::start(&[("a", "one")]) else {
        return;
    };
    m.sh("vexfs snapshot create one; vexfs snapshot create two");
    let (code, said) = refused(&m, "vexfs snapshot create one");
    assert!(code == 2 && said.contains("exists already"), "{said}");
    for name in ["a/b", ".x", "@x", "now", "''"] {
        let (code, said) = refused(&m, &format!("vexfs snapshot create {name}"));
        assert!(code == 2 && said.contains("no name of a snapshot"), "{said}");
    }
    let (code, said) = refused(&m, "vexfs snapshot drop three");
    assert!(code == 2 && said.contains("\"three\" does not exist"), "{said}");
    let (code, said) = refused(&m, "vexfs snapshot diff two one");
    assert!(code == 2 && said.contains("older one first"), "{said}");
    let names = || -> Vec<String> {
        let list = m.sh("vexfs snapshot list");
        list.lines()
            .map(|line| line.split('\t').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(), ["one", "two"]);
    m.sh("vexfs snapshot drop one");
    assert_eq!(names(), ["two"]);
    assert!(m.sh("vexfs snapshot list --json").contains("\"created_ns\":"));
}

#[test]
fn snapshots_are_for_the_user_of_the_daemon() {
    if std::fs::metadata("/dev/fuse").is_err() || !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs root and /dev/fuse");
    }
    let mount = mounted::Mounted::for_all(&[("secret/plan", "x")]);
    let create = mounted::vexfs(&["snapshot", "create", "s", "-C", mount.path().to_str().unwrap()]);
    assert!(create.status.success(), "{}", text(&create.stderr));
    for command in ["create x", "diff s", "drop s"] {
        let asked = mount.as_stranger(&format!("$VEXFS snapshot {command}"));
        assert_eq!(asked.status.code(), Some(5), "{command}: {}", text(&asked.stderr));
    }
    let list = mount.as_stranger("$VEXFS snapshot list");
    assert!(text(&list.stdout).starts_with("s\t"), "names are no secret");
}
