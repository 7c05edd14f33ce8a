//! Web pages to Markdown: one walk over the tags, no tree, so depth and broken nesting do not matter.

/// Turns a page into text with `#` headings, one line a block. Scripts, styles and comments are left out.
pub(super) fn to_markdown(page: &str) -> String {
    let mut out = Out {
        text: String::with_capacity(page.len() / 2),
        space: false,
        verbatim: false,
    };
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        out.push_text(&rest[..at]);
        rest = &rest[at..];
        rest = match rest.as_bytes().get(1) {
            Some(b'!' | b'?') if rest.starts_with("<!--") => after(rest, "-->"),
            Some(b'!' | b'?') => after(rest, ">"),
            Some(b'/' | b'a'..=b'z' | b'A'..=b'Z') => tag(rest, &mut out),
            _ => {
                out.push_text("<");
                &rest[1..]
            }
        };
    }
    out.push_text(rest);
    out.text.truncate(out.text.trim_end().len());
    out.text
}

fn after<'a>(text: &'a str, end: &str) -> &'a str {
    text.find(end).map_or("", |at| &text[at + end.len()..])
}

/// Acts on the tag at the beginning and gives what follows it.
fn tag<'a>(text: &'a str, out: &mut Out) -> &'a str {
    let closing = text.as_bytes()[1] == b'/';
    let inside = &text[1 + usize::from(closing)..];
    let len = inside.bytes().take_while(|b| b.is_ascii_alphanumeric()).count();
    let name = inside[..len].to_ascii_lowercase();
    let rest = after_tag(&inside[len..]);
    match name.as_str() {
        "script" | "style" | "template" | "noscript" | "svg" if !closing => {
            return after_element(rest, &name);
        }
        "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => {
            out.block();
            if !closing {
                out.text
                    .push_str(&"######"[..usize::from(name.as_bytes()[1] - b'0')]);
                out.text.push(' ');
            }
        }
        "title" => {
            out.block();
            if !closing {
                out.text.push_str("# ");
            }
        }
        "p" | "div" | "section" | "article" | "ul" | "ol" | "dl" | "table" | "blockquote" | "figure"
        | "header" | "footer" | "main" | "nav" | "aside" | "form" | "hr" | "body" => out.block(),
        "pre" => {
            out.block();
            out.verbatim = !closing;
        }
        "br" | "tr" | "dt" | "dd" => out.line(),
        "li" if !closing => {
            out.line();
            out.text.push_str("- ");
        }
        "td" | "th" => out.space = true,
        _ => {}
    }
    rest
}

/// Behind the `>` that ends a tag, quoted attributes skipped.
fn after_tag(text: &str) -> &str {
    let mut quote = None;
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return &text[at + 1..],
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), close) if open == close => quote = None,
            _ => {}
        }
    }
    // An attribute that never ends: the rest of the page is not its value.
    text.find('>').map_or("", |at| &text[at + 1..])
}

/// Behind the closing tag of an element whose content is not shown.
fn after_element<'a>(text: &'a str, name: &str) -> &'a str {
    let mut rest = text;
    while let Some(at) = rest.find("</") {
        rest = &rest[at + 2..];
        if rest
            .get(..name.len())
            .is_some_and(|found| found.eq_ignore_ascii_case(name))
        {
            return after(rest, ">");
        }
    }
    ""
}

struct Out {
    text: String,
    /// White space was seen and not written yet.
    space: bool,
    verbatim: bool,
}

impl Out {
    fn push_text(&mut self, text: &str) {
        let mut rest = text;
        while let Some(at) = rest.find('&') {
            self.push_plain(&rest[..at]);
            let (c, len) = entity(&rest[at..]);
            let mut buffer = [0; 4];
            self.push_plain(c.encode_utf8(&mut buffer));
            rest = &rest[at + len..];
        }
        self.push_plain(rest);
    }

    fn push_plain(&mut self, text: &str) {
        if self.verbatim {
            return self.text.push_str(text);
        }
        for c in text.chars() {
            if c.is_whitespace() {
                self.space = true;
            } else {
                if std::mem::take(&mut self.space)
                    && !self.text.is_empty()
                    && !self.text.ends_with(['\n', ' '])
                {
                    self.text.push(' ');
                }
                self.text.push(c);
            }
        }
    }

    fn line(&mut self) {
        self.space = false;
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
        }
    }

    fn block(&mut self) {
        self.line();
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }
}

/// The longest name in the table and its `;`.
const ENTITY_BYTES_MAX: usize = 10;

/// The character of the entity at the beginning, and its length; a lone `&` is itself.
fn entity(text: &str) -> (char, usize) {
    let Some(end) = text.bytes().take(ENTITY_BYTES_MAX + 1).position(|b| b == b';') else {
        return ('&', 1);
    };
    let name = &text[1..end];
    let number = name
        .strip_prefix('#')
        .and_then(|digits| match digits.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => digits.parse().ok(),
        });
    let named = || NAMES.iter().find(|(known, _)| *known == name).map(|(_, c)| *c);
    match number.map_or_else(named, char::from_u32) {
        Some(c) => (c, end + 1),
        None => ('&', 1),
    }
}

const NAMES: [(&str, char); 40] = [
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("apos", '\''),
    ("nbsp", ' '),
    ("copy", '©'),
    ("reg", '®'),
    ("mdash", '—'),
    ("ndash", '–'),
    ("hellip", '…'),
    ("lsquo", '‘'),
    ("rsquo", '’'),
    ("ldquo", '“'),
    ("rdquo", '”'),
    ("laquo", '«'),
    ("raquo", '»'),
    ("bull", '•'),
    ("middot", '·'),
    ("deg", '°'),
    ("times", '×'),
    ("rarr", '→'),
    ("larr", '←'),
    ("euro", '€'),
    ("pound", '£'),
    ("sect", '§'),
    ("para", '¶'),
    ("auml", 'ä'),
    ("ouml", 'ö'),
    ("uuml", 'ü'),
    ("Auml", 'Ä'),
    ("Ouml", 'Ö'),
    ("Uuml", 'Ü'),
    ("szlig", 'ß'),
    ("eacute", 'é'),
    ("egrave", 'è'),
    ("agrave", 'à'),
    ("ccedil", 'ç'),
    ("ntilde", 'ñ'),
    ("trade", '™'),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_page_becomes_headings_blocks_and_lines() {
        let page = "<!DOCTYPE html><html><head><title>Rivers &amp; seas</title><style>p { x: '</p>' }</style></head>\n\
            <body><h2 class=\"a>b\">Floods</h2><p>A river\n  floods&nbsp;its <b>plain</b>.<br>Often.</p><!-- <p>no -->\n\
            <ul><li>one<li>two</ul><pre>a\n  b</pre><script>if (a < b) {}</script><p>1 < 2 &#233;&#xe9; &unknown; &</p>";
        assert_eq!(
            to_markdown(page),
            "# Rivers & seas\n\n## Floods\n\nA river floods its plain.\nOften.\n\n- one\n- two\n\na\n  b\n\n1 < 2 éé &unknown; &"
        );
    }

    #[test]
    fn hostile_pages_are_linear() {
        for part in ["<div>", "<", "<a b='", "<script>", "&", "</", "<!--", "<p \""] {
            let page = part.repeat(100_000);
            let start = std::time::Instant::now();
            to_markdown(&page);
            assert!(start.elapsed().as_secs() < 5, "{part}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(parts in prop::collection::vec(prop_oneof!["<", ">", "</?[a-z]{0,4}", "&[#x0-9a-z]{0,12};?", "\\PC{0,6}", "<!--", "-->", "\""], 0..40)) {
            to_markdown(&parts.concat());
        }
    }
}
