//! Integers as the Redis protocol writes them: one canonical decimal form, so that text and number are the same thing.

/// The integer that `text` is the canonical decimal form of: `0`, `-7`, `12`, but not `+1`, `01`, `-0`, ` 1` or
/// anything that does not fit 64 bits.
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [] => return None,
        [b'0'] => return (!negative).then_some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut value: u64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        // 19 digits stay below 10^19 < 2^64.
        value = value * 10 + u64::from(digit - b'0');
    }
    if negative { 0i64.checked_sub_unsigned(value) } else { i64::try_from(value).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_is_a_number() {
        for value in [0, 1, -1, 9, 10, 1234567890, i64::MAX, i64::MIN, i64::MAX - 1] {
            assert_eq!(parse_i64(value.to_string().as_bytes()), Some(value));
        }
        let refused =
            ["", "-", "+1", "01", "-0", " 1", "1 ", "1a", "0x1", "9223372036854775808", "-9223372036854775809"];
        for text in refused {
            assert_eq!(parse_i64(text.as_bytes()), None, "{text:?}");
        }
    }
}
