//! Sets: different strings.

mod integers;

use super::flat::Flat;
use super::map::{Map, select};
use super::{Dice, SmallForm};
use crate::number::parse_i64;
use integers::Integers;
use std::fmt;
use std::ops::Deref;

/// Different strings: integers, as long as there are only few members, in ascending order.
#[derive(Clone, Debug)]
pub struct Set(Form);

#[derive(Clone, Debug)]
enum Form {
    Integers(Integers),
    Small(Flat<()>),
    Big(Box<Map<()>>),
}

/// Up to which size a set with other members than integers is a flat buffer. Redis 7.0 has no such form and calls it a
/// hash table as well.
const SMALL: SmallForm = SmallForm { len_max: 128, string_bytes_max: 64 };

/// A member: its bytes, or an integer as its digits.
#[derive(Clone, Copy)]
pub enum Member<'a> {
    /// A string.
    Text(&'a [u8]),
    /// The digits of an integer, and how many there are.
    Digits([u8; 20], u8),
}

impl Member<'_> {
    fn integer(value: i64) -> Self {
        let mut buffer = itoa::Buffer::new();
        let text = buffer.format(value).as_bytes();
        let mut digits = [0; 20];
        digits[..text.len()].copy_from_slice(text);
        Member::Digits(digits, text.len() as u8)
    }
}

impl Deref for Member<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Member::Text(bytes) => bytes,
            Member::Digits(digits, len) => &digits[..usize::from(*len)],
        }
    }
}

impl AsRef<[u8]> for Member<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Member<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.escape_ascii().to_string())
    }
}

impl Set {
    /// An empty set.
    pub fn new() -> Set {
        Set(Form::Integers(Integers::new()))
    }

    /// How many members it has.
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::Integers(members) => members.len(),
            Form::Small(members) => members.len(),
            Form::Big(members) => members.len(),
        }
    }

    /// Whether it has no member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the members, or the way to them, begin.
    pub fn start(&self) -> *const u8 {
        match &self.0 {
            Form::Integers(members) => members.start(),
            Form::Small(members) => members.start(),
            Form::Big(members) => (&raw const **members).cast(),
        }
    }

    /// Its table, if it is a big one.
    pub(super) fn table(&self) -> Option<&Map<()>> {
        if let Form::Big(members) = &self.0 { Some(members) } else { None }
    }

    /// What it takes on the heap, in bytes.
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Form::Integers(members) => members.heap_bytes(),
            Form::Small(members) => members.heap_bytes(),
            Form::Big(members) => size_of::<Map<()>>() + members.heap_bytes(),
        }
    }

    /// What a clone takes on the heap that the original does not share, in bytes.
    pub fn clone_bytes(&self) -> usize {
        match &self.0 {
            Form::Big(members) => size_of::<Map<()>>() + members.clone_bytes(),
            _ => self.heap_bytes(),
        }
    }

    /// The encoding that Redis would have chosen, as OBJECT ENCODING names it.
    pub fn encoding(&self) -> &'static str {
        match &self.0 {
            Form::Integers(_) => "intset",
            Form::Small(_) | Form::Big(_) => "hashtable",
        }
    }

    /// The members.
    pub fn iter(&self) -> impl Iterator<Item = Member<'_>> {
        let (integers, small, big) = match &self.0 {
            Form::Integers(members) => (Some(members), None, None),
            Form::Small(members) => (None, Some(members), None),
            Form::Big(members) => (None, None, Some(members)),
        };
        let small = small.into_iter().flat_map(Flat::iter);
        let strings = small.chain(big.into_iter().flat_map(|members| members.iter()));
        let integers = integers.into_iter().flat_map(Integers::iter);
        integers.map(Member::integer).chain(strings.map(|(member, ())| Member::Text(member)))
    }

    /// Whether it has this member.
    pub fn contains(&self, member: &[u8]) -> bool {
        match &self.0 {
            Form::Integers(members) => parse_i64(member).is_some_and(|value| members.contains(value)),
            Form::Small(members) => members.get(member).is_some(),
            Form::Big(members) => members.contains(member),
        }
    }

    /// Adds a member; true if it is new. A set of nothing but integers keeps its form up to `integers_max` members.
    pub fn insert(&mut self, member: &[u8], integers_max: usize) -> bool {
        match &mut self.0 {
            Form::Integers(members) => {
                if let Some(value) = parse_i64(member) {
                    let is_new = members.insert(value);
                    if members.len() > integers_max {
                        self.enlarge();
                    }
                    return is_new;
                }
            }
            Form::Small(members) => {
                if SMALL.takes(member) {
                    let is_new = members.insert(member, ());
                    if members.len() > SMALL.len_max {
                        self.enlarge();
                    }
                    return is_new;
                }
            }
            Form::Big(members) => return members.insert(member, ()),
        }
        self.enlarge();
        self.insert(member, integers_max)
    }

    /// Takes the next larger form that has room for the members.
    fn enlarge(&mut self) {
        self.0 = if matches!(self.0, Form::Integers(_)) && self.len() <= SMALL.len_max {
            let mut members = Flat::new();
            self.iter().for_each(|member| _ = members.insert(&member, ()));
            Form::Small(members)
        } else {
            let mut members = Map::new();
            self.iter().for_each(|member| _ = members.insert(&member, ()));
            Form::Big(Box::new(members))
        };
    }

    /// Removes a member; false if it was not there.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        match &mut self.0 {
            Form::Integers(members) => parse_i64(member).is_some_and(|value| members.remove(value)),
            Form::Small(members) => members.remove(member),
            Form::Big(members) => members.remove(member),
        }
    }

    /// One step of a scan, as [`Map::scan`] makes it; a small set is visited in a single one.
    pub fn scan<'a>(&'a self, cursor: u64, count: usize, mut visit: impl FnMut(Member<'a>)) -> u64 {
        if let Form::Big(members) = &self.0 {
            return members.scan(cursor, count, |member, ()| visit(Member::Text(member)));
        }
        self.iter().for_each(visit);
        0
    }

    /// Visits `count` members, each chosen from all of them.
    pub fn choose(&self, count: usize, random: &mut Dice, mut visit: impl FnMut(&[u8])) {
        match &self.0 {
            Form::Integers(members) => {
                let value = |random: &mut Dice| members.get(random.below(members.len()));
                (0..count).filter_map(|_| value(random)).for_each(|value| visit(&Member::integer(value)));
            }
            Form::Small(members) => {
                let members: Vec<&[u8]> = members.iter().map(|(member, ())| member).collect();
                if !members.is_empty() {
                    (0..count).for_each(|_| visit(members[random.below(members.len())]));
                }
            }
            Form::Big(members) => {
                (0..count).filter_map(|_| members.random(random)).for_each(|(member, ())| visit(member));
            }
        }
    }

    /// Chooses `count` different members, or all if there are not more.
    pub fn choose_distinct(&self, count: usize, random: &mut Dice) -> Vec<Member<'_>> {
        match &self.0 {
            Form::Big(members) => {
                let chosen = members.choose_distinct(count, random);
                chosen.into_iter().map(|(member, ())| Member::Text(member)).collect()
            }
            _ => select(self.iter(), self.len(), count, random).collect(),
        }
    }
}

impl Default for Set {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Set {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|member| other.contains(&member))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn member() -> impl Strategy<Value = Vec<u8>> {
        let integer = |range: std::ops::Range<i64>| range.prop_map(|value| value.to_string().into_bytes());
        prop_oneof![
            8 => integer(-60..60),
            1 => integer(-70_000..70_000),
            1 => integer(i64::MIN..i64::MAX),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_set_in_every_form(
            steps in prop::collection::vec((0..4u8, member()), 1..300),
            others in prop::collection::vec((0..4u8, prop::collection::vec(0..3u8, 0..70)), 0..200),
            integers_max in 1..200usize,
        ) {
            let (mut set, mut model) = (Set::new(), BTreeSet::new());
            for (what, member) in steps.into_iter().chain(others) {
                if what == 0 {
                    prop_assert_eq!(set.remove(&member), model.remove(&member));
                } else {
                    prop_assert_eq!(set.insert(&member, integers_max), model.insert(member));
                }
                prop_assert_eq!(set.len(), model.len());
            }
            let members: BTreeSet<Vec<u8>> = set.iter().map(|member| member.to_vec()).collect();
            prop_assert_eq!(&members, &model);
            prop_assert!(model.iter().all(|member| set.contains(member)));
            let mut scanned = BTreeSet::new();
            prop_assert_eq!(set.scan(0, usize::MAX, |member| _ = scanned.insert(member.to_vec())), 0);
            prop_assert_eq!(scanned, model);
        }
    }

    #[test]
    fn only_few_integers_are_an_intset_and_in_order() {
        let mut set = Set::new();
        for value in [5i64, -3, 70_000, i64::MAX, i64::MIN, 0] {
            set.insert(value.to_string().as_bytes(), 6);
        }
        let members: Vec<String> = set.iter().map(|member| String::from_utf8_lossy(&member).into()).collect();
        assert_eq!(members, ["-9223372036854775808", "-3", "0", "5", "70000", "9223372036854775807"]);
        assert_eq!(set.encoding(), "intset");
        let mut other = set.clone();
        assert!(!set.insert(b"5", 6) && set.insert(b"6", 6));
        assert_eq!(set.encoding(), "hashtable");
        assert!(other.insert(b"05", 6) && other.contains(b"5"));
        assert_eq!(other.encoding(), "hashtable");
    }

    #[test]
    fn members_are_chosen_in_every_form() {
        let mut random = Dice::new(1);
        for (len, prefix) in [(1, ""), (15, ""), (100, "m"), (3_000, ""), (3_000, "m")] {
            let mut set = Set::new();
            (0..len).for_each(|number| _ = set.insert(format!("{prefix}{number}").as_bytes(), 512));
            for count in [0, 1, 10, 90, 2_900, 10_000] {
                let chosen = set.choose_distinct(count, &mut random);
                let different: BTreeSet<Vec<u8>> = chosen.iter().map(|member| member.to_vec()).collect();
                assert_eq!(different.len(), count.min(len));
                let mut visited = 0;
                set.choose(count, &mut random, |member| {
                    visited += 1;
                    assert!(set.contains(member));
                });
                assert_eq!(visited, count);
            }
        }
    }
}
