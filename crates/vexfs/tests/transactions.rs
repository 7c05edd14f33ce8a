//! Transactions through a real mount of the real program: plain directories and plain tools. Where FUSE or root is
//! missing the tests say so and pass.
#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use killable::{Mounted, snapshot, text};

mod killable;

#[test]
fn an_api_is_renamed_in_two_hundred_files_at_once() {
    let names: Vec<_> = (0..200).map(|n| format!("src/d{}/f{n}.c", n % 7)).collect();
    let files: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), "int old_name(void);\n"))
        .collect();
    let Some(m) = Mounted::start(&files) else { return };
    let vector = |n: u32| [n as f32, 1.0].map(f32::to_le_bytes).concat();
    let file = |n: u32| format!("src/d{}/f{n}.c", n % 7);
    m.set_xattr(&file(3), "user.vexfs.vec.api", &vector(1000));
    m.sh("mkdir .vexfs/txn/fix");
    m.sh("cd .vexfs/txn/fix/root && grep -rl old_name src | xargs sed -i s/old_name/new_name/");
    for n in 0..30 {
        let path = format!(".vexfs/txn/fix/root/{}", file(n));
        m.set_xattr(&path, "user.vexfs.vec.api", &vector(n));
        m.set_xattr(&path, "user.vexfs.tag.renamed", b"");
        assert_eq!(m.xattr(&path, "user.vexfs.vec.api"), Some(vector(n)));
    }
    assert_eq!(m.xattr(&file(3), "user.vexfs.vec.api"), Some(vector(1000)));
    assert_eq!(m.xattr(&file(4), "user.vexfs.vec.api"), None);
    assert_eq!(m.sh("grep -rl old_name src | wc -l").trim(), "200");
    assert_eq!(
        m.sh("grep -rl new_name .vexfs/txn/fix/root/src | wc -l").trim(),
        "200"
    );
    assert_eq!(m.sh("grep -c ^M .vexfs/txn/fix/diff").trim(), "200");
    m.sh("mv .vexfs/txn/fix .vexfs/txn/@committed/fix");
    assert_eq!(m.sh("grep -rl new_name src | wc -l").trim(), "200");
    assert_eq!(m.try_sh("grep -rl old_name src").status.code(), Some(1));
    for n in 0..30 {
        assert_eq!(m.xattr(&file(n), "user.vexfs.vec.api"), Some(vector(n)));
        assert!(m.xattr(&file(n), "user.vexfs.tag.renamed").is_some());
    }
    assert_eq!(m.xattr(&file(30), "user.vexfs.vec.api"), None);
    assert_eq!(m.try_sh("ls .vexfs/txn/fix").status.code(), Some(2));
}

#[test]
fn a_rollback_leaves_the_tree_as_it_was() {
    let Some(m) = Mounted::start(&[("a", "one"), ("d/b", "two"), ("d/c", "three")]) else {
        return;
    };
    m.sh("ln a hard; ln -s a soft; chmod 640 d/b; touch -d 2001-02-03 d/c");
    let before = snapshot(&m.at(""), true);
    m.sh("mkdir .vexfs/txn/t; cd .vexfs/txn/t/root; echo more >> a; rm -r d; mkdir d; mv soft d/s; chmod 777 hard; mkfifo f");
    assert_eq!(snapshot(&m.at(""), true), before);
    m.sh("rmdir .vexfs/txn/t");
    assert_eq!(snapshot(&m.at(""), true), before);
}

#[test]
fn tools_leave_in_a_transaction_what_they_leave_outside() {
    let script = "mkdir -p x/y; echo 1 > x/y/f; cp -a d x/copy; mv d/b x/b2; rm d/c; ln x/b2 d/hard; ln -s ../a d/soft; \
                  sed -i s/one/uno/ a; chmod 4711 x/b2; mv x/copy d/inner; mkfifo d/fifo; tar cf t.tar d x; \
                  mkdir t; tar xf t.tar -C t; rm t.tar; find . -name c -delete; truncate -s 100 big; dd if=/dev/zero of=big \
                  bs=1 seek=1000 count=1 conv=notrunc 2>/dev/null; touch -d 2001-02-03 a; rmdir e; mv g e";
    let files = [
        ("a", "one"),
        ("d/b", "two"),
        ("d/c", "three"),
        ("e/f", ""),
        ("g/h", "aitch"),
    ];
    let (Some(inside), Some(outside)) = (Mounted::start(&files), Mounted::start(&files)) else {
        return;
    };
    let same = |m: &Mounted, at: &str| {
        m.sh(&format!(
            "rm e/f; touch -d 2001-01-01 a d/b d/c; cd {at} && {script}"
        ))
    };
    inside.sh("mkdir .vexfs/txn/t");
    same(&inside, ".vexfs/txn/t/root");
    same(&outside, ".");
    let timeless = |m: &Mounted, at: &str| -> BTreeMap<PathBuf, String> {
        let lines = m.sh(&format!(
            "cd {at}; find . -mindepth 1 -printf '%p %y %m %U %s %l\\n' | grep -v ' d '"
        ));
        lines
            .lines()
            .map(|line| (PathBuf::from(line.split(' ').next().unwrap()), line.to_owned()))
            .collect()
    };
    let expected = timeless(&outside, ".");
    assert_eq!(timeless(&inside, ".vexfs/txn/t/root"), expected);
    inside.sh("mv .vexfs/txn/t .vexfs/txn/@committed/t");
    assert_eq!(timeless(&inside, "."), expected);
    assert_eq!(inside.sh("stat -c %Y a"), outside.sh("stat -c %Y a"));
    assert_eq!(
        inside.sh("cat d/inner/b x/b2 e/h"),
        outside.sh("cat d/inner/b x/b2 e/h")
    );
}

#[test]
fn a_reader_never_sees_half_a_commit() {
    let Some(m) = Mounted::start(&[("a", "0"), ("d/b", "0")]) else {
        return;
    };
    let done = AtomicBool::new(false);
    let number = |path: &str| m.read(path).trim().parse::<u32>().unwrap();
    thread::scope(|scope| {
        let readers: Vec<_> = [("a", "d/b"), ("d/b", "a")]
            .into_iter()
            .map(|(first, second)| {
                let (number, done) = (&number, &done);
                scope.spawn(move || {
                    let mut seen = 0;
                    while !done.load(Ordering::Relaxed) {
                        let (one, two) = (number(first), number(second));
                        assert!(two >= one, "{first} is of commit {one}, {second} still of {two}");
                        seen += 1;
                    }
                    seen
                })
            })
            .collect();
        for n in 1..=30 {
            m.sh(&format!(
                "mkdir .vexfs/txn/t; cd .vexfs/txn/t/root; echo {n} > a.new; mv a.new a; echo {n} > d/b"
            ));
            m.sh("mv .vexfs/txn/t .vexfs/txn/@committed/t");
            assert_eq!((number("a"), number("d/b")), (n, n));
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
}

#[test]
fn a_killed_daemon_leaves_all_or_nothing() {
    let Some(mut m) = Mounted::start(&[("keep", "k")]) else {
        return;
    };
    for round in 0..12u64 {
        m.sh(&format!(
            "mkdir .vexfs/txn/t; cd .vexfs/txn/t/root; mkdir n; for i in $(seq 60); do echo {round} > f$i; echo {round} > n/f$i; done"
        ));
        let mut commit = Command::new("mv");
        commit
            .args([".vexfs/txn/t", ".vexfs/txn/@committed/t"])
            .current_dir(m.at(""))
            .stderr(Stdio::null());
        let mut commit = commit.spawn().unwrap();
        thread::sleep(Duration::from_micros(round * round * 300));
        m.crash();
        commit.wait().unwrap();
        let present = |dir: &str| std::fs::read_dir(m.at(dir)).map_or(0, |entries| entries.count());
        let count = (present(""), present("n"));
        assert!(count == (1, 0) || count == (62, 60), "round {round}: {count:?}");
        m.sh("rm -rf n f*");
    }
}

#[test]
fn conflicts_are_told_by_every_door() {
    let Some(m) = Mounted::start(&[("a", "base"), ("b", "base")]) else {
        return;
    };
    m.sh("mkdir .vexfs/txn/one .vexfs/txn/two; echo 1 > .vexfs/txn/one/root/a; echo 2 > .vexfs/txn/two/root/a; \
          echo 2 > .vexfs/txn/two/root/new");
    m.sh("vexfs txn commit one");
    let refused = m.try_sh("mv .vexfs/txn/two .vexfs/txn/@committed/two");
    assert!(
        !refused.status.success() && text(&refused.stderr).contains("canceled"),
        "{refused:?}"
    );
    let refused = m.try_sh("vexfs txn commit two");
    assert_eq!(
        (refused.status.code(), text(&refused.stdout)),
        (Some(6), "a\n".into())
    );
    assert_eq!(m.sh("cat .vexfs/txn/two/conflicts"), "a\n");
    assert_eq!(m.sh("cat a .vexfs/txn/two/root/a"), "1\n2\n");
    assert_eq!(m.sh("vexfs txn list"), "two\n");
    m.sh("vexfs txn abort two");
    assert_eq!(m.sh("vexfs txn list; ls"), "a\nb\n");
}

#[test]
fn transactions_that_follow_one_another_at_once_do_not_conflict() {
    let names: Vec<_> = (0..40).map(|n| format!("d/f{n}")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), "base")).collect();
    let Some(m) = Mounted::start(&files) else { return };
    for round in 1..=8u8 {
        // The backing filesystem gives the numbers of what is removed to what is staged next.
        m.sh("cp -a d other; cp -a other third; sync; rm -r other third");
        m.sh(&format!(
            "mkdir .vexfs/txn/t; cd .vexfs/txn/t/root/d; for f in *; do echo {round} > $f; done"
        ));
        for name in &names {
            let vector = [f32::from(round), 1.0].map(f32::to_le_bytes).concat();
            m.set_xattr(&format!(".vexfs/txn/t/root/{name}"), "user.vexfs.vec.v", &vector);
        }
        let commit = m.try_sh("mv .vexfs/txn/t .vexfs/txn/@committed/t");
        let conflicts = m.try_sh("cat .vexfs/txn/t/conflicts");
        assert!(
            commit.status.success(),
            "round {round}: {}",
            text(&conflicts.stdout)
        );
        for name in &names {
            let vector = m.xattr(name, "user.vexfs.vec.v").unwrap();
            assert_eq!(
                vector[..4],
                f32::from(round).to_le_bytes(),
                "{name} of round {round}"
            );
        }
    }
}

#[test]
fn what_somebody_else_told_meanwhile_is_a_conflict_that_is_listed() {
    let Some(m) = Mounted::start(&[("a", "a"), ("b", "b"), ("c", "c")]) else {
        return;
    };
    m.sh("mkdir .vexfs/txn/t");
    m.set_xattr(".vexfs/txn/t/root/a", "user.vexfs.meta.k", b"inside");
    m.set_xattr(".vexfs/txn/t/root/b", "user.vexfs.meta.k", b"inside");
    m.set_xattr(".vexfs/txn/t/root/c", "user.vexfs.meta.k", b"inside");
    m.set_xattr("a", "user.vexfs.meta.k", b"outside");
    m.sh("rm c");
    let refused = m.try_sh("vexfs txn commit t");
    let expected = "a#user.vexfs.meta.k\nc\n";
    assert_eq!(
        (refused.status.code(), text(&refused.stdout)),
        (Some(6), expected.into())
    );
    assert_eq!(m.sh("cat .vexfs/txn/t/conflicts"), expected);
    assert_eq!(m.xattr("a", "user.vexfs.meta.k").unwrap(), b"outside");
    assert_eq!(m.xattr("b", "user.vexfs.meta.k"), None);
}

#[test]
fn a_search_in_a_transaction_sees_what_is_staged_and_one_outside_does_not() {
    let refunds = "How refunds are paid to a credit card by the billing department.";
    let bread = "Flour, yeast and butter: knead the bread dough for ten minutes.";
    let Some(m) = Mounted::indexed(&[
        ("billing/refunds.md", refunds),
        (
            "billing/cards.md",
            "A credit card is charged when the refund is refused.",
        ),
        ("kitchen/bread.md", bread),
        ("kitchen/oven.md", "Heat the oven before the bread goes in."),
    ]) else {
        return;
    };
    m.sh("vexfs search --wait=60 bread >/dev/null; vexfs txn begin t");
    m.sh("cd .vexfs/txn/t/root; cat kitchen/bread.md > billing/refunds.md; rm kitchen/bread.md; mv kitchen bakery; \
          echo 'The giraffe eats acacia leaves.' > zoo.md");
    let found = |at: &str, query: &str| -> Vec<String> {
        let lines = m.sh(&format!("cd {at}; cat '.vexfs/search/{query}/results.jsonl'"));
        let path = |line: &str| {
            line.split("\"path\":\"")
                .nth(1)
                .unwrap()
                .split('"')
                .next()
                .unwrap()
                .to_owned()
        };
        lines.lines().map(path).collect()
    };
    let root = ".vexfs/txn/t/root";
    assert_eq!(found(root, "knead bread dough")[0], "billing/refunds.md");
    assert!(found(root, "knead bread dough").contains(&"bakery/oven.md".to_owned()));
    assert!(
        !found(root, "knead bread dough")
            .iter()
            .any(|path| path.starts_with("kitchen"))
    );
    assert_eq!(found(root, "giraffe")[0], "zoo.md");
    assert_eq!(found(&format!("{root}/bakery"), "bread"), ["bakery/oven.md"]);
    assert_eq!(found(root, "\"giraffe eats\" ext:md"), ["zoo.md"]);
    // The links lead to the staged files.
    assert_eq!(
        m.sh(&format!("cd {root}; cat .vexfs/search/giraffe/001-*")),
        "The giraffe eats acacia leaves.\n"
    );
    assert!(
        m.sh(&format!("cat '{root}/.vexfs/ask/giraffe'"))
            .contains("acacia")
    );
    assert_eq!(found(".", "knead bread dough")[0], "kitchen/bread.md");
    assert!(!found(".", "giraffe").contains(&"zoo.md".to_owned()));
    m.sh("vexfs txn commit t; vexfs search --wait=60 giraffe >/dev/null");
    assert_eq!(found(".", "knead bread dough")[0], "billing/refunds.md");
    assert_eq!(found(".", "giraffe")[0], "zoo.md");
}

#[test]
fn a_transaction_that_lost_is_rebased_with_both_changes() {
    let lines = |first: &str, last: &str| format!("{first}\n2\n3\n4\n{last}\n");
    let base = lines("1", "5");
    let Some(m) = Mounted::start(&[
        ("both", &base),
        ("same", "base\n"),
        ("gone", "base\n"),
        ("mine", "m\n"),
    ]) else {
        return;
    };
    m.sh("mkdir .vexfs/txn/t; cd .vexfs/txn/t/root; sed -i s/1/one/ both; echo ours > same; echo ours > gone; echo ours > mine");
    m.set_xattr(".vexfs/txn/t/root/mine", "user.vexfs.tag.kept", b"");
    // One in place, one as editors do, one removed.
    m.sh("echo theirs > same; sed -i s/5/five/ both; rm gone");
    let refused = m.try_sh("vexfs txn commit t");
    assert_eq!(
        (refused.status.code(), text(&refused.stdout)),
        (Some(6), "both\ngone\nsame\n".into())
    );
    let left = m.try_sh("vexfs txn rebase t");
    assert_eq!(
        (left.status.code(), text(&left.stdout)),
        (Some(6), "gone\nsame\n".into())
    );
    assert_eq!(m.read(".vexfs/txn/t/root/both"), lines("one", "five"));
    assert_eq!(m.read(".vexfs/txn/t/root/same"), "ours\n", "nothing is lost");
    assert_eq!(m.sh("cat .vexfs/txn/t/conflicts"), "gone\nsame\n");
    m.sh("vexfs txn rebase --ours t; vexfs txn commit t");
    assert_eq!(m.read("both"), lines("one", "five"));
    assert_eq!(
        m.sh("cat same gone mine; ls"),
        "ours\nours\nours\nboth\ngone\nmine\nsame\n"
    );
    assert!(m.xattr("mine", "user.vexfs.tag.kept").is_some());
}

#[test]
fn a_transaction_is_exported_as_a_patch_that_git_and_patch_take() {
    let Some(m) = Mounted::start(&[
        ("text", "one\ntwo\nthree\n"),
        ("bare", "no end"),
        ("old name", "moved\nand changed\n"),
        ("dir/a", "a\n"),
        ("dir/sub/b", "b\n"),
        ("gone", "gone\n"),
        ("script", "#!/bin/sh\n"),
        ("\u{e4}\"odd", "odd\n"),
        ("lost", "base\n"),
    ]) else {
        return;
    };
    m.sh("printf '\\0\\1\\2' > binary; ln -s text soft; mkdir .git; echo 1 > .git/index; cp -a . ../before; rm -rf ../before/.vexfs ../before/.git");
    let change = "sed -i s/two/TWO/ text; echo ' now' >> bare; mv 'old name' 'new name'; echo more >> 'new name'; mv dir moved; \
                  echo x >> moved/sub/b; rm gone; chmod +x script; echo even >> *odd; head -c 3000 /dev/urandom > binary; \
                  ln -sfn script soft; mkdir n; echo n > n/n; echo ours > lost; rm moved/a; echo replaced > text2; mv text2 text; \
                  echo 2 > .git/index";
    m.sh(&format!("vexfs txn begin t; cd .vexfs/txn/t/root; {change}"));
    // The old side is what the transaction found, whatever others do.
    m.sh("echo theirs > lost; vexfs txn diff --patch t > ../t.patch; cp -a .vexfs/txn/t/root ../after; rm -rf ../after/.git");
    m.sh("grep -q '^# not in this patch: .git/index' ../t.patch");
    m.sh("cd ../before; git init -q .; git apply --check ../t.patch; git apply ../t.patch; rm -rf .git; diff -r --no-dereference . ../after");
    m.sh("test \"$(stat -c %a ../before/script)\" = 755; grep -q '^rename to \"\\?moved/sub/b' ../t.patch");
    // patch(1) knows no binary contents; the rest it takes.
    m.sh("rm -rf ../plain; cp -a . ../plain; rm -rf ../plain/.vexfs ../plain/.git; cd ../plain; echo base > lost; \
          sed '/^GIT binary/,/^$/d' ../t.patch > ../p.patch; patch -s -p1 < ../p.patch; cp ../after/binary binary; \
          diff -r --no-dereference . ../after");
    m.sh("vexfs txn abort t");
}

#[test]
fn a_full_disk_is_found_while_staging_or_before_anything_is_applied() {
    let Some(m) = Mounted::in_memory(&[("a", "old"), ("b", "old")], 24 << 20) else {
        return;
    };
    m.sh("mkdir .vexfs/txn/t; echo new > .vexfs/txn/t/root/a");
    let before = snapshot(&m.at(""), true);
    let full = m.try_sh("head -c 40000000 /dev/zero > .vexfs/txn/t/root/big");
    assert!(text(&full.stderr).contains("No space"), "{full:?}");
    assert_eq!(snapshot(&m.at(""), true), before);
    let refused = m.try_sh("vexfs txn commit t");
    assert!(
        !refused.status.success() && text(&refused.stderr).contains("No space"),
        "{refused:?}"
    );
    assert_eq!(snapshot(&m.at(""), true), before);
    assert_eq!(m.sh("cat .vexfs/txn/t/root/a"), "new\n", "nothing is lost");
    m.sh("rm .vexfs/txn/t/root/big; vexfs txn commit t");
    assert_eq!(m.read("a"), "new\n");
}

#[test]
fn disjoint_transactions_both_commit_and_a_moved_file_stays_the_same_file() {
    let Some(m) = Mounted::start(&[("a", "a"), ("b", "b"), ("d/c", "c")]) else {
        return;
    };
    m.set_xattr("d/c", "user.vexfs.tag.kept", b"");
    let id = m.xattr("d/c", "user.vexfs.id").unwrap();
    m.sh("mkdir .vexfs/txn/one .vexfs/txn/two; echo 1 >> .vexfs/txn/one/root/a; echo 2 >> .vexfs/txn/two/root/b");
    m.sh("cd .vexfs/txn/two/root; mv d/c e; echo more >> e; rmdir d");
    m.sh("vexfs txn commit one; vexfs txn commit two");
    assert_eq!(m.sh("cat a b e; ls"), "a1\nb2\ncmore\na\nb\ne\n");
    assert_eq!(
        m.xattr("e", "user.vexfs.id"),
        Some(id),
        "renamed and changed, it is the same file"
    );
    assert!(m.xattr("e", "user.vexfs.tag.kept").is_some());
}

#[test]
fn a_strict_transaction_also_loses_when_what_it_read_was_changed() {
    let Some(m) = Mounted::start(&[("a", "a"), ("b", "b"), ("d/x", "x")]) else {
        return;
    };
    m.sh("vexfs txn begin strict --strict; vexfs txn begin plain");
    for name in ["strict", "plain"] {
        m.sh(&format!("cd .vexfs/txn/{name}/root; cat a > {name}; ls d"));
    }
    m.sh("echo more >> a; echo y > d/y");
    m.sh("vexfs txn commit plain");
    let refused = m.try_sh("vexfs txn commit strict");
    assert_eq!(
        (refused.status.code(), text(&refused.stdout)),
        (Some(6), "a\nd\n".into())
    );
    assert_eq!(m.sh("ls"), "a\nb\nd\nplain\n");
}

#[test]
fn quota_and_expiry_are_kept() {
    let Some(m) = Mounted::start(&[("a", "a")]) else {
        return;
    };
    m.sh("vexfs txn begin small --quota 100000");
    let full = m.try_sh("head -c 200000 /dev/zero > .vexfs/txn/small/root/big");
    assert!(text(&full.stderr).contains("quota"), "{full:?}");
    m.sh("rm .vexfs/txn/small/root/big; head -c 90000 /dev/zero > .vexfs/txn/small/root/fits");
    assert!(
        m.sh("vexfs txn status small")
            .contains("bytes 90000\nquota 100000\nstrict 0")
    );
    m.sh("vexfs txn commit small; vexfs txn begin short --expires 0; echo b > .vexfs/txn/short/root/a");
    let late = m.try_sh("mv .vexfs/txn/short .vexfs/txn/@committed/short");
    assert!(text(&late.stderr).contains("timed out"), "{late:?}");
    assert_eq!(
        m.sh("cat a .vexfs/txn/short/root/a"),
        "ab\n",
        "it can still be read"
    );
    m.set_xattr(".vexfs/txn/short", "user.vexfs.expires", b"60");
    m.sh("vexfs txn commit short");
    assert_eq!(m.read("a"), "b\n");
}

#[test]
fn changed_files_are_listed_by_how_far_their_meaning_moved() {
    let text = "How refunds are paid to a credit card by the billing department of the shop.";
    let Some(m) = Mounted::start(&[
        ("near.md", text),
        ("far.md", text),
        ("same.md", text),
        ("bin", "\0\u{1}"),
    ]) else {
        return;
    };
    m.sh("vexfs txn begin t; cd .vexfs/txn/t/root; sed -i s/shop/store/ near.md; chmod 600 same.md; printf '\\0\\2' > bin; \
          echo 'Flour, yeast and butter: knead the bread dough for ten minutes.' > far.md");
    let lines = m.sh("vexfs txn diff --meaning t");
    let (distances, paths): (Vec<_>, Vec<_>) = lines.lines().filter_map(|line| line.split_once(' ')).unzip();
    assert_eq!(
        paths.iter().map(|path| path.trim()).collect::<Vec<_>>(),
        ["far.md", "near.md", "same.md", "bin"],
        "{lines}"
    );
    let number = |n: usize| distances[n].parse::<f32>().unwrap();
    assert!(
        number(0) > 0.4 && number(1) < 0.3 && number(1) > 0.0 && number(2) == 0.0,
        "{lines}"
    );
}
