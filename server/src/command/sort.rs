//! `SORT`, `SORT_RO`: <https://redis.io/docs/latest/commands/sort/>.

use std::cmp::Ordering;
use std::ops::Range;

use super::{Args, Effect, ErrorReply, ReadContext, Result, WriteContext, parse_integer};
use crate::instance::Stats;
use crate::keyspace::{EntryRef, Keyspace};
use crate::notify::Classes;
use crate::number::parse_f64;
use crate::resp::append_request;
use crate::value::{List, Member, ValueRef};

/// How many elements one command takes to replicas.
const PROPAGATED_LEN: usize = 100_000;

/// Where the elements, and the values that they are sorted by or replaced with, are looked up.
struct Source<'a> {
    keyspace: &'a Keyspace,
    db: usize,
    expiry_ms: i64,
    stats: &'a Stats,
}

/// A pattern such as `weight_*` or `user:*->age`: the name of a key, with an element in place of the asterisk, and of a
/// field of the hash that it holds.
#[derive(Clone, Copy)]
enum Pattern<'a> {
    /// `#`: the element itself.
    Element,
    Key {
        before: &'a [u8],
        behind: &'a [u8],
        field: Option<&'a [u8]>,
    },
    /// Without an asterisk it names nothing.
    Constant,
}

impl<'a> Pattern<'a> {
    fn parse(text: &'a [u8]) -> Self {
        let Some(star) = memchr::memchr(b'*', text) else {
            return if text == b"#" { Pattern::Element } else { Pattern::Constant };
        };
        let (before, behind) = (&text[..star], &text[star + 1..]);
        let arrow = behind.windows(2).position(|pair| pair == b"->").filter(|at| at + 2 < behind.len());
        match arrow {
            Some(at) => Pattern::Key { before, behind: &behind[..at], field: Some(&behind[at + 2..]) },
            None => Pattern::Key { before, behind, field: None },
        }
    }
}

impl<'a> Source<'a> {
    /// The live entry, which is used with that.
    fn get(&self, name: &[u8]) -> Option<EntryRef<'a>> {
        let key = self.keyspace.key(name);
        let entry = self.keyspace.get(self.db, key, self.expiry_ms);
        match entry {
            Some(entry) => {
                entry.touch(self.keyspace.clock(), key.hash);
                self.stats.keyspace_hits.update(|hits| hits + 1);
            }
            None => self.stats.keyspace_misses.update(|misses| misses + 1),
        }
        entry
    }

    /// What a pattern means for an element.
    fn find(&self, pattern: Pattern, element: Member<'a>) -> Option<Member<'a>> {
        let (before, behind, field) = match pattern {
            Pattern::Element => return Some(element),
            Pattern::Key { before, behind, field } => (before, behind, field),
            Pattern::Constant => return None,
        };
        match (self.get(&[before, &element, behind].concat())?.value(), field) {
            (ValueRef::Str(value), None) => Some(Member::Text(value)),
            (ValueRef::Hash(hash), Some(field)) => hash.get(field).map(Member::Text),
            _ => None,
        }
    }
}

/// What the arguments ask for.
struct Order<'a> {
    descending: bool,
    alphabetic: bool,
    by: Option<Pattern<'a>>,
    /// The first, and how many.
    limit: (i64, i64),
    get: Vec<Pattern<'a>>,
    store: Option<&'a [u8]>,
}

impl<'a> Order<'a> {
    fn parse(args: Args<'a>) -> Result<Self> {
        let mut order =
            Order { descending: false, alphabetic: false, by: None, limit: (0, -1), get: Vec::new(), store: None };
        let mut index = 2;
        while index < args.len() {
            let option = args.get(index).to_ascii_lowercase();
            match (option.as_slice(), args.maybe(index + 1), args.maybe(index + 2)) {
                (b"asc", ..) => order.descending = false,
                (b"desc", ..) => order.descending = true,
                (b"alpha", ..) => order.alphabetic = true,
                (b"limit", Some(first), Some(count)) => {
                    order.limit = (parse_integer(first)?, parse_integer(count)?);
                    index += 2;
                }
                (b"store", Some(name), _) => {
                    order.store = Some(name);
                    index += 1;
                }
                (b"by", Some(pattern), _) => {
                    order.by = Some(Pattern::parse(pattern));
                    index += 1;
                }
                (b"get", Some(pattern), _) => {
                    order.get.push(Pattern::parse(pattern));
                    index += 1;
                }
                _ => return Err(ErrorReply::SYNTAX),
            }
            index += 1;
        }
        Ok(order)
    }

    /// Which of so many elements are wanted.
    fn range(&self, len: usize) -> Range<usize> {
        let start = usize::try_from(self.limit.0).unwrap_or(0).min(len);
        let count = usize::try_from(self.limit.1).unwrap_or(len);
        start..start.saturating_add(count).min(len)
    }

    /// The elements of the value, in order, as far as they are wanted.
    fn elements(&self, source: &Source<'a>, value: ValueRef<'a>) -> Result<Vec<Member<'a>>> {
        let is_constant = matches!(self.by, Some(Pattern::Constant | Pattern::Element));
        let (mut elements, native): (Vec<Member>, bool) = match value {
            ValueRef::List(list) => (list.iter().map(Member::Text).collect(), true),
            ValueRef::SortedSet(set) => (set.iter().map(|entry| Member::Text(entry.member)).collect(), true),
            ValueRef::Set(set) => (set.iter().collect(), false),
            ValueRef::Str(_) | ValueRef::Hash(_) | ValueRef::Stream(_) => return Err(ErrorReply::WRONG_TYPE),
        };
        if !is_constant {
            elements = self.sorted(source, elements, self.by, self.alphabetic)?;
        } else if native && self.descending {
            elements.reverse();
        } else if !native && self.store.is_some() {
            // What has no order of its own must still be stored in the same one everywhere.
            elements = self.sorted(source, elements, None, true)?;
        }
        let wanted = self.range(elements.len());
        elements.truncate(wanted.end);
        elements.drain(..wanted.start);
        Ok(elements)
    }

    fn sorted(
        &self,
        source: &Source<'a>,
        elements: Vec<Member<'a>>,
        by: Option<Pattern>,
        alphabetic: bool,
    ) -> Result<Vec<Member<'a>>> {
        let weight = |element: Member<'a>| match by {
            None => Some(element),
            Some(pattern) => source.find(pattern, element),
        };
        if alphabetic {
            let weighed = elements.into_iter().map(|element| (weight(element), element)).collect();
            return Ok(self.by_weight(weighed, |(first, _), (second, _)| first.as_deref().cmp(&second.as_deref())));
        }
        let score =
            |element| weight(element).map_or(Some(0.0), |weight| parse_score(&weight)).map(|score| (score, element));
        let weighed: Option<Vec<_>> = elements.into_iter().map(score).collect();
        let weighed = weighed.ok_or(ErrorReply::new("ERR One or more scores can't be converted into double"))?;
        let compare = |first: &(f64, Member), second: &(f64, Member)| {
            first.0.partial_cmp(&second.0).unwrap_or(Ordering::Equal).then_with(|| first.1.cmp(&second.1))
        };
        Ok(self.by_weight(weighed, compare))
    }

    fn by_weight<W>(
        &self,
        mut weighed: Vec<(W, Member<'a>)>,
        compare: impl Fn(&(W, Member<'a>), &(W, Member<'a>)) -> Ordering,
    ) -> Vec<Member<'a>> {
        weighed.sort_by(|first, second| {
            let order = compare(first, second);
            if self.descending { order.reverse() } else { order }
        });
        weighed.into_iter().map(|(_, element)| element).collect()
    }

    /// What is asked for of each element of what is sorted.
    fn run(&self, source: &Source<'a>, sorted: Option<EntryRef<'a>>) -> Result<Vec<Option<Member<'a>>>> {
        let Some(entry) = sorted else { return Ok(Vec::new()) };
        let elements = self.elements(source, entry.value())?;
        if self.get.is_empty() {
            return Ok(elements.into_iter().map(Some).collect());
        }
        let all = elements.into_iter().flat_map(|element| self.get.iter().map(move |pattern| (*pattern, element)));
        Ok(all.map(|(pattern, element)| source.find(pattern, element)).collect())
    }
}

/// A number as C's `strtod` reads it: blanks may come first, it ends where C's strings do, and nothing is zero.
fn parse_score(text: &[u8]) -> Option<f64> {
    let text = &text[..memchr::memchr(0, text).unwrap_or(text.len())];
    if text.is_empty() { Some(0.0) } else { parse_f64(text.trim_ascii_start()) }
}

pub(super) fn sort_ro(context: &mut ReadContext, args: Args) -> Result<()> {
    let order = Order::parse(args)?;
    if order.store.is_some() {
        return Err(ErrorReply::SYNTAX);
    }
    let ReadContext { keyspace, db, expiry_ms, stats, .. } = *context;
    let source = Source { keyspace, db, expiry_ms, stats };
    let values = order.run(&source, context.get(args.first_key()))?;
    context.reply.array(values.len());
    values.into_iter().for_each(|value| context.reply.bulk_or_null(value.as_deref()));
    Ok(())
}

pub(super) fn sort(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let order = Order::parse(args)?;
    context.looked_up(args.first_key());
    let source =
        Source { keyspace: context.keyspace, db: context.db, expiry_ms: context.expiry_ms, stats: context.stats };
    let sorted = source.keyspace.get(source.db, args.first_key(), source.expiry_ms);
    let values = order.run(&source, sorted)?;
    let Some(name) = order.store else {
        context.reply.array(values.len());
        values.into_iter().for_each(|value| context.reply.bulk_or_null(value.as_deref()));
        return Ok(Effect::None);
    };
    let mut list = List::new();
    values.iter().for_each(|value| list.push_back(value.as_deref().unwrap_or_default()));
    let target = context.keyspace.key(name);
    let changes = !list.is_empty() || context.get(target).is_some();
    context.reply.integer(list.len() as i64);
    propagate(context.effect, name, &values);
    let is_stored = !list.is_empty();
    context.store(target, list);
    if !changes {
        return Ok(Effect::None);
    }
    if is_stored {
        context.notify(Classes::LIST, "sortstore", name);
    } else {
        context.notify(Classes::GENERIC, "del", name);
    }
    Ok(Effect::Rewritten)
}

/// The list itself: what is a number in an element, and how strings are compared, is not the same for every server.
fn propagate(effect: &mut Vec<u8>, name: &[u8], values: &[Option<Member>]) {
    append_request(effect, &[b"DEL", name]);
    for values in values.chunks(PROPAGATED_LEN) {
        let values = values.iter().map(|value| value.as_deref().unwrap_or_default());
        append_request(effect, &[&b"RPUSH"[..], name].into_iter().chain(values).collect::<Vec<_>>());
    }
}
