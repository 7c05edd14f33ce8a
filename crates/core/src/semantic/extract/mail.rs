//! Messages: subject, correspondents, and the text of the body.

use std::fmt::Write;

use mail_parser::MessageParser;

use super::Unreadable;

pub(super) fn to_markdown(content: &[u8]) -> Result<String, Unreadable> {
    let message = MessageParser::default()
        .parse(content)
        .ok_or_else(|| Unreadable::Failed("mail: no message".into()))?;
    let mut out = String::new();
    let _ = write!(out, "# {}\n\n", message.subject().unwrap_or("(no subject)"));
    for (label, list) in [("From", message.from()), ("To", message.to())] {
        let people: Vec<String> = list
            .into_iter()
            .flat_map(|list| list.iter())
            .map(|person| {
                format!(
                    "{} <{}>",
                    person.name().unwrap_or(""),
                    person.address().unwrap_or("")
                )
            })
            .collect();
        if !people.is_empty() {
            let _ = writeln!(out, "{label}: {}", people.join(", "));
        }
    }
    for part in 0..message.text_body_count() {
        if let Some(body) = message.body_text(part) {
            out.push('\n');
            out.push_str(&body);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subject_people_and_body_are_read() {
        let mail = "From: Ann Lee <ann@example.org>\r\nTo: bob@example.org\r\nSubject: =?utf-8?q?Caf=C3=A9?= plans\r\n\
            MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n\
            See you at noon.\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>See you at noon.</p>\r\n--b--\r\n";
        let text = to_markdown(mail.as_bytes()).unwrap();
        assert!(
            text.starts_with("# Café plans\n\nFrom: Ann Lee <ann@example.org>\n"),
            "{text}"
        );
        assert_eq!(text.matches("See you at noon.").count(), 1, "{text}");
    }
}
