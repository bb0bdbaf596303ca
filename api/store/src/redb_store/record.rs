//! How records and undo entries lie in the file: little-endian numbers, then the bytes.
use super::damaged;
use crate::history::Undo;
use crate::{Error, Kv, Revision};
use bytes::Bytes;

/// Bytes before a record's value: mod revision, create revision, version, expiry (0: none).
const HEADER: usize = 32;

pub(super) fn encode(kv: &Kv, expiry_ms: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + kv.value.len());
    for number in [kv.mod_revision, kv.create_revision, kv.version, expiry_ms] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&kv.value);
    out
}

fn number(bytes: &[u8], at: usize) -> Result<u64, Error> {
    let slice = bytes.get(at..at + 8).ok_or_else(|| damaged("a record is cut short"))?;
    Ok(slice.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
}

/// The record and its expiry (0: none).
pub(super) fn decode(key: &str, bytes: &[u8]) -> Result<(Kv, u64), Error> {
    let kv = Kv {
        key: key.to_owned(),
        mod_revision: number(bytes, 0)?,
        create_revision: number(bytes, 8)?,
        version: number(bytes, 16)?,
        value: Bytes::copy_from_slice(bytes.get(HEADER..).unwrap_or_default()),
    };
    Ok((kv, number(bytes, 24)?))
}

/// An undo entry: the key's length and bytes, then the record it held, if any.
pub(super) fn encode_undo(key: &str, previous: Option<&Kv>) -> Vec<u8> {
    let mut out = (key.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(key.as_bytes());
    if let Some(kv) = previous {
        out.extend_from_slice(&encode(kv, 0));
    }
    out
}

pub(super) fn decode_undo(revision: Revision, bytes: &[u8]) -> Result<Undo, Error> {
    let len = usize::try_from(number(bytes, 0)?).map_err(damaged)?;
    let end = len.checked_add(8).ok_or_else(|| damaged("an undo entry's length"))?;
    let key = bytes.get(8..end).ok_or_else(|| damaged("an undo entry is cut short"))?;
    let key = std::str::from_utf8(key).map_err(damaged)?.to_owned();
    let rest = &bytes[end..];
    let previous = if rest.is_empty() { None } else { Some(decode(&key, rest)?.0) };
    Ok(Undo { revision, key, previous })
}
