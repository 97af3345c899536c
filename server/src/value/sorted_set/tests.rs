use super::*;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

const ONE_IN: u32 = 8;
/// As it is configured unless told otherwise.
const SMALL: SmallForm = SmallForm { len_max: 128, string_bytes_max: 64 };

/// What a sorted set is, said simply.
#[derive(Clone, Debug, Default)]
struct Model(HashMap<Vec<u8>, f64>);

impl Model {
    fn entries(&self) -> Vec<(f64, Vec<u8>)> {
        let mut entries: Vec<_> = self.0.iter().map(|(member, score)| (*score, member.clone())).collect();
        entries.sort_by(|a, b| a.partial_cmp(b).expect("scores are numbers"));
        entries
    }
}

fn owned<'a>(entries: impl Iterator<Item = Entry<'a>>) -> Vec<(f64, Vec<u8>)> {
    entries.map(|entry| (entry.score, entry.member.to_vec())).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Vec<u8>, f64),
    /// So many members in a row, at the end, at the beginning or anywhere.
    InsertMany(u16, u16, i8),
    Remove(usize),
    RemoveRange(usize, usize),
    /// A clone is kept and must stay as it is.
    Keep,
}

fn member() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..3),
        4 => prop::collection::vec(any::<u8>(), 0..70),
        1 => prop::collection::vec(any::<u8>(), 1000..5000),
    ]
}

fn score() -> impl Strategy<Value = f64> {
    prop_oneof![
        (-3i8..3).prop_map(f64::from),
        any::<i64>().prop_map(|score| score as f64),
        any::<f32>().prop_filter_map("a number", |score| (!score.is_nan()).then_some(f64::from(score))),
        any::<f64>().prop_filter("a number", |score| !score.is_nan()),
        Just(f64::INFINITY),
        Just(-0.0),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (member(), score()).prop_map(|(member, score)| Step::Insert(member, score)),
        2 => (any::<u16>(), 0..300u16, -1..=1i8).prop_map(|(from, count, order)| Step::InsertMany(from, count, order)),
        4 => any::<usize>().prop_map(Step::Remove),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(start, len)| Step::RemoveRange(start, len)),
        1 => Just(Step::Keep),
    ]
}

fn apply(set: &mut SortedSet, model: &mut Model, step: &Step, small: SmallForm) {
    let insert = |set: &mut SortedSet, model: &mut Model, member: &[u8], score: f64| {
        let is_new = model.0.insert(member.to_vec(), score).is_none();
        assert_eq!(set.insert(member, score, small), is_new);
    };
    match step {
        Step::Insert(member, score) => insert(set, model, member, *score),
        Step::InsertMany(from, count, order) => {
            for number in 0..*count {
                let score = f64::from(number) * f64::from(*order);
                insert(set, model, format!("{}", from.wrapping_add(number)).as_bytes(), score);
            }
        }
        Step::Remove(index) if !set.is_empty() => {
            let (_, member) = model.entries().swap_remove(index % set.len());
            assert!(set.remove(&member) && !set.remove(&member));
            model.0.remove(&member);
        }
        Step::RemoveRange(start, len) if !set.is_empty() => {
            let start = start % set.len();
            let end = start + len % (set.len() - start + 1);
            set.remove_range(start..end);
            let removed = model.entries();
            for (_, member) in &removed[start..end] {
                model.0.remove(member);
            }
        }
        Step::Remove(_) | Step::RemoveRange(..) | Step::Keep => {}
    }
}

fn check(set: &SortedSet, model: &Model) {
    let entries = model.entries();
    assert_eq!(owned(set.iter()), entries);
    assert_eq!(owned(set.iter().rev()), entries.iter().rev().cloned().collect::<Vec<_>>());
    for (rank, (score, member)) in entries.iter().enumerate() {
        assert_eq!((set.rank(member), set.score(member)), (Some(rank), Some(*score)));
        assert_eq!(set.rank_where(|entry| entry.score < *score), entries.partition_point(|(other, _)| other < score));
    }
    let (start, end) = (set.len() / 3, set.len() - set.len() / 5);
    let mut both_ends = set.range(start..end);
    let mut expected = entries[start..end].iter().cloned().collect::<VecDeque<_>>();
    for index in 0.. {
        let from_front = index % 3 == 0;
        let found = if from_front { both_ends.next() } else { both_ends.next_back() };
        let wanted = if from_front { expected.pop_front() } else { expected.pop_back() };
        assert_eq!(found.map(|entry| (entry.score, entry.member.to_vec())), wanted);
        if wanted.is_none() {
            break;
        }
    }
    if let Form::Big(big) = &set.0 {
        big.order.check();
        assert_eq!(big.scores.len(), set.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_sorted_set_does_as_its_model_and_its_clones_stay(
        steps in prop::collection::vec(step(), 1..60),
        len_max in prop_oneof![Just(0), Just(128)],
    ) {
        let small = SmallForm { len_max, ..SMALL };
        let (mut set, mut model) = (SortedSet::new(), Model::default());
        let mut kept = Vec::new();
        for step in &steps {
            if let Step::Keep = step {
                kept.push((set.clone(), model.clone()));
            }
            apply(&mut set, &mut model, step, small);
        }
        kept.push((set, model));
        kept.iter().for_each(|(set, model)| check(set, model));
    }

    #[test]
    fn a_score_is_kept_to_the_bit(score in score()) {
        let mut run = Run::default();
        run.insert(run.place(&|_| true), Entry { score, member: b"m" });
        prop_assert_eq!(run.first().map(|entry| entry.score.to_bits()), Some(score.to_bits()));
    }
}

#[test]
fn a_scan_sees_what_stays_though_others_come_and_go() {
    let mut set = SortedSet::new();
    let name = |number: u32| format!("member-{number}");
    for number in 0..1_000 {
        set.insert(name(number).as_bytes(), f64::from(number), SMALL);
    }
    let mut seen = HashSet::new();
    let mut cursor = 0;
    for step in 0.. {
        cursor = set.scan(cursor, 10, |entry| {
            seen.insert(entry.member.to_vec());
        });
        if cursor == 0 {
            break;
        }
        set.insert(name(1_000 + step).as_bytes(), 0.0, SMALL);
        let number = step * ONE_IN;
        set.remove(name(number).as_bytes());
    }
    let stayed = (0..1_000).filter(|number| number % ONE_IN != 0);
    stayed.for_each(|number| assert!(seen.contains(name(number).as_bytes()), "{number}"));
}

#[test]
fn members_added_at_an_end_fill_the_tree() {
    for sign in [-1.0, 1.0] {
        let mut set = SortedSet::new();
        for number in 0..100_000_u32 {
            let score = sign * f64::from(number);
            set.insert(format!("member-{number:06}").as_bytes(), score, SMALL);
        }
        let Form::Big(big) = &set.0 else { panic!("100,000 members are many") };
        big.order.check();
        let entries_per_run = set.len() as f64 / big.order.runs() as f64;
        assert!(entries_per_run > 0.9 * tree::RUN_ENTRIES_MAX as f64, "{entries_per_run}");
    }
}

#[test]
fn a_small_one_takes_less_than_a_listpack() {
    let mut set = SortedSet::new();
    for number in 0..100 {
        set.insert(format!("user:{number:04}").as_bytes(), f64::from(number * 100), SMALL);
    }
    // A listpack: a byte before and one behind each string, four for each such integer, seven for all.
    assert!(set.heap_bytes() < 100 * (9 + 2 + 4) + 7, "{}", set.heap_bytes());
}
