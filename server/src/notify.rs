//! Keyspace notifications: what happens to keys is published, to those who want to hear of it.
//!
//! ```text
//! SET greeting hello   __keyspace@0__:greeting  set          (K)
//!                      __keyevent@0__:set       greeting     (E)
//! ```
//!
//! Source: <https://redis.io/docs/latest/develop/use/keyspace-notifications/>. A handler says what it has done beside its
//! effect; it is published when the command is over, in the order in which it was said. While nobody asked for anything,
//! all of it costs one look at [`Classes`].

use std::fmt;
use std::ops::BitOr;

/// Classes of events, as `notify-keyspace-events` names them by letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Classes(u16);

impl Classes {
    /// None.
    pub const NONE: Classes = Classes(0);
    /// `K`: published under the key's name.
    pub const KEYSPACE: Classes = Classes(1);
    /// `E`: published under the event's name.
    pub const KEYEVENT: Classes = Classes(1 << 1);
    /// `g`: about keys of any type.
    pub const GENERIC: Classes = Classes(1 << 2);
    /// `$`
    pub const STRING: Classes = Classes(1 << 3);
    /// `l`
    pub const LIST: Classes = Classes(1 << 4);
    /// `s`
    pub const SET: Classes = Classes(1 << 5);
    /// `h`
    pub const HASH: Classes = Classes(1 << 6);
    /// `z`
    pub const SORTED_SET: Classes = Classes(1 << 7);
    /// `x`: a key's time has come.
    pub const EXPIRED: Classes = Classes(1 << 8);
    /// `e`: a key had to go because memory ran out.
    pub const EVICTED: Classes = Classes(1 << 9);
    /// `t`
    pub const STREAM: Classes = Classes(1 << 10);
    /// `d`: of modules, of which there are none.
    pub const MODULE: Classes = Classes(1 << 11);
    /// `m`: a key was looked for in vain. Not one of [`Classes::ALL`].
    pub const MISS: Classes = Classes(1 << 12);
    /// `n`: there is a key that was not there. Not one of [`Classes::ALL`].
    pub const NEW: Classes = Classes(1 << 13);
    /// `A`
    pub const ALL: Classes = Classes((Classes::MODULE.0 << 1) - Classes::GENERIC.0);

    const LETTERS: [(u8, Classes); 14] = [
        (b'g', Classes::GENERIC),
        (b'$', Classes::STRING),
        (b'l', Classes::LIST),
        (b's', Classes::SET),
        (b'h', Classes::HASH),
        (b'z', Classes::SORTED_SET),
        (b'x', Classes::EXPIRED),
        (b'e', Classes::EVICTED),
        (b't', Classes::STREAM),
        (b'd', Classes::MODULE),
        (b'n', Classes::NEW),
        (b'K', Classes::KEYSPACE),
        (b'E', Classes::KEYEVENT),
        (b'm', Classes::MISS),
    ];

    /// Those that the letters name; `None` if one of these names nothing.
    pub fn parse(letters: &[u8]) -> Option<Classes> {
        letters.iter().try_fold(Classes::NONE, |classes, letter| {
            let own = Classes::LETTERS.iter().find(|(own, _)| own == letter).map(|(_, class)| *class);
            let all = (*letter == b'A').then_some(Classes::ALL);
            Some(classes | own.or(all)?)
        })
    }

    /// Whether one of `others` is among them.
    #[inline]
    pub fn has(self, others: Classes) -> bool {
        self.0 & others.0 != 0
    }
}

impl BitOr for Classes {
    type Output = Classes;

    fn bitor(self, other: Classes) -> Classes {
        Classes(self.0 | other.0)
    }
}

/// As `CONFIG GET` shows them.
impl fmt::Display for Classes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_all = self.0 & Classes::ALL.0 == Classes::ALL.0;
        if is_all {
            f.write_str("A")?;
        }
        let shown = |class: Classes| self.has(class) && !(is_all && Classes::ALL.has(class));
        Classes::LETTERS
            .iter()
            .filter(|(_, class)| shown(*class))
            .try_for_each(|(letter, _)| write!(f, "{}", char::from(*letter)))
    }
}

/// Something that has happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name.
    pub name: &'static str,
    /// The key's database.
    pub db: usize,
    /// The key.
    pub key: Box<[u8]>,
}

impl Event {
    /// The channels that it goes to, each with the message, as far as `classes` has them.
    pub fn messages(&self, classes: Classes) -> impl Iterator<Item = (Vec<u8>, &[u8])> {
        let channel = |kind: &str, of: &[u8]| [format!("__{kind}@{}__:", self.db).as_bytes(), of].concat();
        let by_key = classes.has(Classes::KEYSPACE).then(|| (channel("keyspace", &self.key), self.name.as_bytes()));
        let by_name =
            classes.has(Classes::KEYEVENT).then(|| (channel("keyevent", self.name.as_bytes()), &self.key[..]));
        by_key.into_iter().chain(by_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_shown_as_they_can_be_read_again() {
        for (letters, shown) in [("", ""), ("KEA", "AKE"), ("lg$", "g$l"), ("EAmn", "AnEm"), ("g$lshzxetd", "A")] {
            let classes = Classes::parse(letters.as_bytes()).expect("known letters");
            assert_eq!(classes.to_string(), shown);
            assert_eq!(Classes::parse(shown.as_bytes()), Some(classes));
        }
        assert_eq!(Classes::parse(b"Kq"), None);
    }
}
