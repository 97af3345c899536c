//! `LCS`: the longest common subsequence of two strings. <https://redis.io/docs/latest/commands/lcs/>

use super::{Args, ErrorReply, ReadContext, Result, as_string, parse_integer};
use crate::keyspace::EntryRef;

#[derive(Default)]
struct Options {
    only_len: bool,
    with_matches: bool,
    with_match_len: bool,
    match_len_min: usize,
}

impl Options {
    fn parse(args: Args) -> Result<Self> {
        let (mut options, mut index) = (Options::default(), 3);
        while index < args.len() {
            match args.maybe(index + 1) {
                _ if args.is(index, "len") => options.only_len = true,
                _ if args.is(index, "idx") => options.with_matches = true,
                _ if args.is(index, "withmatchlen") => options.with_match_len = true,
                Some(min) if args.is(index, "minmatchlen") => {
                    options.match_len_min = usize::try_from(parse_integer(min)?).unwrap_or(0);
                    index += 1;
                }
                _ => return Err(ErrorReply::SYNTAX),
            }
            index += 1;
        }
        if options.only_len && options.with_matches {
            return Err(ErrorReply::new("ERR If you want both the length and indexes, please just use IDX."));
        }
        Ok(options)
    }
}

/// The lengths of the longest common subsequences of all beginnings of two strings.
struct Lengths {
    columns: usize,
    cells: Vec<u32>,
}

impl Lengths {
    fn of(first: &[u8], second: &[u8]) -> Lengths {
        let columns = second.len() + 1;
        let mut lengths = Lengths { columns, cells: vec![0; (first.len() + 1) * columns] };
        for (i, one) in (1..).zip(first) {
            for (j, other) in (1..).zip(second) {
                lengths.cells[i * columns + j] = if one == other {
                    lengths.at(i - 1, j - 1) + 1
                } else {
                    lengths.at(i - 1, j).max(lengths.at(i, j - 1))
                };
            }
        }
        lengths
    }

    fn at(&self, i: usize, j: usize) -> u32 {
        self.cells[i * self.columns + j]
    }
}

/// A run that both have: where it begins in either, and its length.
#[derive(Clone, Copy)]
struct Match {
    first: usize,
    second: usize,
    len: usize,
}

/// The runs of the subsequence, the last first.
fn matches(first: &[u8], second: &[u8], lengths: &Lengths) -> Vec<Match> {
    let (mut i, mut j) = (first.len(), second.len());
    let mut found: Vec<Match> = Vec::new();
    while i > 0 && j > 0 {
        if first[i - 1] == second[j - 1] {
            (i, j) = (i - 1, j - 1);
            match found.last_mut().filter(|last| last.first == i + 1 && last.second == j + 1) {
                Some(last) => *last = Match { first: i, second: j, len: last.len + 1 },
                None => found.push(Match { first: i, second: j, len: 1 }),
            }
        } else if lengths.at(i - 1, j) > lengths.at(i, j - 1) {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    found
}

/// What an entry holds, if there is one; nothing is as good as an empty string.
fn string(entry: Option<EntryRef<'_>>) -> Result<&[u8]> {
    let not_strings = ErrorReply::new("ERR The specified keys must contain string values");
    entry.map(as_string).transpose().map(Option::unwrap_or_default).map_err(|_| not_strings)
}

pub(super) fn lcs(context: &mut ReadContext, args: Args) -> Result<()> {
    let entries = (context.get(args.first_key()), context.get(context.keyspace.key(args.get(2))));
    let (first, second) = (string(entries.0)?, string(entries.1)?);
    let options = Options::parse(args)?;
    let bytes = (first.len() as u128 + 1) * (second.len() as u128 + 1) * size_of::<u32>() as u128;
    if bytes > u128::from(context.config.proto_max_bulk_len) {
        return Err(ErrorReply::new("ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len"));
    }
    let lengths = Lengths::of(first, second);
    let len = lengths.at(first.len(), second.len());
    if options.only_len {
        context.reply.integer(len.into());
        return Ok(());
    }
    let mut found = matches(first, second, &lengths);
    if !options.with_matches {
        let common: Vec<u8> =
            found.iter().rev().flat_map(|found| &first[found.first..][..found.len]).copied().collect();
        context.reply.bulk(&common);
        return Ok(());
    }
    found.retain(|found| found.len >= options.match_len_min);
    let reply = &mut context.reply;
    reply.map(2);
    reply.bulk(b"matches");
    reply.array(found.len());
    for Match { first, second, len } in found {
        reply.array(2 + usize::from(options.with_match_len));
        for start in [first, second] {
            reply.array(2);
            reply.integer(start as i64);
            reply.integer((start + len - 1) as i64);
        }
        if options.with_match_len {
            reply.integer(len as i64);
        }
    }
    reply.bulk(b"len");
    reply.integer(len.into());
    Ok(())
}
