//! Manual pages: the macros of man(7) and mdoc(7) that make headings, the rest taken away.

use std::fmt::Write;

/// Turns a manual page into Markdown. Unknown macros leave their arguments behind as text.
pub(super) fn to_markdown(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    for line in source.lines() {
        let Some(request) = line.strip_prefix(['.', '\'']) else {
            text(line, &mut out);
            out.push('\n');
            continue;
        };
        let request = request.trim_start();
        let (name, rest) = request.split_once(char::is_whitespace).unwrap_or((request, ""));
        match name {
            "TH" | "Dt" => heading("#", rest, &mut out),
            "SH" | "Sh" => heading("##", rest, &mut out),
            "SS" | "Ss" => heading("###", rest, &mut out),
            "PP" | "P" | "LP" | "Pp" | "sp" | "TP" | "IP" | "HP" => {
                out.push('\n');
                if name == "IP" {
                    text(rest, &mut out);
                    out.push('\n');
                }
            }
            "B" | "I" | "BR" | "RB" | "BI" | "IB" | "IR" | "RI" | "SM" | "SB" | "Nm" | "Nd" | "Fl" | "Ar"
            | "Pa" | "It" | "Xr" | "Cm" | "Op" | "Ev" | "Em" | "Sy" | "Li" | "Ql" | "Dq" | "Sq" => {
                text(rest, &mut out);
                out.push('\n');
            }
            _ => {}
        }
    }
    out
}

fn heading(level: &str, title: &str, out: &mut String) {
    let mut plain = String::new();
    text(title, &mut plain);
    let _ = write!(out, "\n{level} {}\n\n", plain.trim());
}

/// Copies text without quotes around arguments, fonts (`\fB`) and escapes.
fn text(line: &str, out: &mut String) {
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {}
            '\\' => match chars.next() {
                Some('f') => match chars.next() {
                    Some('(') => chars.by_ref().take(2).for_each(drop),
                    Some('[') => chars.by_ref().take_while(|c| *c != ']').for_each(drop),
                    _ => {}
                },
                Some('-') => out.push('-'),
                Some('e') => out.push('\\'),
                Some('(') => {
                    let name: String = chars.by_ref().take(2).collect();
                    out.push(match name.as_str() {
                        "em" | "en" => '-',
                        "aq" | "cq" | "oq" => '\'',
                        "co" => '©',
                        _ => '"',
                    });
                }
                Some('"') | None => return,
                Some(c @ (' ' | '~' | '0')) => out.push(if c == ' ' { c } else { ' ' }),
                Some('&' | '|' | '^' | '/' | ',' | ':' | '%') => {}
                Some(c) => out.push(c),
            },
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_page_becomes_headings_and_text() {
        let page = ".\\\" a comment\n.TH LS 1 \"May 2024\"\n.SH NAME\nls \\- list \\fBdirectory\\fR contents\n.SH \"EXIT STATUS\"\n.PP\n.B 0\nif OK,\n.nf\n";
        let text = to_markdown(page);
        assert!(text.contains("\n# LS 1 May 2024\n"), "{text}");
        assert!(
            text.contains("\n## NAME\n\nls - list directory contents\n"),
            "{text}"
        );
        assert!(text.contains("\n## EXIT STATUS\n\n\n0\nif OK,\n"), "{text}");
        assert!(!text.contains("comment") && !text.contains("nf"));
        to_markdown("\\");
        to_markdown(".SH\n\\f\n\\f(\n\\f[\n\\(");
    }
}
