//! Replies: written straight into a connection's output buffer, in the version of the protocol it speaks.

use crate::number::DoubleText;

/// The version of the protocol that a client chose with `HELLO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// What every client speaks at first.
    #[default]
    Resp2,
    /// Maps, sets, nulls, doubles and pushes have types of their own.
    Resp3,
}

/// Writes replies to one buffer. A method that announces elements (`array`, `map`, `set`, `push`) is followed by
/// that many replies.
#[derive(Debug)]
pub struct Reply<'a> {
    out: &'a mut Vec<u8>,
    protocol: Protocol,
}

impl<'a> Reply<'a> {
    /// Writes to `out` in the given version.
    pub fn new(out: &'a mut Vec<u8>, protocol: Protocol) -> Self {
        Reply { out, protocol }
    }

    /// The version that is written.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// `+OK`.
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A status such as `+PONG`; line breaks in it become spaces.
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// An error; its first word is its code (`ERR`, `WRONGTYPE` …). Line breaks become spaces, or vanish at the end.
    pub fn error(&mut self, text: &(impl AsRef<[u8]> + ?Sized)) {
        let mut text = text.as_ref();
        while let [rest @ .., b'\r' | b'\n'] = text {
            text = rest;
        }
        self.line(b'-', text);
    }

    /// An integer.
    pub fn integer(&mut self, value: i64) {
        self.header(b':', value);
    }

    /// A binary-safe string.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.header(b'$', bytes.len() as i64);
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// A value or nothing.
    pub fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// A double, which is a string of its text in RESP2.
    pub fn double(&mut self, value: f64) {
        self.double_text(DoubleText::new(value).as_bytes());
    }

    /// A double in another notation.
    pub fn double_text(&mut self, text: &[u8]) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text),
            Protocol::Resp3 => self.line(b',', text),
        }
    }

    /// Text for people (`INFO`, `CLIENT LIST`): a verbatim string in RESP3.
    pub fn verbatim(&mut self, text: &[u8]) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text),
            Protocol::Resp3 => {
                self.header(b'=', text.len() as i64 + 4);
                self.out.extend_from_slice(b"txt:");
                self.out.extend_from_slice(text);
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// No value.
    pub fn null(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// No array (an aborted `EXEC`).
    pub fn null_array(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"*-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// `len` elements follow.
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len as i64);
    }

    /// `len` pairs follow.
    pub fn map(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', 2 * len as i64),
            Protocol::Resp3 => self.header(b'%', len as i64),
        }
    }

    /// `len` members follow.
    pub fn set(&mut self, len: usize) {
        self.header(if self.protocol == Protocol::Resp3 { b'~' } else { b'*' }, len as i64);
    }

    /// A message out of turn of `len` elements follows (pub/sub).
    pub fn push(&mut self, len: usize) {
        self.header(if self.protocol == Protocol::Resp3 { b'>' } else { b'*' }, len as i64);
    }

    /// Replies that were encoded before, for the same version.
    pub fn raw(&mut self, encoded: &[u8]) {
        self.out.extend_from_slice(encoded);
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.push(kind);
        self.out.extend(text.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
        self.out.extend_from_slice(b"\r\n");
    }

    fn header(&mut self, kind: u8, value: i64) {
        header(self.out, kind, value);
    }
}

/// A line of a type and a number. Most lengths have one or two digits, which need no conversion.
#[inline]
fn header(out: &mut Vec<u8>, kind: u8, value: i64) {
    let digit = |value: i64| b'0' + value as u8;
    match value {
        0..10 => out.extend_from_slice(&[kind, digit(value), b'\r', b'\n']),
        10..100 => out.extend_from_slice(&[kind, digit(value / 10), digit(value % 10), b'\r', b'\n']),
        _ => long_header(out, kind, value),
    }
}

#[inline(never)]
fn long_header(out: &mut Vec<u8>, kind: u8, value: i64) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(value).as_bytes();
    out.reserve(digits.len() + 3);
    out.push(kind);
    out.extend_from_slice(digits);
    out.extend_from_slice(b"\r\n");
}

/// Appends a request in its canonical form: what a replication stream or an append-only file is made of.
pub fn append_request(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    header(out, b'*', arguments.len() as i64);
    for argument in arguments {
        header(out, b'$', argument.len() as i64);
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

/// How many requests `append_request` has put into `requests`.
pub fn count_requests(mut requests: &[u8]) -> usize {
    let mut count = 0;
    while !requests.is_empty() {
        let (arguments, rest) = split_header(requests);
        requests = (0..arguments).fold(rest, |rest, _| {
            let (len, rest) = split_header(rest);
            &rest[len + 2..]
        });
        count += 1;
    }
    count
}

/// The number in a line of a type and a number, and what is behind that.
fn split_header(line: &[u8]) -> (usize, &[u8]) {
    let digits = line[1..].iter().take_while(|byte| byte.is_ascii_digit());
    let number = digits.clone().fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
    (number, &line[1 + digits.count() + 2..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requests_that_were_appended_are_counted() {
        let mut out = Vec::new();
        assert_eq!(count_requests(&out), 0);
        for count in 1..4 {
            append_request(&mut out, &[b"SET", b"", b"*1\r\n$4\r\nPING\r\n", &[b'x'; 1234]]);
            assert_eq!(count_requests(&out), count);
        }
    }

    #[test]
    fn the_same_replies_have_each_version_s_types() {
        let write = |protocol| {
            let mut out = Vec::new();
            let mut reply = Reply::new(&mut out, protocol);
            reply.map(1);
            reply.bulk(b"k");
            reply.null();
            reply.set(0);
            reply.push(0);
            reply.null_array();
            reply.verbatim(b"hi");
            reply.error("ERR a\r\nb\r\n");
            String::from_utf8(out).expect("ASCII")
        };
        assert_eq!(write(Protocol::Resp2), "*2\r\n$1\r\nk\r\n$-1\r\n*0\r\n*0\r\n*-1\r\n$2\r\nhi\r\n-ERR a  b\r\n");
        assert_eq!(write(Protocol::Resp3), "%1\r\n$1\r\nk\r\n_\r\n~0\r\n>0\r\n_\r\n=6\r\ntxt:hi\r\n-ERR a  b\r\n");
    }
}
