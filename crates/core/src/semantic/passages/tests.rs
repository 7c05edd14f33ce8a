use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::semantic::embed::StaticModel;

fn cut(text: &str, form: Form) -> Vec<Passage> {
    split(text, form, StaticModel::built_in().tokenizer())
}

fn tokens(text: &str) -> usize {
    let mut count = 0;
    StaticModel::built_in().tokenizer().words(text, |word| {
        count += counted(text, &word);
        true
    });
    count
}

fn words(n: usize) -> String {
    (0..n)
        .map(|i| ["wing ", "river ", "table ", "green "][i % 4])
        .collect()
}

#[test]
fn a_short_text_is_one_passage() {
    let text = "  The wing.\n\nThe river runs.\n ";
    let passages = cut(text, Form::Prose);
    assert_eq!(passages.len(), 1);
    assert_eq!(&text[passages[0].bytes.clone()], "The wing.\n\nThe river runs.");
    assert_eq!((passages[0].first_line, passages[0].last_line), (1, 3));
    assert!(cut(" \n\n", Form::Prose).is_empty());
}

#[test]
fn unbroken_words_are_cut_at_128_with_an_overlap_of_16() {
    let text = words(300);
    let sizes: Vec<usize> = cut(&text, Form::Prose)
        .iter()
        .map(|p| tokens(&text[p.bytes.clone()]))
        .collect();
    assert_eq!(sizes, [128, 128, 76]);
}

#[test]
fn a_cut_prefers_the_paragraph_and_does_not_repeat_it() {
    let text = format!("{}\n\n{}", words(100), words(100));
    let passages = cut(&text, Form::Prose);
    let sizes: Vec<usize> = passages.iter().map(|p| tokens(&text[p.bytes.clone()])).collect();
    assert_eq!(sizes, [100, 100]);
    assert_eq!((passages[1].first_line, passages[1].last_line), (3, 3));
}

#[test]
fn markdown_sections_carry_their_headings() {
    let body = words(60);
    let text = format!(
        "# Guide\n\n{body}\n## Install #\n\n{body}\n```sh\n# not a heading\n```\n\nUsage\n-----\n{body}\n# Other\n\n{body}"
    );
    let headings: Vec<String> = cut(&text, Form::Markdown)
        .into_iter()
        .map(|p| p.heading)
        .collect();
    assert_eq!(headings, ["Guide", "Guide > Install", "Guide > Usage", "Other"]);
}

#[test]
fn a_first_line_alone_is_the_title_of_every_passage() {
    let text = format!("\nOf wings and rivers\n\n{}", words(200));
    let passages = cut(&text, Form::Prose);
    assert!(passages.len() > 1 && passages.iter().all(|p| p.heading == "Of wings and rivers"));
    assert_eq!(passages[0].embedded(&text), &text[passages[0].bytes.clone()]);
    assert!(passages[1].embedded(&text).starts_with("Of wings and rivers\n"));
    assert_eq!(passages[1].title("a.txt"), "a.txt > Of wings and rivers");
    assert_eq!(cut("Of wings\nand rivers", Form::Prose)[0].heading, "");
}

#[test]
fn texts_joined_in_one_file_are_cut_where_they_meet_and_keep_their_titles() {
    let text = format!(
        "Of wings\n\n{}\n\nOf rivers\n\n{}\n\n- a list\n\n{}",
        words(60),
        words(90),
        words(30)
    );
    let passages = cut(&text, Form::Prose);
    let headings: Vec<&str> = passages.iter().map(|p| &*p.heading).collect();
    assert_eq!(headings, ["Of wings", "Of rivers"]);
    assert!(text[passages[1].bytes.clone()].starts_with("Of rivers"));
}

#[test]
fn code_and_numbers_fill_passages_as_long_as_prose_does() {
    let prose = words(100).len();
    let code = "fn f(a: u8) -> u8 { a + 0x1f; } // 1.2.3-4~deb12u1\n".repeat(200);
    let mean = code.len() / cut(&code, Form::Prose).len();
    assert!(mean > prose / 2, "{mean} {prose}");
}

#[test]
fn small_sections_are_joined() {
    let text = "# One\nshort\n# Two\nshort\n# Three\nshort\n";
    assert_eq!(cut(text, Form::Markdown).len(), 1);
}

#[test]
fn a_doc_comment_stays_with_its_item() {
    let body = "    let wing = river(table, green);\n".repeat(8);
    let text = format!(
        "use std::io;\n\n/// First item.\npub fn first() {{\n{body}}}\n\n/// Second item.\n#[inline]\npub(crate) fn second() {{\n{body}}}\n"
    );
    let passages = cut(&text, Form::Code);
    let second = passages
        .iter()
        .find(|p| p.heading.contains("second"))
        .expect("a passage of its own");
    assert!(
        text[second.bytes.clone()].starts_with("/// Second item."),
        "{passages:?}"
    );
    assert_eq!(second.heading, "pub(crate) fn second()");
}

#[test]
fn a_method_is_named_with_its_class() {
    let body = "        wing = river(table, green)\n".repeat(24);
    let text = format!("class Plane:\n    def fly(self):\n{body}\n    def land(self):\n{body}");
    let headings: Vec<String> = cut(&text, Form::Code).into_iter().map(|p| p.heading).collect();
    assert!(
        headings.iter().any(|h| h == "class Plane > def land(self)"),
        "{headings:?}"
    );
}

#[test]
fn hostile_texts_are_cut_in_linear_time() {
    let many = 200_000;
    let cases = [
        "x".repeat(8 * many),
        "x ".repeat(4 * many),
        " ".repeat(8 * many),
        "\n".repeat(8 * many),
        "# \n".repeat(2 * many),
        "fn a(\n".repeat(many),
        "// \n".repeat(2 * many),
        "é".repeat(4 * many),
        format!("a{}b", " ".repeat(8 * many)),
    ];
    for text in &cases {
        for form in [Form::Prose, Form::Markdown, Form::Code] {
            let start = Instant::now();
            let passages = cut(text, form);
            assert!(passages.iter().all(|p| p.bytes.len() <= BYTES_MAX));
            assert!(start.elapsed().as_secs() < 20, "{:?} {form:?}", &text[..10]);
        }
    }
}

proptest! {
    #[test]
    fn passages_lie_in_order_cover_all_words_and_stay_small(
        parts in prop::collection::vec(prop_oneof![
            Just("wing river ".to_owned()), Just("\n\n".to_owned()), Just("# H\n".to_owned()),
            Just("fn f() {\n".to_owned()), Just("日本 é. ".to_owned()), "[a-z]{1,200}", "\\PC{0,20}",
        ], 0..200),
        form in prop_oneof![Just(Form::Prose), Just(Form::Markdown), Just(Form::Code)],
    ) {
        let text = parts.concat();
        let passages = cut(&text, form);
        let mut covered = 0;
        for p in &passages {
            let part = &text[p.bytes.clone()];
            prop_assert!(tokens(part) <= TOKENS_MAX + WORD_TOKENS_MAX);
            let line = 1 + text[..p.bytes.start].matches('\n').count() as u32;
            prop_assert_eq!(p.first_line, line);
            prop_assert_eq!(p.last_line, line + part.matches('\n').count() as u32);
            if p.bytes.start > covered {
                prop_assert_eq!(tokens(&text[covered..p.bytes.start]), 0, "a word lies between passages");
            }
            prop_assert!(p.bytes.end > covered, "a passage holds something new");
            covered = p.bytes.end;
        }
        prop_assert_eq!(tokens(&text[covered..]), 0);
    }
}
