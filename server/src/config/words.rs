//! Words of a configuration line, or of an inline command, and their quotes:
//!
//! ```text
//! save 60 "two words" 'it\'s' "a\tb\xff"
//! ```
//!
//! Words are parted by blanks. Between double quotes `\n \r \t \b \a`, `\xHH` and a backslash before any other byte
//! are escapes; between single quotes only `\'` is one. A closing quote must end its word.

/// A quote that is not closed, or that is closed in the middle of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnbalancedQuotes;

/// The words of a line, without their quotes.
///
/// # Errors
/// The quotes are not balanced.
pub fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, UnbalancedQuotes> {
    let mut words = Vec::new();
    let mut rest = line.trim_ascii_start();
    while !rest.is_empty() {
        let (word, after) = first(rest)?;
        words.push(word);
        rest = after.trim_ascii_start();
    }
    Ok(words)
}

/// The first word of a line that begins with one, and what follows it.
fn first(mut line: &[u8]) -> Result<(Vec<u8>, &[u8]), UnbalancedQuotes> {
    let mut word = Vec::new();
    loop {
        line = match line {
            [] => break,
            [blank, ..] if blank.is_ascii_whitespace() => break,
            [quote @ (b'"' | b'\''), quoted @ ..] => {
                let after = unquote(*quote, quoted, &mut word)?;
                if after.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
                    return Err(UnbalancedQuotes);
                }
                return Ok((word, after));
            }
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
        }
    }
    Ok((word, line))
}

/// Adds what stands before the closing quote to the word; returns what stands after it.
fn unquote<'a>(quote: u8, mut quoted: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], UnbalancedQuotes> {
    let hex = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    loop {
        quoted = match quoted {
            [] => return Err(UnbalancedQuotes),
            [byte, after @ ..] if *byte == quote => return Ok(after),
            [b'\\', b'\'', after @ ..] if quote == b'\'' => {
                word.push(b'\'');
                after
            }
            [b'\\', b'x', high, low, after @ ..] if quote == b'"' && hex(*high).and(hex(*low)).is_some() => {
                word.extend(hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low));
                after
            }
            [b'\\', escaped, after @ ..] if quote == b'"' => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                after
            }
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
        }
    }
}

/// The word in a form that [`split`] reads back: as it is where that is possible, else between double quotes.
pub fn quote(word: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\' | b'#');
    if !word.is_empty() && word.iter().all(plain) {
        return word.iter().map(|byte| char::from(*byte)).collect();
    }
    let mut quoted = String::from('"');
    for byte in word {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(*byte)]),
            b'\n' => quoted.push_str("\\n"),
            b'\r' => quoted.push_str("\\r"),
            b'\t' => quoted.push_str("\\t"),
            b' '..=b'~' => quoted.push(char::from(*byte)),
            other => quoted.push_str(&format!("\\x{other:02x}")),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_parted_by_blanks_and_kept_together_by_quotes() {
        let words =
            split(b" save\t60  \"two words\" 'it\\'s \\n' \"a\\tb\\xfF\\q\\xzz\" \"\" pre\"fix\" ").expect("balanced");
        let wanted: [&[u8]; 8] = [b"save", b"60", b"two words", b"it's \\n", b"a\tb\xffqxzz", b"", b"prefix", b""];
        assert_eq!(words, wanted[..7]);
    }

    #[test]
    fn unbalanced_quotes_are_an_error() {
        for line in ["\"open", "'open", "\"closed\"here", "'closed'here", "a\"b", "\"escaped\\\"", "'escaped\\'"] {
            assert_eq!(split(line.as_bytes()), Err(UnbalancedQuotes), "{line}");
        }
    }

    proptest! {
        #[test]
        fn a_quoted_word_is_read_back(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..5)) {
            let line = words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(split(line.as_bytes()), Ok(words));
        }
    }
}
