//! Data that is part of the program, gzipped.
use std::io::Read;

/// The text in `gz`.
pub(crate) fn text(gz: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(gz)
        .read_to_string(&mut text)
        .expect("embedded data is gzipped text: it is part of the program");
    text
}
