//! Which streams a client has opened, and which of them its request needs. Pure.
use super::frame::Malformed;
use super::headers::Headers;
use crate::handler::Streams;
use crate::limits::MAX_SPDY_STREAMS;

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Stdout,
    Stderr,
    Error,
    Stdin,
    Resize,
}

impl Kind {
    pub(super) const ALL: [Self; 5] = [Self::Stdout, Self::Stderr, Self::Error, Self::Stdin, Self::Resize];

    fn of(headers: &Headers) -> Option<Self> {
        let (_, value) = headers.iter().find(|(name, _)| name == b"streamtype")?;
        Some(match value.as_slice() {
            b"stdout" => Self::Stdout,
            b"stderr" => Self::Stderr,
            b"error" => Self::Error,
            b"stdin" => Self::Stdin,
            b"resize" => Self::Resize,
            _ => return None,
        })
    }
}

/// The number of each kind's stream; 0 for one that is not open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Opened([u32; Kind::ALL.len()]);

impl Opened {
    pub(super) fn stream(&self, kind: Kind) -> Option<u32> {
        Some(self.0[kind as usize]).filter(|stream| *stream != 0)
    }

    pub(super) fn kind(&self, stream: u32) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| self.stream(*kind) == Some(stream))
    }
}

/// The opening of streams, one SYN_STREAM after another.
pub(super) struct Opening {
    wanted: Streams,
    opened: Opened,
    last: u32,
    count: usize,
}

impl Opening {
    pub(super) fn new(wanted: Streams) -> Self {
        Self { wanted, opened: Opened::default(), last: 0, count: 0 }
    }

    /// Takes a stream; `false` if nobody wants it.
    pub(super) fn open(&mut self, stream: u32, headers: &Headers) -> Result<bool, Malformed> {
        // A client's are odd, and rise.
        if stream.is_multiple_of(2) || stream <= self.last {
            return Err(Malformed::StreamOrder(stream));
        }
        (self.last, self.count) = (stream, self.count + 1);
        if self.count > MAX_SPDY_STREAMS {
            return Err(Malformed::Streams);
        }
        let Some(kind) = Kind::of(headers).filter(|kind| self.opened.stream(*kind).is_none()) else {
            return Ok(false);
        };
        self.opened.0[kind as usize] = stream;
        Ok(true)
    }

    pub(super) fn is_complete(&self) -> bool {
        Kind::ALL.into_iter().all(|kind| {
            let wanted = match kind {
                Kind::Error => true,
                Kind::Stdin => self.wanted.stdin,
                Kind::Stdout => self.wanted.stdout,
                Kind::Stderr => self.wanted.stderr,
                Kind::Resize => self.wanted.tty,
            };
            !wanted || self.opened.stream(kind).is_some()
        })
    }

    pub(super) fn opened(&self) -> Opened {
        self.opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(value: &str) -> Headers {
        vec![(b"streamtype".to_vec(), value.as_bytes().to_vec())]
    }

    #[test]
    fn all_that_the_request_speaks_of_must_be_open() {
        let mut opening = Opening::new(Streams { stdin: true, stdout: true, stderr: false, tty: true });
        for (stream, name) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
            assert!(opening.open(stream, &typed(name)).unwrap());
            assert!(!opening.is_complete());
        }
        assert!(!opening.open(7, &typed("stdout")).unwrap(), "there is one already");
        assert!(!opening.open(9, &typed("video")).unwrap());
        assert!(opening.open(11, &typed("resize")).unwrap());
        assert!(opening.is_complete());
        assert_eq!(opening.opened().kind(5), Some(Kind::Stdout));
        assert_eq!(opening.opened().kind(7), None);
        assert_eq!(opening.opened().stream(Kind::Stderr), None);
    }

    #[test]
    fn streams_out_of_order_or_without_end_break_the_protocol() {
        let mut opening = Opening::new(Streams::default());
        assert_eq!(opening.open(2, &typed("error")), Err(Malformed::StreamOrder(2)));
        assert!(opening.open(5, &typed("x")).is_ok());
        assert_eq!(opening.open(5, &typed("error")), Err(Malformed::StreamOrder(5)));
        assert_eq!(opening.open(3, &typed("error")), Err(Malformed::StreamOrder(3)));
        let refused =
            (7..).step_by(2).take(MAX_SPDY_STREAMS).find_map(|n| opening.open(n, &typed("x")).err());
        assert_eq!(refused, Some(Malformed::Streams));
    }
}
