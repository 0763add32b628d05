//! The record: one message exactly as received, and the bundles that records are stored in. Pure.
//!
//! Promises: one message has one encoding, so replicas write the same bytes. Refuses: an encoding
//! that is not the one it would write itself. Not compressed: another compressor version would
//! give other bytes for the same records, and a replica could not tell that from tampering.
//!
//! Record, integers big-endian: `u8` version 1, `u64` stream sequence, `u64` unix ms, then subject,
//! `u32` number of headers, name and value of each, body; every text and the body after its `u32`
//! length. Bundle: `hotcell-records/1\n`, then each record after its `u32` length.

use std::fmt;

use bytes::Bytes;

use crate::tile::{TILE_WIDTH, index_path};

/// First bytes of a bundle.
pub const BUNDLE_MAGIC: &[u8] = b"hotcell-records/1\n";
const VERSION: u8 = 1;
/// A broker takes at most 1 MiB of headers and body unless told otherwise; two lengths (8 bytes)
/// for each header of at least 4 bytes on the wire can triple that.
pub const RECORD_BYTES_MAX: usize = 4 << 20;
/// A bundle is closed when it has this many bytes, so one read stays small.
pub const BUNDLE_BYTES_TARGET: usize = 8 << 20;
/// Bytes in the largest bundle: one record short of the target, and one record more.
pub const BUNDLE_BYTES_MAX: u64 = (BUNDLE_BYTES_TARGET + RECORD_BYTES_MAX + 4) as u64;

/// Why bytes are not a record, or a message cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Longer than `RECORD_BYTES_MAX`.
    #[error("a record of {found_bytes} bytes is over the limit")]
    TooLarge {
        /// Bytes found.
        found_bytes: usize,
    },
    /// Cut, too long, not UTF-8 where text belongs, or headers out of order.
    #[error("the bytes are not an encoded record")]
    Form,
}

/// One message of the stream.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    seq: u64,
    ts_ms: u64,
    subject: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

impl Record {
    /// A message: its sequence and time (unix ms) in the stream, subject, the headers that its
    /// signature needs, and body. Headers are ordered by name here, since clients hand them over
    /// in any order; values of one name keep theirs.
    #[must_use]
    pub fn new(
        seq: u64,
        ts_ms: u64,
        subject: impl Into<String>,
        headers: Vec<(String, String)>,
        body: impl Into<Bytes>,
    ) -> Self {
        let mut headers = headers;
        headers.sort_by(|a, b| a.0.cmp(&b.0));
        Self { seq, ts_ms, subject: subject.into(), headers, body: body.into() }
    }

    /// Sequence in the stream.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Time in the stream, unix ms.
    #[must_use]
    pub fn ts_ms(&self) -> u64 {
        self.ts_ms
    }

    /// Subject.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Headers, ordered by name.
    #[must_use]
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// The first value of a header, by its exact name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The record's bytes, which the leaf commits to.
    ///
    /// # Errors
    /// `TooLarge`.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let texts = self.headers.iter().map(|(n, v)| n.len() + v.len() + 8).sum::<usize>();
        let total = 1 + 8 + 8 + 4 + self.subject.len() + 4 + texts + 4 + self.body.len();
        if total > RECORD_BYTES_MAX {
            return Err(RecordError::TooLarge { found_bytes: total });
        }
        let mut out = Vec::with_capacity(total);
        out.push(VERSION);
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.ts_ms.to_be_bytes());
        put_bytes(&mut out, self.subject.as_bytes());
        put_length(&mut out, self.headers.len());
        for (name, value) in &self.headers {
            put_bytes(&mut out, name.as_bytes());
            put_bytes(&mut out, value.as_bytes());
        }
        put_bytes(&mut out, &self.body);
        Ok(out)
    }

    /// Reads a record's bytes.
    ///
    /// # Errors
    /// `TooLarge` or `Form`.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(RecordError::TooLarge { found_bytes: bytes.len() });
        }
        let record = Self::take(bytes).ok_or(RecordError::Form)?;
        let canonical = record.headers.is_sorted_by(|a, b| a.0 <= b.0);
        if canonical { Ok(record) } else { Err(RecordError::Form) }
    }

    fn take(bytes: &[u8]) -> Option<Self> {
        let (&version, rest) = bytes.split_first()?;
        if version != VERSION {
            return None;
        }
        let (seq, rest) = rest.split_first_chunk::<8>()?;
        let (ts, mut rest) = rest.split_first_chunk::<8>()?;
        let subject = take_text(&mut rest)?;
        let (count, tail) = rest.split_first_chunk::<4>()?;
        rest = tail;
        let mut headers = Vec::new();
        for _ in 0..u32::from_be_bytes(*count) {
            headers.push((take_text(&mut rest)?, take_text(&mut rest)?));
        }
        let body = Bytes::copy_from_slice(take_bytes(&mut rest)?);
        rest.is_empty().then_some(Self {
            seq: u64::from_be_bytes(*seq),
            ts_ms: u64::from_be_bytes(*ts),
            subject,
            headers,
            body,
        })
    }
}

/// Names the message, never its payload.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("seq", &self.seq)
            .field("subject", &self.subject)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    let length = u32::try_from(length).expect("a record is at most 4 MiB");
    out.extend_from_slice(&length.to_be_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, tail) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (bytes, tail) = tail.split_at_checked(length)?;
    *rest = tail;
    Some(bytes)
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    String::from_utf8(take_bytes(rest)?.to_vec()).ok()
}

/// A run of records in one object: leaves `first ..= last`, all of one group of 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BundleId {
    /// First leaf index.
    pub first: u64,
    /// Last leaf index.
    pub last: u64,
}

impl BundleId {
    /// `records/<N>/<first>-<last>`, N being the entry bundle of these leaves in tile path form, so
    /// that a record is found by listing one small folder.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}-{}", group_path(self.first), self.first, self.last)
    }

    /// Reads the last path element.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (first, last) = name.split_once('-')?;
        let (first, last) = (crate::checkpoint::decimal(first)?, crate::checkpoint::decimal(last)?);
        let group = u64::from(TILE_WIDTH);
        (first <= last && first / group == last / group).then_some(Self { first, last })
    }

    /// Records in the bundle.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::try_from(self.last - self.first + 1).expect("at most 256")
    }
}

/// The folder of the records of the leaves around `index`: `records/<N>`.
#[must_use]
pub fn group_path(index: u64) -> String {
    format!("records/{}", index_path(index / u64::from(TILE_WIDTH)))
}

/// The bundles of consecutive encoded records, the first being leaf `first`.
#[must_use]
pub fn bundles(first: u64, records: &[Vec<u8>]) -> Vec<(BundleId, Vec<u8>)> {
    let mut done: Vec<(BundleId, Vec<u8>)> = Vec::new();
    for (index, record) in (first..).zip(records) {
        let fits = |(_, bytes): &&mut (BundleId, Vec<u8>)| {
            bytes.len() < BUNDLE_BYTES_TARGET && index % u64::from(TILE_WIDTH) != 0
        };
        if let Some((id, bytes)) = done.last_mut().filter(fits) {
            id.last = index;
            put_bytes(bytes, record);
        } else {
            let mut bytes = BUNDLE_MAGIC.to_vec();
            put_bytes(&mut bytes, record);
            done.push((BundleId { first: index, last: index }, bytes));
        }
    }
    done
}

/// As many records as can be told apart, and whether they are exactly `count` and nothing else.
#[must_use]
pub fn split_bundle(bytes: &[u8], count: usize) -> (Vec<&[u8]>, bool) {
    let Some(mut rest) = bytes.strip_prefix(BUNDLE_MAGIC) else { return (Vec::new(), false) };
    let mut records = Vec::new();
    while records.len() < count {
        let Some(record) = take_bytes(&mut rest) else { break };
        records.push(record);
    }
    let whole = rest.is_empty() && records.len() == count;
    (records, whole)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;

    fn record() -> Record {
        let headers = vec![("b".into(), "2".into()), ("a".into(), "1".into())];
        Record::new(7, 1_700_000_000_000, "job.acme.j1.submitted", headers, "body")
    }

    #[test]
    fn one_message_has_one_encoding() {
        let bytes = record().encode().unwrap();
        assert_eq!(Record::parse(&bytes).unwrap(), record());
        assert_eq!(record().header("a"), Some("1"));
        for cut in 0..bytes.len() {
            assert!(Record::parse(&bytes[..cut]).is_err());
        }
        let longer = [bytes.as_slice(), b"x"].concat();
        assert_eq!(Record::parse(&longer), Err(RecordError::Form));
        let swapped: Vec<u8> = bytes.iter().map(|b| if *b == b'a' { b'z' } else { *b }).collect();
        assert_eq!(Record::parse(&swapped), Err(RecordError::Form));
        assert!(!format!("{:?}", record()).contains("\"body\""));
    }

    #[test]
    fn bundles_end_at_group_borders_and_at_the_size_limit() {
        let small = vec![vec![1u8; 10]; 300];
        let ids: Vec<_> = bundles(200, &small).into_iter().map(|(id, _)| id).collect();
        let id = |first, last| BundleId { first, last };
        assert_eq!(ids, [id(200, 255), id(256, 499)]);
        assert_eq!(ids[1].path(), "records/001/256-499");
        let large = vec![vec![1u8; RECORD_BYTES_MAX]; 5];
        let parts = bundles(0, &large);
        assert_eq!(parts.len(), 3);
        assert!(parts.iter().all(|(_, bytes)| bytes.len() as u64 <= BUNDLE_BYTES_MAX));
        let (rows, whole) = split_bundle(&parts[0].1, parts[0].0.count());
        assert!(whole && rows.len() == 2);
        assert!(!split_bundle(&parts[0].1, 3).1);
        assert_eq!(BundleId::parse("255-256"), None);
        assert_eq!(BundleId::parse("07-8"), None);
    }

    #[test]
    fn a_message_over_the_limit_is_refused() {
        let body = vec![0; RECORD_BYTES_MAX];
        let refused = Record::new(1, 1, "s", Vec::new(), body).encode();
        assert!(matches!(refused, Err(RecordError::TooLarge { .. })));
    }
}
