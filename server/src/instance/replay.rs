//! The stream that a dead server's backlog has beyond its dump file, applied at the start as a replica would have done.

use super::{BACKLOG_FILE, Instance};
use crate::client::{ClientKind, Session};
use crate::command::{Args, Planned};
use crate::log::log;
use crate::replication::Remains;
use crate::resp::{Limits, RequestParser};

/// Bytes of the stream that are applied before others have their turn.
const SLICE_BYTES: usize = 64 * 1024;

/// A part of a stream on its way into the data.
pub struct Replay {
    session: Session,
    parser: RequestParser,
    stream: Vec<u8>,
    applied: usize,
}

/// Why a stream cannot be applied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// It breaks the protocol.
    #[error("after {0} bytes of the stream: {1}")]
    Protocol(usize, String),
    /// Its last request or transaction is not whole.
    #[error("the stream ends within a request or a transaction, {0} bytes after the last whole one")]
    Torn(usize),
}

impl Replay {
    /// Applies `stream` to the data, with database `db` selected at its start.
    pub fn begin(instance: &mut Instance, stream: Vec<u8>, db: usize) -> Replay {
        let client = instance.connect(BACKLOG_FILE.into(), BACKLOG_FILE.into(), ClientKind::Master);
        client.db.set(db);
        Replay { session: Session::new(client, true), parser: RequestParser::default(), stream, applied: 0 }
    }

    /// Bytes applied so far.
    pub fn applied_bytes(&self) -> usize {
        self.applied
    }

    /// Applies some more; false when there is no more that is whole.
    ///
    /// # Errors
    /// [`ReplayError::Protocol`]
    pub fn step(&mut self, instance: &mut Instance) -> Result<bool, ReplayError> {
        let limits = Limits { bulk_bytes_max: i64::from(u32::MAX), authenticated: true };
        let (mut last, mut ignored) = (None, Vec::new());
        let until = self.applied + SLICE_BYTES;
        while self.applied < until {
            self.parser.forget_requests();
            let request = self.parser.next(&mut self.stream, self.applied, limits);
            let request = request.map_err(|error| ReplayError::Protocol(self.applied, error.to_string()))?;
            let Some(request) = request else { return Ok(false) };
            let bytes = &self.stream[request.start..request.start + request.len];
            let spans = self.parser.spans(&request);
            let planned = Planned::new(request, bytes, spans, &instance.keyspace, self.session.db(), &mut last);
            let args = Args::new(bytes, spans, planned.hash);
            instance.execute(&mut self.session, &planned, args, bytes, &mut ignored);
            ignored.clear();
            self.applied += request.len;
        }
        Ok(true)
    }

    /// Ends it and returns the database that the stream has selected at its end.
    ///
    /// # Errors
    /// [`ReplayError::Torn`]
    pub fn finish(mut self, instance: &mut Instance) -> Result<usize, ReplayError> {
        let db = self.session.db();
        let is_whole = self.applied == self.stream.len() && self.session.transaction.is_none();
        instance.disconnect(&mut self.session);
        if is_whole { Ok(db) } else { Err(ReplayError::Torn(self.stream.len() - self.applied)) }
    }
}

impl Instance {
    /// Goes on where a dead server ended, with its ring, whose content is `bytes`, and database `db` selected. A master's
    /// history has a new name from here on: nobody knows whether another server goes on with the old one.
    ///
    /// # Errors
    /// There is no room for a backlog.
    pub fn continue_history(&mut self, remains: &Remains, bytes: &[u8], db: usize) -> Result<(), String> {
        let is_master = self.replication.is_master();
        self.replication.history = remains.history;
        self.replication.offset = remains.end;
        self.replication.stream_db = db;
        if !is_master {
            self.replication.restore();
        }
        self.create_backlog_with((remains.start, bytes))?;
        if is_master {
            let replid = self.random.id();
            self.replication.shift_history(replid);
            log!(
                Notice,
                "Secondary replication ID is {}, valid up to offset: {}. New replication ID is {replid}",
                remains.history.replid,
                remains.end + 1
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::instance::Random;
    use crate::resp::append_request;

    fn replayed(stream: &[u8]) -> (Instance, Result<usize, ReplayError>) {
        let config = Config::load(&[], &mut std::io::empty()).expect("the defaults");
        let mut instance = Instance::new(config, 1_000, Random::from_system());
        let mut replay = Replay::begin(&mut instance, stream.to_vec(), 2);
        let result = loop {
            match replay.step(&mut instance) {
                Ok(true) => {}
                Ok(false) => break replay.finish(&mut instance),
                Err(error) => break Err(error),
            }
        };
        (instance, result)
    }

    fn stream(requests: &[&[&str]]) -> Vec<u8> {
        let mut stream = Vec::new();
        for words in requests {
            append_request(&mut stream, &words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
        }
        stream
    }

    #[test]
    fn the_stream_goes_on_in_its_database_and_as_if_nothing_ever_expired() {
        let stream = stream(&[
            &["SET", "k", "1", "PXAT", "5"],
            &["PERSIST", "k"],
            &["SELECT", "3"],
            &["MULTI"],
            &["SET", "k", "2"],
            &["EXEC"],
            &["REPLCONF", "GETACK", "*"],
        ]);
        let (instance, result) = replayed(&stream);
        assert_eq!(result, Ok(3));
        assert_eq!((instance.keyspace.len(2), instance.keyspace.len(3), instance.keyspace.with_deadline(2)), (1, 1, 0));
        assert!(instance.clients.is_empty());
    }

    #[test]
    fn a_stream_that_is_not_whole_is_told() {
        let whole = stream(&[&["SET", "k", "1"]]);
        let half = stream(&[&["SET", "k", "2"]]);
        let torn = [&whole[..], &half[..half.len() - 1]].concat();
        assert_eq!(replayed(&torn).1, Err(ReplayError::Torn(half.len() - 1)));
        assert_eq!(replayed(&stream(&[&["MULTI"]])).1, Err(ReplayError::Torn(0)));
        let broken = [&whole[..], b"*1\r\n+oh\r\n"].concat();
        assert!(matches!(replayed(&broken).1, Err(ReplayError::Protocol(at, _)) if at == whole.len()));
    }
}
