//! What is told and asked inside a transaction, through the mount and the command line: relations, tags, vectors and
//! likeness are those of its tree, and come into being with its commit or not at all.
#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

use killable::Mounted;
use serde_json::Value;

mod killable;

const FILES: [(&str, &str); 5] = [
    ("a.md", "Bees visit many flowers on a summer day.\n"),
    ("b.md", "Honey is made in the hive.\n"),
    ("c.md", "Waves roll over the sea at night.\n"),
    ("d/e.md", "A clock needs a new spring.\n"),
    ("d/f.md", "The tide comes in over the sand.\n"),
];

/// What an answer says of a relation that leads nowhere.
const DANGLES: &str = r#""dangling":true"#;

/// A mount over [`FILES`] whose index knows them all.
fn mounted() -> Option<Mounted> {
    let m = Mounted::indexed(&FILES)?;
    m.sh("vexfs search --wait=60 bees > /dev/null");
    Some(m)
}

/// Paths and types of what `vexfs related` says in a directory.
fn related(m: &Mounted, dir: &str, args: &str) -> Vec<String> {
    let answer = m.try_sh(&format!("cd {dir} && vexfs related --json {args}"));
    let answer: Value = serde_json::from_slice(&answer.stdout).unwrap_or_else(|e| panic!("{e}: {answer:?}"));
    let hits = answer["hits"].as_array().unwrap();
    let hits = hits.iter().map(|hit| {
        format!(
            "{} {}",
            hit["type"].as_str().unwrap(),
            hit["path"].as_str().unwrap()
        )
    });
    hits.collect()
}

#[test]
fn a_staged_relation_is_seen_inside_and_comes_with_the_commit_or_not_at_all() {
    let Some(m) = mounted() else { return };
    let inside = ".vexfs/txn/t/root";
    for (end, left) in [("vexfs txn abort t", ""), ("vexfs txn commit t", "b.md\nother\n")] {
        m.sh("vexfs txn begin t");
        m.sh(&format!(
            "cd {inside} && ln -s b.md .vexfs/rel/a.md/cites/ && ln -s d/e.md .vexfs/rel/a.md/cites/other"
        ));
        assert_eq!(m.sh(&format!("cd {inside} && ls .vexfs/rel/a.md")), "cites\n");
        assert_eq!(
            m.sh(&format!("ls {inside}/.vexfs/rel/a.md/cites")),
            "b.md\nother\n"
        );
        // The links lead to the transaction's files.
        assert_eq!(
            m.sh(&format!("cat {inside}/.vexfs/rel/a.md/cites/other")),
            FILES[3].1
        );
        assert_eq!(related(&m, inside, "b.md"), ["cites a.md"]);
        assert_eq!(
            m.xattr(&format!("{inside}/a.md"), "user.vexfs.rel.cites")
                .unwrap(),
            b"b.md\nd/e.md"
        );
        // Nothing of it outside.
        assert_eq!(
            m.sh("ls .vexfs/rel/a.md .vexfs/rel/a.md/cites; vexfs related b.md || true"),
            ".vexfs/rel/a.md:\n\n.vexfs/rel/a.md/cites:\n"
        );
        m.sh(end);
        assert_eq!(m.sh("ls .vexfs/rel/a.md/cites"), left, "{end}");
    }
    assert_eq!(m.sh("cat .vexfs/rel/a.md/cites/other"), FILES[3].1);
    // A name of its own is kept, as a property.
    assert!(m.sh("vexfs related --json a.md").contains("\"name\":\"other\""));
    // Removing one inside leaves it outside until the commit.
    m.sh("vexfs txn begin t && rm .vexfs/txn/t/root/.vexfs/rel/a.md/cites/b.md");
    assert_eq!(
        m.sh(&format!(
            "ls {inside}/.vexfs/rel/a.md/cites; ls .vexfs/rel/a.md/cites"
        )),
        "other\nb.md\nother\n"
    );
    assert!(related(&m, inside, "b.md").is_empty());
    m.sh("vexfs txn commit t");
    assert_eq!(m.sh("ls .vexfs/rel/a.md/cites"), "other\n");
}

#[test]
fn commands_inside_tell_and_ask_of_the_transaction() {
    let Some(m) = mounted() else { return };
    let inside = ".vexfs/txn/t/root";
    m.sh("vexfs txn begin t");
    m.sh(&format!(
        "cd {inside} && vexfs relate a.md cites b.md --prop page=3 --prop sure=true && vexfs relate b.md cites d/e.md \
         && echo new > new.md && vexfs relate d/e.md mentions new.md && vexfs relate a.md cites gone.md \
         && vexfs tag a.md red green && vexfs tag a.md -green && vexfs tag new.md blue \
         && vexfs vec set a.md [1,2] --space s && vexfs vec set new.md [2,1] --space s"
    ));
    let told = |m: &Mounted, dir: &str| {
        assert_eq!(
            related(m, dir, "a.md --direction out"),
            ["cites b.md", "cites gone.md"]
        );
        assert_eq!(
            related(m, dir, "a.md --direction out --depth 3"),
            ["cites b.md", "cites gone.md", "cites d/e.md", "mentions new.md"]
        );
        assert_eq!(
            related(m, dir, "a.md --path new.md"),
            ["cites b.md", "cites d/e.md", "mentions new.md"]
        );
        assert_eq!(related(m, dir, "new.md"), ["mentions d/e.md"]);
        let said = m.sh(&format!("cd {dir} && vexfs related --json a.md"));
        assert!(said.contains(r#""properties":{"page":3,"sure":true}"#), "{said}");
        assert_eq!(said.matches(DANGLES).count(), 1, "{said}");
        assert_eq!(
            m.sh(&format!("cd {dir} && vexfs tag a.md; vexfs tag new.md")),
            "red\nblue\n"
        );
        assert_eq!(
            m.sh(&format!("cd {dir} && vexfs vec get new.md --space s")),
            "[2.0,1.0]\n"
        );
        assert_eq!(
            m.xattr(&format!("{dir}/a.md"), "user.vexfs.tag.red").unwrap(),
            b"1"
        );
    };
    told(&m, inside);
    assert_eq!(m.try_sh("vexfs related a.md").status.code(), Some(1));
    assert_eq!(
        m.sh("vexfs tag a.md || true; vexfs vec get a.md --space s 2>&1 || true"),
        "vexfs: no such attribute\n"
    );
    // A command stands where its path does, wherever it is called.
    assert_eq!(m.sh(&format!("vexfs tag {inside}/a.md")), "red\n");
    m.sh("vexfs txn commit t");
    told(&m, ".");
    m.sh("vexfs txn begin t");
    told(&m, inside);
    m.sh(&format!(
        "cd {inside} && vexfs unrelate a.md cites b.md && vexfs unrelate a.md cites gone.md"
    ));
    let refused = m.try_sh(&format!("cd {inside} && vexfs unrelate a.md cites b.md"));
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert_eq!(
        m.try_sh(&format!("cd {inside} && vexfs related a.md"))
            .status
            .code(),
        Some(1)
    );
    m.sh("vexfs txn commit t");
    assert_eq!(m.try_sh("vexfs related a.md").status.code(), Some(1));
}

#[test]
fn relations_follow_what_is_renamed_and_removed_inside() {
    let Some(m) = mounted() else { return };
    let inside = ".vexfs/txn/t/root";
    m.sh("vexfs relate a.md cites d/e.md; vexfs relate d/f.md cites a.md --prop n=1; vexfs txn begin t");
    m.sh(&format!("cd {inside} && mv d moved && mv a.md moved/z.md && vexfs relate moved/z.md sees c.md && mv c.md sea.md"));
    let seen = |m: &Mounted, dir: &str| {
        assert_eq!(
            related(m, dir, "moved/z.md --direction out"),
            ["sees sea.md", "cites moved/e.md"]
        );
        assert_eq!(related(m, dir, "moved/z.md --direction in"), ["cites moved/f.md"]);
        assert_eq!(
            m.sh(&format!("cat {dir}/.vexfs/rel/moved/z.md/cites/e.md")),
            FILES[3].1
        );
        // The scope is the directory in which `.vexfs` stands.
        assert_eq!(
            m.sh(&format!("cat {dir}/moved/.vexfs/rel/z.md/sees/sea.md")),
            FILES[2].1
        );
    };
    seen(&m, inside);
    assert_eq!(related(&m, ".", "a.md --direction out"), ["cites d/e.md"]);
    m.sh("vexfs txn commit t");
    let sorted = |mut related: Vec<String>| {
        related.sort();
        related
    };
    assert_eq!(
        sorted(related(&m, ".", "moved/z.md --direction out")),
        ["cites moved/e.md", "sees sea.md"]
    );
    assert_eq!(
        related(&m, ".", "moved/z.md --direction in"),
        ["cites moved/f.md"]
    );

    // What is removed inside dangles inside.
    m.sh(&format!("vexfs txn begin t && rm {inside}/moved/e.md"));
    assert!(
        m.sh(&format!("cd {inside} && vexfs related --json moved/z.md"))
            .contains(DANGLES)
    );
    assert!(!m.sh("vexfs related --json moved/z.md").contains(DANGLES));
    m.sh("vexfs txn abort t");

    // What was told of a new file that went again goes with it, and the commit does not mind.
    m.sh(&format!(
        "vexfs txn begin t && cd {inside} && echo x > x && echo y > y && vexfs relate x to y && vexfs relate sea.md to y \
         && vexfs tag x t && rm x y"
    ));
    m.sh("vexfs txn commit t");
    assert!(
        m.sh("vexfs related --json sea.md --direction out")
            .contains(DANGLES)
    );
}

#[test]
fn two_transactions_that_tell_the_same_relations_conflict_and_others_do_not() {
    let Some(m) = mounted() else { return };
    m.sh("vexfs txn begin one; vexfs txn begin two; vexfs txn begin three");
    m.sh("cd .vexfs/txn/one/root && vexfs relate a.md cites b.md");
    m.sh("cd .vexfs/txn/two/root && vexfs relate a.md cites c.md && vexfs relate b.md cites c.md");
    m.sh("cd .vexfs/txn/three/root && vexfs relate c.md cites a.md");
    m.sh("vexfs txn commit one; vexfs txn commit three");
    let refused = m.try_sh("vexfs txn commit two");
    assert_eq!(refused.status.code(), Some(6));
    assert_eq!(killable::text(&refused.stdout), "a.md#user.vexfs.rel.cites\n");
    assert_eq!(related(&m, ".", "a.md --direction out"), ["cites b.md"]);
    m.sh("vexfs txn rebase --ours two; vexfs txn commit two");
    assert_eq!(related(&m, ".", "a.md --direction out"), ["cites c.md"]);
    assert_eq!(related(&m, ".", "c.md --direction out"), ["cites a.md"]);
}

#[test]
fn an_empty_tag_reads_inside_as_it_will_outside_and_likeness_sees_staged_texts() {
    let Some(m) = mounted() else { return };
    m.sh("vexfs txn begin t");
    let inside = ".vexfs/txn/t/root";
    m.set_xattr(&format!("{inside}/a.md"), "user.vexfs.tag.x", b"");
    m.set_xattr(&format!("{inside}/a.md"), "user.vexfs.vec.s", b"[1, 0.5]");
    let read = |path: &str| {
        (
            m.xattr(path, "user.vexfs.tag.x").unwrap(),
            m.xattr(path, "user.vexfs.vec.s").unwrap(),
        )
    };
    let staged = read(&format!("{inside}/a.md"));
    assert_eq!(staged.0, b"1");
    m.sh(&format!(
        "cd {inside} && echo 'The tide rolls over the sand and the sea at night, wave after wave.' > beach.md && mv c.md waves.md"
    ));
    let like = |of: &str| m.sh(&format!("cd {inside} && vexfs like -k 2 {of}"));
    // Of a staged text, of a moved file; through the control directory too.
    assert!(like("beach.md").contains("waves.md"), "{}", like("beach.md"));
    assert!(like("waves.md").contains("beach.md"), "{}", like("waves.md"));
    assert!(!like("waves.md").contains("waves.md"));
    assert!(
        m.sh(&format!("ls {inside}/.vexfs/like/waves.md"))
            .contains("beach.md")
    );
    m.sh("vexfs txn commit t");
    assert_eq!(read("a.md"), staged);
}

#[test]
fn the_api_begins_looks_at_commits_and_aborts() {
    let Some(m) = mounted() else { return };
    let socket = m.sh("cat .vexfs/status.json");
    let socket: Value = serde_json::from_str(&socket).unwrap();
    let socket = socket["socket"].as_str().unwrap();
    let curl = |method: &str, route: &str, body: &str| -> (u16, Value) {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        let (route, header) = route.split_once(' ').unwrap_or((route, "X-Nothing: 1"));
        let request = format!(
            "{method} {route} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (
            status,
            serde_json::from_str(body).unwrap_or_else(|_| Value::from(body)),
        )
    };
    let in_t = "X-Vexfs-Txn: t";
    let (status, begun) = curl(
        "POST",
        "/v1/txn",
        r#"{"name": "t", "quota": 1000, "strict": true}"#,
    );
    assert_eq!(
        (status, &begun["quota"], &begun["strict"]),
        (200, &1000.into(), &true.into())
    );
    assert_eq!(curl("POST", "/v1/txn", r#"{"name": "t"}"#).0, 409);
    let relation =
        r#"{"relations": [{"from": "a.md", "type": "cites", "to": "b.md", "properties": {"n": 1}}]}"#;
    assert_eq!(curl("POST", &format!("/v1/relations {in_t}"), relation).0, 200);
    assert_eq!(
        curl(
            "PUT",
            &format!("/v1/xattr?path=b.md&name=user.vexfs.tag.x {in_t}"),
            ""
        )
        .0,
        200
    );
    m.sh("echo changed > .vexfs/txn/t/root/c.md");
    let (_, related) = curl("POST", &format!("/v1/related {in_t}"), r#"{"path": "a.md"}"#);
    assert_eq!(related["hits"][0]["properties"]["n"], 1);
    assert!(
        curl("POST", "/v1/related", r#"{"path": "a.md"}"#).1["hits"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    let (_, found) = curl("POST", &format!("/v1/search {in_t}"), r#"{"query": "changed"}"#);
    assert_eq!(found["hits"][0]["path"], "c.md");
    // What is about the committed tree says so, and what is not there is not there.
    assert_eq!(curl("POST", &format!("/v1/export {in_t}"), "{}").0, 400);
    assert_eq!(curl("GET", "/v1/xattrs?path=a.md X-Vexfs-Txn: nobody", "").0, 404);
    assert_eq!(
        curl("GET", "/v1/xattrs?path=b.md X-Vexfs-Txn: %74", "").1,
        serde_json::json!(["user.vexfs.tag.x"])
    );
    let (_, listed) = curl("GET", "/v1/txn", "");
    assert_eq!(listed["transactions"][0]["told"], 2);
    assert_eq!(
        curl("GET", "/v1/txn/t/diff", "").1["changes"],
        serde_json::json!([{"path": "c.md", "change": "M"}])
    );
    assert!(
        curl("GET", "/v1/txn/t/patch", "")
            .1
            .as_str()
            .unwrap()
            .contains("+changed")
    );
    // Somebody is faster.
    m.sh("echo faster > c.md");
    let (status, refused) = curl("POST", "/v1/txn/t/commit", "");
    assert_eq!(
        (status, &refused["conflicts"]),
        (409, &serde_json::json!(["c.md"]))
    );
    assert_eq!(curl("POST", "/v1/txn/t/rebase", r#"{"how": "ours"}"#).0, 200);
    let (status, committed) = curl("POST", "/v1/txn/t/commit", "");
    assert!(
        status == 200 && committed["generation"].as_u64().unwrap() > 0,
        "{committed}"
    );
    assert_eq!(m.read("c.md"), "changed\n");
    // It has left the mount at once, and its name can be used there.
    m.sh("! test -e .vexfs/txn/t; mkdir .vexfs/txn/t; echo x > .vexfs/txn/t/root/new");
    assert_eq!(curl("DELETE", "/v1/txn/t", "").0, 200);
    m.sh(
        "! test -e .vexfs/txn/t; ! test -e new; mkdir .vexfs/txn/t; ls .vexfs/txn/t/root; rmdir .vexfs/txn/t",
    );
    assert_eq!(curl("DELETE", "/v1/txn/t", "").0, 404);
}

#[test]
fn who_may_not_enter_a_transaction_or_write_its_files_tells_nothing_there() {
    let Some(m) = mounted() else { return };
    m.sh("vexfs txn begin t");
    let socket: Value = serde_json::from_str(&m.sh("cat .vexfs/status.json")).unwrap();
    let as_nobody = |line: &str| {
        let script = format!(
            "setpriv --reuid 65534 --regid 65534 --clear-groups curl -s -o /dev/null -w '%{{http_code}}' \
             --unix-socket {} -H 'X-Vexfs-Txn: t' {line}",
            socket["socket"].as_str().unwrap()
        );
        m.sh(&script)
    };
    if m.try_sh("command -v curl && command -v setpriv").status.code() != Some(0) {
        eprintln!("skipped: needs curl and setpriv");
        return;
    }
    let read = "'http://x/v1/xattrs?path=a.md'";
    let write = "-X PUT -d 1 'http://x/v1/xattr?path=a.md&name=user.vexfs.tag.x'";
    assert_eq!((as_nobody(read), as_nobody(write)), ("403".into(), "403".into()));
    m.sh("chmod 755 .vexfs/txn/t");
    assert_eq!((as_nobody(read), as_nobody(write)), ("200".into(), "403".into()));
    m.sh("chmod 666 .vexfs/txn/t/root/a.md");
    assert_eq!(as_nobody(write), "200");
    m.sh("chmod 600 .vexfs/txn/t/root/a.md");
    assert_eq!(as_nobody(read), "403");
    m.sh("vexfs txn abort t");
}
