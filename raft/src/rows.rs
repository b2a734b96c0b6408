//! What the storage does with every byte of an entry, in one pass over it: the checksum of a row,
//! and the search for blobs. `storage/codec.py` and `core/payloads.py` do the same in Python, and
//! the tests compare both.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use raft::eraftpb::{self, EntryType};

/// A row: the CRC-32 (as in zlib) of `key` and `payload`, big-endian, then the payload.
#[pyfunction]
pub fn seal_row<'py>(py: Python<'py>, key: &[u8], payload: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(payload);
    let crc = hasher.finalize();
    PyBytes::new_with(py, 4 + payload.len(), |row| {
        row[..4].copy_from_slice(&crc.to_be_bytes());
        row[4..].copy_from_slice(payload);
        Ok(())
    })
}

/// The digests of the payloads without data that an encoded EntryBody names. None for bytes that
/// this search does not know for certain: then protobuf has to decode them.
#[pyfunction]
pub fn blob_digests<'py>(py: Python<'py>, body: &[u8]) -> PyResult<Option<Bound<'py, PyList>>> {
    blobs_of_body(body)
        .map(|found| digests(py, found))
        .transpose()
}

pub fn digests<'py>(py: Python<'py>, found: Vec<&[u8]>) -> PyResult<Bound<'py, PyList>> {
    PyList::new(py, found.into_iter().map(|digest| PyBytes::new(py, digest)))
}

/// As `blob_digests`, of all normal entries of a message.
pub fn blobs_of_entries(entries: &[eraftpb::Entry]) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    for entry in entries {
        if entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty() {
            found.extend(blobs_of_body(&entry.data)?);
        }
    }
    Some(found)
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of EntryBody: a proposal, or a session's, and the numbers and the digest behind it.
fn blobs_of_body(mut rest: &[u8]) -> Option<Vec<&[u8]>> {
    let mut body = None;
    while !rest.is_empty() {
        match field(&mut rest)? {
            // Of two bodies protobuf takes the last one, or merges them.
            (kind @ 1..=3, Value::Bytes(content)) if body.is_none() => body = Some((kind, content)),
            (4 | 6 | 8, Value::Number(_)) | (7, Value::Bytes(_)) => {}
            _ => return None,
        }
    }
    match body {
        Some((1, proposal)) => blobs_of_proposal(proposal),
        _ => Some(Vec::new()),
    }
}

fn blobs_of_proposal(mut rest: &[u8]) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        match field(&mut rest)? {
            (5, Value::Bytes(payload)) => found.extend(blob(payload)?),
            (1..=3, Value::Number(_)) | (4 | 6, Value::Bytes(_)) => {}
            _ => return None,
        }
    }
    Some(found)
}

/// Some(None) for a payload that is no blob.
#[allow(clippy::option_option)]
fn blob(mut rest: &[u8]) -> Option<Option<&[u8]>> {
    let (mut digest, mut size, mut data) = (&rest[..0], 0, &rest[..0]);
    while !rest.is_empty() {
        match field(&mut rest)? {
            (1, Value::Bytes(found)) => digest = found,
            (2, Value::Number(found)) => size = found,
            (3, Value::Number(_)) => {}
            (4, Value::Bytes(found)) => data = found,
            _ => return None,
        }
    }
    Some((size > 0 && data.is_empty()).then_some(digest))
}

/// Takes a field: (number, value). None for anything but a number or bytes.
fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = varint(rest)?;
    let value = match tag & 7 {
        0 => Value::Number(varint(rest)?),
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            if length > rest.len() {
                return None;
            }
            let (content, tail) = rest.split_at(length);
            *rest = tail;
            Value::Bytes(content)
        }
        _ => return None,
    };
    Some((tag >> 3, value))
}

/// Takes a number of at most nine bytes: protobuf cuts larger ones off.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..63).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
