//! Hashes: fields with values, some of which may have deadlines of their own.
//!
//! Fields and values are in one of two forms. Deadlines are beside them, as the scores of a sorted set of fields: most hashes have
//! none and take no room for any, the earliest is known, and a clone shares them as it shares the fields. Milliseconds are
//! whole numbers, and a score holds those up to 2^53 exactly, some 285,000 years.
//!
//! A field whose time is over is there until somebody removes it ([`Hash::take_expired`]): only a master may. Whoever reads for
//! a client does so by [`Hash::live`], which hides it.

use super::flat::Flat;
use super::map::{Map, select};
use super::sorted_set::SortedSet;
use super::{Dice, SmallForm};

/// No deadline is later, in milliseconds since the epoch.
const DEADLINE_MS_MAX: i64 = 1 << 53;

/// When a sorted set of deadlines is small.
const SMALL_DEADLINES: SmallForm = SmallForm { len_max: 128, string_bytes_max: 64 };

/// Fields with values: a small one in the order in which the fields came, a big one in none.
#[derive(Clone, Debug)]
pub struct Hash(Form);

#[derive(Clone, Debug)]
enum Form {
    Small(Flat<[u8]>),
    Big(Box<Map<[u8]>>),
    Expiring(Box<Expiring>),
}

/// A hash some of whose fields have deadlines.
#[derive(Clone, Debug)]
struct Expiring {
    /// All fields, in one of the other forms.
    fields: Hash,
    /// Of those that have one; never empty.
    deadlines: SortedSet,
}

/// A field and its value.
pub type Field<'a> = (&'a [u8], &'a [u8]);

impl Hash {
    /// An empty hash.
    pub fn new() -> Hash {
        Hash(Form::Small(Flat::new()))
    }

    /// How many fields it has, those included whose time is over.
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::Small(fields) => fields.len(),
            Form::Big(fields) => fields.len(),
            Form::Expiring(expiring) => expiring.fields.len(),
        }
    }

    /// Whether it has no field.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the fields, or the way to them, begin.
    pub fn start(&self) -> *const u8 {
        match &self.0 {
            Form::Small(fields) => fields.start(),
            Form::Big(fields) => (&raw const **fields).cast(),
            Form::Expiring(expiring) => (&raw const **expiring).cast(),
        }
    }

    /// Its table, if it is a big one.
    pub(super) fn table(&self) -> Option<&Map<[u8]>> {
        match &self.0 {
            Form::Small(_) => None,
            Form::Big(fields) => Some(fields),
            Form::Expiring(expiring) => expiring.fields.table(),
        }
    }

    /// What it takes on the heap, in bytes.
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Form::Small(fields) => fields.heap_bytes(),
            Form::Big(fields) => size_of::<Map<[u8]>>() + fields.heap_bytes(),
            Form::Expiring(expiring) => {
                size_of::<Expiring>() + expiring.fields.heap_bytes() + expiring.deadlines.heap_bytes()
            }
        }
    }

    /// What a clone takes on the heap that the original does not share, in bytes.
    pub fn clone_bytes(&self) -> usize {
        match &self.0 {
            Form::Small(fields) => fields.heap_bytes(),
            Form::Big(fields) => size_of::<Map<[u8]>>() + fields.clone_bytes(),
            Form::Expiring(expiring) => {
                size_of::<Expiring>() + expiring.fields.clone_bytes() + expiring.deadlines.clone_bytes()
            }
        }
    }

    /// The encoding that Redis would have chosen, as OBJECT ENCODING names it.
    pub fn encoding(&self) -> &'static str {
        match &self.0 {
            Form::Small(_) => "listpack",
            Form::Big(_) | Form::Expiring(_) => "hashtable",
        }
    }

    /// Fields and values, those included whose time is over.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        let (small, big) = match &self.0 {
            Form::Small(fields) => (Some(fields), None),
            Form::Big(fields) => (None, Some(fields)),
            Form::Expiring(expiring) => match &expiring.fields.0 {
                Form::Small(fields) => (Some(fields), None),
                Form::Big(fields) => (None, Some(fields)),
                Form::Expiring(_) => unreachable!("deadlines are beside a plain hash"),
            },
        };
        small.into_iter().flat_map(Flat::iter).chain(big.into_iter().flat_map(|fields| fields.iter()))
    }

    /// The value of a field, whether or not its time is over.
    pub fn get(&self, field: &[u8]) -> Option<&[u8]> {
        match &self.0 {
            Form::Small(fields) => fields.get(field),
            Form::Big(fields) => fields.get(field),
            Form::Expiring(expiring) => expiring.fields.get(field),
        }
    }

    /// Sets a field, which has no deadline then; true if it is new.
    pub fn insert(&mut self, field: &[u8], value: &[u8], small: SmallForm) -> bool {
        if let Form::Expiring(expiring) = &mut self.0 {
            let is_new = expiring.fields.insert(field, value, small);
            if expiring.deadlines.remove(field) {
                self.forget_deadlines_if_none();
            }
            return is_new;
        }
        self.update(field, value, small)
    }

    /// Sets a field, which keeps its deadline; true if it is new.
    pub fn update(&mut self, field: &[u8], value: &[u8], small: SmallForm) -> bool {
        match &mut self.0 {
            Form::Small(fields) => {
                if small.takes(field) && small.takes(value) {
                    let is_new = fields.insert(field, value);
                    if fields.len() > small.len_max {
                        self.enlarge();
                    }
                    return is_new;
                }
            }
            Form::Big(fields) => return fields.insert(field, value),
            Form::Expiring(expiring) => return expiring.fields.update(field, value, small),
        }
        self.enlarge();
        self.update(field, value, small)
    }

    fn enlarge(&mut self) {
        let mut fields = Map::new();
        self.iter().for_each(|(field, value)| _ = fields.insert(field, value));
        self.0 = Form::Big(Box::new(fields));
    }

    /// Removes a field; false if it was not there.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        match &mut self.0 {
            Form::Small(fields) => fields.remove(field),
            Form::Big(fields) => fields.remove(field),
            Form::Expiring(expiring) => {
                let was_there = expiring.fields.remove(field);
                if expiring.deadlines.remove(field) {
                    self.forget_deadlines_if_none();
                }
                was_there
            }
        }
    }

    /// Whether any field has a deadline.
    pub fn has_deadlines(&self) -> bool {
        matches!(self.0, Form::Expiring(_))
    }

    /// When the first field expires, in milliseconds since the epoch.
    pub fn next_deadline_ms(&self) -> Option<i64> {
        let Form::Expiring(expiring) = &self.0 else { return None };
        expiring.deadlines.iter().next().map(|entry| entry.score as i64)
    }

    /// When a field expires, in milliseconds since the epoch.
    pub fn deadline_ms(&self, field: &[u8]) -> Option<i64> {
        let Form::Expiring(expiring) = &self.0 else { return None };
        expiring.deadlines.score(field).map(|score| score as i64)
    }

    /// Gives a field that is there a deadline, in milliseconds since the epoch, or takes it away. One that is too far away for
    /// anybody to see is brought nearer.
    pub fn set_deadline(&mut self, field: &[u8], deadline_ms: Option<i64>) {
        if self.get(field).is_none() {
            return;
        }
        match (&mut self.0, deadline_ms) {
            (Form::Expiring(expiring), Some(deadline_ms)) => expiring.give(field, deadline_ms),
            (Form::Expiring(expiring), None) => {
                expiring.deadlines.remove(field);
                self.forget_deadlines_if_none();
            }
            (_, Some(deadline_ms)) => {
                let mut expiring = Expiring { fields: std::mem::take(self), deadlines: SortedSet::new() };
                expiring.give(field, deadline_ms);
                self.0 = Form::Expiring(Box::new(expiring));
            }
            (_, None) => {}
        }
    }

    fn forget_deadlines_if_none(&mut self) {
        if let Form::Expiring(expiring) = &mut self.0
            && expiring.deadlines.is_empty()
        {
            *self = std::mem::take(&mut expiring.fields);
        }
    }

    /// Removes up to `most` fields whose deadline is before `now_ms`, the earliest first.
    pub fn take_expired(&mut self, now_ms: i64, most: usize) -> Vec<Vec<u8>> {
        let Form::Expiring(expiring) = &self.0 else { return Vec::new() };
        let due = expiring.deadlines.iter().take_while(|entry| (entry.score as i64) < now_ms).take(most);
        let due: Vec<Vec<u8>> = due.map(|entry| entry.member.to_vec()).collect();
        due.iter().for_each(|field| _ = self.remove(field));
        due
    }

    /// The hash as clients see it at this time, in milliseconds since the epoch.
    pub fn live(&self, now_ms: i64) -> Live<'_> {
        let hides = self.next_deadline_ms().is_some_and(|deadline_ms| deadline_ms < now_ms);
        Live { hash: self, hidden_before_ms: hides.then_some(now_ms) }
    }

    /// One step of a scan, as [`Map::scan`] makes it; a small hash is visited in a single one.
    fn scan<'a>(&'a self, cursor: u64, count: usize, mut visit: impl FnMut(&'a [u8], &'a [u8])) -> u64 {
        match &self.0 {
            Form::Small(fields) => {
                fields.iter().for_each(|(field, value)| visit(field, value));
                0
            }
            Form::Big(fields) => fields.scan(cursor, count, visit),
            Form::Expiring(expiring) => match &expiring.fields.0 {
                Form::Big(fields) => fields.scan(cursor, count, visit),
                _ => {
                    self.iter().for_each(|(field, value)| visit(field, value));
                    0
                }
            },
        }
    }
}

impl Expiring {
    fn give(&mut self, field: &[u8], deadline_ms: i64) {
        let deadline_ms = deadline_ms.clamp(-DEADLINE_MS_MAX, DEADLINE_MS_MAX);
        self.deadlines.insert(field, deadline_ms as f64, SMALL_DEADLINES);
    }
}

/// A hash without the fields whose time is over.
#[derive(Clone, Copy)]
pub struct Live<'a> {
    hash: &'a Hash,
    /// Fields with an earlier deadline are hidden; `None` if there is none.
    hidden_before_ms: Option<i64>,
}

impl<'a> Live<'a> {
    fn shows(self, field: &[u8]) -> bool {
        self.hidden_before_ms.is_none_or(|now_ms| self.hash.deadline_ms(field).is_none_or(|at_ms| at_ms >= now_ms))
    }

    /// The value of a field.
    pub fn get(self, field: &[u8]) -> Option<&'a [u8]> {
        self.hash.get(field).filter(|_| self.shows(field))
    }

    /// How many fields it has.
    pub fn len(self) -> usize {
        if self.hidden_before_ms.is_none() { self.hash.len() } else { self.iter().count() }
    }

    /// Whether it has no field.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Fields and values.
    pub fn iter(self) -> impl Iterator<Item = Field<'a>> {
        self.hash.iter().filter(move |(field, _)| self.shows(field))
    }

    /// One step of a scan, as [`Map::scan`] makes it; a small hash is visited in a single one.
    pub fn scan(self, cursor: u64, count: usize, mut visit: impl FnMut(&'a [u8], &'a [u8])) -> u64 {
        self.hash.scan(cursor, count, |field, value| {
            if self.shows(field) {
                visit(field, value);
            }
        })
    }

    /// Visits `count` fields, each chosen from all of them.
    pub fn choose(self, count: usize, random: &mut Dice, mut visit: impl FnMut(Field<'a>)) {
        if let (Form::Big(fields), None) = (&self.hash.0, self.hidden_before_ms) {
            return (0..count).filter_map(|_| fields.random(random)).for_each(visit);
        }
        let fields: Vec<Field> = self.iter().collect();
        if !fields.is_empty() {
            (0..count).for_each(|_| visit(fields[random.below(fields.len())]));
        }
    }

    /// Chooses `count` different fields, or all if there are not more.
    pub fn choose_distinct(self, count: usize, random: &mut Dice) -> Vec<Field<'a>> {
        match (&self.hash.0, self.hidden_before_ms) {
            (Form::Big(fields), None) => fields.choose_distinct(count, random),
            _ => select(self.iter(), self.len(), count, random).collect(),
        }
    }
}

impl Default for Hash {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Hash {
    fn eq(&self, other: &Self) -> bool {
        let is_same = |(field, value): Field| {
            other.get(field) == Some(value) && other.deadline_ms(field) == self.deadline_ms(field)
        };
        self.len() == other.len() && self.iter().all(is_same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const SMALL: SmallForm = SmallForm { len_max: 20, string_bytes_max: 40 };

    proptest! {
        #[test]
        fn it_is_a_map_in_both_forms(steps in prop::collection::vec((0..4u8, 0..40u8, 0..50usize), 1..200)) {
            let (mut hash, mut model) = (Hash::new(), HashMap::new());
            for (what, number, len) in steps {
                let field = vec![b'f', number];
                if what == 0 {
                    prop_assert_eq!(hash.remove(&field), model.remove(&field).is_some());
                } else {
                    let value = vec![number; len];
                    prop_assert_eq!(hash.insert(&field, &value, SMALL), model.insert(field, value).is_none());
                }
                prop_assert_eq!(hash.len(), model.len());
            }
            let fields: HashMap<Vec<u8>, Vec<u8>> = hash.iter().map(|(field, value)| (field.into(), value.into())).collect();
            prop_assert_eq!(&fields, &model);
            let mut scanned = HashMap::new();
            prop_assert_eq!(hash.scan(0, 1_000, |field, value| _ = scanned.insert(field.to_vec(), value.to_vec())), 0);
            prop_assert_eq!(scanned, model);
        }
    }

    #[test]
    fn it_is_small_up_to_the_limits() {
        let mut hash = Hash::new();
        for number in 0..20u8 {
            hash.insert(&[number], &[b'v'; 40], SMALL);
        }
        assert_eq!(hash.encoding(), "listpack");
        assert!(hash.iter().map(|(field, _)| field[0]).eq(0..20));
        let mut other = hash.clone();
        hash.insert(b"field", b"", SMALL);
        assert_eq!(hash.encoding(), "hashtable");
        other.insert(&[1], &[b'v'; 41], SMALL);
        assert_eq!(other.encoding(), "hashtable");
    }

    #[test]
    fn a_small_hash_takes_little_more_than_its_strings_and_a_byte_for_each() {
        let mut hash = Hash::new();
        for number in 0..10u8 {
            hash.insert(&[number], b"a value", SMALL);
        }
        let count = size_of::<u32>();
        assert_eq!(hash.heap_bytes(), (count + 10 * (2 + 8)).next_multiple_of(16));
    }

    #[test]
    fn fields_are_chosen_in_both_forms() {
        let mut random = Dice::new(1);
        for len in [1, 15, 100, 3_000] {
            let mut hash = Hash::new();
            (0..len).for_each(|number: usize| _ = hash.insert(&number.to_le_bytes(), b"v", SMALL));
            for count in [0, 1, 10, 90, 2_900, 10_000] {
                let mut chosen: Vec<_> = hash.live(0).choose_distinct(count, &mut random);
                chosen.sort();
                chosen.dedup();
                assert_eq!(chosen.len(), count.min(len));
                let mut visited = 0;
                hash.live(0).choose(count, &mut random, |(field, _)| {
                    visited += 1;
                    assert!(hash.get(field).is_some());
                });
                assert_eq!(visited, count);
            }
        }
    }

    #[test]
    fn a_field_is_hidden_when_its_time_is_over_and_is_there_until_it_is_taken() {
        for len in [3, 100] {
            let mut hash = Hash::new();
            (0..len).for_each(|number: usize| _ = hash.insert(&number.to_le_bytes(), b"v", SMALL));
            let plain = hash.clone();
            let fields: Vec<[u8; 8]> = (0..len).map(usize::to_le_bytes).collect();
            hash.set_deadline(&fields[0], Some(20));
            hash.set_deadline(&fields[1], Some(10));
            hash.set_deadline(b"absent", Some(1));
            assert_eq!((hash.next_deadline_ms(), hash.deadline_ms(&fields[0])), (Some(10), Some(20)));
            assert_ne!(hash, plain);
            assert_eq!((hash.live(10).len(), hash.live(11).len(), hash.live(21).len()), (len, len - 1, len - 2));
            assert_eq!((hash.live(11).get(&fields[1]), hash.get(&fields[1])), (None, Some(b"v".as_slice())));
            let mut random = Dice::new(1);
            assert_eq!(hash.live(21).choose_distinct(len, &mut random).len(), len - 2);
            hash.live(21).choose(50, &mut random, |(field, _)| assert!(!fields[..2].iter().any(|gone| gone == field)));
            let mut seen = 0;
            hash.live(21).scan(0, 1_000, |_, _| seen += 1);
            assert_eq!(seen, len - 2);
            assert_eq!(hash.take_expired(10, 9), Vec::<Vec<u8>>::new());
            assert_eq!(hash.take_expired(100, 1), [fields[1]]);
            // A new value has no deadline, one that is changed keeps it.
            hash.update(&fields[0], b"w", SMALL);
            assert_eq!(hash.deadline_ms(&fields[0]), Some(20));
            hash.insert(&fields[0], b"v", SMALL);
            assert!(!hash.has_deadlines());
            hash.insert(&fields[1], b"v", SMALL);
            assert_eq!((&hash, hash.encoding()), (&plain, plain.encoding()));
            hash.set_deadline(&fields[2], Some(i64::MAX));
            assert_eq!(hash.next_deadline_ms(), Some(DEADLINE_MS_MAX));
            hash.set_deadline(&fields[2], None);
            assert!(!hash.has_deadlines());
        }
        assert_eq!(size_of::<Hash>(), size_of::<Flat<[u8]>>());
    }
}
