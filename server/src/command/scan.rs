//! The commands that walk over something in steps: `SCAN`, and `HSCAN`, `SSCAN`, `ZSCAN` over the elements of a value.

use super::{Args, ErrorReply, ReadContext, Result, parse_integer};
use crate::glob;
use crate::resp::Reply;
use crate::value::Aggregate;

/// What a step is to return.
pub(super) struct Options<'a> {
    pattern: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
    count: usize,
}

impl<'a> Options<'a> {
    /// The options from `args[first]` on; only a walk over keys may ask for a type.
    fn parse(args: Args<'a>, first: usize, over_keys: bool) -> Result<Self> {
        let mut options = Options { pattern: None, kind: None, count: 10 };
        for index in (first..args.len()).step_by(2) {
            let Some(value) = args.maybe(index + 1) else { return Err(ErrorReply::SYNTAX) };
            match args.get(index).to_ascii_lowercase().as_slice() {
                b"match" => options.pattern = Some(value),
                b"type" if over_keys => options.kind = Some(value),
                b"count" => {
                    let count = usize::try_from(parse_integer(value)?).ok().filter(|count| *count > 0);
                    options.count = count.ok_or(ErrorReply::SYNTAX)?;
                }
                _ => return Err(ErrorReply::SYNTAX),
            }
        }
        Ok(options)
    }

    /// Whether something of this name is wanted.
    pub(super) fn matches(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, name, glob::Case::Sensitive))
    }

    /// About how many to look at.
    pub(super) fn count(&self) -> usize {
        self.count
    }
}

fn cursor(argument: &[u8]) -> Result<u64> {
    let cursor = std::str::from_utf8(argument).ok().and_then(|text| text.parse().ok());
    cursor.ok_or(ErrorReply::new("ERR invalid cursor"))
}

/// The next cursor and what was found.
fn page(reply: &mut Reply, next: u64, found: &[impl AsRef<[u8]>]) {
    let mut digits = itoa::Buffer::new();
    reply.array(2);
    reply.bulk(digits.format(next).as_bytes());
    reply.array(found.len());
    found.iter().for_each(|name| reply.bulk(name.as_ref()));
}

pub(super) fn scan(context: &mut ReadContext, args: Args) -> Result<()> {
    let cursor = cursor(args.get(1))?;
    let options = Options::parse(args, 2, true)?;
    let mut found = Vec::new();
    let next = context.keyspace.scan(context.db, cursor, options.count, context.expiry_ms, |entry| {
        let is_kind = |kind: &[u8]| entry.type_name().as_bytes().eq_ignore_ascii_case(kind);
        if options.matches(entry.key()) && options.kind.is_none_or(is_kind) {
            found.push(entry.key().to_vec());
        }
    });
    page(&mut context.reply, next, &found);
    Ok(())
}

/// One step over the elements of the value at `args[1]`. `step` takes the value and the cursor, and returns what it
/// found and the next cursor.
pub(super) fn elements<'a, A: Aggregate + 'a, T: AsRef<[u8]>>(
    context: &mut ReadContext<'a>,
    args: Args,
    step: impl FnOnce(&'a A, u64, &Options) -> (Vec<T>, u64),
) -> Result<()> {
    let cursor = cursor(args.get(2))?;
    let (found, next) = match context.value::<A>(args.first_key())? {
        Some(value) => step(value, cursor, &Options::parse(args, 3, false)?),
        None => (Vec::new(), 0),
    };
    page(&mut context.reply, next, &found);
    Ok(())
}
