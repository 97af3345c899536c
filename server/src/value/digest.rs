//! A number that tells values apart by what they hold, however they are stored.

use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;

use super::ValueRef;
use super::stream::{Id, Stream};

/// The number of a row of strings.
pub fn digest(strings: &[&[u8]]) -> u128 {
    // The same in all servers, since digests are there to compare them.
    let mut hasher = SipHasher13::new_with_keys(0, 0);
    for string in strings {
        hasher.write(&(string.len() as u64).to_le_bytes());
        hasher.write(string);
    }
    hasher.finish128().as_u128()
}

impl ValueRef<'_> {
    /// The same for equal values, and for others hardly ever. What has no order is added up.
    pub fn digest(self) -> u128 {
        let of_type = digest(&[self.type_name().as_bytes()]);
        let of_elements = match self {
            ValueRef::Str(bytes) => digest(&[bytes]),
            ValueRef::List(list) => {
                list.iter().fold(0_u128, |before, element| digest(&[&before.to_le_bytes(), element]))
            }
            ValueRef::Hash(hash) => {
                hash.iter().map(|(field, value)| digest(&[field, value])).fold(0, u128::wrapping_add)
            }
            ValueRef::Set(set) => set.iter().map(|member| digest(&[&member])).fold(0, u128::wrapping_add),
            ValueRef::SortedSet(set) => {
                let entries = set.iter().map(|entry| digest(&[entry.member, &entry.score.to_le_bytes()]));
                entries.fold(0, u128::wrapping_add)
            }
            ValueRef::Stream(stream) => of_stream(stream),
        };
        of_type.wrapping_add(of_elements)
    }
}

/// Without what replicas are not told: when consumers were seen, and how often they looked at what they had read.
fn of_stream(stream: &Stream) -> u128 {
    let id = |id: Id| [id.ms.to_le_bytes(), id.seq.to_le_bytes()].concat();
    let add = |before: u128, strings: &[&[u8]]| digest(&[&before.to_le_bytes(), &digest(strings).to_le_bytes()]);
    let history = [id(stream.last_id()), id(stream.max_deleted_id()), stream.entries_added().to_le_bytes().to_vec()];
    let mut sum = add(0, &[&history.concat()]);
    for entry in stream.range(Id::MIN, Id::MAX) {
        let own = id(entry.id);
        sum = add(sum, &[own.as_slice()].into_iter().chain(entry.fields).collect::<Vec<_>>());
    }
    for (name, group) in stream.groups() {
        sum = add(sum, &[name, &id(group.last_id), &group.entries_read.unwrap_or(-1).to_le_bytes()]);
        sum = group.consumers().fold(sum, |sum, (name, _)| add(sum, &[name]));
        let mut pending = group.pending(Id::MIN, Id::MAX);
        sum = pending.by_ref().fold(sum, |sum, (of, delivery)| add(sum, &[&id(of), &delivery.consumer]));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::super::{List, Set};
    use super::*;

    #[test]
    fn the_order_counts_in_a_list_and_not_in_a_set() {
        let list = |elements: [&str; 2]| {
            let mut list = List::new();
            elements.iter().for_each(|element| list.push_back(element.as_bytes()));
            ValueRef::List(&list).digest()
        };
        let set = |members: [&str; 2]| {
            let mut set = Set::new();
            members.iter().for_each(|member| _ = set.insert(member.as_bytes(), 0));
            ValueRef::Set(&set).digest()
        };
        assert_eq!(set(["a", "b"]), set(["b", "a"]));
        assert_ne!(list(["a", "b"]), list(["b", "a"]));
        assert_ne!(list(["ab", ""]), list(["a", "b"]));
        assert_ne!(list(["a", "b"]), set(["a", "b"]));
    }
}
