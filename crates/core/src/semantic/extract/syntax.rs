//! Where a source may be cut, by its syntax tree: definitions with the comments and attributes above them, and
//! statements.
//!
//! Runs in a worker process ([`super::parsers`]): the parsers are generated C, fed with files of unknown origin. A tree
//! with errors is used all the same, since the parsers go on behind an error; what is inside of one has no marks.

use std::ffi::OsStr;
use std::ops::Range;
use std::path::Path;

use tree_sitter::{Node, Parser, TreeCursor};

use crate::semantic::passages::{Mark, Strength};

/// A language that there is a parser for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    C,
    Cpp,
    Go,
    Java,
    JavaScript,
    Python,
    Rust,
    TypeScript,
    Tsx,
}

impl Language {
    /// All of them; their places are their numbers on the wire.
    pub(super) const ALL: [Language; 9] = [
        Language::C,
        Language::Cpp,
        Language::Go,
        Language::Java,
        Language::JavaScript,
        Language::Python,
        Language::Rust,
        Language::TypeScript,
        Language::Tsx,
    ];

    fn grammar(self) -> tree_sitter::Language {
        match self {
            Language::C => tree_sitter_c::LANGUAGE,
            Language::Cpp => tree_sitter_cpp::LANGUAGE,
            Language::Go => tree_sitter_go::LANGUAGE,
            Language::Java => tree_sitter_java::LANGUAGE,
            Language::JavaScript => tree_sitter_javascript::LANGUAGE,
            Language::Python => tree_sitter_python::LANGUAGE,
            Language::Rust => tree_sitter_rust::LANGUAGE,
            Language::TypeScript => tree_sitter_typescript::LANGUAGE_TYPESCRIPT,
            Language::Tsx => tree_sitter_typescript::LANGUAGE_TSX,
        }
        .into()
    }
}

/// The language of a file, by the end of its name.
pub(super) fn language_of(name: &OsStr) -> Option<Language> {
    let extension = Path::new(name).extension()?.to_str()?.to_lowercase();
    Some(match &*extension {
        "c" => Language::C,
        // A header says nowhere which of both it is; the larger language reads nearly all of the smaller.
        "h" | "cc" | "cpp" | "cxx" | "hh" | "hpp" | "hxx" => Language::Cpp,
        "go" => Language::Go,
        "java" => Language::Java,
        "js" | "mjs" | "cjs" | "jsx" => Language::JavaScript,
        "py" | "pyi" => Language::Python,
        "rs" => Language::Rust,
        "ts" | "mts" | "cts" => Language::TypeScript,
        "tsx" => Language::Tsx,
        _ => return None,
    })
}

/// The marks of a source, in rising order. None if the parser gives no tree.
pub(super) fn marks(language: Language, text: &str) -> Option<Vec<Mark>> {
    let mut parser = Parser::new();
    parser.set_language(&language.grammar()).ok()?;
    let tree = parser.parse(text, None)?;
    let mut walk = Walk {
        text,
        marks: Vec::new(),
        path: Vec::new(),
        around: 0,
    };
    walk.over(&mut tree.walk());
    Some(walk.marks)
}

/// What has a name and a body, in one language or another.
const DEFINITIONS: [&str; 32] = [
    "abstract_class_declaration",
    "annotation_type_declaration",
    "class_declaration",
    "class_definition",
    "class_specifier",
    "constructor_declaration",
    "enum_declaration",
    "enum_item",
    "enum_specifier",
    "function_declaration",
    "function_definition",
    "function_item",
    "generator_function_declaration",
    "impl_item",
    "interface_declaration",
    "internal_module",
    "macro_definition",
    "method_declaration",
    "method_definition",
    "mod_item",
    "module",
    "namespace_definition",
    "record_declaration",
    "struct_item",
    "struct_specifier",
    "trait_item",
    "type_alias_declaration",
    "type_declaration",
    "type_item",
    "union_item",
    "union_specifier",
    "variable_declarator",
];

/// Those of them that are written without a body too, where they define nothing.
const WITH_BODY: [&str; 7] = [
    "class_specifier",
    "enum_specifier",
    "internal_module",
    "mod_item",
    "module",
    "struct_specifier",
    "union_specifier",
];

/// What stands around a definition and belongs to it.
const WRAPPERS: [&str; 8] = [
    "ambient_declaration",
    "declaration",
    "decorated_definition",
    "export_statement",
    "expression_statement",
    "lexical_declaration",
    "template_declaration",
    "variable_declaration",
];

/// What stands above a definition and belongs to it.
const LEADS: [&str; 6] = [
    "attribute_item",
    "block_comment",
    "comment",
    "decorator",
    "inner_attribute_item",
    "line_comment",
];

/// Bytes on either side of a name in which its line is looked for.
const TITLE_REACH: usize = 400;

/// What holds statements, or the parts of a definition, line by line.
const LISTS: [&str; 20] = [
    "block",
    "class_body",
    "compound_statement",
    "constructor_body",
    "declaration_list",
    "enum_body",
    "enum_body_declarations",
    "enum_variant_list",
    "field_declaration_list",
    "interface_body",
    "match_block",
    "module",
    "object_type",
    "program",
    "source_file",
    "statement_block",
    "statement_list",
    "switch_block",
    "switch_body",
    "translation_unit",
];

struct Walk<'t, 'n> {
    text: &'t str,
    marks: Vec<Mark>,
    /// The nodes around the one that is looked at, outermost first. Asking a node for its parent or for the sibling before
    /// it starts at the root each time.
    path: Vec<Around<'n>>,
    /// How many of them are definitions.
    around: usize,
}

struct Around<'n> {
    node: Node<'n>,
    is_definition: bool,
    /// Where it begins with the comments and attributes above it.
    from: usize,
    /// Comments and attributes among its children, with nothing behind them yet: where they begin and end.
    lead: Option<(usize, usize)>,
}

impl<'n> Walk<'_, 'n> {
    /// Looks at each node once, without recursion: sources may be nested as deep as they are long.
    fn over(&mut self, cursor: &mut TreeCursor<'n>) {
        loop {
            let node = cursor.node();
            let entered = self.look(node);
            if node.is_named() && cursor.goto_first_child() {
                self.around += usize::from(entered.is_definition);
                self.path.push(entered);
                continue;
            }
            while !cursor.goto_next_sibling() {
                let Some(left) = self.path.pop() else { return };
                self.around -= usize::from(left.is_definition);
                cursor.goto_parent();
            }
        }
    }

    /// Marks a node, if there is something to mark.
    fn look(&mut self, node: Node<'n>) -> Around<'n> {
        let from = self.with_lead(node);
        let entered = Around {
            node,
            is_definition: self.is_definition(node),
            from,
            lead: None,
        };
        let in_list = self
            .path
            .last()
            .is_some_and(|parent| LISTS.contains(&parent.node.kind()));
        if entered.is_definition {
            self.define(node, from);
        } else if in_list && node.is_named() && self.begins_line(node.start_byte()) {
            let at = node.start_byte();
            self.push(Mark {
                at,
                strength: match self.is_after_blank(at) {
                    true => Strength::Paragraph,
                    false => Strength::Statement,
                },
                level: self.around,
                title: at..at,
            });
        }
        entered
    }

    /// Where a node begins with the comments and attributes above it that no blank line parts from it. If it is one
    /// itself it is kept for what follows.
    fn with_lead(&mut self, node: Node<'n>) -> usize {
        let (start, text) = (node.start_byte(), self.text);
        let begins_line = self.begins_line(start);
        let Some(parent) = self.path.last_mut() else {
            return start;
        };
        let newlines = |gap: &str| gap.bytes().filter(|byte| *byte == b'\n').count();
        let above = parent
            .lead
            .take()
            .filter(|(_, end)| begins_line && text.get(*end..start).is_some_and(|gap| newlines(gap) <= 1));
        let from = above.map_or(start, |(from, _)| from);
        if LEADS.contains(&node.kind()) && begins_line {
            // The parser of Rust ends a line comment behind its line.
            let end = text[..node.end_byte()].trim_end().len();
            parent.lead = Some((from, end));
        }
        from
    }

    /// Marks a definition, at its outermost wrapper: decorators, `export`, `template <...>`.
    fn define(&mut self, node: Node<'n>, from: usize) {
        let wrappers = self.path.iter().rev();
        let wrapper = wrappers
            .take_while(|parent| WRAPPERS.contains(&parent.node.kind()))
            .last();
        let (from, start) = wrapper.map_or((from, node.start_byte()), |wrapper| {
            (wrapper.from, wrapper.node.start_byte())
        });
        let is_named = |mark: &Mark| mark.at == from && !mark.title.is_empty();
        if !self.begins_line(start) || self.marks.last().is_some_and(is_named) {
            // It has no line of its own, or stands behind the first of a list.
            return;
        }
        self.marks
            .truncate(self.marks.partition_point(|mark| mark.at < from));
        self.push(Mark {
            at: from,
            strength: match self.around {
                0 => Strength::Section,
                _ => Strength::Paragraph,
            },
            level: self.around,
            title: self.title(node),
        });
    }

    fn is_definition(&self, node: Node<'n>) -> bool {
        let kind = node.kind();
        if !node.is_named() || !DEFINITIONS.contains(&kind) {
            return false;
        }
        match kind {
            // Of a variable only one that names a function; the whole file of Python is a module, without a parent.
            "variable_declarator" => node.child_by_field_name("value").is_some_and(|value| {
                matches!(
                    value.kind(),
                    "arrow_function" | "class" | "function_expression" | "generator_function"
                )
            }),
            _ if WITH_BODY.contains(&kind) => {
                !self.path.is_empty() && node.child_by_field_name("body").is_some()
            }
            _ => true,
        }
    }

    fn push(&mut self, mark: Mark) {
        if self.marks.last().is_none_or(|last| last.at < mark.at) {
            self.marks.push(mark);
        }
    }

    /// The line of the name, without what opens the body. Of a long line the part around the name.
    fn title(&self, node: Node<'_>) -> Range<usize> {
        let at = name_of(node).unwrap_or(node).start_byte();
        let mut before = self.text[..at].bytes().rev().take(TITLE_REACH);
        let start = at
            - before
                .position(|byte| byte == b'\n')
                .unwrap_or(if at <= TITLE_REACH { at } else { 0 });
        let after = &self.text[at..self.text.floor_char_boundary(at + TITLE_REACH)];
        let end = at + after.find('\n').unwrap_or(after.len());
        let line = &self.text[start..end];
        let start = start + (line.len() - line.trim_start().len());
        let line = self.text[start..end].trim_end_matches(['{', ':', ' ', '\t', '\r']);
        start..start + line.len()
    }

    fn begins_line(&self, at: usize) -> bool {
        let line = self.text[..at].bytes().rev().take_while(|byte| *byte != b'\n');
        line.into_iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
    }

    fn is_after_blank(&self, at: usize) -> bool {
        let before = self.text[..at].bytes().rev();
        let gap = before.take_while(u8::is_ascii_whitespace);
        gap.filter(|byte| *byte == b'\n').count() > 1
    }
}

/// The node of a definition's name.
fn name_of(node: Node<'_>) -> Option<Node<'_>> {
    if let Some(name) = node.child_by_field_name("name") {
        return Some(name);
    }
    // Of a function in C: behind its type, below pointers and brackets.
    let mut inner = node.child_by_field_name("declarator")?;
    while let Some(deeper) = inner.child_by_field_name("declarator") {
        inner = deeper;
    }
    Some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The titles of the definitions with their strength, and what the text at each mark begins with.
    fn titles(language: Language, text: &str) -> Vec<(String, usize, String)> {
        let marks = marks(language, text).expect("a tree");
        assert!(marks.is_sorted_by(|a, b| a.at < b.at));
        let defined = marks.into_iter().filter(|mark| !mark.title.is_empty());
        defined
            .map(|mark| {
                let first = text[mark.at..].lines().next().unwrap_or("").trim();
                (text[mark.title].to_owned(), mark.level, first.to_owned())
            })
            .collect()
    }

    fn check(language: Language, text: &str, expected: &[(&str, usize, &str)]) {
        let found = titles(language, text);
        let found: Vec<_> = found
            .iter()
            .map(|(title, level, first)| (&**title, *level, &**first))
            .collect();
        assert_eq!(found, expected, "{language:?}");
    }

    #[test]
    fn definitions_of_every_language_are_found_with_what_belongs_to_them() {
        check(
            Language::Rust,
            "use a::b;\n\n// Not of it.\n\n/// Doc.\n#[inline]\npub fn first(a: u8) -> u8 {\n    a\n}\n\nimpl X for Y {\n    /// Inner.\n    fn second(&self) {}\n}\nmod other;\n",
            &[
                ("pub fn first(a: u8) -> u8", 0, "/// Doc."),
                ("impl X for Y", 0, "impl X for Y {"),
                ("fn second(&self) {}", 1, "/// Inner."),
            ],
        );
        check(
            Language::Python,
            "import os\n\n# About it.\n@cache\ndef first(a):\n    \"\"\"Doc.\"\"\"\n    return a\n\nclass Plane:\n    size = 1\n\n    def fly(self):\n        pass\n",
            &[
                ("def first(a)", 0, "# About it."),
                ("class Plane", 0, "class Plane:"),
                ("def fly(self)", 1, "def fly(self):"),
            ],
        );
        check(
            Language::C,
            "#include <a.h>\n\n/* Doc. */\nstatic int *\nfirst(int a)\n{\n    struct b c;\n    return a;\n}\n\nstruct b {\n    int d;\n};\n",
            &[("first(int a)", 0, "/* Doc. */"), ("struct b", 0, "struct b {")],
        );
        check(
            Language::Cpp,
            "namespace n {\n// Doc.\ntemplate <class T>\nclass Wing : Base {\n  void fly() { go(); }\n};\n}\n",
            &[
                ("namespace n", 0, "namespace n {"),
                ("class Wing : Base", 1, "// Doc."),
                ("void fly() { go(); }", 2, "void fly() { go(); }"),
            ],
        );
        check(
            Language::JavaScript,
            "/** Doc. */\nexport function first(a) {\n  return a;\n}\nexport const second = async (b) => {\n  await b;\n};\nclass Wing {\n  fly() {}\n}\nconst n = 1;\n",
            &[
                ("export function first(a)", 0, "/** Doc. */"),
                (
                    "export const second = async (b) =>",
                    0,
                    "export const second = async (b) => {",
                ),
                ("class Wing", 0, "class Wing {"),
                ("fly() {}", 1, "fly() {}"),
            ],
        );
        check(
            Language::TypeScript,
            "export interface Wing {\n  span: number;\n}\ntype Id = string;\nexport abstract class Plane {\n  fly(): void {}\n}\n",
            &[
                ("export interface Wing", 0, "export interface Wing {"),
                ("type Id = string;", 0, "type Id = string;"),
                ("export abstract class Plane", 0, "export abstract class Plane {"),
                ("fly(): void {}", 1, "fly(): void {}"),
            ],
        );
        check(
            Language::Go,
            "package a\n\n// First does.\nfunc First(a int) int {\n\treturn a\n}\n\ntype Wing struct {\n\tSpan int\n}\n\nfunc (w *Wing) Fly() {}\n",
            &[
                ("func First(a int) int", 0, "// First does."),
                ("type Wing struct", 0, "type Wing struct {"),
                ("func (w *Wing) Fly() {}", 0, "func (w *Wing) Fly() {}"),
            ],
        );
        check(
            Language::Java,
            "package a;\n\n/** Doc. */\n@Deprecated\npublic class Wing {\n    @Override\n    public void fly() {\n        go();\n    }\n}\n",
            &[
                ("public class Wing", 0, "/** Doc. */"),
                ("public void fly()", 1, "@Override"),
            ],
        );
    }

    #[test]
    fn statements_are_marked_and_lines_inside_of_one_are_not() {
        let text =
            "fn f() {\n    let a = g(\n        1,\n        2,\n    );\n\n    h(a);\n    i(\"\n\nx\");\n}\n";
        let marks = marks(Language::Rust, text).expect("a tree");
        let found: Vec<(&str, Strength)> = marks
            .iter()
            .map(|mark| {
                (
                    text[mark.at..].trim_end().lines().next().unwrap_or(""),
                    mark.strength,
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("fn f() {", Strength::Section),
                ("let a = g(", Strength::Statement),
                ("h(a);", Strength::Paragraph),
                ("i(\"", Strength::Statement),
            ]
        );
    }
}
