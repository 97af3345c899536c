//! The bytes of an image, read one thing at a time.

use super::{RdbError, STRING_BYTES_MAX, lzf, string};

/// Buffers that have grown beyond this for one long string are given back, bytes.
pub const KEPT_BYTES_MAX: usize = 1 << 20;

/// A string as it lies in the image.
pub enum Text<'a> {
    Plain(&'a [u8]),
    Integer(i32),
    /// `offset` is that of `stream`.
    Lzf {
        stream: &'a [u8],
        length: usize,
        offset: u64,
    },
}

impl<'a> Text<'a> {
    /// The string itself, written into `room` unless it lies there in plain.
    #[inline]
    pub fn plain(self, room: &'a mut Vec<u8>) -> Result<&'a [u8], RdbError> {
        match self {
            Text::Plain(bytes) => Ok(bytes),
            Text::Integer(integer) => {
                room.clear();
                room.extend_from_slice(itoa::Buffer::new().format(integer).as_bytes());
                Ok(room)
            }
            Text::Lzf { stream, length, offset } => {
                if room.capacity() > KEPT_BYTES_MAX {
                    *room = Vec::new();
                }
                room.clear();
                lzf::decompress(stream, length, room).ok_or(RdbError::Lzf { offset })?;
                Ok(room)
            }
        }
    }
}

/// Why reading stopped early.
pub enum Stop {
    /// This many bytes, counted from the first of the cursor's, would bring it further.
    Needs(usize),
    Error(RdbError),
}

impl From<RdbError> for Stop {
    fn from(error: RdbError) -> Self {
        Stop::Error(error)
    }
}

/// Bytes of an image that have arrived, and how far they are read.
pub struct Cursor<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    /// Place of `bytes[0]` in the image.
    pub offset: u64,
}

impl<'a> Cursor<'a> {
    /// Where in the image it is.
    pub fn place(&self) -> u64 {
        self.offset + self.at as u64
    }

    #[inline]
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Stop> {
        let end = self.at + count;
        let taken = self.bytes.get(self.at..end).ok_or(Stop::Needs(end))?;
        self.at = end;
        Ok(taken)
    }

    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        Ok(self.take(N)?.try_into().expect("N bytes were taken"))
    }

    #[inline]
    pub fn byte(&mut self) -> Result<u8, Stop> {
        Ok(self.array::<1>()?[0])
    }

    #[inline]
    pub fn length(&mut self) -> Result<u64, Stop> {
        let offset = self.place();
        match self.byte()? {
            short @ 0..0x40 => Ok(short.into()),
            high @ 0x40..0x80 => Ok(u64::from(high & 0x3F) << 8 | u64::from(self.byte()?)),
            0x80 => Ok(u32::from_be_bytes(self.array()?).into()),
            0x81 => Ok(u64::from_be_bytes(self.array()?)),
            byte => Err(RdbError::LengthEncoding { byte, offset }.into()),
        }
    }

    /// A length that is allowed for a string.
    #[inline]
    fn string_length(&mut self) -> Result<usize, Stop> {
        let offset = self.place();
        match self.length()? {
            bytes @ 0..=STRING_BYTES_MAX => Ok(bytes as usize),
            bytes => Err(RdbError::StringLength { bytes, offset }.into()),
        }
    }

    #[inline]
    pub fn text(&mut self) -> Result<Text<'a>, Stop> {
        match self.bytes.get(self.at) {
            Some(&first) if first >= string::INT8 => self.encoded_text(),
            _ => {
                let length = self.string_length()?;
                self.take(length).map(Text::Plain)
            }
        }
    }

    fn encoded_text(&mut self) -> Result<Text<'a>, Stop> {
        let offset = self.place();
        match self.byte()? {
            string::INT8 => Ok(Text::Integer(i8::from_le_bytes(self.array()?).into())),
            string::INT16 => Ok(Text::Integer(i16::from_le_bytes(self.array()?).into())),
            string::INT32 => Ok(Text::Integer(i32::from_le_bytes(self.array()?))),
            string::LZF => self.compressed_text(),
            byte => Err(RdbError::LengthEncoding { byte, offset }.into()),
        }
    }

    fn compressed_text(&mut self) -> Result<Text<'a>, Stop> {
        let stream_length = self.string_length()?;
        let offset = self.place();
        let length = self.string_length()?;
        if length as u64 > stream_length as u64 * lzf::EXPANSION_MAX {
            return Err(RdbError::StringLength { bytes: length as u64, offset }.into());
        }
        let offset = self.place();
        let stream = self.take(stream_length)?;
        Ok(Text::Lzf { stream, length, offset })
    }

    /// A score: a double in binary.
    pub fn score(&mut self) -> Result<f64, Stop> {
        let offset = self.place();
        let score = f64::from_le_bytes(self.array()?);
        if score.is_nan() { Err(RdbError::Score { offset }.into()) } else { Ok(score) }
    }

    /// A score as it was written before that: a length and decimal digits, or a length that says which special value it is.
    pub fn decimal_score(&mut self) -> Result<f64, Stop> {
        let offset = self.place();
        match self.byte()? {
            255 => Ok(f64::NEG_INFINITY),
            254 => Ok(f64::INFINITY),
            253 => Err(RdbError::Score { offset }.into()),
            length => {
                let digits = self.take(length.into())?;
                parse_score(digits).ok_or(RdbError::Score { offset }.into())
            }
        }
    }
}

/// The number that is written here in decimal.
pub fn parse_score(digits: &[u8]) -> Option<f64> {
    let score = std::str::from_utf8(digits).ok()?.parse::<f64>().ok()?;
    (!score.is_nan()).then_some(score)
}
