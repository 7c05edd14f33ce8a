use super::*;

fn check(name: &str, content: &[u8], expect: Outcome) {
    let workers = Workers::none(Limits::default());
    assert_eq!(extract(OsStr::new(name), content, &workers), expect, "{name}");
}

fn text(text: &str, form: Form) -> Outcome {
    Outcome::Text(Extracted::new(text.into(), form))
}

#[test]
fn simple_formats_are_read_in_this_process() {
    check("a.txt", b"\xef\xbb\xbfplain", text("plain", Form::Prose));
    check("a.md", b"# T\n", text("# T\n", Form::Markdown));
    check("a.rs", b"fn a() {}", text("fn a() {}", Form::Code));
    check("a.html", b"<h1>T</h1>x", text("# T\n\nx", Form::Markdown));
    check("a.png", b"\x89PNG\r\n\x1a\n", Outcome::NoText("image"));
    check("empty", b"", text("", Form::Prose));
    assert!(matches!(
        extract(OsStr::new("a.ipynb"), b"{", &Workers::none(Limits::default())),
        Outcome::Failed(_)
    ));
}

#[test]
fn guarded_formats_are_never_read_in_this_process() {
    let failed = Outcome::Failed("no worker process to read it".into());
    check("a.pdf", b"%PDF-1.4", failed.clone());
    check("a.gz", b"\x1f\x8b\x08", failed.clone());
    check("a.docx", b"PK\x03\x04", failed);
}
