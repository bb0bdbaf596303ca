//! Protobuf's wire format: tags, varints, lengths.
use super::Error;

/// A part of the body that is being read. Offsets count from the start of the whole body.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    body: &'a [u8],
    at: usize,
    end: usize,
}

/// One field as it stands on the wire.
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    /// No Kubernetes message has such a field, so its value is of no interest.
    Fixed32,
    Bytes(Reader<'a>),
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { body, at: 0, end: body.len() }
    }
    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.end
    }
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.body.get(self.at..self.end).unwrap_or_default()
    }
    pub(super) fn error(&self, what: &'static str) -> Error {
        Error::Malformed { offset: self.at, what }
    }
    pub(super) fn text(&self) -> Result<&'a str, Error> {
        std::str::from_utf8(self.bytes()).map_err(|_| self.error("a string is not UTF-8"))
    }

    pub(super) fn varint(&mut self) -> Result<u64, Error> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.bytes().first() else { return Err(self.error("it ends inside a number")) };
            self.at += 1;
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(self.error("a number is longer than 10 bytes"))
    }

    pub(super) fn take(&mut self, len: usize) -> Result<Reader<'a>, Error> {
        if len > self.end - self.at {
            return Err(self.error("a length goes beyond the end"));
        }
        let part = Reader { body: self.body, at: self.at, end: self.at + len };
        self.at += len;
        Ok(part)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let part = self.take(N)?;
        part.bytes().try_into().map_err(|_| part.error("it ends inside a number"))
    }

    pub(super) fn fixed64(&mut self) -> Result<u64, Error> {
        self.fixed().map(u64::from_le_bytes)
    }

    /// The next field's number and what it holds. `None` at the end.
    pub(super) fn field(&mut self) -> Result<Option<(u32, Wire<'a>)>, Error> {
        if self.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let Some(tag) = u32::try_from(key >> 3).ok().filter(|t| *t != 0) else {
            return Err(self.error("a field number is out of range"));
        };
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(self.fixed64()?),
            2 => {
                let len = self.varint()?;
                let len = usize::try_from(len).map_err(|_| self.error("a length goes beyond the end"))?;
                Wire::Bytes(self.take(len)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            // 3 and 4 are groups, which no Kubernetes message has.
            _ => return Err(self.error("a field has an unknown wire type")),
        };
        Ok(Some((tag, wire)))
    }
}
