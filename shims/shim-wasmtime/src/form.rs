//! What a file of bytes is, before anything is compiled.
use shim::Error;
use std::borrow::Cow;

/// The two layers of WebAssembly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Module,
    Component,
}

/// A binary ready for the compiler, made from text if that is what the file holds.
pub(crate) fn to_binary(bytes: &[u8]) -> Result<(Form, Cow<'_, [u8]>), Error> {
    if bytes.starts_with(b"\0asm") {
        return Ok((form_of(bytes)?, Cow::Borrowed(bytes)));
    }
    if let Some(text) = as_text(bytes) {
        let binary = wat::parse_str(text)
            .map_err(|e| Error::InvalidImage(format!("the WebAssembly text is not valid: {e}")))?;
        return Ok((form_of(&binary)?, Cow::Owned(binary)));
    }
    Err(Error::InvalidImage(if bytes.is_empty() {
        "the image is not a WebAssembly binary (it is empty)".to_owned()
    } else {
        format!(
            "the image is not a WebAssembly binary (starts with \"{}\")",
            bytes[..bytes.len().min(8)].escape_ascii()
        )
    }))
}

/// The version field says which layer: https://github.com/WebAssembly/component-model, Binary.md.
fn form_of(binary: &[u8]) -> Result<Form, Error> {
    match binary.get(4..8) {
        Some([1, 0, 0, 0]) => Ok(Form::Module),
        Some([_, _, 1, 0]) => Ok(Form::Component),
        Some(version) => Err(Error::InvalidImage(format!(
            "the WebAssembly binary has version {}, which this node does not know",
            hex::encode(version)
        ))),
        None => Err(Error::InvalidImage("the WebAssembly binary is cut off in its header".to_owned())),
    }
}

/// Text is taken as WebAssembly when its first word could be one.
fn as_text(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let start = text.trim_start();
    (start.starts_with('(') || start.starts_with(";;")).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_and_components_are_told_apart_by_their_header() {
        assert_eq!(to_binary(b"\0asm\x01\0\0\0").unwrap().0, Form::Module);
        assert_eq!(to_binary(b"\0asm\x0d\0\x01\0").unwrap().0, Form::Component);
        assert_eq!(to_binary(b" (module)").unwrap().0, Form::Module);
        assert_eq!(to_binary(b";; a comment\n(component)").unwrap().0, Form::Component);
    }

    #[test]
    fn what_is_no_wasm_is_refused_with_how_it_starts() {
        let error = |bytes| to_binary(bytes).unwrap_err().to_string();
        assert_eq!(
            error(b"\x7fELF\x02\x01\x01\0abc"),
            "the image is not a WebAssembly binary (starts with \"\\x7fELF\\x02\\x01\\x01\\x00\")"
        );
        assert_eq!(error(b""), "the image is not a WebAssembly binary (it is empty)");
        assert_eq!(error(b"\0asm\x01"), "the WebAssembly binary is cut off in its header");
        assert!(error(b"(module (func $f").starts_with("the WebAssembly text is not valid"));
    }
}
