//! Different integers in ascending order, each as wide as the widest of them must be.

use crate::value::reserve;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) enum Integers {
    Narrow(Vec<i16>),
    Middle(Vec<i32>),
    Wide(Vec<i64>),
}

fn insert<T: Ord>(list: &mut Vec<T>, value: T) -> bool {
    let Err(index) = list.binary_search(&value) else { return false };
    reserve(list, 1);
    list.insert(index, value);
    true
}

fn remove<T: Ord>(list: &mut Vec<T>, value: T) -> bool {
    let found = list.binary_search(&value);
    found.is_ok_and(|index| {
        list.remove(index);
        true
    })
}

impl Integers {
    pub(super) fn new() -> Integers {
        Integers::Narrow(Vec::new())
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Integers::Narrow(list) => list.len(),
            Integers::Middle(list) => list.len(),
            Integers::Wide(list) => list.len(),
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Integers::Narrow(list) => list.capacity() * size_of::<i16>(),
            Integers::Middle(list) => list.capacity() * size_of::<i32>(),
            Integers::Wide(list) => list.capacity() * size_of::<i64>(),
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<i64> {
        match self {
            Integers::Narrow(list) => list.get(index).copied().map(i64::from),
            Integers::Middle(list) => list.get(index).copied().map(i64::from),
            Integers::Wide(list) => list.get(index).copied(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = i64> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    pub(super) fn contains(&self, value: i64) -> bool {
        match self {
            Integers::Narrow(list) => i16::try_from(value).is_ok_and(|value| list.binary_search(&value).is_ok()),
            Integers::Middle(list) => i32::try_from(value).is_ok_and(|value| list.binary_search(&value).is_ok()),
            Integers::Wide(list) => list.binary_search(&value).is_ok(),
        }
    }

    pub(super) fn insert(&mut self, value: i64) -> bool {
        match self {
            Integers::Narrow(list) => {
                if let Ok(value) = i16::try_from(value) {
                    return insert(list, value);
                }
            }
            Integers::Middle(list) => {
                if let Ok(value) = i32::try_from(value) {
                    return insert(list, value);
                }
            }
            Integers::Wide(list) => return insert(list, value),
        }
        *self = if i32::try_from(value).is_ok() {
            Integers::Middle(self.iter().map(|value| value as i32).collect())
        } else {
            Integers::Wide(self.iter().collect())
        };
        self.insert(value)
    }

    pub(super) fn remove(&mut self, value: i64) -> bool {
        match self {
            Integers::Narrow(list) => i16::try_from(value).is_ok_and(|value| remove(list, value)),
            Integers::Middle(list) => i32::try_from(value).is_ok_and(|value| remove(list, value)),
            Integers::Wide(list) => remove(list, value),
        }
    }
}
