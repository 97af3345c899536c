//! Damaged copies of good inputs.

use crate::random::Random;

/// No input becomes longer.
const BYTES_MAX: usize = 16 << 10;
/// Bytes that mean something to one of the formats, and limits of numbers.
const TELLING: [u8; 22] = [
    0, 1, 0x7f, 0x80, 0x81, 0xbf, 0xc0, 0xc1, 0xc2, 0xc3, 0xe0, 0xf0, 0xf1, 0xf4, 0xfa, 0xfc, 0xfe, 0xff, b'*', b'$',
    b'\r', b'-',
];
const NUMBERS: [&[u8]; 9] = [
    b"-1",
    b"0",
    b"4294967295",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"1048577",
    b"536870912",
    b"\xff\xff\xff\xff",
    b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff",
];

/// One of these with up to eight changes.
pub fn mutated(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(8) {
        change(random, &mut input, corpus);
    }
    input.truncate(BYTES_MAX);
    input
}

fn change(random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    if input.is_empty() {
        input.push(0);
    }
    let at = random.below(input.len());
    let piece = at..(at + 1 + random.below(24)).min(input.len());
    match random.below(9) {
        0 => input[at] ^= 1 << random.below(8),
        1 => input[at] = random.next() as u8,
        2 => drop(input.splice(at..at, random.bytes(9))),
        3 => input[at] = TELLING[random.below(TELLING.len())],
        4 => input.truncate(at),
        5 => drop(input.drain(piece)),
        6 => {
            let copy = input[piece].to_vec();
            let to = random.below(input.len());
            input.splice(to..to, copy);
        }
        7 => {
            let number = NUMBERS[random.below(NUMBERS.len())];
            let end = (at + random.below(9)).min(input.len());
            input.splice(at..end, number.iter().copied());
        }
        _ => {
            let other = &corpus[random.below(corpus.len())];
            if !other.is_empty() {
                let start = random.below(other.len());
                let end = (start + random.below(64)).min(other.len());
                input.splice(piece, other[start..end].iter().copied());
            }
        }
    }
}
