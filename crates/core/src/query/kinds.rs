//! Types of files, by the extension of their names, for the filter `type:`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

/// A type of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// Source code and build files.
    Code,
    /// Prose: plain text, Markdown and other markup.
    Text,
    /// Documents of word processors and page layout.
    Document,
    /// Tables and slides.
    Sheet,
    /// Structured data and configuration.
    Data,
    /// Still images.
    Image,
    /// Sound.
    Audio,
    /// Moving images.
    Video,
    /// Archives and disk images.
    Archive,
    /// Mail.
    Mail,
}

const TABLE: [(FileType, &str, &str); 10] = [
    (
        FileType::Code,
        "code",
        "rs py js mjs cjs ts tsx jsx c h cc cpp cxx hh hpp hxx go java kt kts scala swift rb php pl pm lua r jl hs ml \
         mli fs fsx cs vb clj cljs ex exs erl hrl dart zig nim v sv vhd vhdl asm s sh bash zsh fish ps1 bat cmd sql \
         vue svelte css scss sass less cmake mk makefile dockerfile gradle proto thrift el lisp scm rkt tcl m mm cu cl \
         ipynb wat nix tf",
    ),
    (
        FileType::Text,
        "text",
        "txt md markdown rst adoc asciidoc org tex log htm html xhtml man 1 2 3 4 5 6 7 8 me readme",
    ),
    (
        FileType::Document,
        "document",
        "pdf doc docx odt rtf epub ps djvu pages mobi azw3 fb2",
    ),
    (
        FileType::Sheet,
        "sheet",
        "xls xlsx ods csv tsv ppt pptx odp numbers key",
    ),
    (
        FileType::Data,
        "data",
        "json jsonl ndjson yaml yml toml xml ini cfg conf npy npz parquet avro db sqlite lock",
    ),
    (
        FileType::Image,
        "image",
        "png jpg jpeg gif bmp tif tiff webp svg heic heif ico avif raw cr2 nef psd xcf",
    ),
    (
        FileType::Audio,
        "audio",
        "mp3 wav flac ogg opus m4a aac wma aiff mid midi",
    ),
    (
        FileType::Video,
        "video",
        "mp4 mkv avi mov webm wmv flv m4v mpg mpeg",
    ),
    (
        FileType::Archive,
        "archive",
        "zip tar gz tgz bz2 xz zst 7z rar iso jar deb rpm",
    ),
    (FileType::Mail, "mail", "eml mbox msg"),
];

impl FileType {
    /// The type of a file of this name, if its extension is known.
    pub fn of_name(name: &OsStr) -> Option<FileType> {
        let extension = extension(name)?;
        TABLE
            .iter()
            .find(|(_, _, known)| known.split_whitespace().any(|e| e == extension))
            .map(|(t, ..)| *t)
    }
}

impl FromStr for FileType {
    type Err = String;

    /// Reads the name of a type; the error lists them.
    fn from_str(text: &str) -> Result<FileType, String> {
        TABLE
            .iter()
            .find(|(_, name, _)| *name == text)
            .map(|(t, ..)| *t)
            .ok_or_else(|| TABLE.map(|(_, name, _)| name).join("|"))
    }
}

/// What follows the last dot of a name, in lower case; the whole of a name like `Makefile`, which has none.
pub fn extension(name: &OsStr) -> Option<String> {
    let name = name.as_bytes();
    let tail = match name.iter().rposition(|&b| b == b'.') {
        Some(at) => &name[at + 1..],
        None => name,
    };
    std::str::from_utf8(tail).ok().map(str::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_go_by_extension_or_by_a_whole_name() {
        let check = |name: &str, want| assert_eq!(FileType::of_name(OsStr::new(name)), want, "{name}");
        check("a.RS", Some(FileType::Code));
        check("Makefile", Some(FileType::Code));
        check("notes.md", Some(FileType::Text));
        check("scan.pdf", Some(FileType::Document));
        check("x.unknown", None);
        assert_eq!("code".parse(), Ok(FileType::Code));
        assert!(FileType::from_str("codes").unwrap_err().contains("code|text"));
    }
}
