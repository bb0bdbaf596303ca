//! Header blocks: names and values, compressed with one zlib stream for all blocks of a direction.
//!
//! Invariant: a block is never larger than [`MAX_SPDY_HEADER_BYTES`] once it is decompressed, whatever came in.
use super::dictionary::dictionary;
use super::frame::Malformed;
use crate::limits::MAX_SPDY_HEADER_BYTES;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// Names and values, as they came.
pub(super) type Headers = Vec<(Vec<u8>, Vec<u8>)>;

/// Reads the blocks of one direction, in their order.
pub(super) struct Decompressor {
    zlib: Decompress,
}

impl Decompressor {
    pub(super) fn new() -> Self {
        Self { zlib: Decompress::new(true) }
    }

    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, Malformed> {
        parse(&self.decompress(block)?)
    }

    fn decompress(&mut self, block: &[u8]) -> Result<Vec<u8>, Malformed> {
        // One byte more than may be: that is how too much is told from just enough.
        let mut out = vec![0; MAX_SPDY_HEADER_BYTES + 1];
        let (mut taken, mut made) = (0, 0);
        loop {
            let (before_in, before_out) = (self.zlib.total_in(), self.zlib.total_out());
            let result = self.zlib.decompress(&block[taken..], &mut out[made..], FlushDecompress::Sync);
            taken += (self.zlib.total_in() - before_in) as usize;
            let grown = (self.zlib.total_out() - before_out) as usize;
            made += grown;
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib.set_dictionary(&dictionary()).map_err(|_| Malformed::HeaderBlock)?;
                    continue;
                }
                Err(_) => return Err(Malformed::HeaderBlock),
                Ok(flate2::Status::StreamEnd) => return Err(Malformed::HeaderBlock),
                Ok(flate2::Status::Ok | flate2::Status::BufError) => {}
            }
            if made > MAX_SPDY_HEADER_BYTES {
                return Err(Malformed::TooLarge("a header block"));
            }
            if taken == block.len() {
                out.truncate(made);
                return Ok(out);
            }
            if grown == 0 && self.zlib.total_in() == before_in {
                // It moves no more, and there is something left.
                return Err(Malformed::HeaderBlock);
            }
        }
    }
}

/// Count, then name and value of each, all with lengths of four bytes.
fn parse(mut rest: &[u8]) -> Result<Headers, Malformed> {
    let count = number(&mut rest)?;
    let mut headers = Vec::new();
    for _ in 0..count {
        let name = string(&mut rest)?;
        let value = string(&mut rest)?;
        headers.push((name.to_vec(), value.to_vec()));
    }
    if rest.is_empty() { Ok(headers) } else { Err(Malformed::HeaderBlock) }
}

fn number(rest: &mut &[u8]) -> Result<usize, Malformed> {
    let (first, after) = rest.split_first_chunk::<4>().ok_or(Malformed::HeaderBlock)?;
    *rest = after;
    Ok(u32::from_be_bytes(*first) as usize)
}

fn string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = number(rest)?;
    let (text, after) = rest.split_at_checked(length).ok_or(Malformed::HeaderBlock)?;
    *rest = after;
    Ok(text)
}

/// Writes the blocks of one direction.
pub(super) struct Compressor {
    zlib: Compress,
}

impl Compressor {
    pub(super) fn new() -> Result<Self, Malformed> {
        let mut zlib = Compress::new(Compression::default(), true);
        zlib.set_dictionary(&dictionary()).map_err(|_| Malformed::HeaderBlock)?;
        Ok(Self { zlib })
    }

    pub(super) fn write(&mut self, headers: &[(&str, &str)]) -> Result<Vec<u8>, Malformed> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        // What cannot be compressed grows by a few bytes; what we write is short.
        let mut block = Vec::with_capacity(plain.len() + 128);
        let before = self.zlib.total_in();
        self.zlib
            .compress_vec(&plain, &mut block, FlushCompress::Sync)
            .map_err(|_| Malformed::HeaderBlock)?;
        let all = self.zlib.total_in() - before == plain.len() as u64 && block.len() < block.capacity();
        if all { Ok(block) } else { Err(Malformed::TooLarge("a header block")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_follow_each_other_in_one_stream() {
        let (mut write, mut read) = (Compressor::new().unwrap(), Decompressor::new());
        for name in ["error", "stdin", "stdout", "stderr", "resize"] {
            let block = write.write(&[("streamtype", name), ("port", "80")]).unwrap();
            let headers = read.read(&block).unwrap();
            assert_eq!(headers[0], (b"streamtype".to_vec(), name.as_bytes().to_vec()));
            assert_eq!(headers.len(), 2);
        }
        assert!(read.read(&write.write(&[]).unwrap()).unwrap().is_empty());
    }

    #[test]
    fn a_block_that_grows_without_end_is_refused() {
        let mut write = Compressor::new().unwrap();
        let long = "a".repeat(MAX_SPDY_HEADER_BYTES);
        let block = write.write(&[("x", &long)]).unwrap();
        assert!(block.len() < 200, "it is a small block: {} bytes", block.len());
        let refused = Decompressor::new().read(&block);
        assert!(matches!(refused, Err(Malformed::TooLarge(_))), "{refused:?}");
    }

    #[test]
    fn garbage_is_refused() {
        for block in [&b"garbage"[..], &[0x78, 0xbb, 1, 2, 3, 4], &[0xff; 64]] {
            assert!(Decompressor::new().read(block).is_err(), "{block:?}");
        }
        let lies = [&[0, 0, 0, 9][..], &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 1], &[0, 0, 0, 0, 7]];
        assert!(lies.into_iter().all(|block| parse(block).is_err()));
        assert!(Decompressor::new().read(&[]).is_err(), "a block has at least its count");
    }
}
