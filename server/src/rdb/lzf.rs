//! LZF, the compression inside RDB strings.
//!
//! A stream is a row of runs and references:
//!
//! ```text
//! 000LLLLL  L+1 bytes                 a run: the next L+1 bytes stand for themselves
//! LLLDDDDD  dddddddd                  a reference: L+2 bytes (L in 1..=6) from DDDDDdddddddd + 1 bytes back in the output
//! 111DDDDD  llllllll  dddddddd        the same, l+9 bytes
//! ```
//!
//! A reference may overlap what it produces. Source: the format of liblzf, <http://oldhome.schmorp.de/marc/liblzf.html>.
//!
//! Why our own and not a crate: a full sync compresses millions of small strings, and the crates set up a fresh table of half
//! a megabyte for each of them. Here one table serves all: each input has positions of its own, so what earlier inputs left
//! behind reads as absent, and a short input uses only as much of the table as fits its length.

/// The farthest that a reference reaches back.
const DISTANCE_MAX: usize = 1 << 13;

/// The most bytes that one reference stands for.
const REFERENCE_MAX: usize = 264;

/// The shortest repetition that is worth a reference.
const REFERENCE_MIN: usize = 3;

/// The most bytes in one run.
const RUN_MAX: usize = 32;

/// Three bytes of a stream produce at most this many times as much.
pub const EXPANSION_MAX: u64 = REFERENCE_MAX as u64 / 3;

/// Positions that the table can remember; 64 kB, so that it stays in the second-level cache.
const TABLE_BITS: u32 = 14;

/// A compressor that is reused from string to string.
pub struct Compressor {
    /// Where each hash of three bytes was seen last, counted from `base`; smaller numbers are leftovers.
    table: Box<[u32]>,
    base: u32,
    out: Vec<u8>,
}

impl Compressor {
    /// An empty table.
    pub fn new() -> Self {
        Self { table: vec![0; 1 << TABLE_BITS].into(), base: 1, out: Vec::new() }
    }

    /// The stream that stands for `input`, or `None` if it would be longer than `bytes_max`.
    pub fn compress(&mut self, input: &[u8], bytes_max: usize) -> Option<&[u8]> {
        let length = u32::try_from(input.len()).ok()?;
        let base = self.positions(length)?;
        self.out.clear();
        let shift = 32 - (length.max(1).ilog2() + 1).clamp(8, TABLE_BITS);
        let (mut at, mut run_from) = (0, 0);
        while at + REFERENCE_MIN <= input.len() {
            let slot = &mut self.table[hash(&input[at..]) >> shift];
            let seen = std::mem::replace(slot, base + at as u32).checked_sub(base).map(|seen| seen as usize);
            let repeated = seen.map_or(0, |seen| repetition(input, seen, at));
            if repeated < REFERENCE_MIN {
                // The longer nothing repeats, the less densely it is looked for: noise costs little.
                at += 1 + ((at - run_from) >> 7);
                continue;
            }
            self.runs(&input[run_from..at]);
            self.reference(at - seen.expect("something repeated"), repeated);
            if self.out.len() > bytes_max {
                return None;
            }
            at += repeated;
            run_from = at;
        }
        self.runs(&input[run_from..]);
        (self.out.len() <= bytes_max).then_some(&self.out)
    }

    /// The number that position 0 of an input of `length` bytes has in the table; all numbers in use are smaller.
    fn positions(&mut self, length: u32) -> Option<u32> {
        let base = match self.base.checked_add(length) {
            Some(next) => std::mem::replace(&mut self.base, next),
            None => {
                self.table.fill(0);
                self.base = length.checked_add(1)?;
                1
            }
        };
        Some(base)
    }

    fn runs(&mut self, bytes: &[u8]) {
        for run in bytes.chunks(RUN_MAX) {
            self.out.push(run.len() as u8 - 1);
            self.out.extend_from_slice(run);
        }
    }

    fn reference(&mut self, distance: usize, length: usize) {
        let [high, low] = (distance as u16 - 1).to_be_bytes();
        match length - 2 {
            short @ 1..7 => self.out.extend_from_slice(&[(short as u8) << 5 | high, low]),
            long => self.out.extend_from_slice(&[7 << 5 | high, (long - 7) as u8, low]),
        }
    }
}

/// A hash of the first three bytes, its high bits the good ones.
fn hash(bytes: &[u8]) -> usize {
    let three = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
    three.wrapping_mul(0x9E37_79B1) as usize
}

/// How many bytes at `at` repeat those at `earlier`, as far as one reference can say it.
fn repetition(input: &[u8], earlier: usize, at: usize) -> usize {
    if at - earlier > DISTANCE_MAX {
        return 0;
    }
    let pairs = input[earlier..].iter().zip(&input[at..]).take(REFERENCE_MAX);
    pairs.take_while(|(a, b)| a == b).count()
}

/// Appends to `out` what `stream` stands for; `None` if that is not exactly `length` bytes or `stream` is no LZF.
pub fn decompress(stream: &[u8], length: usize, out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    let end = start + length;
    let mut rest = stream;
    while let [control, tail @ ..] = rest {
        let control = usize::from(*control);
        if control < RUN_MAX {
            let (run, tail) = tail.split_at_checked(control + 1)?;
            out.extend_from_slice(run);
            rest = tail;
        } else {
            let (length, tail) = match (control >> 5, tail) {
                (7, [more, tail @ ..]) => (usize::from(*more) + 9, tail),
                (short, tail) => (short + 2, tail),
            };
            let (low, tail) = tail.split_first()?;
            let distance = ((control & 0x1F) << 8 | usize::from(*low)) + 1;
            let from = out.len().checked_sub(distance).filter(|from| *from >= start)?;
            repeat_from(out, from, length);
            rest = tail;
        }
        if out.len() > end {
            return None;
        }
    }
    (out.len() == end).then_some(())
}

/// Appends `length` bytes that repeat what `out` has from `from` on, those just appended included.
fn repeat_from(out: &mut Vec<u8>, from: usize, length: usize) {
    let mut left = length;
    while left > 0 {
        let piece = left.min(out.len() - from);
        out.extend_from_within(from..from + piece);
        left -= piece;
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn compressed(compressor: &mut Compressor, input: &[u8]) -> Vec<u8> {
        compressor.compress(input, usize::MAX).expect("no limit").to_vec()
    }

    fn decompressed(stream: &[u8], length: usize) -> Option<Vec<u8>> {
        let mut out = b"before".to_vec();
        decompress(stream, length, &mut out)?;
        Some(out.split_off(6))
    }

    /// Few different bytes, so that much repeats, at all distances.
    fn repetitive() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![vec(0..3u8, 1..20), vec(any::<u8>(), 1..40), Just(vec![7; 700])];
        vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_back_here_and_elsewhere(inputs in vec(repetitive(), 1..4)) {
            let mut compressor = Compressor::new();
            for input in inputs {
                let stream = compressed(&mut compressor, &input);
                prop_assert_eq!(decompressed(&stream, input.len()), Some(input.clone()));
                if !input.is_empty() {
                    prop_assert_eq!(::lzf::decompress(&stream, input.len()).ok(), Some(input));
                }
            }
        }

        #[test]
        fn streams_of_another_compressor_are_read(input in repetitive()) {
            if let Ok(stream) = ::lzf::compress(&input) {
                prop_assert_eq!(decompressed(&stream, input.len()), Some(input));
            }
        }

        #[test]
        fn earlier_inputs_leave_no_trace(first in repetitive(), second in repetitive()) {
            let mut reused = Compressor::new();
            compressed(&mut reused, &first);
            prop_assert_eq!(compressed(&mut reused, &second), compressed(&mut Compressor::new(), &second));
        }

        #[test]
        fn a_damaged_stream_yields_nothing_or_the_declared_length(stream in vec(any::<u8>(), 0..200), length in 0..2000usize) {
            let out = decompressed(&stream, length);
            prop_assert!(out.is_none_or(|out| out.len() == length));
        }
    }

    #[test]
    fn a_reference_before_the_beginning_is_refused() {
        // The byte before belongs to whoever owns the buffer, not to the stream.
        assert_eq!(decompressed(&[0x20, 0], 3), None);
        assert_eq!(decompressed(&[0, b'a', 0x20, 0], 4), Some(b"aaaa".to_vec()));
        assert_eq!(decompressed(&[0, b'a', 0x20, 1], 4), None);
    }

    #[test]
    fn what_does_not_get_smaller_is_given_up() {
        let noise: Vec<u8> = (0..200u32).map(|i| (i.wrapping_mul(0x9E37_79B1) >> 24) as u8).collect();
        assert_eq!(Compressor::new().compress(&noise, noise.len() - 4), None);
        assert!(Compressor::new().compress(&[b'x'; 200], 20).is_some());
    }

    #[test]
    fn positions_start_over_before_they_overflow() {
        let input = b"abcdefgh".repeat(30);
        let mut worn = Compressor::new();
        compressed(&mut worn, &input);
        worn.base = u32::MAX - 10;
        assert_eq!(compressed(&mut worn, &input), compressed(&mut Compressor::new(), &input));
        assert_eq!(worn.base, 1 + input.len() as u32);
    }
}
