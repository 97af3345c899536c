//! Lines between the requests, which Redis skips: `#TS:1700000000` and `#repl:ID OFFSET`.

use crate::replication::ReplicationId;

/// What such a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// What follows was written at this time, in seconds since the epoch, or later.
    Time(i64),
    /// The bytes that follow are those of the history `id` behind this offset.
    Stream {
        /// The history.
        id: ReplicationId,
        /// The offset.
        offset: u64,
    },
    /// Something that is not for us.
    Other,
}

impl Note {
    /// What a line says, given without its end.
    pub fn parse(line: &[u8]) -> Note {
        let stream = |rest: &[u8]| {
            let (id, offset) = rest.split_at_checked(40)?;
            let offset = std::str::from_utf8(offset.strip_prefix(b" ")?).ok()?.parse().ok()?;
            Some(Note::Stream { id: ReplicationId::parse(id)?, offset })
        };
        let time = |rest: &[u8]| Some(Note::Time(std::str::from_utf8(rest).ok()?.parse().ok()?));
        let note = line.strip_prefix(b"#repl:").and_then(stream);
        note.or_else(|| line.strip_prefix(b"#TS:").and_then(time)).unwrap_or(Note::Other)
    }

    /// Appends the line.
    pub fn append_to(self, out: &mut Vec<u8>) {
        match self {
            Note::Time(seconds) => out.extend_from_slice(format!("#TS:{seconds}\r\n").as_bytes()),
            Note::Stream { id, offset } => out.extend_from_slice(format!("#repl:{id} {offset}\r\n").as_bytes()),
            Note::Other => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_and_anything_else_says_nothing() {
        let id = ReplicationId::parse(&[b'0'; 40]).expect("40 digits");
        for note in [Note::Time(1628217470), Note::Stream { id, offset: u64::MAX }] {
            let mut line = Vec::new();
            note.append_to(&mut line);
            assert_eq!(Note::parse(line.strip_suffix(b"\r\n").expect("a line")), note);
        }
        for line in
            ["#", "#TS:", "#TS:x", "#repl:", "#repl:0 1", "#other", &format!("#repl:{id}1"), &format!("#repl:{id} x")]
        {
            assert_eq!(Note::parse(line.as_bytes()), Note::Other, "{line}");
        }
    }
}
