//! HyperLogLog: how many different elements were added, from 16,384 registers. It is a string, and its bytes are those
//! that Redis keeps, since a master sends them and `DUMP` and `GET` show them.
//!
//! ```text
//! "HYLL" | encoding u8 | 3 × 0 | cached count u64 LE, bit 63: it is stale | registers
//! dense  (0)  16,384 registers of 6 bits, the lowest bits first: 12,288 bytes
//! sparse (1)  runs in the order of the registers
//!             00nnnnnn            n + 1 registers (1 to 64) are zero
//!             01nnnnnn nnnnnnnn   n + 1 registers (1 to 16,384) are zero
//!             1vvvvvnn            n + 1 registers (1 to 4) are v + 1 (1 to 32)
//! ```
//!
//! An element's hash (MurmurHash64A) says which register it belongs to by its low 14 bits; the register keeps the longest
//! run of zeros, plus one, that was seen in the other 50. The count follows from how many registers have which value, by
//! the estimator of Ertl ("New cardinality estimation algorithms for HyperLogLog sketches", 2017).
//! Sources: <https://redis.io/docs/latest/develop/data-types/probabilistic/hyperloglogs/>, Flajolet et al. (2007).
//!
//! Which runs a sparse value is made of depends on the order in which registers were raised, so how a run is divided and
//! joined with its neighbours is a part of the format.

use std::ops::Range;

const INDEX_BITS: u32 = 14;
const REGISTERS: usize = 1 << INDEX_BITS;
const REGISTER_BITS: usize = 6;
const REGISTER_MAX: u8 = (1 << REGISTER_BITS) - 1;
/// The bits of a hash whose zeros are counted.
const RANK_BITS: u32 = u64::BITS - INDEX_BITS;

const MAGIC: &[u8] = b"HYLL";
const ENCODING: usize = 4;
const DENSE: u8 = 0;
const SPARSE: u8 = 1;
const CACHE: Range<usize> = 8..16;
const HEADER: usize = 16;
const DENSE_BYTES: usize = HEADER + REGISTERS * REGISTER_BITS / 8;
const STALE: u8 = 1 << 7;

/// The longest run that two bytes say.
const LONG_ZEROS_MAX: usize = REGISTERS;
/// The longest run of zeros that one byte says.
const ZEROS_MAX: usize = 64;
/// The longest run of a value.
const VALUES_MAX: usize = 4;
/// The largest value in a run.
const VALUE_MAX: u8 = 32;
/// So many runs, from the one before a change on, are joined with the next where that is possible.
const JOINED_RUNS: usize = 5;

/// Runs that do not add up to all the registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the registers of a HyperLogLog are corrupt")]
pub struct Corrupt;

/// A run of registers that have the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// What the registers hold.
    pub value: u8,
    /// How many there are.
    pub len: usize,
    /// It is written in two bytes.
    pub is_long: bool,
}

impl Run {
    fn bytes(self) -> usize {
        1 + usize::from(self.is_long)
    }

    fn value(value: u8, len: usize) -> Run {
        Run { value, len, is_long: false }
    }

    fn zeros(len: usize) -> Run {
        Run { value: 0, len, is_long: len > ZEROS_MAX }
    }

    /// The run at the start of `bytes`, which are not empty. A long one that was cut off reads as if a zero followed.
    fn decode(bytes: &[u8]) -> Run {
        let byte = bytes[0];
        match byte >> 6 {
            0 => Run { value: 0, len: usize::from(byte & 0x3f) + 1, is_long: false },
            1 => {
                let low = bytes.get(1).copied().unwrap_or(0);
                Run { value: 0, len: (usize::from(byte & 0x3f) << 8 | usize::from(low)) + 1, is_long: true }
            }
            _ => Run::value((byte >> 2 & 0x1f) + 1, usize::from(byte & 3) + 1),
        }
    }

    fn encode(self, out: &mut Vec<u8>) {
        let len = self.len - 1;
        match self {
            Run { value: 0, is_long: false, .. } => out.push(len as u8),
            Run { value: 0, is_long: true, .. } => out.extend([0x40 | (len >> 8) as u8, len as u8]),
            Run { value, .. } => out.push(0x80 | (value - 1) << 2 | len as u8),
        }
    }
}

/// The runs of a sparse value, and where in its bytes each begins.
fn runs(bytes: &[u8]) -> impl Iterator<Item = (usize, Run)> + '_ {
    let mut at = HEADER;
    std::iter::from_fn(move || {
        let run = Run::decode(bytes.get(at..).filter(|rest| !rest.is_empty())?);
        let start = at;
        at += run.bytes();
        Some((start, run))
    })
}

/// The registers of a value, or of several taken together.
pub struct Registers(Box<[u8; REGISTERS]>);

impl Default for Registers {
    fn default() -> Self {
        Registers(Box::new([0; REGISTERS]))
    }
}

impl Registers {
    /// Raises each to what `value` has there.
    ///
    /// # Errors
    /// The runs of `value` are not all the registers.
    pub fn merge(&mut self, value: &HyperLogLog<impl AsRef<[u8]>>) -> Result<(), Corrupt> {
        let bytes = value.0.as_ref();
        if value.is_dense() {
            let own = self.0.iter_mut().enumerate();
            own.for_each(|(index, register)| *register = (*register).max(dense_register(&bytes[HEADER..], index)));
            return Ok(());
        }
        let mut first = 0;
        for (_, run) in runs(bytes) {
            let registers = self.0.get_mut(first..first + run.len).ok_or(Corrupt)?;
            if run.value > 0 {
                registers.iter_mut().for_each(|register| *register = (*register).max(run.value));
            }
            first += run.len;
        }
        if first == REGISTERS { Ok(()) } else { Err(Corrupt) }
    }

    /// About how many different elements led to them.
    pub fn count(&self) -> u64 {
        let mut histogram = [0; REGISTER_MAX as usize + 1];
        self.0.iter().for_each(|register| histogram[usize::from(*register)] += 1);
        estimate(&histogram)
    }

    /// Each of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u8> + '_ {
        self.0.iter().copied()
    }
}

fn dense_register(registers: &[u8], index: usize) -> u8 {
    let (byte, shift) = (index * REGISTER_BITS / 8, index * REGISTER_BITS % 8);
    let next = registers.get(byte + 1).copied().unwrap_or(0);
    (u16::from_le_bytes([registers[byte], next]) >> shift) as u8 & REGISTER_MAX
}

fn set_dense_register(registers: &mut [u8], index: usize, value: u8) {
    let (byte, shift) = (index * REGISTER_BITS / 8, index * REGISTER_BITS % 8);
    let (mask, value) = (u16::from(REGISTER_MAX) << shift, u16::from(value) << shift);
    let [mask, value] = [mask.to_le_bytes(), value.to_le_bytes()];
    for offset in 0..2 {
        if let Some(target) = registers.get_mut(byte + offset) {
            *target = *target & !mask[offset] | value[offset];
        }
    }
}

/// Ertl's estimate, from how many registers have which value.
fn estimate(histogram: &[u32; REGISTER_MAX as usize + 1]) -> u64 {
    /// 1 / (2 ln 2).
    const ALPHA: f64 = 0.721_347_520_444_481_7;
    let all = REGISTERS as f64;
    let top = RANK_BITS as usize;
    let mut sum = all * tau((all - f64::from(histogram[top + 1])) / all);
    for value in (1..=top).rev() {
        sum = (sum + f64::from(histogram[value])) * 0.5;
    }
    sum += all * sigma(f64::from(histogram[0]) / all);
    (ALPHA * all * all / sum).round() as u64
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        y *= 0.5;
        let next = z - (1.0 - x).powi(2) * y;
        if next == z {
            return z / 3.0;
        }
        z = next;
    }
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let next = z + x * y;
        y += y;
        if next == z {
            return z;
        }
        z = next;
    }
}

/// MurmurHash64A (Appleby, public domain) with the seed of Redis; it reads words as a little-endian machine does.
fn murmur(element: &[u8]) -> u64 {
    const SEED: u64 = 0xadc8_3b19;
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    const SHIFT: u32 = 47;
    let mut hash = SEED ^ (element.len() as u64).wrapping_mul(M);
    let (words, rest) = element.as_chunks::<8>();
    for word in words {
        let mixed = u64::from_le_bytes(*word).wrapping_mul(M);
        hash = (hash ^ (mixed ^ mixed >> SHIFT).wrapping_mul(M)).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(last)).wrapping_mul(M);
    }
    hash = (hash ^ hash >> SHIFT).wrapping_mul(M);
    hash ^ hash >> SHIFT
}

/// The register that an element belongs to, and what it raises it to.
fn place(element: &[u8]) -> (usize, u8) {
    let hash = murmur(element);
    // A bit beyond the others, so that a run of zeros ends.
    let rank = (hash >> INDEX_BITS | 1 << RANK_BITS).trailing_zeros() + 1;
    (hash as usize % REGISTERS, rank as u8)
}

/// The bytes of a string that is one. They may still be [`Corrupt`].
pub struct HyperLogLog<B>(B);

impl<B: AsRef<[u8]>> HyperLogLog<B> {
    /// `None` if the string cannot be one.
    pub fn of(bytes: B) -> Option<Self> {
        let all = bytes.as_ref();
        let plausible = all.len() >= HEADER && all.starts_with(MAGIC) && all[ENCODING] <= SPARSE;
        let whole = plausible && (all[ENCODING] != DENSE || all.len() == DENSE_BYTES);
        whole.then_some(HyperLogLog(bytes))
    }

    /// The registers lie there one by one, and not in runs.
    pub fn is_dense(&self) -> bool {
        self.0.as_ref()[ENCODING] == DENSE
    }

    /// The count that was noted, if nothing has changed since.
    pub fn cached(&self) -> Option<u64> {
        let cache: [u8; 8] = self.0.as_ref()[CACHE].try_into().expect("a header has eight bytes for it");
        (cache[7] & STALE == 0).then_some(u64::from_le_bytes(cache))
    }

    /// The registers alone.
    ///
    /// # Errors
    /// Its runs are not all the registers.
    pub fn registers(&self) -> Result<Registers, Corrupt> {
        let mut registers = Registers::default();
        registers.merge(self)?;
        Ok(registers)
    }

    /// The runs of one that is not dense.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        runs(self.0.as_ref()).map(|(_, run)| run)
    }
}

impl HyperLogLog<Vec<u8>> {
    /// Nothing was added.
    pub fn new() -> Self {
        let mut bytes = [MAGIC, &[SPARSE], &[0; HEADER - ENCODING - 1]].concat();
        Run::zeros(REGISTERS).encode(&mut bytes);
        HyperLogLog(bytes)
    }

    /// Its bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Adds an element; whether that changed anything. It becomes dense if it would be longer than `sparse_max` bytes,
    /// header included.
    ///
    /// # Errors
    /// Its runs are not all the registers.
    pub fn add(&mut self, element: &[u8], sparse_max: usize) -> Result<bool, Corrupt> {
        let (index, value) = place(element);
        self.raise(index, value, sparse_max)
    }

    /// Raises each register to what `registers` has there.
    ///
    /// # Errors
    /// Its runs are not all the registers.
    pub fn raise_all(&mut self, registers: &Registers, sparse_max: usize) -> Result<(), Corrupt> {
        for (index, value) in registers.iter().enumerate().filter(|(_, value)| *value > 0) {
            self.raise(index, value, sparse_max)?;
        }
        self.forget_count();
        Ok(())
    }

    /// Makes it dense; whether it was not.
    ///
    /// # Errors
    /// Its runs are not all the registers.
    pub fn make_dense(&mut self) -> Result<bool, Corrupt> {
        if self.is_dense() {
            return Ok(false);
        }
        let registers = self.registers()?;
        self.0.truncate(HEADER);
        self.0.resize(DENSE_BYTES, 0);
        self.0[ENCODING] = DENSE;
        for (index, value) in registers.iter().enumerate().filter(|(_, value)| *value > 0) {
            set_dense_register(&mut self.0[HEADER..], index, value);
        }
        Ok(true)
    }

    /// Notes the count until something changes.
    pub fn cache(&mut self, count: u64) {
        self.0[CACHE].copy_from_slice(&count.to_le_bytes());
    }

    /// What was counted is no longer true.
    pub fn forget_count(&mut self) {
        self.0[CACHE.end - 1] |= STALE;
    }

    fn raise(&mut self, index: usize, value: u8, sparse_max: usize) -> Result<bool, Corrupt> {
        if !self.is_dense() {
            match self.raise_sparse(index, value, sparse_max)? {
                Raised::Done(changed) => return Ok(changed),
                Raised::NoRoom => self.make_dense()?,
            };
        }
        let registers = &mut self.0[HEADER..];
        let raises = dense_register(registers, index) < value;
        if raises {
            set_dense_register(registers, index, value);
        }
        Ok(raises)
    }

    fn raise_sparse(&mut self, index: usize, value: u8, sparse_max: usize) -> Result<Raised, Corrupt> {
        if value > VALUE_MAX {
            return Ok(Raised::NoRoom);
        }
        let found = self.find(index)?;
        let (at, first, run) = (found.at, found.first, found.run);
        if run.value >= value {
            return Ok(Raised::Done(false));
        }
        let mut new = Vec::with_capacity(VALUES_MAX + 1);
        let part = |len| if run.value == 0 { Run::zeros(len) } else { Run::value(run.value, len) };
        let (before, behind) = (index - first, first + run.len - index - 1);
        if before > 0 {
            part(before).encode(&mut new);
        }
        Run::value(value, 1).encode(&mut new);
        if behind > 0 {
            part(behind).encode(&mut new);
        }
        if new.len() > run.bytes() && self.0.len() + new.len() - run.bytes() > sparse_max {
            return Ok(Raised::NoRoom);
        }
        self.0.splice(at..at + run.bytes(), new);
        self.join_runs(found.previous.unwrap_or(HEADER));
        self.forget_count();
        Ok(Raised::Done(true))
    }

    /// The run that says what register `index` holds.
    fn find(&self, index: usize) -> Result<Found, Corrupt> {
        let (mut first, mut previous) = (0, None);
        for (at, run) in runs(&self.0) {
            if index < first + run.len {
                let is_whole = at + run.bytes() <= self.0.len();
                return if is_whole { Ok(Found { at, first, run, previous }) } else { Err(Corrupt) };
            }
            previous = Some(at);
            first += run.len;
        }
        Err(Corrupt)
    }

    /// Makes one run of neighbours that have the same value, if it is not too long for one, looking at a few from `at` on.
    fn join_runs(&mut self, mut at: usize) {
        for _ in 0..JOINED_RUNS {
            let Some(rest) = self.0.get(at..).filter(|rest| !rest.is_empty()) else { return };
            let run = Run::decode(rest);
            let next = rest.get(run.bytes()..).filter(|rest| !rest.is_empty()).map(Run::decode);
            match next {
                Some(next) if run.value > 0 && next.value == run.value && run.len + next.len <= VALUES_MAX => {
                    let mut joined = Vec::with_capacity(1);
                    Run::value(run.value, run.len + next.len).encode(&mut joined);
                    self.0.splice(at..at + 2, joined);
                }
                _ => at += run.bytes(),
            }
        }
    }
}

impl Default for HyperLogLog<Vec<u8>> {
    fn default() -> Self {
        HyperLogLog::new()
    }
}

/// What became of a register of a sparse value.
enum Raised {
    /// Whether it was lower.
    Done(bool),
    /// The value has to become dense first.
    NoRoom,
}

/// A run of a sparse value.
struct Found {
    /// Where its bytes begin.
    at: usize,
    /// Its first register.
    first: usize,
    run: Run,
    /// Where the run before it begins.
    previous: Option<usize>,
}

const _: () = assert!(LONG_ZEROS_MAX == REGISTERS, "an empty value is one run");

#[cfg(test)]
mod tests {
    use super::*;

    const SPARSE_MAX: usize = 3000;

    fn element(number: u32) -> Vec<u8> {
        format!("element:{number}").into_bytes()
    }

    #[test]
    fn the_two_forms_of_a_value_have_the_same_registers_all_the_way() {
        let (mut sparse, mut dense) = (HyperLogLog::new(), HyperLogLog::new());
        dense.make_dense().unwrap();
        for number in 0..3000 {
            let added = sparse.add(&element(number), usize::MAX).unwrap();
            assert_eq!(added, dense.add(&element(number), usize::MAX).unwrap());
            if number % 100 == 0 {
                assert!(sparse.registers().unwrap().iter().eq(dense.registers().unwrap().iter()), "after {number}");
            }
        }
        // Ranks beyond 32 are not to be expected here.
        assert!(!sparse.is_dense());
        assert_eq!(sparse.make_dense(), Ok(true));
        dense.forget_count();
        sparse.forget_count();
        assert!(sparse.0 == dense.0);
    }

    #[test]
    fn the_count_is_within_a_few_percent_whatever_the_size() {
        let mut value = HyperLogLog::new();
        let mut added = 0;
        for target in [1_u32, 10, 100, 1_000, 10_000, 100_000] {
            while added < target {
                value.add(&element(added), SPARSE_MAX).unwrap();
                added += 1;
            }
            let error = value.registers().unwrap().count().abs_diff(u64::from(target)) as f64 / f64::from(target);
            assert!(error < 0.05, "{target}: {error}");
        }
        assert!(value.is_dense());
    }

    #[test]
    fn a_dense_register_leaves_its_neighbours_alone() {
        let mut bytes = HyperLogLog::new();
        bytes.make_dense().unwrap();
        let registers = &mut bytes.0[HEADER..];
        (0..REGISTERS).for_each(|index| set_dense_register(registers, index, (index % 64) as u8));
        (0..REGISTERS).for_each(|index| assert_eq!(dense_register(registers, index), (index % 64) as u8));
    }

    #[test]
    fn runs_of_any_bytes_are_read_without_a_panic() {
        let mut state = 1_u64;
        for _ in 0..20_000 {
            let mut bytes = HyperLogLog::new().into_bytes();
            bytes.truncate(HEADER);
            for _ in 0..state % 9 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                bytes.push((state >> 40) as u8);
            }
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut value = HyperLogLog::of(bytes).expect("the header is right");
            let _ = value.registers().map(|registers| registers.count());
            let _ = value.add(&state.to_le_bytes(), SPARSE_MAX);
            let _ = value.make_dense();
        }
    }

    #[test]
    fn what_is_no_value_is_told() {
        let whole = HyperLogLog::new().into_bytes();
        assert!(HyperLogLog::of(&whole).is_some());
        assert!(HyperLogLog::of(&whole[..HEADER - 1]).is_none());
        let mut dense = whole.clone();
        dense[ENCODING] = DENSE;
        assert!(HyperLogLog::of(&dense).is_none());
        let mut unknown = whole;
        unknown[ENCODING] = 2;
        assert!(HyperLogLog::of(&unknown).is_none());
    }
}
