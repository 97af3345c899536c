//! A base that is requests and no image (`aof-use-rdb-preamble no`): a RESTORE for each key.

use std::sync::Arc;

use super::Note;
use crate::keyspace::Chunk;
use crate::rdb;
use crate::resp::append_request;
use crate::snapshot::Point;

/// Encodes one.
pub struct RequestBase {
    db: Option<usize>,
    compress: bool,
}

impl RequestBase {
    /// Its encoder, and what stands at its beginning: when it was made (seconds since the epoch), if that is to be noted, and
    /// the libraries of functions.
    pub fn begin(compress: bool, stamp_s: Option<i64>, functions: &[Arc<[u8]>]) -> (RequestBase, Vec<u8>) {
        let mut bytes = Vec::new();
        stamp_s.into_iter().for_each(|stamp_s| Note::Time(stamp_s).append_to(&mut bytes));
        functions.iter().for_each(|code| append_request(&mut bytes, &[b"FUNCTION", b"LOAD", b"REPLACE", code]));
        (RequestBase { db: None, compress }, bytes)
    }

    /// What stands at its end, if it is the base of this point of a history.
    pub fn finish(self, point: Option<Point>) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(point) = point {
            append_request(&mut bytes, &[b"SELECT", point.db.to_string().as_bytes()]);
            Note::Stream { id: point.id, offset: point.offset }.append_to(&mut bytes);
        }
        bytes
    }

    /// The requests for the keys of a chunk.
    pub fn encode(&mut self, chunk: &Chunk) -> Vec<u8> {
        let mut requests = Vec::new();
        for frame in chunk.iter() {
            if self.db.replace(frame.db) != Some(frame.db) {
                append_request(&mut requests, &[b"SELECT", frame.db.to_string().as_bytes()]);
            }
            // 0 would stand for none.
            let deadline_ms = frame.deadline_ms.map_or(0, |deadline_ms| deadline_ms.max(1)).to_string();
            let payload = rdb::dump(frame.value, self.compress);
            append_request(
                &mut requests,
                &[b"RESTORE", frame.key, deadline_ms.as_bytes(), &payload, b"ABSTTL", b"REPLACE"],
            );
        }
        requests
    }
}
