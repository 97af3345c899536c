//! The x87 80-bit extended floating-point format, in integer arithmetic.
//!
//! Redis computes `INCRBYFLOAT` in C's `long double`, which on x86-64 is this format, and sends the result to its
//! replicas as text. Replies that are equal digit for digit need the same format on every machine:
//!
//! ```text
//! value = mantissa × 2^exponent        mantissa: 64 bits, the highest of them set
//!                                      exponent: -16445 ..= 16320 (at the least one, the highest bit may be clear)
//! 10.1 = 11645329838554081690 × 2^-60  prints as 10.1, since 17 decimals are shown and zeros trimmed
//! ```
//!
//! Every operation is exact and then rounded once, to nearest and ties to even. Sources: Intel 64 and IA-32
//! Architectures Software Developer's Manual, volume 1, chapter 4.2; ISO C, `strtold` and `printf`.

use std::fmt;

/// A text this long or longer is not taken for a number.
const TEXT_BYTES_MAX: usize = 5 * 1024;
const EXPONENT_MIN: i32 = -16_445;
/// Finite values are less than 2 to this power.
const BITS_MAX: i32 = 16_384;
/// No decimal exponent beyond this, after up to 5 KiB of digits, makes a difference.
const DECIMAL_EXPONENT_MAX: i32 = 100_000;

/// A number or an infinity (of either sign: no sum with it is finite), never a NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongDouble(Option<Finite>);

/// A finite number in the format; only [`Unrounded::round`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Finite {
    negative: bool,
    /// Its highest bit is set, or the exponent is the least; so that of zero is.
    mantissa: u64,
    exponent: i32,
}

impl LongDouble {
    /// The nearest `f64`, or one of the two that are next to it; infinity for either.
    pub fn to_f64(self) -> f64 {
        let Some(Finite { negative, mantissa, exponent }) = self.0 else { return f64::INFINITY };
        // In two steps: neither power need be representable where their product is.
        let half = exponent / 2;
        let magnitude = mantissa as f64 * 2f64.powi(half) * 2f64.powi(exponent - half);
        if negative { -magnitude } else { magnitude }
    }

    /// Reads a whole text as C's `strtold` does: decimal or hexadecimal (`0x1.8p3`), `inf`, `infinity`, in any case.
    ///
    /// `None` for anything else, blanks and `nan` included, for finite numbers too large to be represented, for
    /// others than zero that would become zero, and for texts of 5 KiB and more: what Redis calls no valid float.
    pub fn parse(text: &[u8]) -> Option<LongDouble> {
        if text.len() >= TEXT_BYTES_MAX {
            return None;
        }
        let text = text.to_ascii_lowercase();
        let (negative, digits) = match text.as_slice() {
            [b'-', digits @ ..] => (true, digits),
            [b'+', digits @ ..] | digits => (false, digits),
        };
        let exact = match digits {
            b"inf" | b"infinity" => return Some(LongDouble(None)),
            [b'0', b'x', digits @ ..] => hexadecimal(digits)?,
            digits => decimal(digits)?,
        };
        let number = Unrounded { negative, ..exact }.round()?;
        let underflow = number.mantissa == 0 && (exact.significand != 0 || exact.sticky);
        (!underflow).then_some(LongDouble(Some(number)))
    }

    /// Whether it is a number.
    pub fn is_finite(self) -> bool {
        self.0.is_some()
    }

    /// The sum, or `None` if it is not finite.
    pub fn checked_add(self, other: LongDouble) -> Option<LongDouble> {
        let sum = self.0?.sum(other.0?).round()?;
        Some(LongDouble(Some(sum)))
    }
}

impl From<i64> for LongDouble {
    fn from(value: i64) -> LongDouble {
        let significand = u128::from(value.unsigned_abs());
        LongDouble(Unrounded { negative: value < 0, significand, exponent: 0, sticky: false }.round())
    }
}

impl fmt::Display for LongDouble {
    /// As Redis prints floats for people: 17 decimals at most, no trailing zeros, no exponent, no negative zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => number.fmt(f),
            None => f.write_str("inf"),
        }
    }
}

impl Finite {
    fn sum(self, other: Finite) -> Unrounded {
        let magnitude = |number: &Finite| (number.bits(), number.mantissa);
        let (large, small) = if magnitude(&self) >= magnitude(&other) { (self, other) } else { (other, self) };
        // Room for a carry above the 64 bits of the larger one, and below them for those of the smaller. What falls
        // off there is less than the last bit: it only breaks ties.
        let zeros = large.mantissa.leading_zeros() % 64;
        let significand = u128::from(large.mantissa) << (62 + zeros);
        let exponent = large.exponent - 62 - zeros as i32;
        let shift = small.exponent - exponent;
        let (addend, sticky) = match u32::try_from(-shift) {
            Err(_) => (u128::from(small.mantissa) << shift, false),
            Ok(down @ 0..128) => {
                let kept = u128::from(small.mantissa) >> down;
                (kept, kept << down != u128::from(small.mantissa))
            }
            Ok(_) => (0, small.mantissa != 0),
        };
        let significand = if large.negative == small.negative {
            significand + addend
        } else {
            significand - addend - u128::from(sticky)
        };
        // An exact zero is positive, unless both were negative.
        let negative = large.negative && (significand != 0 || small.negative);
        Unrounded { negative, significand, exponent, sticky }
    }

    /// The magnitude is less than 2 to this power, and no less than half of that unless it is zero.
    fn bits(&self) -> i32 {
        64 - self.mantissa.leading_zeros() as i32 + self.exponent
    }
}

impl fmt::Display for Finite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ONE: u128 = 10_u128.pow(17);
        if self.exponent >= 0 {
            let mut integer = Natural::from(self.mantissa);
            integer.shift_left(self.exponent.unsigned_abs());
            let sign = if self.negative && self.mantissa != 0 { "-" } else { "" };
            return write!(f, "{sign}{}", integer.to_decimal());
        }
        // At most 121 bits, so that nothing is left of it after 122 places, and not half of a last decimal.
        let scaled = u128::from(self.mantissa) * ONE;
        let rounded = round_shift(scaled, self.exponent.unsigned_abs(), false);
        let sign = if self.negative && rounded != 0 { "-" } else { "" };
        write!(f, "{sign}{}", rounded / ONE)?;
        let decimals = format!("{:017}", rounded % ONE);
        match decimals.trim_end_matches('0') {
            "" => Ok(()),
            decimals => write!(f, ".{decimals}"),
        }
    }
}

/// An exact result that may have more bits than the format.
#[derive(Clone, Copy)]
struct Unrounded {
    negative: bool,
    /// At most 127 bits long; at least 65 if `sticky`.
    significand: u128,
    exponent: i32,
    /// There is more: less than the significand's last bit, more than nothing.
    sticky: bool,
}

impl Unrounded {
    /// The nearest number of the format, of two the even one; `None` if that is an infinity.
    fn round(self) -> Option<Finite> {
        let bits = 128 - self.significand.leading_zeros() as i32;
        // Down to 64 bits, or fewer if the exponent would be too small.
        let shift = (bits - 64).max(EXPONENT_MIN - self.exponent);
        let mut exponent = self.exponent + shift;
        let mut mantissa = match u32::try_from(shift) {
            Ok(down) => round_shift(self.significand, down, self.sticky),
            Err(_) => self.significand << shift.unsigned_abs(),
        };
        if mantissa >> 64 != 0 {
            // Rounded up to a power of two.
            mantissa >>= 1;
            exponent += 1;
        }
        let mantissa = mantissa as u64;
        let number =
            Finite { negative: self.negative, mantissa, exponent: if mantissa == 0 { EXPONENT_MIN } else { exponent } };
        (number.bits() <= BITS_MAX).then_some(number)
    }
}

/// `value / 2^places` to nearest, ties to even, for values of at most 127 bits; `sticky`: it is a little more.
fn round_shift(value: u128, places: u32, sticky: bool) -> u128 {
    match places {
        0 => value,
        1..128 => {
            let kept = value >> places;
            let rest = value - (kept << places);
            let half = 1 << (places - 1);
            let up = rest > half || rest == half && (sticky || kept & 1 == 1);
            kept + u128::from(up)
        }
        // Less than half.
        _ => 0,
    }
}

/// A number's digits and where they end: the parts of `12.5e3` are `125` and an exponent of 2.
struct Digits<'a> {
    digits: Vec<u8>,
    /// Digits after the point, as a negative number.
    scale: i32,
    rest: &'a [u8],
}

/// Digits with at most one point among them, and at least one digit.
fn scan(text: &[u8], radix: u32) -> Option<Digits<'_>> {
    let is_digit = |byte: &u8| char::from(*byte).is_digit(radix);
    let whole = text.iter().take_while(|byte| is_digit(byte)).count();
    let fraction = match text.get(whole) {
        Some(b'.') => text[whole + 1..].iter().take_while(|byte| is_digit(byte)).count(),
        _ => 0,
    };
    let after = if text.get(whole) == Some(&b'.') { whole + 1 + fraction } else { whole };
    let digits: Vec<u8> =
        text[..after].iter().filter_map(|byte| char::from(*byte).to_digit(radix)).map(|digit| digit as u8).collect();
    (!digits.is_empty()).then(|| Digits { digits, scale: -(fraction as i32), rest: &text[after..] })
}

/// An optional exponent after its letter, up to the text's end.
fn exponent(text: &[u8], letter: u8) -> Option<i32> {
    let (negative, digits) = match text {
        [] => return Some(0),
        [first, b'-', digits @ ..] if *first == letter => (true, digits),
        [first, b'+', digits @ ..] | [first, digits @ ..] if *first == letter => (false, digits),
        _ => return None,
    };
    let valid = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let add = |sum: i32, digit: &u8| (sum * 10 + i32::from(digit - b'0')).min(DECIMAL_EXPONENT_MAX);
    let exponent = valid.then(|| digits.iter().fold(0, add))?;
    Some(if negative { -exponent } else { exponent })
}

/// `1f.8p-3`, after its `0x`, as strtold takes it.
fn hexadecimal(text: &[u8]) -> Option<Unrounded> {
    let digits = scan(text, 16)?;
    let mut number = Unrounded {
        negative: false,
        significand: 0,
        exponent: exponent(digits.rest, b'p')? + 4 * digits.scale,
        sticky: false,
    };
    for digit in digits.digits {
        if number.significand >> 120 == 0 {
            number.significand = number.significand << 4 | u128::from(digit);
        } else {
            number.sticky |= digit != 0;
            number.exponent += 4;
        }
    }
    Some(number)
}

/// `12.5e3`, to more bits than the format has.
fn decimal(text: &[u8]) -> Option<Unrounded> {
    let digits = scan(text, 10)?;
    let exponent = exponent(digits.rest, b'e')? + digits.scale;
    let mut number = Natural::from(0);
    for digit in &digits.digits {
        number.multiply_add(10, u32::from(*digit));
    }
    // Beyond these bounds it is an overflow or an underflow whatever the digits are: keep the work bounded.
    let exponent = exponent.clamp(-2 * TEXT_BYTES_MAX as i32, 2 * TEXT_BYTES_MAX as i32);
    let fives = exponent.unsigned_abs();
    if exponent >= 0 {
        fives_steps(fives).for_each(|power| number.multiply_add(power, 0));
        return Some(number.leading(exponent, false));
    }
    // 2.33 bits per five: the quotient keeps at least 66.
    let shift = (fives * 7 / 3 + 68).saturating_sub(number.bits());
    number.shift_left(shift);
    // Dividing by each factor in turn, and rounding down each time, is dividing by the product and rounding down once.
    let mut sticky = false;
    for power in fives_steps(fives) {
        sticky |= number.divide(power) != 0;
    }
    Some(number.leading(exponent - shift as i32, sticky))
}

/// Powers of five that fit 32 bits, and whose product is five to this power.
fn fives_steps(power: u32) -> impl Iterator<Item = u32> {
    const MOST: u32 = 13;
    let rest = 5_u32.pow(power % MOST);
    std::iter::repeat_n(5_u32.pow(MOST), (power / MOST) as usize).chain([rest])
}

/// A natural number of any size: 32 bits per element, the least first, none of them zero at the end.
struct Natural(Vec<u32>);

impl From<u64> for Natural {
    fn from(value: u64) -> Natural {
        let mut natural = Natural(vec![value as u32, (value >> 32) as u32]);
        natural.trim();
        natural
    }
}

impl Natural {
    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    fn bits(&self) -> u32 {
        self.0.last().map_or(0, |last| 32 * self.0.len() as u32 - last.leading_zeros())
    }

    fn multiply_add(&mut self, factor: u32, addend: u32) {
        let mut carry = u64::from(addend);
        for limb in &mut self.0 {
            carry += u64::from(*limb) * u64::from(factor);
            *limb = carry as u32;
            carry >>= 32;
        }
        if carry != 0 {
            self.0.push(carry as u32);
        }
    }

    /// Divides, rounding down, and returns the remainder.
    fn divide(&mut self, divisor: u32) -> u32 {
        let mut remainder = 0;
        for limb in self.0.iter_mut().rev() {
            let dividend = remainder << 32 | u64::from(*limb);
            *limb = (dividend / u64::from(divisor)) as u32;
            remainder = dividend % u64::from(divisor);
        }
        self.trim();
        remainder as u32
    }

    fn shift_left(&mut self, places: u32) {
        self.multiply_add(1 << (places % 32), 0);
        if !self.0.is_empty() {
            self.0.splice(..0, std::iter::repeat_n(0, (places / 32) as usize));
        }
    }

    /// The first 65 to 96 bits of `self × 2^exponent`, the others as `sticky`.
    fn leading(&self, exponent: i32, sticky: bool) -> Unrounded {
        let dropped = self.0.len().saturating_sub(3);
        Unrounded {
            negative: false,
            significand: self.0[dropped..].iter().rev().fold(0, |bits, limb| bits << 32 | u128::from(*limb)),
            exponent: exponent + 32 * dropped as i32,
            sticky: sticky || self.0[..dropped].iter().any(|limb| *limb != 0),
        }
    }

    fn to_decimal(&self) -> String {
        let mut number = Natural(self.0.clone());
        let mut groups = Vec::new();
        while !number.0.is_empty() {
            groups.push(number.divide(1_000_000_000));
        }
        let mut digits = groups.pop().unwrap_or(0).to_string();
        groups.iter().rev().for_each(|group| digits.push_str(&format!("{group:09}")));
        digits
    }
}

#[cfg(test)]
mod tests;
