//! The requests of an append-only file on their way into the data: applied as a replica applies its upstream's.

use super::Instance;
use crate::aof::Note;
use crate::client::{ClientKind, Session};
use crate::command::{Args, Command, Planned};
use crate::resp::{Limits, Request, RequestParser};

/// What was met in the file.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A request, which was applied or waits for the end of its transaction.
    Request(&'a [u8]),
    /// A line between two requests.
    Note(Note),
}

/// Why the requests of a file cannot be applied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestsError {
    /// It breaks the protocol.
    #[error("Bad file format reading the append only file {{}} at byte {0}: {1}")]
    Format(u64, String),
    /// Nobody knows what is asked for.
    #[error("Unknown command '{1}' reading the append only file {{}} at byte {0}")]
    Unknown(u64, String),
}

/// The requests of one file.
pub struct Requests {
    session: Session,
    parser: RequestParser,
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    start: u64,
    /// Everything of the buffer before this was taken.
    taken: usize,
    /// Everything of the file before this is whole: no request, no transaction is missing its end.
    whole_to: u64,
    has_selected: bool,
    last: Option<&'static Command>,
    reply: Vec<u8>,
}

impl Requests {
    /// Those of a file from byte `start` on. They begin in database 0, as those of each file do.
    pub fn begin(instance: &mut Instance, name: &str, start: u64) -> Requests {
        let client = instance.connect(name.into(), name.into(), ClientKind::Master);
        Requests {
            session: Session::new(client, true),
            parser: RequestParser::default(),
            buffer: Vec::new(),
            start,
            taken: 0,
            whole_to: start,
            has_selected: false,
            last: None,
            reply: Vec::new(),
        }
    }

    /// Adds the next bytes of the file.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.start += self.taken as u64;
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Applies the next request, or takes the next line; `None` if more bytes are needed for either.
    ///
    /// # Errors
    /// [`RequestsError`]
    pub fn step(&mut self, instance: &mut Instance) -> Result<Option<Found<'_>>, RequestsError> {
        let offset = self.start + self.taken as u64;
        let bad = |reason: &str| Err(RequestsError::Format(offset, reason.to_owned()));
        match self.buffer.get(self.taken) {
            None => Ok(None),
            Some(b'#') => Ok(self.note()),
            Some(b'*') => {
                let limits = Limits { bulk_bytes_max: i64::from(u32::MAX), authenticated: true };
                self.parser.forget_requests();
                match self.parser.next(&mut self.buffer, self.taken, limits) {
                    Ok(Some(request)) if request.argc == 0 => bad("a request without arguments"),
                    Ok(Some(request)) => {
                        self.run(instance, &request, offset)?;
                        let bytes = &self.buffer[request.start..request.start + request.len];
                        Ok(Some(Found::Request(bytes)))
                    }
                    Ok(None) => Ok(None),
                    Err(error) => bad(&error.to_string()),
                }
            }
            Some(_) => bad("no request begins here"),
        }
    }

    fn note(&mut self) -> Option<Found<'_>> {
        let rest = &self.buffer[self.taken..];
        let end = memchr::memchr(b'\n', rest)?;
        let line = &rest[..end];
        let note = Note::parse(line.strip_suffix(b"\r").unwrap_or(line));
        self.taken += end + 1;
        self.note_whole();
        Some(Found::Note(note))
    }

    fn run(&mut self, instance: &mut Instance, request: &Request, offset: u64) -> Result<(), RequestsError> {
        let bytes = &self.buffer[request.start..request.start + request.len];
        let spans = self.parser.spans(request);
        let planned = Planned::new(*request, bytes, spans, &instance.keyspace, self.session.db(), &mut self.last);
        let args = Args::new(bytes, spans, planned.hash);
        let Some(command) = planned.command else {
            let name = String::from_utf8_lossy(args.name()).into_owned();
            return Err(RequestsError::Unknown(offset, name));
        };
        self.has_selected |= command.name == "select";
        // Those who listen have heard it.
        if !matches!(command.name, "publish" | "spublish") {
            self.reply.clear();
            instance.execute(&mut self.session, &planned, args, bytes, &mut self.reply);
            if command.name == "select" && self.reply.starts_with(b"-") {
                // What follows would be applied to another database.
                return Err(RequestsError::Format(offset, String::from_utf8_lossy(&self.reply).trim_end().to_owned()));
            }
        }
        self.taken += request.len;
        self.note_whole();
        Ok(())
    }

    fn note_whole(&mut self) {
        if self.session.transaction.is_none() {
            self.whole_to = self.start + self.taken as u64;
        }
    }

    /// Whether a transaction was begun and not ended.
    pub fn is_in_transaction(&self) -> bool {
        self.session.transaction.is_some()
    }

    /// What was not taken.
    pub fn rest(&self) -> &[u8] {
        &self.buffer[self.taken..]
    }

    /// Where in the file the last whole request or transaction ends.
    pub fn whole_to(&self) -> u64 {
        self.whole_to
    }

    /// Where in the file the bytes end that were given.
    pub fn end(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    /// Ends it, and returns the database that is selected at its end, if any request has selected one.
    pub fn finish(mut self, instance: &mut Instance) -> Option<usize> {
        let db = self.session.db();
        instance.disconnect(&mut self.session);
        self.has_selected.then_some(db)
    }
}
