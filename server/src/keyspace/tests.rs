//! The keyspace against a map that is obviously right, and what its documentation promises.

use super::*;
use crate::value::{Hash, List, Set, ValueRef};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};

const SEED: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
const DATABASES: usize = 3;
const SIZES: [usize; 10] = [0, 1, 255, 256, 4095, 4096, 4097, 65_535, 65_536, 1 << 20];

fn keyspace() -> Keyspace {
    Keyspace::new(DATABASES, SEED)
}

fn name(number: usize) -> Vec<u8> {
    format!("key:{number:012}").into_bytes()
}

fn fill(keyspace: &mut Keyspace, db: usize, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let name = name(number);
        keyspace.set_str(db, keyspace.key(&name), &[b'v'; 32], Deadline::Clear);
    }
}

fn text<'a>(entry: EntryRef<'a>) -> &'a [u8] {
    let ValueRef::Str(bytes) = entry.value() else { unreachable!("only strings are stored") };
    bytes
}

type Contents = BTreeMap<(usize, Vec<u8>), (Vec<u8>, Option<i64>)>;

fn contents(keyspace: &Keyspace) -> Contents {
    let mut all = Contents::new();
    for db in 0..keyspace.databases() {
        keyspace.for_each(db, |entry| {
            let old = all.insert((db, entry.key().to_vec()), (text(entry).to_vec(), entry.deadline_ms()));
            assert!(old.is_none(), "{entry:?} twice");
        });
    }
    all
}

fn collect(chunk: &Chunk, into: &mut Contents) {
    for frame in chunk.iter() {
        let ValueRef::Str(value) = frame.value else { unreachable!("only strings are stored") };
        let old = into.insert((frame.db, frame.key.to_vec()), (value.to_vec(), frame.deadline_ms));
        assert!(old.is_none(), "the walk gave {frame:?} twice");
    }
}

#[derive(Clone, Debug)]
enum Op {
    Set(usize, usize, usize, Deadline),
    Insert(usize, usize, usize, Option<i64>),
    Remove(usize, usize),
    Take(usize, usize),
    Resize(usize, usize, usize),
    SetDeadline(usize, usize, Option<i64>),
    SetMany(usize, usize, Option<i64>),
    RemoveMany(usize, usize),
    Expire(usize, i64),
    Flush(usize),
    FlushAll,
    Swap(usize, usize),
    BeginWalk,
    Slice(usize),
    AbortWalk,
}

fn op() -> impl Strategy<Value = Op> {
    let db = || 0..DATABASES;
    let key = || 0..600usize;
    let len = || prop_oneof![8 => 0..100usize, 1 => 1000..1100usize, 1 => 4090..4105usize, 1 => 9000..9010usize];
    let deadline = || prop::option::of(0..1000i64);
    let change = prop_oneof![Just(Deadline::Keep), Just(Deadline::Clear), (0..1000i64).prop_map(Deadline::At)];
    prop_oneof![
        8 => (db(), key(), len(), change).prop_map(|(db, key, len, change)| Op::Set(db, key, len, change)),
        4 => (db(), key(), len(), deadline()).prop_map(|(db, key, len, at)| Op::Insert(db, key, len, at)),
        4 => (db(), key()).prop_map(|(db, key)| Op::Remove(db, key)),
        4 => (db(), key()).prop_map(|(db, key)| Op::Take(db, key)),
        6 => (db(), key(), len()).prop_map(|(db, key, len)| Op::Resize(db, key, len)),
        6 => (db(), key(), deadline()).prop_map(|(db, key, at)| Op::SetDeadline(db, key, at)),
        4 => (db(), key(), deadline()).prop_map(|(db, key, at)| Op::SetMany(db, key, at)),
        2 => (db(), key()).prop_map(|(db, key)| Op::RemoveMany(db, key)),
        2 => (db(), 0..1100i64).prop_map(|(db, now)| Op::Expire(db, now)),
        1 => db().prop_map(Op::Flush),
        1 => Just(Op::FlushAll),
        3 => (db(), db()).prop_map(|(a, b)| Op::Swap(a, b)),
        4 => Just(Op::BeginWalk),
        8 => (1..20_000usize).prop_map(Op::Slice),
        1 => Just(Op::AbortWalk),
    ]
}

/// The keyspace, what it should hold, and the walk's beginning and harvest.
struct Pair {
    keyspace: Keyspace,
    model: Contents,
    frozen: Option<Contents>,
    walked: Contents,
    stamp: u8,
}

impl Pair {
    fn new() -> Pair {
        Pair { keyspace: keyspace(), model: Contents::new(), frozen: None, walked: Contents::new(), stamp: 0 }
    }

    fn value(&mut self, len: usize) -> Vec<u8> {
        self.stamp = self.stamp.wrapping_add(1);
        vec![self.stamp; len]
    }

    fn set(&mut self, db: usize, key: usize, len: usize, change: Deadline) {
        let (name, value) = (name(key), self.value(len));
        let existed = self.keyspace.set_str(db, self.keyspace.key(&name), &value, change);
        let old = self.model.get(&(db, name.clone())).cloned();
        assert_eq!(existed, old.is_some());
        let deadline_ms = change.after(old.and_then(|(_, deadline_ms)| deadline_ms));
        self.model.insert((db, name), (value, deadline_ms));
    }

    fn remove(&mut self, db: usize, key: usize) {
        let name = name(key);
        let existed = self.keyspace.remove(db, self.keyspace.key(&name));
        assert_eq!(existed, self.model.remove(&(db, name)).is_some());
    }

    fn resize(&mut self, db: usize, key: usize, len: usize) {
        let (name, fill) = (name(key), self.stamp);
        let result = self.keyspace.str_mut(db, self.keyspace.key(&name), |bytes| {
            bytes.resize(len, fill);
            bytes.len()
        });
        let expected = self.model.get_mut(&(db, name)).map(|(value, _)| {
            value.resize(len, fill);
            value.len()
        });
        assert_eq!(result, expected);
    }

    fn expire(&mut self, db: usize, now_ms: i64) {
        let mut reported = Vec::new();
        let count = self.keyspace.expire(db, now_ms, usize::MAX, |key| reported.push(key.to_vec()));
        assert_eq!(count, reported.len());
        for key in reported {
            let (_, deadline_ms) = self.model.remove(&(db, key)).expect("only keys that were there, and once");
            assert!(deadline_ms.expect("only keys with a deadline") < now_ms);
        }
        assert!(!self.model.iter().any(|((d, _), (_, at))| *d == db && at.is_some_and(|at| at < now_ms)));
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.keyspace.swap(a, b);
        let exchange = |db| {
            if db == a {
                b
            } else if db == b {
                a
            } else {
                db
            }
        };
        self.model = std::mem::take(&mut self.model).into_iter().map(|((db, k), v)| ((exchange(db), k), v)).collect();
    }

    fn begin_walk(&mut self) {
        let begun = self.keyspace.begin_walk();
        if self.frozen.is_some() {
            return assert_eq!(begun, Err(WalkInProgress));
        }
        let count = |db: usize| {
            let of_db = || self.model.iter().filter(move |((d, _), _)| *d == db);
            let with_deadline = of_db().filter(|(_, (_, at))| at.is_some()).count();
            DatabaseSize { db, keys: of_db().count(), with_deadline }
        };
        let expected: Vec<_> = (0..DATABASES).map(count).filter(|size| size.keys > 0).collect();
        assert_eq!(begun, Ok(expected));
        self.frozen = Some(self.model.clone());
        self.walked.clear();
    }

    /// One slice; at the walk's end, what it gave must be the state at its beginning.
    fn slice(&mut self, budget_bytes: usize) {
        let chunk = self.keyspace.walk_slice(budget_bytes);
        assert_eq!(self.keyspace.walk_in_progress(), chunk.is_some());
        match chunk {
            Some(chunk) => collect(&chunk, &mut self.walked),
            None => {
                if let Some(frozen) = self.frozen.take() {
                    assert!(frozen == self.walked, "the walk is not the state at its beginning");
                }
            }
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Set(db, key, len, change) => self.set(db, key, len, change),
            Op::Insert(db, key, len, deadline_ms) => {
                let (name, value) = (name(key), self.value(len));
                let key = self.keyspace.key(&name);
                let existed = self.keyspace.insert(db, key, Value::Str(value.clone()), deadline_ms);
                assert_eq!(existed, self.model.insert((db, name), (value, deadline_ms)).is_some());
            }
            Op::Remove(db, key) => self.remove(db, key),
            Op::Take(db, key) => {
                let name = name(key);
                let taken = self.keyspace.take(db, self.keyspace.key(&name));
                let expected = self.model.remove(&(db, name));
                assert_eq!(taken, expected.map(|(value, deadline_ms)| (Value::Str(value), deadline_ms)));
            }
            Op::Resize(db, key, len) => self.resize(db, key, len),
            Op::SetDeadline(db, key, deadline_ms) => {
                let name = name(key);
                let existed = self.keyspace.set_deadline(db, self.keyspace.key(&name), deadline_ms);
                let entry = self.model.get_mut(&(db, name));
                assert_eq!(existed, entry.is_some());
                entry.into_iter().for_each(|(_, at)| *at = deadline_ms);
            }
            Op::SetMany(db, from, deadline_ms) => {
                let change = deadline_ms.map_or(Deadline::Clear, Deadline::At);
                (from..from + 200).for_each(|key| self.set(db, key, key % 50, change));
            }
            Op::RemoveMany(db, from) => (from..from + 150).for_each(|key| self.remove(db, key)),
            Op::Expire(db, now_ms) => self.expire(db, now_ms),
            Op::Flush(db) => {
                let before = self.model.len();
                self.model.retain(|(d, _), _| *d != db);
                assert_eq!(self.keyspace.flush(db), before - self.model.len());
            }
            Op::FlushAll => {
                assert_eq!(self.keyspace.flush_all(), self.model.len());
                self.model.clear();
            }
            Op::Swap(a, b) => self.swap(a, b),
            Op::BeginWalk => self.begin_walk(),
            Op::Slice(budget_bytes) => self.slice(budget_bytes),
            Op::AbortWalk => {
                self.keyspace.abort_walk();
                self.frozen = None;
            }
        }
    }

    fn check_counts(&self) {
        for db in 0..DATABASES {
            let of_db = || self.model.iter().filter(|((d, _), _)| *d == db);
            assert_eq!(self.keyspace.len(db), of_db().count());
            assert_eq!(self.keyspace.with_deadline(db), of_db().filter(|(_, (_, at))| at.is_some()).count());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn it_holds_what_a_map_holds_and_a_walk_gives_the_state_at_its_beginning(ops in vec(op(), 1..150)) {
        let mut pair = Pair::new();
        for op in ops {
            pair.apply(op);
            pair.check_counts();
        }
        while pair.frozen.is_some() {
            pair.slice(1000);
        }
        prop_assert!(contents(&pair.keyspace) == pair.model);
        for ((db, name), (value, deadline_ms)) in &pair.model {
            let entry = pair.keyspace.peek(*db, pair.keyspace.key(name)).expect("every key is found");
            prop_assert_eq!((text(entry), entry.deadline_ms()), (value.as_slice(), *deadline_ms));
        }
        pair.keyspace.flush_all();
        prop_assert_eq!(pair.keyspace.memory_bytes(), 0);
    }

    #[test]
    fn a_scan_visits_every_key_that_stays(counts in vec(1..200usize, 1..20), churn in 0..1000usize, grow in any::<bool>()) {
        // Only so many steps write: a table that grew for ever would outrun a scan in small steps.
        const WRITING_STEPS: usize = 12;
        let mut keyspace = keyspace();
        fill(&mut keyspace, 0, 0..700);
        let (mut cursor, mut seen, mut step) = (0, HashSet::new(), 0);
        loop {
            cursor = keyspace.scan(0, cursor, counts[step % counts.len()], 0, |entry| {
                seen.insert(entry.key().to_vec());
            });
            prop_assert!(cursor < 1 << 48);
            if cursor == 0 {
                break;
            }
            step += 1;
            if step > WRITING_STEPS {
                continue;
            }
            let passing = 1000 + step * churn..1000 + (step + 1) * churn;
            fill(&mut keyspace, 0, passing.clone());
            if !grow {
                for name in passing.map(name) {
                    keyspace.remove(0, keyspace.key(&name));
                }
            }
        }
        prop_assert!((0..700).all(|number| seen.contains(&name(number))));
    }
}

#[test]
fn keys_and_values_of_all_sizes_come_back() {
    let mut keyspace = keyspace();
    for key_len in SIZES {
        let name = vec![b'k'; key_len];
        for (round, len) in SIZES.into_iter().chain(SIZES.into_iter().rev()).enumerate() {
            let value = vec![round as u8; len];
            let change = [Deadline::Keep, Deadline::At(round as i64), Deadline::Clear][round % 3];
            keyspace.set_str(0, keyspace.key(&name), &value, change);
            let entry = keyspace.peek(0, keyspace.key(&name)).unwrap();
            assert!(entry.key() == name && text(entry) == value, "key {key_len}, value {len}");
            assert_eq!(entry.deadline_ms().is_some(), round % 3 == 1);
        }
    }
    keyspace.begin_walk().unwrap();
    let mut walked = Contents::new();
    while let Some(chunk) = keyspace.walk_slice(1) {
        collect(&chunk, &mut walked);
    }
    assert!(walked == contents(&keyspace));
    for key_len in SIZES {
        assert!(keyspace.remove(0, keyspace.key(&vec![b'k'; key_len])));
    }
    assert!(keyspace.memory_bytes() < 2000, "one segment is left");
}

#[test]
fn a_string_keeps_its_deadline_while_it_grows_out_of_its_entry_and_back() {
    let mut keyspace = keyspace();
    keyspace.set_str(0, keyspace.key(b"log"), b"", Deadline::At(77));
    for turn in 0..10_000u32 {
        let len = keyspace.str_mut(0, keyspace.key(b"log"), |bytes| {
            bytes.push(turn as u8);
            bytes.len()
        });
        assert_eq!(len, Some(turn as usize + 1));
    }
    let entry = keyspace.peek(0, keyspace.key(b"log")).unwrap();
    assert!(text(entry).iter().enumerate().all(|(turn, byte)| turn as u8 == *byte));
    assert_eq!((text(entry).len(), entry.deadline_ms(), entry.type_name()), (10_000, Some(77), "string"));
    let grown = keyspace.memory_bytes();
    keyspace.str_mut(0, keyspace.key(b"log"), |bytes| bytes.truncate(3));
    let entry = keyspace.peek(0, keyspace.key(b"log")).unwrap();
    assert_eq!((text(entry), entry.deadline_ms()), (&[0, 1, 2][..], Some(77)));
    assert!(keyspace.memory_bytes() + 10_000 < grown);
    assert_eq!(keyspace.str_mut(0, keyspace.key(b"other"), |_| ()), None);
}

#[test]
fn an_expired_key_is_absent_to_readers_and_present_to_its_owner() {
    let mut keyspace = keyspace();
    keyspace.set_str(0, keyspace.key(b"k"), b"v", Deadline::At(100));
    assert!(keyspace.get(0, keyspace.key(b"k"), 100).is_some(), "it lives in the millisecond of its deadline");
    assert!(!keyspace.take_saw_expired());
    assert!(keyspace.get(0, keyspace.key(b"k"), 101).is_none());
    assert!(keyspace.take_saw_expired());
    assert!(!keyspace.take_saw_expired(), "the flag is cleared by reading it");
    assert!(keyspace.random(0, 1, 101).is_none());
    assert_eq!(keyspace.scan(0, 0, 10, 101, |_| panic!("an expired key was visited")), 0);
    assert!(keyspace.peek(0, keyspace.key(b"k")).is_some());
    assert_eq!(keyspace.len(0), 1);
}

#[test]
fn expiry_takes_due_keys_in_bounded_steps_and_leaves_the_others() {
    let mut keyspace = keyspace();
    fill(&mut keyspace, 0, 0..3000);
    for number in 0..3000 {
        let name = name(number);
        keyspace.set_deadline(0, keyspace.key(&name), (number % 3 > 0).then_some(number as i64 % 3 * 1000));
    }
    assert_eq!(keyspace.avg_ttl_ms(0, 500), 1000);
    assert_eq!(keyspace.expire(0, 1000, 1000, |_| ()), 0, "nothing is due yet");
    let mut due = HashSet::new();
    let mut steps = 0;
    while due.len() < 1000 {
        assert!(keyspace.expire(0, 1001, 1, |key| assert!(due.insert(key.to_vec()))) <= 112);
        steps += 1;
        assert!(steps <= 64, "a table of 3000 keys has no more segments");
    }
    assert!(steps > 10, "a step looks at one segment");
    assert_eq!((keyspace.len(0), keyspace.with_deadline(0), keyspace.avg_ttl_ms(0, 1500)), (2000, 1000, 500));
}

#[test]
fn a_random_key_may_be_any_live_one() {
    let mut keyspace = keyspace();
    fill(&mut keyspace, 0, 0..1000);
    let drawn: HashSet<_> = (0..20_000).map(|n| keyspace.random(0, n * 7919, 0).unwrap().key().to_vec()).collect();
    assert_eq!(drawn.len(), 1000);
    for number in 1..1000 {
        let name = name(number);
        keyspace.set_deadline(0, keyspace.key(&name), Some(5));
    }
    assert!((0..100).all(|n| keyspace.random(0, n, 6).unwrap().key() == name(0)), "the one that has not expired");
}

#[test]
fn an_empty_database_takes_no_memory() {
    let mut keyspace = Keyspace::new(16, SEED);
    assert!(keyspace.get(3, keyspace.key(b"k"), 0).is_none());
    assert!(!keyspace.remove(3, keyspace.key(b"k")));
    assert_eq!(keyspace.memory_bytes(), 0);
    fill(&mut keyspace, 3, 0..1);
    assert!((1000..2000).contains(&keyspace.memory_bytes()));
}

#[test]
fn a_small_key_takes_less_than_eighty_bytes() {
    let mut keyspace = keyspace();
    fill(&mut keyspace, 0, 0..100_000);
    let per_key = keyspace.memory_bytes() / 100_000;
    assert!((56..80).contains(&per_key), "{per_key} bytes a key");
    let full = keyspace.memory_bytes();
    for number in 0..100_000 {
        let name = name(number);
        keyspace.remove(0, keyspace.key(&name));
    }
    assert_eq!(full - keyspace.memory_bytes(), 56 * 100_000, "removed entries are not counted any more");
}

#[test]
fn a_reserved_database_takes_no_more_than_a_grown_one_whatever_was_declared() {
    let mut reserved = keyspace();
    reserved.reserve(0, 50_000);
    fill(&mut reserved, 0, 0..50_000);
    let mut grown = keyspace();
    fill(&mut grown, 0, 0..50_000);
    assert_eq!(reserved.memory_bytes(), grown.memory_bytes());
    assert!(contents(&reserved) == contents(&grown));
    reserved.reserve(1, usize::MAX);
    assert!(reserved.memory_bytes() - grown.memory_bytes() < 20 << 20);
}

#[test]
fn a_walk_goes_in_the_order_of_hashes() {
    let mut keyspace = keyspace();
    fill(&mut keyspace, 0, 0..60_000);
    keyspace.begin_walk().unwrap();
    let mut hashes = Vec::new();
    while let Some(chunk) = keyspace.walk_slice(10_000) {
        assert!(chunk.len_bytes() < 10_000 + 112 * (24 + 48), "a slice ends with the segment that fills it");
        hashes.extend(chunk.iter().map(|frame| keyspace.hash(frame.key) >> 56));
    }
    assert_eq!(hashes.len(), 60_000);
    assert!(hashes.is_sorted());
    assert_eq!(keyspace.walk_preimage_bytes(), 0);
}

#[test]
fn only_the_first_write_to_an_entry_costs_the_walk_a_pre_image_and_that_of_the_entry_alone() {
    const ENTRY: u64 = 24 + 16 + 32;
    let mut keyspace = keyspace();
    fill(&mut keyspace, 0, 0..50);
    keyspace.begin_walk().unwrap();
    assert_eq!(keyspace.walk_preimage_bytes(), 0);
    fill(&mut keyspace, 0, 0..1);
    assert_eq!(keyspace.walk_preimage_bytes(), ENTRY);
    fill(&mut keyspace, 0, 0..1);
    fill(&mut keyspace, 0, 50..60);
    assert_eq!(keyspace.walk_preimage_bytes(), ENTRY, "it is saved, and what is new is none of the walk's");
    fill(&mut keyspace, 0, 60..500);
    assert_eq!(keyspace.walk_preimage_bytes(), 50 * ENTRY, "a segment is saved whole before it splits");
    fill(&mut keyspace, 1, 0..500);
    assert_eq!(keyspace.walk_preimage_bytes(), 50 * ENTRY, "a database made later takes no part");
}

#[test]
fn a_table_flushed_during_a_walk_is_dropped_when_the_walk_has_passed_it() {
    let mut keyspace = keyspace();
    fill(&mut keyspace, 0, 0..5000);
    keyspace.begin_walk().unwrap();
    assert_eq!(keyspace.flush(0), 5000);
    assert!(keyspace.is_empty(0) && keyspace.memory_bytes() > 5000 * 56);
    let mut walked = Contents::new();
    while let Some(chunk) = keyspace.walk_slice(4096) {
        collect(&chunk, &mut walked);
    }
    assert_eq!((walked.len(), keyspace.memory_bytes()), (5000, 0));
}

/// Adds numbers to a list at `key`.
fn push(keyspace: &mut Keyspace, key: &[u8], numbers: std::ops::Range<usize>) {
    let push = |list: &mut List| numbers.for_each(|number| list.push_back(number.to_string().as_bytes()));
    let pushed = keyspace.edit(0, keyspace.key(key), 0, Absent::Create, push);
    assert_eq!(pushed, Ok(Some(())));
}

fn list_len(keyspace: &Keyspace, key: &[u8]) -> Option<usize> {
    match keyspace.peek(0, keyspace.key(key))?.value() {
        ValueRef::List(list) => Some(list.len()),
        other => panic!("{other:?} is no list"),
    }
}

#[test]
fn an_edit_creates_what_is_absent_and_removes_what_is_empty() {
    let mut keyspace = keyspace();
    let key = keyspace.key(b"list");
    let pop = |list: &mut List| list.pop_front();
    assert_eq!(keyspace.edit(0, key, 0, Absent::Skip, pop), Ok(None));
    assert_eq!(keyspace.edit(0, key, 0, Absent::Create, pop), Ok(Some(None)));
    assert_eq!(keyspace.len(0), 0);
    push(&mut keyspace, b"list", 0..2);
    keyspace.set_deadline(0, key, Some(500));
    assert_eq!(keyspace.edit(0, key, 0, Absent::Skip, pop), Ok(Some(Some(b"0".to_vec()))));
    assert_eq!(keyspace.peek(0, key).and_then(EntryRef::deadline_ms), Some(500));
    assert_eq!(keyspace.edit(0, key, 0, Absent::Skip, pop), Ok(Some(Some(b"1".to_vec()))));
    assert_eq!((keyspace.len(0), keyspace.with_deadline(0)), (0, 0));
}

#[test]
fn an_edit_of_another_type_is_refused_and_an_expired_key_is_absent_to_it() {
    let mut keyspace = keyspace();
    let add = |set: &mut Set| set.insert(b"member", 10);
    for (key, length) in [(b"short", 5), (b"long ", 5000)] {
        let key = keyspace.key(key);
        keyspace.set_str(0, key, &vec![b'v'; length], Deadline::At(500));
        assert_eq!(keyspace.edit(0, key, 500, Absent::Create, add), Err(WrongType));
        assert_eq!(keyspace.edit(0, key, 501, Absent::Skip, add), Ok(None));
        assert_eq!(keyspace.edit(0, key, 501, Absent::Create, add), Ok(Some(true)));
        assert_eq!(keyspace.peek(0, key).map(EntryRef::deadline_ms), Some(None));
        assert_eq!(keyspace.edit(0, key, 501, Absent::Create, |_: &mut Hash| ()), Err(WrongType));
        assert_eq!(keyspace.str_mut(0, key, |_| ()), None);
    }
    assert_eq!((keyspace.len(0), keyspace.with_deadline(0)), (2, 0));
}

#[test]
fn an_aggregate_counts_with_what_it_takes_as_it_grows_and_when_it_goes() {
    let mut keyspace = keyspace();
    push(&mut keyspace, b"list", 0..1);
    let small = keyspace.memory_bytes();
    push(&mut keyspace, b"list", 1..10_000);
    let big = keyspace.memory_bytes();
    assert!(big > small + 10_000, "{small} {big}");
    let (value, _) = keyspace.take(0, keyspace.key(b"list")).expect("it is there");
    let empty = keyspace.memory_bytes();
    assert!(empty < small);
    keyspace.insert(0, keyspace.key(b"list"), value, None);
    assert_eq!(keyspace.memory_bytes(), big);
    keyspace.set_str(0, keyspace.key(b"list"), b"", Deadline::Keep);
    assert!(keyspace.memory_bytes() < small);
}

#[test]
fn a_walk_gives_a_big_value_as_it_was_and_copies_only_a_little_of_it() {
    let mut keyspace = keyspace();
    push(&mut keyspace, b"kept", 0..10_000);
    push(&mut keyspace, b"gone", 0..10_000);
    let bytes = keyspace.memory_bytes() as u64;
    keyspace.begin_walk().unwrap();
    push(&mut keyspace, b"kept", 0..5);
    push(&mut keyspace, b"made", 0..5);
    keyspace.remove(0, keyspace.key(b"gone"));
    assert!(keyspace.walk_preimage_bytes() < bytes / 20);
    let mut walked = BTreeMap::new();
    while let Some(chunk) = keyspace.walk_slice(4096) {
        for frame in chunk.iter() {
            let ValueRef::List(list) = frame.value else { unreachable!("only lists are stored") };
            walked.insert(frame.key.to_vec(), list.len());
        }
    }
    assert_eq!(walked, BTreeMap::from([(b"gone".to_vec(), 10_000), (b"kept".to_vec(), 10_000)]));
    assert_eq!(["kept", "gone", "made"].map(|key| list_len(&keyspace, key.as_bytes())), [Some(10_005), None, Some(5)]);
}

#[test]
fn chunks_and_the_keyspace_can_go_to_another_thread() {
    fn is_send<T: Send>(_: &T) {}
    is_send(&Chunk::default());
    is_send(&keyspace());
}

#[test]
fn prefetching_is_harmless_whatever_the_hash() {
    let mut keyspace = keyspace();
    for round in 0..3 {
        for hash in (0..1000).map(|n| keyspace.hash(&name(n))) {
            keyspace.prefetch_slot(0, hash);
            keyspace.prefetch_entry(0, hash);
            keyspace.prefetch_value(0, hash);
            let _ = keyspace.likely_value(0, hash).map(|value| value.prefetch_segment(b"element"));
        }
        fill(&mut keyspace, 0, round * 300..(round + 1) * 300);
    }
    assert_eq!(keyspace.len(0), 900);
}
