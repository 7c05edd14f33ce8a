use super::*;

fn tokenizer() -> WordPiece {
    let words = "[UNK] un ##aff ##able hello , world ! cafe ##s 日 本 naive x ##y"
        .split(' ')
        .map(str::to_owned);
    let vocab = words.zip(0..).collect();
    WordPiece::new(&vocab, "[UNK]").unwrap()
}

fn check(text: &str, expect: &[(&str, &[Token])]) {
    let mut found = Vec::new();
    tokenizer().words(text, |w| {
        found.push((text[w.start..w.end].to_owned(), w.tokens.to_vec()));
        true
    });
    let expect: Vec<_> = expect.iter().map(|(w, t)| (w.to_string(), t.to_vec())).collect();
    assert_eq!(found, expect, "{text:?}");
}

#[test]
fn words_are_cut_into_the_longest_pieces() {
    check("unaffable", &[("unaffable", &[1, 2, 3])]);
    check(
        "Hello, WORLD!",
        &[("Hello", &[4]), (",", &[5]), ("WORLD", &[6]), ("!", &[7])],
    );
    check("unaffordable", &[("unaffordable", &[0])]);
    check("", &[]);
    check(" \n\t ", &[]);
}

#[test]
fn accents_controls_and_ideographs_follow_the_reference() {
    check("Café cafe\u{301}s", &[("Café", &[8]), ("cafe\u{301}s", &[8, 9])]);
    check("日本x", &[("日", &[10]), ("本", &[11]), ("x", &[13])]);
    check("hel\u{0}lo\u{200b}", &[("hel\u{0}lo", &[4])]);
    check("naïve\u{a0}x", &[("naïve", &[12]), ("x", &[13])]);
    check("x“x”", &[("x", &[13]), ("“", &[0]), ("x", &[13]), ("”", &[0])]);
}

#[test]
fn a_word_beyond_the_limit_is_unknown_and_bounded() {
    let exactly = format!("x{}", "y".repeat(99));
    let mut pieces: Vec<Token> = vec![13];
    pieces.extend([14; 99]);
    check(&exactly, &[(&exactly, &pieces)]);
    for longer in [
        format!("{exactly}y"),
        format!("{exactly}é"),
        "é".repeat(1_000_000),
    ] {
        check(&longer, &[(&longer, &[0])]);
    }
}

#[test]
fn the_walk_ends_when_the_visitor_says_so() {
    let mut seen = 0;
    tokenizer().words("x x x, x", |_| {
        seen += 1;
        seen < 2
    });
    assert_eq!(seen, 2);
}

/// A text, its tokens and for some its vector, by the implementations in Python; `scripts/tokenizer-fixture` writes them.
#[derive(serde::Deserialize)]
struct Reference {
    text: String,
    tokens: Vec<Token>,
    vector: Option<Vec<f32>>,
}

#[test]
fn the_reference_implementations_say_the_same() {
    use crate::semantic::embed::{Embedder, StaticModel};

    let cases = match std::env::var_os("VEXFS_TOKENIZER_REFERENCE") {
        Some(path) => std::fs::read(path).unwrap(),
        None => include_bytes!("reference.json").to_vec(),
    };
    let cases: Vec<Reference> = serde_json::from_slice(&cases).unwrap();
    assert!(cases.len() >= 400);
    let model = StaticModel::built_in();
    let mut different = Vec::new();
    for case in &cases {
        let mut tokens = Vec::new();
        model.tokenizer().words(&case.text, |word| {
            tokens.extend_from_slice(word.tokens);
            true
        });
        if tokens != case.tokens {
            different.push((&case.text, tokens, &case.tokens));
        }
        if let Some(expect) = &case.vector {
            let mut vector = vec![0.0; model.dim()];
            model.embed(&[&case.text], &mut vector).unwrap();
            let far = vector
                .iter()
                .zip(expect)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(far < 2e-4, "{:?}: {far}", case.text);
        }
    }
    assert!(
        different.is_empty(),
        "{} of {}: {:?}",
        different.len(),
        cases.len(),
        &different[..different.len().min(9)]
    );
}
