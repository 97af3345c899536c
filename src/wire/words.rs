//! A line as words, as redis.conf and redis-cli split it.
//!
//! ```text
//! set greeting "hello \"world\"\x21" 'it\'s'   ->   set | greeting | hello "world"! | it's
//! ```
//!
//! Source: <https://redis.io/docs/latest/operate/oss_and_stack/management/config/>. Refused: a quote that is not closed, or
//! that is followed by something else than a space.

/// The words of a line; `None` if a quote in it is not closed or not followed by a space.
pub fn split_words(line: &str) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start().as_bytes();
    while !rest.is_empty() {
        let (word, after) = next_word(rest)?;
        words.push(word);
        rest = after.trim_ascii_start();
    }
    Some(words)
}

fn next_word(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        match byte {
            b'"' | b'\'' => {
                rest = quoted(byte, after, &mut word)?;
                let ends_here = rest.first().is_none_or(u8::is_ascii_whitespace);
                return ends_here.then_some((word, rest));
            }
            _ if byte.is_ascii_whitespace() => break,
            _ => {
                word.push(byte);
                rest = after;
            }
        }
    }
    Some((word, rest))
}

/// Reads up to the closing quote; returns what follows it.
fn quoted<'a>(quote: u8, text: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    let mut rest = text;
    loop {
        let (&byte, after) = rest.split_first()?;
        rest = match (byte, after) {
            _ if byte == quote => return Some(after),
            (b'\\', [b'\'', after @ ..]) if quote == b'\'' => {
                word.push(b'\'');
                after
            }
            (b'\\', _) if quote == b'"' => unescaped(after, word)?,
            _ => {
                word.push(byte);
                after
            }
        };
    }
}

/// Reads what follows a backslash between double quotes.
fn unescaped<'a>(text: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    let hex = |byte: u8| (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if let [b'x', high, low, after @ ..] = text
        && let (Some(high), Some(low)) = (hex(*high), hex(*low))
    {
        word.push(high * 16 + low);
        return Some(after);
    }
    let (&byte, after) = text.split_first()?;
    word.push(match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    });
    Some(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Option<Vec<String>> {
        let as_text = |word: Vec<u8>| String::from_utf8(word).expect("these are text");
        split_words(line).map(|words| words.into_iter().map(as_text).collect())
    }

    #[test]
    fn words_are_split_and_unquoted_as_redis_does() {
        let cases: [(&str, &[&str]); 8] = [
            ("", &[]),
            ("  ping  ", &["ping"]),
            ("set k v", &["set", "k", "v"]),
            (r#"set "a b" "\"q\" \x41\n\\""#, &["set", "a b", "\"q\" A\n\\"]),
            (r"echo 'it\'s \n'", &["echo", r"it's \n"]),
            (r#""""#, &[""]),
            (r#""\xZ1""#, &["xZ1"]),
            ("é", &["é"]),
        ];
        for (line, expected) in cases {
            assert_eq!(
                words(line).as_deref(),
                Some(expected.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>().as_slice()),
                "{line}"
            );
        }
    }

    #[test]
    fn an_unclosed_quote_is_refused() {
        for line in [r#"set "a"#, "echo 'b", r#""a"b"#, r#""\"#, r#"get "\x4"#] {
            assert_eq!(split_words(line), None, "{line}");
        }
    }
}
