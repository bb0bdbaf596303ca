//! The size of the client's terminal, as it comes: JSON values, one after another, cut anywhere.
use crate::limits::MAX_RESIZE_BYTES;
use serde::Deserialize;

/// Columns and rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct TerminalSize {
    #[serde(rename = "Width")]
    pub width: u16,
    #[serde(rename = "Height")]
    pub height: u16,
}

/// Takes bytes and gives the last size that is whole.
#[derive(Default)]
pub(crate) struct Sizes(Vec<u8>);

/// What came is no size.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoSize;

impl Sizes {
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<Option<TerminalSize>, NoSize> {
        if self.0.len() + bytes.len() > MAX_RESIZE_BYTES {
            return Err(NoSize);
        }
        self.0.extend_from_slice(bytes);
        let mut last = None;
        let used = {
            let mut values = serde_json::Deserializer::from_slice(&self.0).into_iter::<TerminalSize>();
            loop {
                let before = values.byte_offset();
                match values.next() {
                    Some(Ok(size)) => last = Some(size),
                    Some(Err(e)) if e.is_eof() => break before,
                    Some(Err(_)) => return Err(NoSize),
                    None => break self.0.len(),
                }
            }
        };
        self.0.drain(..used);
        Ok(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_however_they_are_cut() {
        let mut sizes = Sizes::default();
        let size = |width, height| Ok(Some(TerminalSize { width, height }));
        assert_eq!(sizes.take(br#"{"Width":80,"Height":24}"#), size(80, 24));
        assert_eq!(sizes.take(br#"{"Width":1"#), Ok(None));
        assert_eq!(sizes.take(br#"00,"Height":40}{"Width":5,"Height":6}"#), size(100, 40).and(size(5, 6)));
        assert_eq!(sizes.take(b"\n"), Ok(None));
    }

    #[test]
    fn what_is_no_size_is_refused_and_never_kept_without_end() {
        assert_eq!(Sizes::default().take(b"garbage"), Err(NoSize));
        assert_eq!(Sizes::default().take(br#"{"Width":-1,"Height":2}"#), Err(NoSize));
        let mut sizes = Sizes::default();
        let refused =
            (0..2 * MAX_RESIZE_BYTES).any(|_| sizes.take(b" ").is_err() || sizes.take(b"{").is_err());
        assert!(refused);
    }
}
