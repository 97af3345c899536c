//! Whether the end of a file was torn off, or its middle is broken.
//!
//! Both look alike at first: a request is not whole when the file ends. But behind one that was torn off there is nothing,
//! while a broken length swallows requests that are there. To cut these off as well would lose what nobody has lost yet.

use crate::command;

/// Whether there is a whole request of a known command somewhere behind the first byte of `rest`. What a client has stored
/// may look like one: then the file is taken for broken, and a person has to look.
pub fn holds_a_request(rest: &[u8]) -> bool {
    let starts = memchr::memchr_iter(b'*', rest).filter(|at| *at > 0 && rest[at - 1] == b'\n');
    starts.into_iter().any(|at| is_request(&rest[at..]))
}

fn is_request(bytes: &[u8]) -> bool {
    let Some((count @ 1.., mut at)) = length(bytes, 0, b'*') else { return false };
    for number in 0..count {
        let Some((len, start)) = length(bytes, at, b'$') else { return false };
        let Some(end) = start.checked_add(len).filter(|end| *end < bytes.len()) else { return false };
        if !bytes[end..].starts_with(b"\r\n") || number == 0 && !command::is_known(&bytes[start..end]) {
            return false;
        }
        at = end + 2;
    }
    true
}

/// The number in a line such as `$32\r\n`, and where the next line starts.
fn length(bytes: &[u8], at: usize, kind: u8) -> Option<(usize, usize)> {
    const DIGITS_MAX: usize = 10;
    let line = bytes.get(at..)?.strip_prefix(&[kind])?;
    let digits = line.iter().take(DIGITS_MAX).take_while(|byte| byte.is_ascii_digit()).count();
    let number = std::str::from_utf8(&line[..digits]).ok()?.parse().ok()?;
    line[digits..].starts_with(b"\r\n").then_some((number, at + 1 + digits + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";

    #[test]
    fn what_was_torn_off_holds_nothing_whole() {
        for len in 1..SET.len() {
            assert!(!holds_a_request(&SET[..len]), "{len} bytes");
        }
    }

    #[test]
    fn a_length_that_swallows_requests_is_seen() {
        let broken = SET.iter().map(|byte| if *byte == b'1' { b'9' } else { *byte }).collect::<Vec<_>>();
        assert!(holds_a_request(&[&broken, SET].concat()));
        assert!(holds_a_request(&[&broken, &SET[..8], SET].concat()));
        assert!(!holds_a_request(&[&broken, &SET[..9]].concat()));
        assert!(!holds_a_request(&[&broken[..], b"*1\r\n$5\r\nWHAT?\r\n"].concat()));
    }
}
