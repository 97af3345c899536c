//! Hashes: fields with values.

use super::flat::Flat;
use super::map::{Map, select};
use super::{Dice, SmallForm};

/// Fields with values: a small one in the order in which the fields came, a big one in none.
#[derive(Clone, Debug)]
pub struct Hash(Form);

#[derive(Clone, Debug)]
enum Form {
    Small(Flat<[u8]>),
    Big(Box<Map<[u8]>>),
}

/// A field and its value.
pub type Field<'a> = (&'a [u8], &'a [u8]);

impl Hash {
    /// An empty hash.
    pub fn new() -> Hash {
        Hash(Form::Small(Flat::new()))
    }

    /// How many fields it has.
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::Small(fields) => fields.len(),
            Form::Big(fields) => fields.len(),
        }
    }

    /// Whether it has no field.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it takes on the heap, in bytes.
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Form::Small(fields) => fields.heap_bytes(),
            Form::Big(fields) => size_of::<Map<[u8]>>() + fields.heap_bytes(),
        }
    }

    /// What a clone takes on the heap that the original does not share, in bytes.
    pub fn clone_bytes(&self) -> usize {
        match &self.0 {
            Form::Small(fields) => fields.heap_bytes(),
            Form::Big(fields) => size_of::<Map<[u8]>>() + fields.clone_bytes(),
        }
    }

    /// The encoding that Redis would have chosen, as OBJECT ENCODING names it.
    pub fn encoding(&self) -> &'static str {
        match &self.0 {
            Form::Small(_) => "listpack",
            Form::Big(_) => "hashtable",
        }
    }

    /// Fields and values.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        let (small, big) = match &self.0 {
            Form::Small(fields) => (Some(fields), None),
            Form::Big(fields) => (None, Some(fields)),
        };
        small.into_iter().flat_map(Flat::iter).chain(big.into_iter().flat_map(|fields| fields.iter()))
    }

    /// The value of a field.
    pub fn get(&self, field: &[u8]) -> Option<&[u8]> {
        match &self.0 {
            Form::Small(fields) => fields.get(field),
            Form::Big(fields) => fields.get(field),
        }
    }

    /// Sets a field; true if it is new.
    pub fn insert(&mut self, field: &[u8], value: &[u8], small: SmallForm) -> bool {
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
        }
        self.enlarge();
        self.insert(field, value, small)
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
        }
    }

    /// One step of a scan, as [`Map::scan`] makes it; a small hash is visited in a single one.
    pub fn scan<'a>(&'a self, cursor: u64, count: usize, mut visit: impl FnMut(&'a [u8], &'a [u8])) -> u64 {
        match &self.0 {
            Form::Small(fields) => {
                fields.iter().for_each(|(field, value)| visit(field, value));
                0
            }
            Form::Big(fields) => fields.scan(cursor, count, visit),
        }
    }

    /// Visits `count` fields, each chosen from all of them.
    pub fn choose(&self, count: usize, random: &mut Dice, mut visit: impl FnMut(Field<'_>)) {
        match &self.0 {
            Form::Small(fields) => {
                let fields: Vec<Field> = fields.iter().collect();
                if !fields.is_empty() {
                    (0..count).for_each(|_| visit(fields[random.below(fields.len())]));
                }
            }
            Form::Big(fields) => (0..count).filter_map(|_| fields.random(random)).for_each(visit),
        }
    }

    /// Chooses `count` different fields, or all if there are not more.
    pub fn choose_distinct(&self, count: usize, random: &mut Dice) -> Vec<Field<'_>> {
        match &self.0 {
            Form::Small(fields) => select(fields.iter(), fields.len(), count, random).collect(),
            Form::Big(fields) => fields.choose_distinct(count, random),
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
        self.len() == other.len() && self.iter().all(|(field, value)| other.get(field) == Some(value))
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
    fn a_small_hash_takes_less_than_its_strings_and_two_bytes_for_each() {
        let mut hash = Hash::new();
        for number in 0..10u8 {
            hash.insert(&[number], b"a value", SMALL);
        }
        assert_eq!(hash.heap_bytes(), 10 * (2 + 8));
    }

    #[test]
    fn fields_are_chosen_in_both_forms() {
        let mut random = Dice::new(1);
        for len in [1, 15, 100, 3_000] {
            let mut hash = Hash::new();
            (0..len).for_each(|number: usize| _ = hash.insert(&number.to_le_bytes(), b"v", SMALL));
            for count in [0, 1, 10, 90, 2_900, 10_000] {
                let mut chosen: Vec<_> = hash.choose_distinct(count, &mut random);
                chosen.sort();
                chosen.dedup();
                assert_eq!(chosen.len(), count.min(len));
                let mut visited = 0;
                hash.choose(count, &mut random, |(field, _)| {
                    visited += 1;
                    assert!(hash.get(field).is_some());
                });
                assert_eq!(visited, count);
            }
        }
    }
}
