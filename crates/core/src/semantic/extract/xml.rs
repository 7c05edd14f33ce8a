//! A walk over the elements of an XML document that neither builds a tree nor recurses, and takes malformed parts as
//! they come.

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::Unreadable;

/// What stands next in the document. Names are without their prefix.
pub(super) enum Node<'a> {
    Start(&'a str, Attributes<'a>),
    End(&'a str),
    Text(&'a str),
}

/// The attributes of an element.
pub(super) struct Attributes<'a>(&'a BytesStart<'a>);

impl Attributes<'_> {
    /// The value of the attribute with this name, whatever its prefix.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        let mut attributes = self.0.attributes();
        let found = attributes
            .with_checks(false)
            .flatten()
            .find(|one| one.key.local_name().as_ref() == name)?;
        found
            .normalized_value(XmlVersion::Implicit1_0)
            .ok()
            .map(|value| value.into_owned())
    }
}

/// Calls `each` for every node in order; an empty element is a start and an end.
pub(super) fn walk(document: &str, mut each: impl FnMut(Node<'_>)) -> Result<(), Unreadable> {
    let mut reader = Reader::from_str(document);
    reader.config_mut().check_end_names = false;
    reader.config_mut().allow_unmatched_ends = true;
    loop {
        match reader.read_event().map_err(|e| Unreadable::failed("xml", e))? {
            Event::Start(start) => each(Node::Start(start.local_name().as_ref(), Attributes(&start))),
            Event::Empty(start) => {
                each(Node::Start(start.local_name().as_ref(), Attributes(&start)));
                each(Node::End(start.local_name().as_ref()));
            }
            Event::End(end) => each(Node::End(end.local_name().as_ref())),
            Event::Text(text) => each(Node::Text(&text)),
            Event::CData(text) => each(Node::Text(&text)),
            Event::GeneralRef(reference) => {
                let c = match &*reference {
                    "amp" => Some('&'),
                    "lt" => Some('<'),
                    "gt" => Some('>'),
                    "quot" => Some('"'),
                    "apos" => Some('\''),
                    _ => reference.resolve_char_ref().ok().flatten(),
                };
                let mut buffer = [0; 4];
                each(Node::Text(c.unwrap_or(' ').encode_utf8(&mut buffer)));
            }
            Event::Eof => return Ok(()),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
        }
    }
}
