//! A client that shows replies as the bytes they are.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// No reply takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Client {
    stream: TcpStream,
    /// Received, and not yet handed out.
    buffer: Vec<u8>,
}

impl Client {
    pub fn connect(port: u16) -> io::Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, buffer: Vec::new() })
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Tells the server that nothing more will be sent.
    pub fn finish_sending(&mut self) {
        // The server may have closed the connection already.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next whole reply.
    pub fn reply(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(length) = reply_length(&self.buffer) {
                return Ok(self.buffer.drain(..length).collect());
            }
            self.receive()?;
        }
    }

    /// The next line, with its end.
    pub fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(length) = line_length(&self.buffer) {
                return Ok(self.buffer.drain(..length).collect());
            }
            self.receive()?;
        }
    }

    /// Exactly so many bytes.
    pub fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.receive()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Everything up to the connection's end. A reset is an end too: it is what a server's `close` makes of input
    /// that it had not read.
    pub fn rest(mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.receive() {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                    return Ok(self.buffer);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => {
                self.buffer.extend_from_slice(&chunk[..length]);
                Ok(())
            }
        }
    }

    /// Sends one command and returns its reply.
    pub fn call<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Vec<u8> {
        let sent = self.send(&encode(words)).and_then(|()| self.reply());
        sent.unwrap_or_else(|error| panic!("{}: {error}", shown(&encode(words))))
    }

    /// [`call`](Client::call) for a command written as a line, with the quotes of a configuration file.
    pub fn run(&mut self, line: &str) -> String {
        let words = repld::config::words::split(line.as_bytes()).expect("balanced quotes");
        String::from_utf8_lossy(&self.call(&words)).into_owned()
    }

    /// Runs a command whose reply must be `+OK`.
    pub fn ok(&mut self, line: &str) {
        assert_eq!(self.run(line), "+OK\r\n", "{line}");
    }

    /// The text of a bulk or verbatim string reply.
    pub fn bulk(&mut self, line: &str) -> String {
        let reply = self.run(line);
        let body = reply.strip_prefix(['$', '=']).and_then(|rest| rest.split_once("\r\n"));
        let text = body.unwrap_or_else(|| panic!("{line}: {reply:?} is no bulk string")).1.trim_end_matches("\r\n");
        text.strip_prefix("txt:").unwrap_or(text).to_string()
    }

    /// The keys that a whole scan of the database returns, in order. A scan may return a key twice.
    pub fn scan(&mut self, options: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut keys = BTreeSet::new();
        let mut cursor = b"0".to_vec();
        loop {
            let reply = self.call(&[&[b"SCAN".to_vec(), cursor], options].concat());
            let strings = strings(&reply);
            keys.extend(strings[1..].iter().map(|key| key.to_vec()));
            cursor = strings[0].to_vec();
            if cursor == b"0" {
                return keys.into_iter().collect();
            }
        }
    }

    /// All keys of a database in order, with their contents and the replies to `PEXPIRETIME`. Stays in that database.
    pub fn data(&mut self, database: usize) -> Vec<(Vec<u8>, [Vec<u8>; 2])> {
        self.ok(&format!("SELECT {database}"));
        let keys = self.scan(&[]);
        keys.into_iter().map(|key| (key.clone(), [self.contents(&key), self.call(&[b"PEXPIRETIME", &*key])])).collect()
    }

    /// Whether no key of these databases ends within a minute.
    pub fn data_is_settled(&mut self, databases: usize) -> bool {
        (0..databases).all(|database| {
            self.ok(&format!("SELECT {database}"));
            let keys = self.scan(&[]);
            keys.iter().all(|key| {
                let reply = self.call(&[b"TTL", key.as_slice()]);
                let seconds = String::from_utf8_lossy(&reply[1..]).trim().parse::<i64>().expect("an integer");
                seconds == -1 || seconds > 60
            })
        })
    }

    /// All that a key holds; what has no order of its own is sorted.
    fn contents(&mut self, key: &[u8]) -> Vec<u8> {
        let (command, group) = match &*self.call(&[b"TYPE", key]) {
            b"+hash\r\n" => (vec![&b"HGETALL"[..], key], 2),
            b"+set\r\n" => (vec![&b"SMEMBERS"[..], key], 1),
            b"+list\r\n" => return self.call(&[&b"LRANGE"[..], key, b"0", b"-1"]),
            b"+zset\r\n" => return self.scores(key),
            b"+stream\r\n" => return self.stream(key),
            _ => return self.call(&[&b"GET"[..], key]),
        };
        let reply = self.call(&command);
        let strings = strings(&reply);
        let mut groups: Vec<&[&[u8]]> = strings.chunks(group).collect();
        groups.sort();
        groups.concat().join(&b"\n"[..])
    }

    /// The members of a sorted set in order, with the bits of their scores: servers write the same number differently.
    fn scores(&mut self, key: &[u8]) -> Vec<u8> {
        let reply = self.call(&[&b"ZRANGE"[..], key, b"0", b"-1", b"WITHSCORES"]);
        let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<f64>().ok();
        let entry = |pair: &[&[u8]]| {
            let score = number(pair[1]).expect("a score is a number");
            [pair[0], format!(" {:x}\n", score.to_bits()).as_bytes()].concat()
        };
        strings(&reply).chunks(2).flat_map(entry).collect()
    }

    /// The entries of a stream, its counters and its groups; without lengths, and the facts that not all servers tell.
    fn stream(&mut self, key: &[u8]) -> Vec<u8> {
        let reply = self.call(&[&b"XINFO"[..], b"STREAM", key, b"FULL", b"COUNT", b"0"]);
        let lines: Vec<&[u8]> = reply.split(|byte| *byte == b'\n').collect();
        let mut kept = Vec::new();
        let mut index = 0;
        while index < lines.len() {
            let name = lines[index].strip_suffix(b"\r").unwrap_or(lines[index]);
            let is_length = matches!(name, [b'$' | b'*' | b'%', b'0'..=b'9', ..]);
            let is_own = [&b"radix-tree-keys"[..], b"radix-tree-nodes", b"seen-time", b"active-time"].contains(&name);
            // A name, and the integer behind it.
            index += if is_own { 2 } else { 1 };
            if !is_own && !is_length {
                kept.extend([name, b"\n"].concat());
            }
        }
        kept
    }

    /// A field of `INFO`.
    pub fn info(&mut self, field: &str) -> String {
        let info = self.bulk("INFO everything");
        let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("INFO has no field {field}:\n{info}")).to_string()
    }
}

/// A command as clients send it.
pub fn encode<W: AsRef<[u8]>>(words: &[W]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        request.extend(format!("${}\r\n", word.as_ref().len()).bytes());
        request.extend_from_slice(word.as_ref());
        request.extend_from_slice(b"\r\n");
    }
    request
}

/// Bytes for a message to a person.
pub fn shown(bytes: &[u8]) -> String {
    let most = 400;
    let dots = if bytes.len() > most { "…" } else { "" };
    format!("\"{}{dots}\"", bytes[..bytes.len().min(most)].escape_ascii())
}

fn line_length(bytes: &[u8]) -> Option<usize> {
    Some(bytes.windows(2).position(|pair| pair == b"\r\n")? + 2)
}

/// The bulk strings of a reply, in order, however deep.
pub fn strings(reply: &[u8]) -> Vec<&[u8]> {
    let mut strings = Vec::new();
    scan(reply, &mut strings).expect("a whole reply");
    strings
}

/// The length of the first reply, if it is whole.
fn reply_length(bytes: &[u8]) -> Option<usize> {
    scan(bytes, &mut Vec::new())
}

/// Gathers the bulk strings of the first reply, of RESP2 or RESP3, and returns its length, if it is whole.
fn scan<'a>(bytes: &'a [u8], strings: &mut Vec<&'a [u8]>) -> Option<usize> {
    let line = line_length(bytes)?;
    let count = || -> i64 {
        let digits = std::str::from_utf8(&bytes[1..line - 2]).ok();
        digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no reply: {}", shown(bytes)))
    };
    let elements = match bytes[0] {
        b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => 0,
        b'$' | b'=' | b'!' => {
            let Ok(length) = usize::try_from(count()) else { return Some(line) };
            strings.push(bytes.get(line..line + length)?);
            return Some(line + length + 2).filter(|end| *end <= bytes.len());
        }
        b'*' | b'~' | b'>' => count().max(0),
        b'%' => 2 * count(),
        _ => panic!("no reply: {}", shown(bytes)),
    };
    (0..elements).try_fold(line, |at, _| Some(at + scan(&bytes[at..], strings)?))
}
