//! `vexfs try` on the repository of a program: a branch is checked out and built, and then given up or kept. Where FUSE,
//! root, git or a C compiler is missing the tests say so and pass.
#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use killable::{Mounted, snapshot};

mod killable;

/// Modules of the program.
const MODULES: usize = 12;

#[test]
fn a_command_is_tried_at_its_own_paths() {
    let Some(m) = Mounted::start(&[("d/a", "base")]) else {
        return;
    };
    let root = m.at("").display().to_string();
    let out = m.sh(&format!(
        "cd d; vexfs try -- sh -c 'echo tried > a; cat {root}/d/a; touch {root}/new'"
    ));
    assert_eq!(out, "tried\nM d/a\nA new\n");
    assert_eq!(
        m.sh("cat d/a; ls; vexfs txn list"),
        "based\n",
        "without -y it is given up"
    );
    let failed = m.try_sh("vexfs try -y -- sh -c 'echo tried > d/a; exit 7'");
    assert_eq!(failed.status.code(), Some(7));
    assert_eq!(m.read("d/a"), "base");
    m.sh("vexfs try -y -- sh -c 'echo tried > d/a'");
    assert_eq!(m.read("d/a"), "tried\n");
}

#[test]
fn a_branch_is_checked_out_and_made_in_a_trial_and_then_given_up_or_kept() {
    let Some(m) = repository() else { return };
    // What the very same command leaves on the disk itself.
    m.sh("cp -a . ../bare; rm -rf ../bare/.vexfs");
    let build = "git checkout -q other && make -s -j2 && ./out/program > out/says";
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();

    let before = snapshot(&m.at(""), true);
    let told = m.sh(&format!("vexfs try -- sh -c '{build}'"));
    assert!(
        told.contains("A out/says\n") && told.contains("D src/m0.c\n"),
        "{told}"
    );
    assert_eq!(snapshot(&m.at(""), true), before, "it was given up");
    m.sh("vexfs check | grep ^sound: ; git status --porcelain | wc -l | grep -qx 0");

    // The last command of the trial copies what it sees, with all times.
    m.sh(&format!("vexfs try -y -- sh -c '{build} && cp -a . ../seen'"));
    let after = snapshot(&m.at(""), true);
    let seen = snapshot(&m.at("../seen"), true);
    let differ: Vec<_> = after
        .iter()
        .filter(|(path, facts)| seen.get(*path) != Some(*facts))
        .collect();
    assert!(
        differ.is_empty() && after.len() == seen.len(),
        "not as the command left it: {differ:?}"
    );
    assert_eq!(linked(&m, "."), linked(&m, "../seen"));

    m.sh(&format!("cd ../bare; {build}"));
    assert!(m.sh("cat out/says").contains("from the other branch"));
    // The index and the log of git have times in them.
    m.sh("diff -r --no-dereference --exclude=index --exclude=logs . ../bare; git fsck --strict; git status --porcelain | wc -l | grep -qx 0");
    assert_eq!(linked(&m, "."), linked(&m, "../bare"));
    assert_eq!(old_times(&m, ".", begun), old_times(&m, "../bare", begun));
    m.sh("make -q"); // Nothing is out of date, for who looks at times.
    m.sh("vexfs check | grep ^sound:");
    assert_eq!(
        exported(&m),
        exported(&Mounted::indexed_copy(&m.at("../bare")).unwrap()),
        "the index is that of a tree which was always so"
    );
}

/// A program in C with two branches that differ in many files, a library, generated sources, hard links and symbolic
/// ones. The first branch is checked out and built.
fn repository() -> Option<Mounted> {
    for tool in ["git", "make", "cc"] {
        if Command::new(tool).arg("--version").output().is_err() {
            eprintln!("skipped: needs {tool}");
            return None;
        }
    }
    let mut files: Vec<(String, String)> = Vec::new();
    for n in 0..MODULES {
        let code = format!("#include \"../include/all.h\"\nint m{n}(void) {{ return {n} + STEP; }}\n");
        files.push((format!("src/m{n}.c"), code));
        files.push((
            format!("doc/chapter{n}/text.md"),
            format!(
                "# Chapter {n}\n\nWhat m{n} does. See [the next](../chapter{}/text.md).\n",
                n + 1
            ),
        ));
    }
    files.push((
        "include/all.h".into(),
        "#define STEP 1\nint total(void);\n".into(),
    ));
    files.push(("src/main.c".into(), MAIN.into()));
    files.push(("Makefile".into(), MAKEFILE.into()));
    files.push((".gitignore".into(), "out/\n".into()));
    let files: Vec<_> = files
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    let m = Mounted::indexed(&files)?;
    m.sh("git init -q -b main .; git config user.email a@example.org; git config user.name a; git config gc.auto 0; \
          ln -s src/main.c start; git add -A; git commit -qm one; git checkout -q -b other; \
          sed -i 's/STEP 1/STEP 2/; s/^int total/int total(void);\\nint more/' include/all.h; sed -i s/first/other/ src/main.c; git rm -q src/m0.c; \
          git mv doc/chapter1 doc/introduction; git mv src/m1.c src/moved.c; chmod +x doc/chapter2/text.md; ln -sfn Makefile start; \
          for n in $(seq 2 9); do echo \"/* $n */\" >> src/m$n.c; done; git add -A; git commit -qm two; git checkout -q main; \
          git repack -adq; make -s; find . -name .vexfs -prune -o -newermt 2002-01-01 -exec touch -h -d '2001-02-03 04:05:06.789' {} +; git status > /dev/null");
    Some(m)
}

const MAIN: &str = "#include <stdio.h>\n#include \"../include/all.h\"\n\
                    int main(void) { printf(\"%d from the first branch\\n\", total()); return 0; }\n";

/// Compiles every source, adds a generated one, keeps the objects in an archive, and installs by hard links.
const MAKEFILE: &str = "\
SOURCES := $(filter-out src/main.c,$(sort $(wildcard src/*.c)))
OBJECTS := $(SOURCES:src/%.c=out/%.o)
all: out/program out/bin/program out/stamp
out/%.o: src/%.c include/all.h
\t@mkdir -p out
\tcc -c -o $@ $<
out/total.c: $(SOURCES)
\t@mkdir -p out
\tcat $(SOURCES) | sed -n 's/^int \\(m[0-9]*\\)(void).*/\\1/p' | awk '{print \"int \" $$1 \"(void);\"; s = s \" + \" $$1 \"()\"} \\
\t  END {print \"int total(void) { return 0\" s \"; }\"}' > $@
out/all.a: $(OBJECTS) out/total.o
\trm -f $@
\tar rcD $@ $^
out/total.o: out/total.c
\tcc -c -o $@ $<
out/program: src/main.c out/all.a
\tcc -o $@ $^
out/bin/program: out/program
\t@mkdir -p out/bin
\tln -f $< $@
\tln -sf ../program out/bin/soft
out/stamp: out/program
\ttouch -r Makefile $@
\ttouch $@
";

/// Files by the names that they have together.
fn linked(m: &Mounted, at: &str) -> Vec<String> {
    let lines = m.sh(&format!("cd {at}; find . -type f -printf '%i %n %m %P\\n'"));
    let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in lines.lines() {
        let (ino, name) = line.split_once(' ').unwrap();
        names.entry(ino).or_default().push(name);
    }
    let mut groups: Vec<_> = names
        .into_values()
        .map(|mut group| {
            group.sort_unstable();
            group.join(" = ")
        })
        .collect();
    groups.sort();
    groups
}

/// The times of what the build left as it was.
fn old_times(m: &Mounted, at: &str, begun: u64) -> BTreeMap<PathBuf, String> {
    let lines = m.sh(&format!(
        "cd {at}; find . -not -type d -not -newermt @{begun} -printf '%P\\t%T@\\n'"
    ));
    let times = lines.lines().map(|line| line.split_once('\t').unwrap());
    times.map(|(path, time)| (path.into(), time.to_owned())).collect()
}

/// The indexed files of the tree as the store has them: path, size, hash. Numbers and times are each store's own, and a
/// link that was written before its target was renamed still leads to it in the store that saw that.
fn exported(m: &Mounted) -> Vec<String> {
    m.sh("vexfs search --wait=60 chapter > /dev/null");
    let lines = m.sh("vexfs export . | grep '\"state\":\"ready\"'");
    let fact = |line: &str, name: &str| -> String {
        let rest = line.split(&format!("\"{name}\":")).nth(1).unwrap();
        rest.split([',', '}']).next().unwrap().to_owned()
    };
    let files = lines.lines().filter(|line| !line.contains("\"path\":\".git/"));
    let mut files: Vec<_> = files
        .map(|line| ["path", "size", "hash"].map(|name| fact(line, name)).join(" "))
        .collect();
    files.sort();
    files
}
