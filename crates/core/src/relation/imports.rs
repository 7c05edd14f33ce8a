//! Imports, includes and module declarations of source files, read line by line.
//!
//! This is reading, not compiling: build settings (include paths, aliases, module maps) are not known, so each
//! statement gives the places where its target stands by convention, and the first that exists counts.

use std::path::{Path, PathBuf};

use super::{IMPORTS, folder, join};
use crate::store::relations::Reference;

/// Folders above a file in which its imports are looked for.
const ANCESTORS_MAX: usize = 12;

/// The references of a source file with this extension; none when the language is not known.
pub(super) fn references(path: &Path, extension: &str, text: &str) -> Vec<Reference> {
    let read: fn(&Path, &str) -> Option<Target> = match extension {
        "c" | "h" | "cc" | "cpp" | "cxx" | "hh" | "hpp" | "hxx" | "m" | "mm" | "cu" | "cuh" => include,
        "rs" => rust,
        "py" | "pyi" => python,
        "js" | "jsx" | "mjs" | "cjs" | "ts" | "tsx" | "mts" | "cts" | "vue" | "svelte" => javascript,
        "go" => go,
        "java" | "kt" | "scala" => java,
        "sh" | "bash" | "zsh" => shell,
        "css" | "scss" | "less" => stylesheet,
        _ => return Vec::new(),
    };
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let Some(target) = read(path, line.trim()) else {
            continue;
        };
        if !target.candidates.is_empty() {
            found.push(Reference {
                kind: IMPORTS,
                candidates: target.candidates,
                anywhere: None,
                dangles: target.dangles,
                line: index as u32 + 1,
            });
        }
    }
    found
}

/// Where the target of a statement may stand.
struct Target {
    candidates: Vec<PathBuf>,
    dangles: bool,
}

impl Target {
    /// A file of the tree, by all likelihood.
    fn ours(candidates: Vec<PathBuf>) -> Option<Target> {
        Some(Target {
            candidates,
            dangles: true,
        })
    }

    /// As likely a library as a file of the tree.
    fn perhaps(candidates: Vec<PathBuf>) -> Option<Target> {
        Some(Target {
            candidates,
            dangles: false,
        })
    }
}

/// `#include "x.h"` and `<x.h>`.
fn include(path: &Path, line: &str) -> Option<Target> {
    let rest = line
        .strip_prefix('#')?
        .trim_start()
        .strip_prefix("include")?
        .trim_start();
    let here = folder(path);
    if let Some(name) = quoted(rest, "\"") {
        let mut candidates: Vec<_> = join(here, Path::new(name)).into_iter().collect();
        candidates.extend(below_ancestors(here, &[&format!("include/{name}"), name]));
        return Target::ours(candidates);
    }
    let name = rest.strip_prefix('<')?.split('>').next()?;
    Target::perhaps(below_ancestors(here, &[&format!("include/{name}"), name]))
}

/// `mod x;`, `use crate::x::y`, `use super::x`, `use self::x`.
fn rust(path: &Path, line: &str) -> Option<Target> {
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(')')?.1.trim_start(),
        Some(rest) => rest.trim_start(),
        None => line,
    };
    let here = folder(path);
    let stem = path.file_stem()?.to_str()?;
    let own = if matches!(stem, "mod" | "lib" | "main") {
        here.to_owned()
    } else {
        here.join(stem)
    };
    if let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
        return Target::ours(rust_module(&own, &[name.trim()]));
    }
    let used = line.strip_prefix("use ")?.split([';', '{', ' ']).next()?;
    let mut parts: Vec<_> = used.split("::").filter(|p| !p.is_empty() && *p != "*").collect();
    let base = match *parts.first()? {
        "crate" => here.ancestors().find(|above| above.ends_with("src"))?.to_owned(),
        "self" => own,
        "super" => folder(&own).to_owned(),
        _ => return None,
    };
    parts.remove(0);
    let mut candidates = Vec::new();
    while !parts.is_empty() {
        candidates.extend(rust_module(&base, &parts));
        parts.pop();
    }
    Target::perhaps(candidates)
}

/// The two files in which a module may stand.
fn rust_module(base: &Path, parts: &[&str]) -> Vec<PathBuf> {
    let module = parts.iter().fold(base.to_owned(), |at, part| at.join(part));
    vec![with_suffix(&module, ".rs"), module.join("mod.rs")]
}

/// `import a.b`, `from a.b import c`, `from ..a import b`.
fn python(path: &Path, line: &str) -> Option<Target> {
    let here = folder(path);
    let (module, member) = match line.strip_prefix("from ") {
        Some(rest) => {
            let (module, members) = rest.split_once(" import ")?;
            let first = members
                .trim_start_matches(['(', ' '])
                .split([',', ' ', ')'])
                .next();
            (
                module.trim(),
                first.filter(|name| !name.is_empty() && *name != "*"),
            )
        }
        None => (line.strip_prefix("import ")?.split([',', ' ', ';']).next()?, None),
    };
    let dots = module.len() - module.trim_start_matches('.').len();
    let name = module.trim_start_matches('.').replace('.', "/");
    if !name.chars().all(|c| c.is_alphanumeric() || "_/".contains(c)) {
        return None;
    }
    let files = |base: PathBuf| {
        let mut files = Vec::new();
        if let Some(member) = member {
            files.push(base.join(format!("{member}.py")));
        }
        if !base.as_os_str().is_empty() {
            files.push(with_suffix(&base, ".py"));
        }
        files.push(base.join("__init__.py"));
        files
    };
    if dots > 0 {
        let above = here.ancestors().nth(dots - 1)?;
        return Target::ours(files(above.join(name)));
    }
    let bases = here.ancestors().take(ANCESTORS_MAX);
    let mut candidates: Vec<_> = bases.flat_map(|base| files(base.join(&name))).collect();
    candidates.extend(files(Path::new("src").join(&name)));
    Target::perhaps(candidates)
}

/// `import … from './x'`, `export … from './x'`, `require('./x')`, `import('./x')`. Names without a dot are packages.
fn javascript(path: &Path, line: &str) -> Option<Target> {
    let after = ["from ", "from\"", "from'", "require(", "import(", "import "]
        .iter()
        .find_map(|word| {
            let at = line.find(word)?;
            let rest = &line[at + word.trim_end_matches(['"', '\'']).len()..];
            quoted(rest.trim_start(), "\"'`")
        })?;
    if !after.starts_with("./") && !after.starts_with("../") {
        return None;
    }
    let target = join(folder(path), Path::new(after))?;
    let mut candidates = vec![target.clone()];
    for suffix in [".ts", ".tsx", ".js", ".jsx", ".mjs", ".json"] {
        candidates.push(with_suffix(&target, suffix));
    }
    // TypeScript names the file that will be made of the one that is there.
    if target.extension().is_some_and(|e| e == "js" || e == "mjs") {
        candidates.extend([target.with_extension("ts"), target.with_extension("tsx")]);
    }
    candidates.extend([target.join("index.ts"), target.join("index.js")]);
    Target::ours(candidates)
}

/// An import path of a host with a dot; the folder within the repository is what follows host, owner and name.
fn go(_path: &Path, line: &str) -> Option<Target> {
    let rest = line.strip_prefix("import ").unwrap_or(line).trim_start();
    // Within parentheses a line is the path alone, perhaps after a name.
    let start = rest.find('"')?;
    let alias = rest[..start].trim();
    if !alias.chars().all(|c| c.is_alphanumeric() || "_.".contains(c)) {
        return None;
    }
    let name = quoted(&rest[start..], "\"")?;
    let mut parts = name.split('/');
    if !parts.next()?.contains('.') {
        return None;
    }
    let inner: PathBuf = parts.skip(2).collect();
    if inner.as_os_str().is_empty() {
        return None;
    }
    Target::perhaps(vec![inner])
}

/// `import a.b.C`, looked for under every folder above.
fn java(path: &Path, line: &str) -> Option<Target> {
    let name = line.strip_prefix("import ")?;
    let name = name
        .strip_prefix("static ")
        .unwrap_or(name)
        .trim_end_matches(';')
        .trim();
    if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || "._".contains(c)) {
        return None;
    }
    let extension = path.extension()?.to_str()?;
    let file = format!("{}.{extension}", name.replace('.', "/"));
    Target::perhaps(below_ancestors(folder(path), &[&file]))
}

/// `source x` and `. x`, when the path is written out.
fn shell(path: &Path, line: &str) -> Option<Target> {
    let rest = line
        .strip_prefix("source ")
        .or_else(|| line.strip_prefix(". "))?
        .trim_start();
    let name = quoted(rest, "\"'").or_else(|| rest.split([' ', ';', '&', '|']).next())?;
    if name.is_empty() || name.starts_with(['/', '~', '-', '<']) || name.contains(['$', '`', '*']) {
        return None;
    }
    Target::ours(join(folder(path), Path::new(name)).into_iter().collect())
}

/// `@import "x"`, `@use "x"`.
fn stylesheet(path: &Path, line: &str) -> Option<Target> {
    let rest = line
        .strip_prefix("@import ")
        .or_else(|| line.strip_prefix("@use "))?
        .trim_start();
    let rest = rest.strip_prefix("url(").unwrap_or(rest);
    let name = quoted(rest, "\"'")?;
    if name.contains("://") || name.starts_with("//") {
        return None;
    }
    let target = join(folder(path), Path::new(name))?;
    let extension = path.extension()?.to_str()?;
    let suffixed = with_suffix(&target, &format!(".{extension}"));
    let partial = target.with_file_name(format!("_{}.{extension}", target.file_name()?.to_str()?));
    Target::ours(vec![target, suffixed, partial])
}

/// What stands between the quotation mark with which the text begins, one of `marks`, and its next one.
fn quoted<'t>(text: &'t str, marks: &str) -> Option<&'t str> {
    let mark = text.chars().next().filter(|c| marks.contains(*c))?;
    let inner = text[1..].split_once(mark)?.0;
    (!inner.is_empty()).then_some(inner)
}

/// Each name below the folder and below every folder above it, the nearest first.
fn below_ancestors(here: &Path, names: &[&str]) -> Vec<PathBuf> {
    here.ancestors()
        .take(ANCESTORS_MAX)
        .flat_map(|above| names.iter().filter_map(move |name| join(above, Path::new(name))))
        .collect()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expect` is the place among the candidates that must be there; an empty one means that there is no reference.
    fn check(path: &str, line: &str, expect: &str) {
        let extension = Path::new(path).extension().unwrap().to_str().unwrap();
        let found = references(Path::new(path), extension, line);
        if expect.is_empty() {
            assert_eq!(found, [], "{line}");
            return;
        }
        let candidates = &found
            .first()
            .unwrap_or_else(|| panic!("nothing in {line}"))
            .candidates;
        assert!(
            candidates.contains(&PathBuf::from(expect)),
            "{line}: {candidates:?}"
        );
    }

    #[test]
    fn statements_of_each_language_lead_to_files() {
        check("src/a.c", "#include \"b.h\"", "src/b.h");
        check("src/a.c", "#  include <lib/b.h>", "include/lib/b.h");
        check("src/a.rs", "pub(crate) mod b;", "src/a/b.rs");
        check("src/lib.rs", "mod b;", "src/b.rs");
        check("c/src/x/y.rs", "use crate::a::b::{C, D};", "c/src/a/b.rs");
        check("src/x/y.rs", "use super::z::Z;", "src/x/z.rs");
        check("p/a.py", "from .b import c", "p/b.py");
        check("p/q/a.py", "from ..b import c", "p/b/c.py");
        check("p/a.py", "import p.b as x", "p/b.py");
        check("w/a.ts", "import { x } from './b';", "w/b.ts");
        check("w/a.ts", "export * from \"../b/index.js\"", "b/index.ts");
        check("w/a.js", "const x = require('./b')", "w/b.js");
        check("w/a.js", "import './b.css'", "w/b.css");
        check("cmd/a.go", "    x \"example.org/owner/name/pkg/b\"", "pkg/b");
        check(
            "src/main/java/o/a/A.java",
            "import o.b.B;",
            "src/main/java/o/b/B.java",
        );
        check("s/a.sh", ". ./b.sh", "s/b.sh");
        check("s/a.sh", "source \"lib/c.sh\" # why", "s/lib/c.sh");
        check("s/a.scss", "@use \"b\";", "s/_b.scss");
    }

    #[test]
    fn libraries_and_other_lines_are_no_references_that_dangle() {
        check("src/a.rs", "use std::path::Path;", "");
        check("w/a.ts", "import x from 'react';", "");
        check("cmd/a.go", "x := \"plain/text\"", "");
        check("s/a.sh", ". \"$HOME/x.sh\"", "");
        let found = references(Path::new("a.py"), "py", "import numpy");
        assert!(!found[0].dangles);
    }

    #[test]
    fn odd_lines_do_not_panic() {
        for extension in ["c", "rs", "py", "js", "go", "java", "sh", "css"] {
            let path = PathBuf::from(format!("a.{extension}"));
            for line in [
                "",
                "#",
                "\"",
                "import ",
                "from",
                "from é import",
                "use ::",
                "mod ;",
                "#include \"",
                ". ",
                "import \"é",
            ] {
                references(&path, extension, line);
            }
        }
    }
}
