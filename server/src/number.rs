//! Numbers as the Redis protocol writes them: integers in one canonical decimal form, so that text and number are the
//! same thing; doubles as C's `strtod` reads and `printf` prints them.

use std::io::Write;

use crate::long_double::LongDouble;

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

/// A whole text as C's `strtod` reads it, and whether it is out of the range of doubles: then it is an infinity or zero.
/// `None` if it is no number, or `nan`.
fn strtod(text: &[u8]) -> Option<(f64, bool)> {
    if let Some(integer) = parse_i64(text) {
        return Some((integer as f64, false));
    }
    let unsigned = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
    if let [b'0', b'x' | b'X', ..] = unsigned {
        return LongDouble::parse(text).map(|value| (value.to_f64(), false));
    }
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    let is_infinity = unsigned.first().is_some_and(u8::is_ascii_alphabetic);
    let mut digits = unsigned.iter().take_while(|byte| !byte.eq_ignore_ascii_case(&b'e'));
    let out_of_range = match value {
        0.0 => digits.any(|byte| matches!(byte, b'1'..=b'9')),
        value => value.is_infinite() && !is_infinity,
    };
    (!value.is_nan()).then_some((value, out_of_range))
}

/// A score or a weight: decimal, hexadecimal or infinite. `None` for what is no number, and for finite ones that no
/// double is near to.
pub fn parse_f64(text: &[u8]) -> Option<f64> {
    strtod(text).and_then(|(value, out_of_range)| (!out_of_range).then_some(value))
}

/// The bound of a range of scores, which Redis reads less strictly: blanks may come first, it ends where C's strings do,
/// what is too large is infinite, and nothing is zero.
pub fn parse_bound(text: &[u8]) -> Option<f64> {
    let text = &text[..memchr::memchr(0, text).unwrap_or(text.len())];
    if text.is_empty() {
        return Some(0.0);
    }
    let blanks = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t'..=b'\r')).count();
    strtod(&text[blanks..]).map(|(value, _)| value)
}

/// A double's text with 17 significant digits, as `%.17g` prints it: `3`, `0.10000000000000001`, `1e+20`, `inf`.
pub struct DoubleText {
    bytes: [u8; 32],
    len: usize,
}

/// How many digits tell any two doubles apart.
const DIGITS: usize = 17;

impl DoubleText {
    /// The text of a number.
    pub fn new(value: f64) -> DoubleText {
        const INTEGER_MAX: f64 = 1e17;
        if value.abs() < INTEGER_MAX && value.trunc() == value && !(value == 0.0 && value.is_sign_negative()) {
            return DoubleText::from(value as i64);
        }
        let mut text = DoubleText { bytes: [0; 32], len: 0 };
        if value.is_finite() {
            text.push_finite(value);
        } else {
            text.push(if value > 0.0 { b"inf" } else { b"-inf" });
        }
        text
    }

    /// The text itself.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn push_finite(&mut self, value: f64) {
        let mut scientific = [0; 32];
        let mut rest = &mut scientific[..];
        write!(rest, "{:.*e}", DIGITS - 1, value.abs()).expect("17 digits and an exponent are less than 32 bytes");
        let unused = rest.len();
        let (mantissa, exponent) = scientific[..scientific.len() - unused].split_at(DIGITS + 1);
        let exponent = parse_i64(&exponent[1..]).expect("an exponent follows its letter");
        let mut digits = [0; DIGITS];
        digits[0] = mantissa[0];
        digits[1..].copy_from_slice(&mantissa[2..]);
        let zeros = digits[1..].iter().rev().take_while(|digit| **digit == b'0').count();
        if value.is_sign_negative() {
            self.push(b"-");
        }
        self.push_digits(&digits[..DIGITS - zeros], exponent);
    }

    /// Digits without zeros at the end, the first of them before the point, times ten to this power.
    fn push_digits(&mut self, digits: &[u8], exponent: i64) {
        match exponent {
            0..17 => {
                let whole = exponent as usize + 1;
                self.push(&digits[..whole.min(digits.len())]);
                (digits.len()..whole).for_each(|_| self.push(b"0"));
                self.push_fraction(digits.get(whole..).unwrap_or_default());
            }
            -4..0 => {
                self.push(b"0.");
                (exponent..-1).for_each(|_| self.push(b"0"));
                self.push(digits);
            }
            _ => {
                self.push(&digits[..1]);
                self.push_fraction(&digits[1..]);
                self.push(if exponent < 0 { b"e-" } else { b"e+" });
                let tens = exponent.unsigned_abs();
                self.push(if tens < 10 { b"0" } else { b"" });
                self.push(itoa::Buffer::new().format(tens).as_bytes());
            }
        }
    }

    fn push_fraction(&mut self, digits: &[u8]) {
        if !digits.is_empty() {
            self.push(b".");
            self.push(digits);
        }
    }
}

impl From<i64> for DoubleText {
    fn from(value: i64) -> DoubleText {
        let mut text = DoubleText { bytes: [0; 32], len: 0 };
        text.push(itoa::Buffer::new().format(value).as_bytes());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: f64) -> String {
        String::from_utf8_lossy(DoubleText::new(value).as_bytes()).into_owned()
    }

    #[test]
    fn doubles_are_printed_as_c_does() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (3.0, "3"),
            (-2.5, "-2.5"),
            (0.1, "0.10000000000000001"),
            (0.0001, "0.0001"),
            (0.00001, "1.0000000000000001e-05"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (1e20, "1e+20"),
            (123_456_789_012_345_680_000.0, "1.2345678901234568e+20"),
            (17_179_869_184.5, "17179869184.5"),
            (1e100, "1e+100"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (f64::from_bits(1), "4.9406564584124654e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
        ];
        cases.iter().for_each(|(value, expected)| assert_eq!(text(*value), *expected));
    }

    #[test]
    fn doubles_are_read_as_c_does() {
        let numbers: [(&str, f64); 12] = [
            ("1", 1.0),
            ("+1.5", 1.5),
            ("-.5", -0.5),
            ("5.", 5.0),
            ("1e3", 1000.0),
            ("1E+3", 1000.0),
            ("0x1.8p3", 12.0),
            ("-0X10", -16.0),
            ("inf", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("0e999", 0.0),
            ("4.9e-324", f64::from_bits(1)),
        ];
        numbers.iter().for_each(|(text, value)| assert_eq!(parse_f64(text.as_bytes()), Some(*value), "{text}"));
        let refused =
            ["", " 1", "1 ", "nan", "-nan", "1e", ".", "e5", "0x", "1e999", "-1e999", "1e-999", "1\0", "infx", "ä"];
        refused.iter().for_each(|text| assert_eq!(parse_f64(text.as_bytes()), None, "{text:?}"));
    }

    #[test]
    fn bounds_are_read_with_less_care() {
        let numbers =
            [("", 0.0), (" 1", 1.0), ("\t\r2", 2.0), ("1e999", f64::INFINITY), ("1e-999", 0.0), ("3\0x", 3.0)];
        numbers.iter().for_each(|(text, value)| assert_eq!(parse_bound(text.as_bytes()), Some(*value), "{text:?}"));
        ["nan", " ", "1 ", "x"].iter().for_each(|text| assert_eq!(parse_bound(text.as_bytes()), None, "{text:?}"));
    }

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
