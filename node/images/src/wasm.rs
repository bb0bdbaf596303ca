//! Telling WebAssembly from other files by their first bytes.
use crate::Error;
use std::io::Read;
use std::path::Path;

/// What kind of WebAssembly a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A core module: WASI preview 1, where it uses WASI.
    Module,
    /// A component: WASI preview 2.
    Component,
}

impl Form {
    /// `os` of the artifact's configuration.
    pub fn os(self) -> &'static str {
        match self {
            Self::Module => "wasip1",
            Self::Component => "wasip2",
        }
    }

    /// Tells the form of a file by how it begins: the binary form, or the text form (`.wat`).
    pub fn of_bytes(head: &[u8]) -> Result<Self, String> {
        if head.is_empty() {
            return Err("it is empty".into());
        }
        if let Some(version) = head.strip_prefix(b"\0asm") {
            // Version and layer: 1/0 is a core module, 0xd/1 a component.
            return match version {
                [1, 0, 0, 0, ..] => Ok(Self::Module),
                [_, 0, 1, 0, ..] => Ok(Self::Component),
                [a, b, c, d, ..] => Err(format!("it has the unknown version {a:x}.{b:x}.{c:x}.{d:x}")),
                _ => Err("it ends within its header".into()),
            };
        }
        if let Some(form) = Self::of_text(head) {
            return Ok(form);
        }
        Err(match head {
            [0x7f, b'E', b'L', b'F', ..] => "it is a Linux program (ELF)".into(),
            [b'#', b'!', ..] => "it is a script".into(),
            [0x1f, 0x8b, ..] => "it is a gzip archive".into(),
            [b'P', b'K', ..] => "it is a zip archive".into(),
            _ => "it does not begin with \\0asm".into(),
        })
    }

    /// The text form begins, after white space and comments, with `(module` or `(component`.
    fn of_text(head: &[u8]) -> Option<Self> {
        // The head may end within a character.
        let valid = match std::str::from_utf8(head) {
            Ok(text) => text,
            Err(e) => std::str::from_utf8(&head[..e.valid_up_to()]).ok()?,
        };
        let mut text = valid.trim_start_matches('\u{feff}');
        loop {
            text = text.trim_start();
            if let Some(comment) = text.strip_prefix(";;") {
                text = comment.split_once('\n')?.1;
            } else if let Some(comment) = text.strip_prefix("(;") {
                text = comment.split_once(";)")?.1;
            } else {
                break;
            }
        }
        let word = text.strip_prefix('(')?.trim_start();
        match word {
            _ if word.starts_with("module") => Some(Self::Module),
            _ if word.starts_with("component") => Some(Self::Component),
            _ => None,
        }
    }
}

/// How much of a file is looked at: a text form may begin with a licence in comments.
const HEAD_BYTES: u64 = 64 * 1024;

/// Refuses a file that is not WebAssembly; `what` names it in the error.
pub(crate) fn check_file(path: &Path, what: &str) -> Result<Form, Error> {
    let mut head = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head))
        .map_err(Error::io(format!("reading {what}")))?;
    Form::of_bytes(&head).map_err(|reason| Error::NotWasm { what: what.to_string(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_and_components_are_told_apart_in_both_forms() {
        assert_eq!(Form::of_bytes(b"\0asm\x01\0\0\0"), Ok(Form::Module));
        assert_eq!(Form::of_bytes(b"\0asm\x0d\0\x01\0rest"), Ok(Form::Component));
        assert_eq!(Form::of_bytes(b";; hi\n (; there ;)\n(module)"), Ok(Form::Module));
        assert_eq!(Form::of_bytes(b"( component )"), Ok(Form::Component));
    }

    #[test]
    fn other_files_are_refused_with_what_they_are() {
        for (bytes, reason) in [
            (&b""[..], "empty"),
            (b"\x7fELF\x02", "Linux program"),
            (b"#!/bin/sh", "script"),
            (b"\0asm", "ends within"),
            (b"\0asm\x09\0\0\0", "unknown version"),
            (b"hello", "does not begin"),
            (b";; only a comment", "does not begin"),
        ] {
            let error = Form::of_bytes(bytes).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
