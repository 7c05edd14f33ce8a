//! Bytes to UTF-8.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8};

use super::Unreadable;

/// Bytes by which an encoding is guessed; more hardly changes the guess.
const GUESS_BYTES: usize = 64 << 10;

/// The text of a file in UTF-8, UTF-16 with a byte order mark, or an older encoding that is guessed. A text of which
/// a tenth is no text at all is no text.
pub(super) fn text(content: &[u8]) -> Result<String, Unreadable> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    if let Ok(text) = std::str::from_utf8(content) {
        return Ok(text.to_owned());
    }
    let (text, _) = match Encoding::for_bom(content) {
        Some((encoding, mark)) => encoding.decode_without_bom_handling(&content[mark..]),
        None => guess(content).decode_without_bom_handling(content),
    };
    let odd = text
        .chars()
        .filter(|c| *c == '\u{fffd}' || c.is_control() && !c.is_whitespace())
        .count();
    if odd * 10 > text.len() {
        Err(Unreadable::NoText("binary"))
    } else {
        Ok(text.into_owned())
    }
}

fn guess(content: &[u8]) -> &'static Encoding {
    // A cut-off or slightly damaged UTF-8 file is still UTF-8.
    let valid = std::str::from_utf8(content)
        .err()
        .map_or(content.len(), |e| e.valid_up_to());
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    let from = valid.saturating_sub(GUESS_BYTES / 2);
    let window = &content[from..content.len().min(from + GUESS_BYTES)];
    if std::str::from_utf8(&content[..valid]).is_ok_and(|text| !text.is_ascii()) && valid * 2 > content.len()
    {
        return UTF_8;
    }
    detector.feed(window, true);
    detector.guess(None, Utf8Detection::Deny)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_told_apart() {
        let check = |bytes: &[u8], expect: &str| assert_eq!(text(bytes).as_deref(), Ok(expect));
        check("naïve".as_bytes(), "naïve");
        check(b"\xef\xbb\xbfmark", "mark");
        check(b"\xff\xfeh\0i\0", "hi");
        check(b"\xfe\xff\0h\0i", "hi");
        check(
            b"Die Stra\xdfe f\xfchrt \xfcber die Br\xfccke nach M\xfcnchen.",
            "Die Straße führt über die Brücke nach München.",
        );
        let (japanese, _, _) =
            encoding_rs::SHIFT_JIS.encode("これは日本語の文章です。文字コードを推測します。");
        check(&japanese, "これは日本語の文章です。文字コードを推測します。");
        check(
            "die Brücke, länger und länger\u{0}".as_bytes(),
            "die Brücke, länger und länger\u{0}",
        );
    }

    #[test]
    fn noise_is_no_text() {
        let noise: Vec<u8> = (0..4000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 & 0x9f)
            .collect();
        assert_eq!(text(&noise), Err(Unreadable::NoText("binary")));
    }
}
