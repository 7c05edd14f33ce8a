//! Extraction in worker processes. Without the test harness, since this program is its own worker.

use std::ffi::OsStr;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use vexfs_core::semantic::embed::StaticModel;
use vexfs_core::semantic::extract::{Limits, Outcome, Workers, extract, worker_main};

const WORKER: &str = "extract-worker";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if args.get(1).is_some_and(|arg| arg == WORKER) {
        return worker_main(&args[2..]);
    }
    let tests: [(&str, fn()); 8] = [
        ("documents_are_read", documents_are_read),
        ("a_broken_file_fails_alone", a_broken_file_fails_alone),
        ("bombs_end_at_their_limits", bombs_end_at_their_limits),
        ("a_worker_that_hangs_is_killed", a_worker_that_hangs_is_killed),
        (
            "many_files_at_once_wait_for_a_place",
            many_files_at_once_wait_for_a_place,
        ),
        ("sources_are_cut_by_their_syntax", sources_are_cut_by_their_syntax),
        ("nonsense_costs_a_parser_at_most", nonsense_costs_a_parser_at_most),
        (
            "a_source_is_cut_without_a_parser_too",
            a_source_is_cut_without_a_parser_too,
        ),
    ];
    for (name, test) in tests {
        println!("test {name} ...");
        test();
    }
    ExitCode::SUCCESS
}

fn workers(limits: Limits) -> Workers {
    Workers::of_this_program(WORKER, limits)
}

fn read(name: &str, content: &[u8]) -> Outcome {
    extract(OsStr::new(name), content, &workers(Limits::default()))
}

fn text_of(outcome: Outcome) -> String {
    match outcome {
        Outcome::Text(extracted) => extracted.text,
        other => panic!("{other:?}"),
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).expect("into memory");
    encoder.finish().expect("into memory")
}

fn docx(text: &str) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer
        .start_file("word/document.xml", zip::write::SimpleFileOptions::default())
        .expect("into memory");
    let document = format!("<w:document><w:p><w:t>{text}</w:t></w:p></w:document>");
    writer.write_all(document.as_bytes()).expect("into memory");
    writer.finish().expect("into memory").into_inner()
}

/// A PDF of one page with one line of text.
fn pdf(text: &str) -> Vec<u8> {
    let stream = format!("BT /F1 12 Tf 72 720 Td ({text}) Tj ET");
    let objects = [
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>".to_owned(),
        format!("<< /Length {} >>\nstream\n{stream}\nendstream", stream.len()),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>".to_owned(),
    ];
    let mut out = b"%PDF-1.4\n".to_vec();
    let mut places = Vec::new();
    for (number, object) in objects.iter().enumerate() {
        places.push(out.len());
        out.extend_from_slice(format!("{} 0 obj\n{object}\nendobj\n", number + 1).as_bytes());
    }
    let table = out.len();
    out.extend_from_slice(b"xref\n0 6\n0000000000 65535 f \n");
    for place in places {
        out.extend_from_slice(format!("{place:010} 00000 n \n").as_bytes());
    }
    out.extend_from_slice(
        format!("trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n").as_bytes(),
    );
    out
}

fn documents_are_read() {
    assert_eq!(
        text_of(read("notes.txt.gz", &gzip(b"packed words"))),
        "packed words"
    );
    assert_eq!(text_of(read("page.html.gz", &gzip(b"<h1>T</h1>x"))), "# T\n\nx");
    assert_eq!(text_of(read("letter.docx", &docx("Dear Ann"))).trim(), "Dear Ann");
    let mail = text_of(read(
        "a.eml",
        b"Subject: plans\r\nFrom: a@example.org\r\n\r\nSee you at noon.\r\n",
    ));
    assert!(
        mail.contains("plans") && mail.contains("See you at noon."),
        "{mail}"
    );
    if cfg!(feature = "pdf") {
        let text = text_of(read("a.pdf", &pdf("Rivers flood their plains")));
        assert!(text.contains("Rivers flood their plains"), "{text}");
    }
    assert_eq!(
        read(
            "pack.tar.gz",
            &gzip(&[b"\0".repeat(257), b"ustar\0".to_vec(), b"\0".repeat(249)].concat())
        ),
        Outcome::NoText("archive")
    );
}

/// A class whose methods look like calls, which only a parser tells apart.
fn java() -> String {
    let body = "        wing.river(table, green);\n".repeat(25);
    let method = |name: &str| {
        format!("    /** About {name}. */\n    @Override\n    void {name}(int a)\n    {{\n{body}    }}\n")
    };
    format!(
        "package p;\n\nclass Plane {{\n{}{}}}\n",
        method("fly"),
        method("land")
    )
}

fn headings(name: &str, text: &str, workers: &Workers) -> Vec<String> {
    let Outcome::Text(extracted) = extract(OsStr::new(name), text.as_bytes(), workers) else {
        panic!("{name} has text")
    };
    assert!(extracted.text == text, "{name}: another text");
    let cut = extracted.passages(StaticModel::built_in().tokenizer());
    cut.into_iter().map(|passage| passage.heading).collect()
}

fn sources_are_cut_by_their_syntax() {
    let workers = workers(Limits::default());
    let by_syntax = headings("Plane.java", &java(), &workers);
    assert_eq!(by_syntax, ["", "class Plane > void land(int a)"]);
    let by_lines = headings("Plane.java", &java(), &Workers::none(Limits::default()));
    assert!(!by_lines.contains(&by_syntax[1]), "{by_lines:?}");
    // One process reads many, also from several threads, and a broken source does not end it.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    headings("a.rs", "fn a( {{{ \u{1} é \n}", &workers);
                    assert_eq!(headings("Plane.java", &java(), &workers), by_syntax);
                }
            });
        }
    });
    workers.rest();
    assert_eq!(headings("Plane.java", &java(), &workers), by_syntax);
}

/// Some of these end a parser by an overflow of its stack.
fn nonsense_costs_a_parser_at_most() {
    let cases = [
        "((((((((((((((".repeat(10_000),
        "{[".repeat(50_000),
        "fn ".repeat(50_000),
        "日本 é \u{1} \u{202e}".repeat(1000),
        "if x:\n".repeat(10_000),
        format!("const a{};", ", b = () => 1".repeat(50_000)),
        String::new(),
    ];
    let workers = workers(Limits::default());
    for text in &cases {
        for name in [
            "a.c", "a.cpp", "a.go", "a.java", "a.js", "a.py", "a.rs", "a.ts", "a.tsx",
        ] {
            let start = Instant::now();
            headings(name, text, &workers);
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "{name} {:?}",
                &text.get(..9)
            );
        }
    }
}

fn a_source_is_cut_without_a_parser_too() {
    let expected = headings("Plane.java", &java(), &Workers::none(Limits::default()));
    let limits = Limits {
        time: Duration::from_millis(200),
        ..Limits::default()
    };
    for (program, args) in [
        ("/bin/false", &[][..]),
        ("/bin/cat", &[]),
        ("/bin/sh", &["-c", "sleep 60"]),
        ("/bin/sh", &["-c", "cat > /dev/null"]),
        (
            "/bin/sh",
            &["-c", "head -c 100000 /dev/zero | tr '\\0' '\\377'; sleep 60"],
        ),
        ("/does/not/exist", &[]),
    ] {
        let start = Instant::now();
        let found = headings("Plane.java", &java(), &Workers::of_program(program, args, limits));
        assert_eq!(found, expected, "{program} {args:?}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

fn a_broken_file_fails_alone() {
    let good = pdf("Rivers");
    for cut in [5, 20, good.len() / 2, good.len() - 20] {
        // Whatever the parser makes of it, this process goes on.
        let _ = read("a.pdf", &good[..cut]);
    }
    assert!(matches!(read("a.docx", b"PK\x03\x04broken"), Outcome::Failed(_)));
    assert!(matches!(read("a.gz", b"\x1f\x8b\x08broken"), Outcome::Failed(_)));
    assert_eq!(text_of(read("a.txt.gz", &gzip(b"fine"))), "fine");
}

fn bombs_end_at_their_limits() {
    let limits = Limits {
        text_bytes: 1 << 20,
        ..Limits::default()
    };
    let bomb = gzip(&b"a ".repeat(20 << 20));
    let text = text_of(extract(OsStr::new("a.txt.gz"), &bomb, &workers(limits)));
    assert_eq!(text.len(), 1 << 20);
    let bomb = docx(&"x".repeat(30 << 20));
    assert!(matches!(
        extract(OsStr::new("a.docx"), &bomb, &workers(limits)),
        Outcome::Failed(_)
    ));
    let starved = Limits {
        memory_bytes: 64 << 20,
        ..Limits::default()
    };
    let outcome = extract(
        OsStr::new("a.docx"),
        &docx(&"x".repeat(100 << 20)),
        &workers(starved),
    );
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
}

fn a_worker_that_hangs_is_killed() {
    // A parser that never ends.
    let limits = Limits {
        time: Duration::from_millis(300),
        ..Limits::default()
    };
    let hanging = Workers::of_program("/bin/sh", &["-c", "exec sleep 60"], limits);
    let start = Instant::now();
    assert_eq!(
        extract(OsStr::new("a.pdf"), b"%PDF-1.4", &hanging),
        Outcome::Failed("out of time".into())
    );
    assert!(start.elapsed() < Duration::from_secs(10));
    let chatty = Workers::of_program(
        "/bin/sh",
        &["-c", "exec cat /dev/zero"],
        Limits {
            text_bytes: 1000,
            ..limits
        },
    );
    let outcome = extract(OsStr::new("a.pdf"), b"%PDF-1.4", &chatty);
    assert_eq!(outcome, Outcome::Failed("more text than it may have".into()));
}

fn many_files_at_once_wait_for_a_place() {
    let shared = workers(Limits {
        processes: 2,
        ..Limits::default()
    });
    std::thread::scope(|scope| {
        for i in 0..8 {
            let shared = &shared;
            scope.spawn(move || {
                let text = format!("file {i}");
                let outcome = extract(OsStr::new("a.txt.gz"), &gzip(text.as_bytes()), shared);
                assert_eq!(text_of(outcome), text);
            });
        }
    });
}
