//! Requests: an incremental parser that yields spans of the caller's buffer.

use std::borrow::Cow;

/// Longest inline request, and longest line that declares a length, in bytes.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Most arguments that one request may declare.
const ARGUMENTS_MAX: i64 = i32::MAX as i64;
/// What a client that has not authenticated yet may declare.
const ARGUMENTS_MAX_UNAUTHENTICATED: i64 = 10;
const BULK_BYTES_MAX_UNAUTHENTICATED: i64 = 16 * 1024;

/// One argument, relative to the start of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// Length in bytes.
    pub len: u32,
}

/// One complete request inside the buffer that was parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Where it starts in the buffer.
    pub start: usize,
    /// Its length in bytes; the next request starts right behind it.
    pub len: usize,
    /// Its first argument in [`RequestParser::spans`].
    pub first_span: usize,
    /// How many arguments it has; 0 for an empty line, which asks for nothing.
    pub argc: usize,
    /// An inline request: its bytes are not the protocol's canonical form of its arguments.
    pub inline: bool,
    /// It asks for the same as the last request that asked for anything, with as many arguments: they begin alike. False
    /// where that was not found out.
    pub repeats: bool,
}

/// What a connection's requests may declare at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest single argument in bytes (`proto-max-bulk-len`).
    pub bulk_bytes_max: i64,
    /// Before authentication, far tighter limits hold.
    pub authenticated: bool,
}

/// A request that breaks the protocol; the connection is closed after it is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Protocol error: {0}")]
pub struct ProtocolError(Cow<'static, str>);

const fn refuse<T>(reason: &'static str) -> Result<T, ProtocolError> {
    Err(ProtocolError(Cow::Borrowed(reason)))
}

/// Parses the requests of one connection; keeps what it knows of a request that has not arrived whole, so that a
/// large one is not read again from its start with every packet.
#[derive(Debug, Default)]
pub struct RequestParser {
    spans: Vec<Span>,
    /// Arguments of an unfinished array request that are still missing.
    missing: usize,
    /// First span of the unfinished request.
    first_span: usize,
    /// How far the unfinished request was read, relative to its start.
    position: usize,
    /// The declared length of the argument being received.
    bulk_len: Option<usize>,
    /// That of the last request that had arguments.
    head: Head,
}

/// How a request begins: with the number of its arguments and the first of them, the command's name. In a pipeline most
/// requests begin alike, and what is the same byte by byte need not be read again.
#[derive(Debug, Clone, Copy)]
struct Head {
    /// Its bytes, the first one lowest.
    bytes: u128,
    /// Those of the sixteen that belong to it.
    mask: u128,
    name: Span,
    argc: usize,
}

impl Head {
    /// No request begins like this.
    const NONE: Head = Head { bytes: 1, mask: 0, name: Span { start: 0, len: 0 }, argc: 0 };

    /// That of a whole array request, if it is short.
    fn of(input: &[u8], spans: &[Span]) -> Head {
        let name = spans[0];
        let len = name.start + name.len;
        match input.first_chunk() {
            Some(first) if len <= u128::BITS / 8 && spans.len() <= ARGUMENTS_MAX_UNAUTHENTICATED as usize => {
                let mask = u128::MAX >> (u128::BITS - 8 * len);
                Head { bytes: u128::from_le_bytes(*first) & mask, mask, name, argc: spans.len() }
            }
            _ => Head::NONE,
        }
    }

    /// Where the next argument begins, if this is how `input` begins.
    #[inline]
    fn end_in(&self, input: &[u8]) -> Option<usize> {
        let first = u128::from_le_bytes(*input.first_chunk()?);
        let end = (self.name.start + self.name.len) as usize + 2;
        (first & self.mask == self.bytes && end <= input.len()).then_some(end)
    }
}

impl Default for Head {
    fn default() -> Self {
        Head::NONE
    }
}

impl RequestParser {
    /// The arguments of all requests returned since [`RequestParser::forget_requests`].
    pub fn spans(&self, request: &Request) -> &[Span] {
        &self.spans[request.first_span..request.first_span + request.argc]
    }

    /// Forgets the requests returned so far; an unfinished one is kept.
    pub fn forget_requests(&mut self) {
        if self.first_span == self.spans.len() {
            self.spans.clear();
        } else {
            self.spans.drain(..self.first_span);
        }
        self.first_span = 0;
    }

    /// Bytes that must have arrived, counted from the start of the unfinished request, before it can go on.
    pub fn wanted_bytes(&self) -> usize {
        self.bulk_len.map_or(0, |len| self.position + len + 2)
    }

    /// Bytes of the unfinished request before the argument that is being received.
    pub fn begun_bytes(&self) -> usize {
        self.bulk_len.map_or(0, |_| self.position)
    }

    /// The next request in `buffer` from `start` on, or `None` if it has not arrived whole.
    ///
    /// A quoted inline argument is unescaped in place, which is why the buffer is taken mutably: it only ever
    /// becomes shorter.
    ///
    /// # Errors
    /// The input breaks the protocol or a limit; nothing behind it can be read.
    pub fn next(&mut self, buffer: &mut [u8], start: usize, limits: Limits) -> Result<Option<Request>, ProtocolError> {
        let input = &mut buffer[start..];
        let mut repeats = false;
        if self.missing == 0 {
            match (self.head.end_in(input), input.first()) {
                (Some(end), _) => {
                    self.spans.push(self.head.name);
                    (self.missing, self.position) = (self.head.argc - 1, end);
                    repeats = true;
                }
                (None, None) => return Ok(None),
                (None, Some(b'*')) => match self.begin_array(input, limits)? {
                    Begun::Wait => return Ok(None),
                    Begun::Empty(len) => return Ok(Some(self.finish(start, len, false))),
                    Begun::Array => {}
                },
                (None, Some(_)) => return self.inline(input, start),
            }
        }
        while self.missing > 0 {
            if !self.bulk(input, limits)? {
                return Ok(None);
            }
        }
        let len = self.position;
        let mut request = self.finish(start, len, false);
        request.repeats = repeats;
        if !repeats {
            self.head = Head::of(input, self.spans(&request));
        }
        Ok(Some(request))
    }

    fn finish(&mut self, start: usize, len: usize, inline: bool) -> Request {
        let first_span = self.first_span;
        let argc = self.spans.len() - first_span;
        self.first_span = self.spans.len();
        self.position = 0;
        Request { start, len, first_span, argc, inline, repeats: false }
    }

    fn begin_array(&mut self, input: &[u8], limits: Limits) -> Result<Begun, ProtocolError> {
        if let Some((count @ 1.., position)) = short_length(input, 0, b'*')
            && count <= ARGUMENTS_MAX_UNAUTHENTICATED as usize
        {
            (self.missing, self.position) = (count, position);
            return Ok(Begun::Array);
        }
        let Some(line) = line_at(input, 0, "too big mbulk count string")? else { return Ok(Begun::Wait) };
        match parse_length(line) {
            Some(count) if count > ARGUMENTS_MAX => refuse("invalid multibulk length"),
            None => refuse("invalid multibulk length"),
            Some(count) if count > ARGUMENTS_MAX_UNAUTHENTICATED && !limits.authenticated => {
                refuse("unauthenticated multibulk length")
            }
            Some(count) if count <= 0 => Ok(Begun::Empty(line.len() + 3)),
            Some(count) => {
                self.missing = usize::try_from(count).expect("checked to be positive");
                self.position = line.len() + 3;
                Ok(Begun::Array)
            }
        }
    }

    /// Reads one argument; false if it has not arrived whole.
    #[inline]
    fn bulk(&mut self, input: &[u8], limits: Limits) -> Result<bool, ProtocolError> {
        let len = match self.bulk_len {
            Some(len) => len,
            None => match short_length(input, self.position, b'$') {
                Some((len, next)) => {
                    self.position = next;
                    self.bulk_len = Some(len);
                    len
                }
                None => match self.bulk_length(input, limits)? {
                    Some(len) => len,
                    None => return Ok(false),
                },
            },
        };
        if input.len() < self.position + len + 2 {
            return Ok(false);
        }
        let (Ok(start), Ok(len32)) = (u32::try_from(self.position), u32::try_from(len)) else {
            return refuse("too big request");
        };
        self.spans.push(Span { start, len: len32 });
        self.position += len + 2;
        self.bulk_len = None;
        self.missing -= 1;
        Ok(true)
    }

    /// Reads the line before an argument, whatever is in it; `None` if it has not arrived whole.
    #[cold]
    fn bulk_length(&mut self, input: &[u8], limits: Limits) -> Result<Option<usize>, ProtocolError> {
        let Some(&kind) = input.get(self.position) else { return Ok(None) };
        // Redis looks for the line's end first, so an endless line is told before a wrong first byte.
        let Some(line) = line_at(input, self.position, "too big bulk count string")? else { return Ok(None) };
        if kind != b'$' {
            return Err(ProtocolError(Cow::Owned(format!("expected '$', got '{}'", printable(kind)))));
        }
        let len = match parse_length(line) {
            Some(len) if (0..=limits.bulk_bytes_max).contains(&len) => len,
            _ => return refuse("invalid bulk length"),
        };
        if len > BULK_BYTES_MAX_UNAUTHENTICATED && !limits.authenticated {
            return refuse("unauthenticated bulk length");
        }
        self.position += line.len() + 3;
        let len = usize::try_from(len).expect("checked not to be negative");
        self.bulk_len = Some(len);
        Ok(Some(len))
    }

    fn inline(&mut self, input: &mut [u8], start: usize) -> Result<Option<Request>, ProtocolError> {
        let window = &input[..input.len().min(LINE_BYTES_MAX)];
        let Some(newline) = memchr::memchr(b'\n', window) else {
            return if input.len() > LINE_BYTES_MAX { refuse("too big inline request") } else { Ok(None) };
        };
        let line = &mut input[..newline];
        if !split_inline(line, &mut self.spans) {
            self.spans.truncate(self.first_span);
            return refuse("unbalanced quotes in request");
        }
        let request = self.finish(start, newline + 1, true);
        if request.argc > 0 {
            self.head = Head::NONE;
        }
        Ok(Some(request))
    }
}

enum Begun {
    Wait,
    Empty(usize),
    Array,
}

/// The length that a line such as `$32\r\n` declares and where the next line starts, if the line is whole and the length
/// has at most three digits: nearly all have, and no limit is below that.
#[inline]
fn short_length(input: &[u8], position: usize, kind: u8) -> Option<(usize, usize)> {
    let line = input.get(position..position + 6)?;
    if line[0] != kind {
        return None;
    }
    let digit = |index: usize| usize::from(line[index].wrapping_sub(b'0'));
    let (first, second, third) = (digit(1), digit(2), digit(3));
    if first > 9 {
        return None;
    }
    if line[2] == b'\r' {
        return Some((first, position + 4));
    }
    if second > 9 || first == 0 {
        return None;
    }
    if line[3] == b'\r' {
        return Some((first * 10 + second, position + 5));
    }
    (third <= 9 && line[4] == b'\r').then_some((first * 100 + second * 10 + third, position + 6))
}

/// The line that starts at `position` without its first byte and its end, or `None` if its end has not arrived.
fn line_at<'a>(input: &'a [u8], position: usize, too_long: &'static str) -> Result<Option<&'a [u8]>, ProtocolError> {
    let rest = &input[position..];
    // A short line is the rule: looking at its first bytes one by one beats a call to a vectorised search.
    let end = rest.iter().take(16).position(|&byte| byte == b'\r').or_else(|| memchr::memchr(b'\r', rest));
    match end {
        Some(0) => Ok(Some(&[])),
        Some(end) if end + 1 < rest.len() => Ok(Some(&rest[1..end])),
        Some(_) => Ok(None),
        None if rest.len() > LINE_BYTES_MAX => refuse(too_long),
        None => Ok(None),
    }
}

/// A decimal integer as Redis reads lengths: no sign but `-`, no leading zeros, nothing else.
fn parse_length(digits: &[u8]) -> Option<i64> {
    crate::number::parse_i64(digits)
}

/// Errors are text.
fn printable(byte: u8) -> char {
    if byte.is_ascii() && byte != 0 { byte as char } else { '?' }
}

/// Splits a line into arguments, unescaping quoted ones in place; false if a quote is not closed.
///
/// `"…"` knows `\n \r \t \b \a \xHH` and `\` before anything else, `'…'` only `\'`; a closing quote must be
/// followed by white space or the line's end.
fn split_inline(line: &mut [u8], spans: &mut Vec<Span>) -> bool {
    let mut read = 0;
    loop {
        while read < line.len() && is_space(line[read]) {
            read += 1;
        }
        if read == line.len() {
            return true;
        }
        let start = read;
        let mut write = read;
        let mut quote = None;
        loop {
            let Some(&byte) = line.get(read) else {
                if quote.is_some() {
                    return false;
                }
                break;
            };
            match (quote, byte) {
                (None, byte) if is_space(byte) => break,
                (None, b'"' | b'\'') => quote = Some(byte),
                (Some(open), byte) if byte == open => {
                    if line.get(read + 1).is_some_and(|&next| !is_space(next)) {
                        return false;
                    }
                    read += 1;
                    break;
                }
                (Some(b'"'), b'\\') if read + 1 < line.len() => {
                    let (value, used) = unescape(&line[read + 1..]);
                    line[write] = value;
                    write += 1;
                    read += used;
                }
                (Some(b'\''), b'\\') if line.get(read + 1) == Some(&b'\'') => {
                    line[write] = b'\'';
                    write += 1;
                    read += 1;
                }
                (_, byte) => {
                    line[write] = byte;
                    write += 1;
                }
            }
            read += 1;
        }
        // A line is at most 64 KiB long, so both fit.
        spans.push(Span { start: start as u32, len: (write - start) as u32 });
    }
}

/// The byte that the escape behind a backslash stands for, and how many bytes the escape has.
fn unescape(escape: &[u8]) -> (u8, usize) {
    let hex = |at: usize| escape.get(at).and_then(|&digit| (digit as char).to_digit(16));
    match escape[0] {
        b'x' => match (hex(1), hex(2)) {
            (Some(high), Some(low)) => ((high * 16 + low) as u8, 3),
            _ => (b'x', 1),
        },
        b'n' => (b'\n', 1),
        b'r' => (b'\r', 1),
        b't' => (b'\t', 1),
        b'b' => (8, 1),
        b'a' => (7, 1),
        other => (other, 1),
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { bulk_bytes_max: 512 * 1024 * 1024, authenticated: true };

    fn parse_all(input: &[u8], chunk: usize) -> Result<Vec<Vec<Vec<u8>>>, ProtocolError> {
        let mut parser = RequestParser::default();
        let mut buffer = Vec::new();
        let mut requests = Vec::new();
        for piece in input.chunks(chunk) {
            buffer.extend_from_slice(piece);
            let mut consumed = 0;
            while let Some(request) = parser.next(&mut buffer, consumed, LIMITS)? {
                let spans = parser.spans(&request);
                let bytes = &buffer[request.start..request.start + request.len];
                requests.push(
                    spans.iter().map(|s| bytes[s.start as usize..][..s.len as usize].to_vec()).collect::<Vec<_>>(),
                );
                consumed += request.len;
            }
            parser.forget_requests();
            buffer.drain(..consumed);
        }
        Ok(requests)
    }

    fn words(words: &[&str]) -> Vec<Vec<u8>> {
        words.iter().map(|word| word.as_bytes().to_vec()).collect()
    }

    #[test]
    fn a_pipeline_is_read_the_same_however_it_is_cut() {
        let input = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\nPING\r\n*0\r\n*-1\r\n\r\n*1\r\n$4\r\nPING\r\n";
        let expected =
            vec![words(&["SET", "k", ""]), words(&["PING"]), words(&[]), words(&[]), words(&[]), words(&["PING"])];
        for chunk in 1..=input.len() {
            assert_eq!(parse_all(input, chunk), Ok(expected.clone()), "chunks of {chunk}");
        }
    }

    #[test]
    fn a_request_repeats_the_one_before_it_only_if_it_asks_for_the_same_with_as_many_arguments() {
        let mut parser = RequestParser::default();
        let requests: [(&str, bool); 10] = [
            ("*2\r\n$3\r\nGET\r\n$1\r\na\r\n", false),
            ("*2\r\n$3\r\nGET\r\n$1\r\nb\r\n", true),
            ("*2\r\n$3\r\nget\r\n$1\r\nb\r\n", false),
            ("*3\r\n$3\r\nget\r\n$1\r\nb\r\n$1\r\nc\r\n", false),
            ("\r\n", false),
            ("*3\r\n$3\r\nget\r\n$1\r\nb\r\n$1\r\nc\r\n", true),
            ("GET a\r\n", false),
            ("*3\r\n$3\r\nget\r\n$1\r\nb\r\n$1\r\nc\r\n", false),
            ("*2\r\n$9\r\nRANDOMKEY\r\n$1\r\na\r\n", false),
            ("*2\r\n$9\r\nRANDOMKEY\r\n$1\r\na\r\n", false),
        ];
        for (number, (request, repeats)) in requests.into_iter().enumerate() {
            // Half of it arrives first.
            let (half, mut whole) =
                (&mut request.as_bytes()[..request.len() / 2].to_vec(), request.as_bytes().to_vec());
            if number % 2 == 0 {
                assert_eq!(parser.next(half, 0, LIMITS), Ok(None));
            }
            let parsed = parser.next(&mut whole, 0, LIMITS).expect("good requests").expect("whole requests");
            assert_eq!((parsed.repeats, parsed.len), (repeats, request.len()), "request {number}");
        }
    }

    #[test]
    fn a_large_request_is_read_once_however_many_pieces_it_comes_in() {
        const ARGUMENTS: usize = 1_000_000;
        let whole = [format!("*{ARGUMENTS}\r\n").into_bytes(), b"$5\r\nhello\r\n".repeat(ARGUMENTS)].concat();
        let mut parser = RequestParser::default();
        let mut buffer = Vec::new();
        for piece in whole.chunks(16 * 1024) {
            buffer.extend_from_slice(piece);
            match parser.next(&mut buffer, 0, LIMITS).expect("nothing is read that was read before") {
                // Whoever looks at these bytes again is refused.
                None => buffer[..parser.position].fill(b'!'),
                Some(request) => assert_eq!((request.argc, request.len), (ARGUMENTS, whole.len())),
            }
        }
        assert_eq!(parser.spans.len(), ARGUMENTS);
        assert!(parser.spans.iter().all(|span| span.len == 5 && &whole[span.start as usize..][..5] == b"hello"));
    }

    #[test]
    fn inline_arguments_are_unquoted_as_a_shell_would() {
        let input = b"set \"a\\x41\\n\" 'it\\'s' \"\" x\r\n";
        assert_eq!(parse_all(input, 100), Ok(vec![words(&["set", "aA\n", "it's", "", "x"])]));
    }

    #[test]
    fn each_breach_of_the_protocol_is_named() {
        let long = [b"*1\r\n$".as_slice(), &[b'1'; LINE_BYTES_MAX + 1]].concat();
        let cases: [(&[u8], &str); 10] = [
            (b"*x\r\n", "invalid multibulk length"),
            (b"*2147483648\r\n", "invalid multibulk length"),
            (b"*99999999999999999999\r\n", "invalid multibulk length"),
            (b"*1\r\n:3\r\n", "expected '$', got ':'"),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (b"*1\r\n$536870913\r\n", "invalid bulk length"),
            (b"*1\r\n$+1\r\n", "invalid bulk length"),
            (b"set \"a\r\n", "unbalanced quotes in request"),
            (b"set \"a\"b\r\n", "unbalanced quotes in request"),
            (&long, "too big bulk count string"),
        ];
        for (input, reason) in cases {
            let error = parse_all(input, input.len()).expect_err(reason);
            assert_eq!(error.to_string(), format!("Protocol error: {reason}"));
        }
        let endless = vec![b'a'; LINE_BYTES_MAX + 1];
        assert_eq!(
            parse_all(&endless, endless.len()).expect_err("no newline").to_string(),
            "Protocol error: too big inline request"
        );
    }

    #[test]
    fn a_stranger_may_declare_little_before_it_authenticates() {
        let limits = Limits { authenticated: false, ..LIMITS };
        let mut parser = RequestParser::default();
        let error = parser.next(&mut b"*11\r\n".to_vec(), 0, limits).expect_err("too many");
        assert_eq!(error.to_string(), "Protocol error: unauthenticated multibulk length");
        let mut parser = RequestParser::default();
        let error = parser.next(&mut b"*1\r\n$16385\r\n".to_vec(), 0, limits).expect_err("too long");
        assert_eq!(error.to_string(), "Protocol error: unauthenticated bulk length");
    }
}
