//! A list against a `VecDeque`, and what it costs.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::directory::Slot;
use super::node::NODE_BYTES_MAX;
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Push(End, Vec<u8>),
    Pop(End),
    Set(usize, Vec<u8>),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Trim(usize, usize),
    RemoveEqual(Vec<u8>, usize, End),
    /// From here on the list is shared with a clone that must not change.
    Clone,
}

/// Now and then as long as a node, so that there are many.
fn element() -> impl Strategy<Value = Vec<u8>> {
    let sized = |len: Range<usize>| (len, 0..3u8).prop_map(|(len, byte)| vec![byte; len]);
    prop_oneof![8 => sized(0..4), 4 => sized(0..300), 2 => sized(1500..4000), 1 => sized(8000..20_000)]
}

fn step() -> impl Strategy<Value = Step> {
    let end = || prop_oneof![Just(End::Front), Just(End::Back)];
    prop_oneof![
        12 => (end(), element()).prop_map(|(end, element)| Step::Push(end, element)),
        4 => end().prop_map(Step::Pop),
        3 => (any::<usize>(), element()).prop_map(|(index, element)| Step::Set(index, element)),
        6 => (any::<usize>(), element()).prop_map(|(index, element)| Step::Insert(index, element)),
        2 => (any::<usize>(), 0..8usize).prop_map(|(index, count)| Step::Remove(index, count)),
        1 => (0..4usize, 0..4usize).prop_map(|(front, back)| Step::Trim(front, back)),
        1 => (element(), 1..5usize, end()).prop_map(|(element, most, end)| Step::RemoveEqual(element, most, end)),
        1 => Just(Step::Clone),
    ]
}

type Model = VecDeque<Vec<u8>>;

fn remove_equal(model: &mut Model, element: &[u8], most: usize, from: End) -> usize {
    let mut found: Vec<usize> = (0..model.len()).filter(|index| model[*index] == element).collect();
    match from {
        End::Front => found.truncate(most),
        End::Back => drop(found.drain(..found.len().saturating_sub(most))),
    }
    found.iter().rev().for_each(|index| drop(model.remove(*index)));
    found.len()
}

fn apply(list: &mut List, model: &mut Model, step: Step) {
    let len = model.len();
    match step {
        Step::Push(End::Front, element) => {
            list.push_front(&element);
            model.push_front(element);
        }
        Step::Push(End::Back, element) => {
            list.push_back(&element);
            model.push_back(element);
        }
        Step::Pop(End::Front) => assert_eq!(list.pop_front(), model.pop_front()),
        Step::Pop(End::Back) => assert_eq!(list.pop_back(), model.pop_back()),
        Step::Set(index, element) if len > 0 => {
            list.set(index % len, &element);
            model[index % len] = element;
        }
        Step::Insert(index, element) => {
            list.insert(index % (len + 1), &element);
            model.insert(index % (len + 1), element);
        }
        Step::Remove(index, count) => {
            let index = index % (len + 1);
            let count = count.min(len - index);
            list.remove(index, count);
            model.drain(index..index + count);
        }
        Step::Trim(front, back) => {
            let start = front.min(len);
            let end = (len - back.min(len)).max(start);
            list.trim(start..end);
            model.drain(end..);
            model.drain(..start);
        }
        Step::RemoveEqual(element, most, from) => {
            let removed = list.remove_equal(&element, most, from);
            assert_eq!(removed, remove_equal(model, &element, most, from));
        }
        Step::Set(..) | Step::Clone => {}
    }
}

fn assert_same(list: &List, model: &Model) {
    assert_eq!(list.len(), model.len());
    assert!(list.iter().eq(model.iter()), "forwards");
    assert!(list.iter().rev().eq(model.iter().rev()), "backwards");
    let Form::Many(directory) = &list.0 else { return };
    assert!(directory.slots.len() > 1, "a directory of one");
    let sum = |of: &dyn Fn(&Slot) -> usize| directory.slots.iter().map(of).sum::<usize>();
    assert_eq!(directory.len, sum(&|slot| slot.len as usize));
    assert_eq!(directory.bytes, sum(&|slot| slot.node.heap_bytes()));
    for slot in &directory.slots {
        assert_eq!(slot.len, slot.node.len);
        assert!(slot.len == 1 || slot.len > 1 && slot.node.used_bytes() <= NODE_BYTES_MAX);
    }
}

proptest! {
    #[test]
    fn a_list_is_the_sequence_that_was_made_of_it(steps in proptest::collection::vec(step(), 1..200)) {
        let (mut list, mut model) = (List::new(), Model::new());
        let mut frozen = Vec::new();
        for step in steps {
            if let Step::Clone = step {
                frozen.push((list.clone(), model.clone()));
            }
            apply(&mut list, &mut model, step);
            assert_same(&list, &model);
        }
        for (list, model) in &frozen {
            assert_same(list, model);
        }
    }

    #[test]
    fn any_range_is_read_in_either_direction(elements in proptest::collection::vec(element(), 1..60), a: usize, b: usize) {
        let mut list = List::new();
        elements.iter().for_each(|element| list.push_back(element));
        let (a, b) = (a % (elements.len() + 1), b % (elements.len() + 1));
        let range = a.min(b)..a.max(b);
        assert!(list.range(range.clone()).eq(&elements[range.clone()]));
        assert!(list.range(range.clone()).rev().eq(elements[range].iter().rev()));
        for (index, element) in elements.iter().enumerate() {
            assert_eq!(list.get(index), Some(&element[..]));
        }
        assert_eq!(list.get(elements.len()), None);
    }
}

#[test]
fn a_queue_does_not_grow_with_what_went_through_it() {
    let mut list = List::new();
    for number in 0..100_000u32 {
        list.push_back(&number.to_be_bytes());
        if number >= 100 {
            assert_eq!(list.pop_front().as_deref(), Some(&(number - 100).to_be_bytes()[..]));
        }
    }
    assert!(list.heap_bytes() < 2_000, "{} bytes for 100 elements", list.heap_bytes());
}

#[test]
fn a_write_to_a_shared_list_copies_one_node() {
    let mut list = List::new();
    (0..100_000u32).for_each(|number| list.push_back(&number.to_be_bytes()));
    let shared = list.clone();
    list.set(50_000, b"other");
    let (Form::Many(ours), Form::Many(theirs)) = (&list.0, &shared.0) else { panic!("both are large") };
    let copied = ours.slots.iter().zip(&theirs.slots).filter(|(our, their)| !Arc::ptr_eq(&our.node, &their.node));
    assert_eq!(copied.count(), 1);
    assert_eq!(shared.get(50_000), Some(&50_000u32.to_be_bytes()[..]));
}

#[test]
fn insertions_at_one_place_leave_no_small_nodes_behind() {
    let mut list = List::new();
    (0..10_000u32).for_each(|number| list.push_back(&number.to_be_bytes()));
    for number in 0..10_000u32 {
        list.insert(5_000, &number.to_be_bytes());
    }
    let Form::Many(directory) = &list.0 else { panic!("it is large") };
    assert!(directory.slots.len() < 20_000 * 6 / NODE_BYTES_MAX * 3, "{} nodes", directory.slots.len());
}
