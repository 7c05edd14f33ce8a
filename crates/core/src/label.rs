//! The bytes of a name in little space.

/// Bytes that are kept in place: more than most names have.
const SHORT_MAX: usize = 22;

/// A name's bytes, on the heap only when they are many.
#[derive(Clone, Debug)]
pub(crate) enum Label {
    Short { len: u8, bytes: [u8; SHORT_MAX] },
    Long(Box<[u8]>),
}

const _: () = assert!(size_of::<Label>() == 24);

impl Label {
    pub(crate) fn new(name: &[u8]) -> Label {
        if name.len() > SHORT_MAX {
            return Label::Long(name.into());
        }
        let mut bytes = [0; SHORT_MAX];
        bytes[..name.len()].copy_from_slice(name);
        Label::Short {
            len: name.len() as u8,
            bytes,
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Label::Short { len, bytes } => &bytes[..usize::from(*len)],
            Label::Long(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_gives_back_what_it_was_made_of() {
        for len in [0, 1, 21, 22, 23, 255] {
            let name: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let label = Label::new(&name);
            assert_eq!(label.as_bytes(), name);
            assert_eq!(matches!(label, Label::Long(_)), len > SHORT_MAX);
        }
    }
}
