//! The x87 80-bit extended floating-point format.

use std::fmt;

/// A finite number.
#[derive(Debug, Clone, Copy)]
pub struct LongDouble {
    negative: bool,
    mantissa: u64,
    exponent: i32,
}

impl LongDouble {
    /// Parses what C's `strtold` takes, as Redis does: at most 5,119 bytes, no blanks around it.
    pub fn parse(text: &[u8]) -> Option<LongDouble> {
        let _ = text;
        None
    }

    /// The sum, rounded to nearest even; `None` if it is infinite or not a number.
    pub fn checked_add(self, other: LongDouble) -> Option<LongDouble> {
        let _ = other;
        None
    }
}

impl From<i64> for LongDouble {
    fn from(value: i64) -> LongDouble {
        LongDouble { negative: value < 0, mantissa: value.unsigned_abs(), exponent: 0 }
    }
}

impl fmt::Display for LongDouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.negative, self.mantissa, self.exponent)
    }
}
