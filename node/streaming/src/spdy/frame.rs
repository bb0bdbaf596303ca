//! Frames of SPDY/3.1 (protocol drafts 3 and 3.1, section 2.2): bytes in, frames out, and back. Pure.
//!
//! Invariant: no more than one control frame ([`MAX_SPDY_CONTROL_BYTES`]) is ever waited for; data frames are handed on
//! in pieces as they come, whatever length they claim.
use crate::limits::{MAX_SPDY_CONTROL_BYTES, MAX_SPDY_STREAMS};
use bytes::{Buf, BufMut, Bytes, BytesMut};

const VERSION: u16 = 3;
const HEAD: usize = 8;
const FIN: u8 = 1;
/// A stream's number has 31 bits.
const STREAM: u32 = 0x7fff_ffff;

/// Codes of RST_STREAM.
pub(super) const PROTOCOL_ERROR: u32 = 1;
pub(super) const REFUSED_STREAM: u32 = 3;

/// What a peer sent. Header blocks are still compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    SynStream {
        stream: u32,
        fin: bool,
        block: Bytes,
    },
    /// A reply, or more headers: of interest is only what it does to the compression.
    Headers {
        stream: u32,
        fin: bool,
        block: Bytes,
    },
    RstStream {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// A piece of a data frame; `fin` on its last one.
    Data {
        stream: u32,
        fin: bool,
        data: Bytes,
    },
    /// SETTINGS, WINDOW_UPDATE, and what nobody knows.
    Other,
}

/// What came is not SPDY/3, or too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a control frame of version {0} came; only SPDY/3 is spoken here")]
    Version(u16),
    #[error("a frame of type {0} has not its length")]
    Length(u16),
    #[error("{0} is larger than may be")]
    TooLarge(&'static str),
    #[error("a header block cannot be read")]
    HeaderBlock,
    #[error("stream {0} was opened out of order")]
    StreamOrder(u32),
    #[error("more than {MAX_SPDY_STREAMS} streams were opened")]
    Streams,
}

/// Takes bytes apart. The rest of a data frame that is on its way is all it remembers.
#[derive(Default)]
pub(super) struct Decoder {
    data: Option<(u32, bool, usize)>,
}

impl Decoder {
    /// The next frame in `bytes`; `None` until more has come.
    pub(super) fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
        if let Some((stream, fin, left)) = self.data {
            if bytes.is_empty() {
                return Ok(None);
            }
            let data = bytes.split_to(left.min(bytes.len())).freeze();
            let left = left - data.len();
            self.data = (left > 0).then_some((stream, fin, left));
            return Ok(Some(Frame::Data { stream, fin: fin && left == 0, data }));
        }
        let Some(head) = bytes.first_chunk::<HEAD>() else { return Ok(None) };
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if word & !STREAM == 0 {
            bytes.advance(HEAD);
            let (stream, fin) = (word, flags & FIN != 0);
            if length == 0 {
                return Ok(Some(Frame::Data { stream, fin, data: Bytes::new() }));
            }
            self.data = Some((stream, fin, length));
            return self.decode(bytes);
        }
        let version = (word >> 16) as u16 & 0x7fff;
        let kind = word as u16;
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        if length > MAX_SPDY_CONTROL_BYTES {
            return Err(Malformed::TooLarge("a control frame"));
        }
        if bytes.len() < HEAD + length {
            return Ok(None);
        }
        bytes.advance(HEAD);
        control(kind, flags, bytes.split_to(length).freeze()).map(Some)
    }
}

fn control(kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, Malformed> {
    let fin = flags & FIN != 0;
    let least = match kind {
        1 => 10,
        2 | 6 | 8 => 4,
        3 | 7 | 9 => 8,
        _ => 0,
    };
    if body.len() < least {
        return Err(Malformed::Length(kind));
    }
    Ok(match kind {
        1 => {
            let stream = body.get_u32() & STREAM;
            // The stream it belongs to, priority and slot.
            body.advance(6);
            Frame::SynStream { stream, fin, block: body }
        }
        2 | 8 => Frame::Headers { stream: body.get_u32() & STREAM, fin, block: body },
        3 => Frame::RstStream { stream: body.get_u32() & STREAM },
        6 => Frame::Ping { id: body.get_u32() },
        7 => Frame::GoAway,
        _ => Frame::Other,
    })
}

fn control_frame(kind: u16, flags: u8, body: &[&[u8]]) -> Bytes {
    let length: usize = body.iter().map(|part| part.len()).sum();
    let mut frame = BytesMut::with_capacity(HEAD + length);
    frame.put_u16(0x8000 | VERSION);
    frame.put_u16(kind);
    frame.put_u32(u32::from(flags) << 24 | length as u32);
    body.iter().for_each(|part| frame.put_slice(part));
    frame.freeze()
}

pub(super) fn syn_reply(stream: u32, block: &[u8]) -> Bytes {
    control_frame(2, 0, &[&stream.to_be_bytes(), block])
}

pub(super) fn rst_stream(stream: u32, code: u32) -> Bytes {
    control_frame(3, 0, &[&stream.to_be_bytes(), &code.to_be_bytes()])
}

pub(super) fn ping(id: u32) -> Bytes {
    control_frame(6, 0, &[&id.to_be_bytes()])
}

/// `data` is shorter than 16 MiB.
pub(super) fn data(stream: u32, fin: bool, data: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD + data.len());
    frame.put_u32(stream & STREAM);
    frame.put_u32(u32::from(fin) << 24 | data.len() as u32);
    frame.put_slice(data);
    frame.freeze()
}

#[cfg(test)]
pub(super) fn syn_stream(stream: u32, block: &[u8]) -> Bytes {
    control_frame(1, 0, &[&stream.to_be_bytes(), &[0; 6], block])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<Frame>, Malformed> {
        let (mut decoder, mut buffer, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
        // Byte by byte: the cut never matters.
        for byte in bytes {
            buffer.put_u8(*byte);
            while let Some(frame) = decoder.decode(&mut buffer)? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn frames_are_read_as_they_were_written() {
        let block = Bytes::from_static(b"block");
        let wire = [syn_stream(1, &block), ping(7), rst_stream(1, PROTOCOL_ERROR), syn_reply(2, &block)];
        assert_eq!(
            all(&wire.concat()).unwrap(),
            [
                Frame::SynStream { stream: 1, fin: false, block: block.clone() },
                Frame::Ping { id: 7 },
                Frame::RstStream { stream: 1 },
                Frame::Headers { stream: 2, fin: false, block },
            ]
        );
        assert_eq!(ping(1).as_ref(), [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]);
    }

    #[test]
    fn a_long_data_frame_comes_in_pieces_and_ends_with_the_last() {
        let frames = all(&[data(3, true, b"abc"), data(3, true, b"")].concat()).unwrap();
        let piece = |fin, data: &'static [u8]| Frame::Data { stream: 3, fin, data: Bytes::from_static(data) };
        assert_eq!(frames, [piece(false, b"a"), piece(false, b"b"), piece(true, b"c"), piece(true, b"")]);
    }

    #[test]
    fn what_is_not_spdy_is_refused_before_it_is_waited_for() {
        assert_eq!(all(&[0x80, 2, 0, 1, 0, 0, 0, 0]), Err(Malformed::Version(2)));
        assert_eq!(all(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]), Err(Malformed::TooLarge("a control frame")));
        assert_eq!(all(&[0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0]), Err(Malformed::Length(1)));
        assert_eq!(all(&[0x80, 3, 0, 6, 0, 0, 0, 0]), Err(Malformed::Length(6)));
        assert_eq!(all(&[0x80, 3, 0, 4, 0, 0, 0, 0]), Ok(vec![Frame::Other]));
    }

    #[test]
    fn nothing_that_may_come_makes_it_panic() {
        let mut state = 1_u64;
        for _ in 0..2_000 {
            let bytes: Vec<u8> = (0..64)
                .map(|n| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    // Control frames of the right version more often than chance would have them.
                    if n < 2 && state & 1 << 40 == 0 { [0x80, 3][n] } else { (state >> 33) as u8 }
                })
                .collect();
            let _ = all(&bytes);
        }
    }
}
