//! Streams: <https://redis.io/docs/latest/commands/?group=stream>.

mod claim;
mod group;
mod info;
mod read;

pub(super) use claim::{xautoclaim, xclaim};
pub(super) use group::{
    xack, xgroup_create, xgroup_createconsumer, xgroup_delconsumer, xgroup_destroy, xgroup_setid, xpending,
};
pub(super) use info::{xinfo_consumers, xinfo_groups, xinfo_stream};
pub(super) use read::{xread, xreadgroup};

use super::{Args, Effect, ErrorReply, ReadContext, Result, WriteContext, parse_integer, quotable};
use crate::keyspace::Absent;
use crate::notify::Classes;
use crate::resp::{Reply, append_request};
use crate::value::Stream;
use crate::value::stream::{Bound, Entry, Id};

const INVALID_ID: ErrorReply = ErrorReply::new("ERR Invalid stream ID specified as stream command argument");

/// Number of digits of the longest id, with a margin; longer texts are none.
const ID_BYTES_MAX: usize = 127;

fn parse_u64(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

/// `ms-seq`, or `ms` with `seq` for what is missing.
fn id_of(text: &[u8], seq: u64) -> Option<Id> {
    if text.len() > ID_BYTES_MAX {
        return None;
    }
    match memchr::memchr(b'-', text) {
        None => Some(Id { ms: parse_u64(text)?, seq }),
        Some(dash) => Some(Id { ms: parse_u64(&text[..dash])?, seq: parse_u64(&text[dash + 1..])? }),
    }
}

fn parse_id(text: &[u8], seq: u64) -> Result<Id> {
    id_of(text, seq).ok_or(INVALID_ID)
}

/// One end of a range: an id, `-`, `+`, or `(id` that is not included.
fn parse_start(text: &[u8]) -> Result<Id> {
    match text {
        b"-" => Ok(Id::MIN),
        b"+" => Ok(Id::MAX),
        [b'(', id @ ..] if !id.is_empty() => {
            parse_id(id, 0)?.next().ok_or(ErrorReply::new("ERR invalid start ID for the interval"))
        }
        _ => parse_id(text, 0),
    }
}

fn parse_end(text: &[u8]) -> Result<Id> {
    match text {
        b"-" => Ok(Id::MIN),
        b"+" => Ok(Id::MAX),
        [b'(', id @ ..] if !id.is_empty() => {
            parse_id(id, u64::MAX)?.previous().ok_or(ErrorReply::new("ERR invalid end ID for the interval"))
        }
        _ => parse_id(text, u64::MAX),
    }
}

/// So many at most; less than none is none.
fn parse_limit(text: &[u8]) -> Result<usize> {
    Ok(usize::try_from(parse_integer(text)?.max(0)).unwrap_or(usize::MAX))
}

fn reply_id(reply: &mut Reply, id: Id) {
    reply.bulk(id.to_string().as_bytes());
}

fn reply_entry(reply: &mut Reply, entry: &Entry) {
    reply.array(2);
    reply_id(reply, entry.id);
    reply.array(entry.fields.clone().count());
    entry.fields.clone().for_each(|field| reply.bulk(field));
}

fn reply_entries<'a>(reply: &mut Reply, entries: impl Iterator<Item = Entry<'a>>) {
    let entries: Vec<Entry> = entries.collect();
    reply.array(entries.len());
    entries.iter().for_each(|entry| reply_entry(reply, entry));
}

/// Nobody has made this group, with or without its key.
fn no_group(key: &[u8], group: &[u8], after: &str) -> ErrorReply {
    let parts = [b"NOGROUP No such key '", quotable(key), b"' or consumer group '", quotable(group), b"'"];
    ErrorReply::from_bytes([&parts.concat(), after.as_bytes()].concat())
}

/// There is a stream, and not this group.
fn no_such_group(key: &[u8], group: &[u8]) -> ErrorReply {
    let parts = [b"NOGROUP No such consumer group '", quotable(group), b"' for key name '", quotable(key), b"'"];
    ErrorReply::from_bytes(parts.concat())
}

/// `MAXLEN|MINID [=|~] threshold [LIMIT count]`.
struct Trim {
    bound: Bound,
    is_approximate: bool,
    limit: usize,
    /// Which argument the threshold is.
    argument: usize,
}

/// What comes between the key and the id of `XADD`, or behind the key of `XTRIM`.
struct TrimOptions {
    trim: Option<Trim>,
    make: bool,
    /// Where the id of an `XADD` is.
    id: usize,
}

impl TrimOptions {
    fn parse(context: &WriteContext, args: Args, is_add: bool) -> Result<TrimOptions> {
        /// So many blocks go at once without a `LIMIT`, so that nobody waits long.
        const BLOCKS: usize = 100;
        /// The same in entries, where blocks have no limit, and at most.
        const LIMITS: (usize, usize) = (10_000, 1_000_000);
        let (mut trim, mut limit, mut make, mut index) = (None::<Trim>, None, true, 2);
        while let Some(option) = args.maybe(index) {
            if is_add && option == b"*" {
                break;
            }
            let more = args.len() - index - 1;
            match option.to_ascii_lowercase().as_slice() {
                name @ (b"maxlen" | b"minid") if more > 0 => {
                    if trim.is_some() {
                        return Err(ErrorReply::new(
                            "ERR syntax error, MAXLEN and MINID options at the same time are not compatible",
                        ));
                    }
                    let is_approximate = more >= 2 && args.get(index + 1) == b"~";
                    if is_approximate || more >= 2 && args.get(index + 1) == b"=" {
                        index += 1;
                    }
                    index += 1;
                    let bound = if name == b"maxlen" {
                        let len = parse_integer(args.get(index))?;
                        let negative = ErrorReply::new("ERR The MAXLEN argument must be >= 0.");
                        Bound::Len(usize::try_from(len).map_err(|_| negative)?)
                    } else {
                        Bound::Id(parse_id(args.get(index), 0)?)
                    };
                    trim = Some(Trim { bound, is_approximate, limit: 0, argument: index });
                }
                b"limit" if more > 0 => {
                    index += 1;
                    let count = parse_integer(args.get(index))?;
                    let negative = ErrorReply::new("ERR The LIMIT argument must be >= 0.");
                    limit = Some(usize::try_from(count).map_err(|_| negative)?);
                }
                b"nomkstream" if is_add => make = false,
                _ if is_add => break,
                _ => return Err(ErrorReply::SYNTAX),
            }
            index += 1;
        }
        if is_add {
            parse_new_id(args.maybe(index).unwrap_or(b"*"))?;
        }
        if limit.is_some_and(|limit| limit > 0) && trim.is_none() {
            return Err(ErrorReply::new(
                "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy",
            ));
        }
        if !is_add && trim.is_none() {
            return Err(ErrorReply::new("ERR syntax error, XTRIM must be called with a trimming strategy"));
        }
        if let Some(trim) = &mut trim {
            if limit.is_some() && !trim.is_approximate {
                return Err(ErrorReply::new("ERR syntax error, LIMIT cannot be used without the special ~ option"));
            }
            let all = match context.config.stream_node_max_entries.saturating_mul(BLOCKS) {
                0 => LIMITS.0,
                limit => limit.min(LIMITS.1),
            };
            trim.limit = limit.unwrap_or(if trim.is_approximate { all } else { 0 });
        }
        Ok(TrimOptions { trim, make, id: index })
    }
}

impl Trim {
    fn run(&self, stream: &mut Stream) -> usize {
        stream.trim(self.bound, self.is_approximate, self.limit)
    }

    /// The threshold that leads to the same when nothing is approximate.
    fn exact(&self, stream: &Stream) -> String {
        match self.bound {
            Bound::Len(_) => stream.len().to_string(),
            Bound::Id(id) if stream.first_id() == Id::MIN => id.to_string(),
            Bound::Id(_) => stream.first_id().to_string(),
        }
    }
}

/// The id of a new entry.
#[derive(Clone, Copy)]
enum NewId {
    /// `*`.
    Any,
    /// `ms-*`.
    At(u64),
    Given(Id),
}

fn parse_new_id(text: &[u8]) -> Result<NewId> {
    if text == b"*" {
        return Ok(NewId::Any);
    }
    match text.strip_suffix(b"-*") {
        Some(ms) => parse_u64(ms).map(NewId::At).ok_or(INVALID_ID),
        None => parse_id(text, 0).map(NewId::Given),
    }
}

impl NewId {
    /// What it is behind `last`, if there is any.
    fn after(self, last: Id, now_ms: i64) -> Option<Id> {
        let now = Id { ms: u64::try_from(now_ms).unwrap_or(0), seq: 0 };
        match self {
            NewId::Any if now.ms > last.ms => Some(now),
            NewId::Any => last.next(),
            NewId::At(ms) if ms == last.ms => last.seq.checked_add(1).map(|seq| Id { ms, seq }),
            NewId::At(ms) => Some(Id { ms, seq: 0 }),
            NewId::Given(id) => Some(id),
        }
        .filter(|id| *id > last)
    }
}

pub(super) fn xadd(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let options = TrimOptions::parse(context, args, true)?;
    let fields = options.id + 1;
    if args.len() < fields + 2 || (args.len() - fields) % 2 == 1 {
        return Err(ErrorReply::arity("xadd"));
    }
    let new_id = parse_new_id(args.get(options.id))?;
    if matches!(new_id, NewId::Given(Id::MIN)) {
        return Err(ErrorReply::new("ERR The ID specified in XADD must be greater than 0-0"));
    }
    let (key, now_ms) = (args.first_key(), context.now_ms);
    let block_size = context.config.stream_block_size();
    let absent = if options.make { Absent::Create } else { Absent::Skip };
    let added = context.edit(key, absent, |stream: &mut Stream| {
        let last = stream.last_id();
        if last == Id::MAX {
            return Err(ErrorReply::new("ERR The stream has exhausted the last possible ID, unable to add more items"));
        }
        let too_small =
            ErrorReply::new("ERR The ID specified in XADD is equal or smaller than the target stream top item");
        let id = new_id.after(last, now_ms).ok_or(too_small)?;
        stream.append(id, args.from(fields), block_size);
        let Some(trim) = &options.trim else { return Ok((id, 0, None)) };
        let trimmed = trim.run(stream);
        Ok((id, trimmed, trim.is_approximate.then(|| (trim.argument, trim.exact(stream)))))
    })?;
    let Some(added) = added else {
        context.reply.null();
        return Ok(Effect::None);
    };
    let (id, trimmed, exact) = added?;
    context.notify(Classes::STREAM, "xadd", key.bytes);
    if trimmed > 0 {
        context.notify(Classes::STREAM, "xtrim", key.bytes);
    }
    let id_text = IdText::of(id);
    context.reply.bulk(id_text.as_bytes());
    if exact.is_none() && matches!(new_id, NewId::Given(_)) {
        return Ok(Effect::Verbatim);
    }
    append_exact(context, args, exact, Some((options.id, id_text.as_bytes())));
    Ok(Effect::Rewritten)
}

/// The text of an id, without an allocation.
struct IdText {
    bytes: [u8; 2 * IdText::NUMBER_BYTES_MAX + 1],
    len: usize,
}

impl IdText {
    const NUMBER_BYTES_MAX: usize = 20;

    fn of(id: Id) -> IdText {
        let mut text = IdText { bytes: [b'-'; 2 * IdText::NUMBER_BYTES_MAX + 1], len: 0 };
        text.push(itoa::Buffer::new().format(id.ms));
        text.len += 1;
        text.push(itoa::Buffer::new().format(id.seq));
        text
    }

    fn push(&mut self, number: &str) {
        self.bytes[self.len..][..number.len()].copy_from_slice(number.as_bytes());
        self.len += number.len();
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The request as it can be repeated: with the id that was given, and a threshold that was reached.
fn append_exact(context: &mut WriteContext, args: Args, exact: Option<(usize, String)>, id: Option<(usize, &[u8])>) {
    if !context.is_heard {
        return;
    }
    let mut request: Vec<&[u8]> = args.from(0).collect();
    if let Some((index, id)) = id {
        request[index] = id;
    }
    if let Some((index, threshold)) = &exact {
        request[index - 1] = b"=";
        request[*index] = threshold.as_bytes();
        if request.get(index + 1).is_some_and(|option| option.eq_ignore_ascii_case(b"limit")) {
            request.drain(index + 1..index + 3);
        } else if request[2].eq_ignore_ascii_case(b"limit") {
            request.drain(2..4);
        }
    }
    append_request(context.effect, &request);
}

pub(super) fn xtrim(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let options = TrimOptions::parse(context, args, false)?;
    let Some(trim) = options.trim else { return Err(ErrorReply::SYNTAX) };
    let trimmed = context.edit(args.first_key(), Absent::Skip, |stream: &mut Stream| {
        (trim.run(stream), trim.is_approximate.then(|| (trim.argument, trim.exact(stream))))
    })?;
    let (count, exact) = trimmed.unwrap_or_default();
    context.reply.integer(count as i64);
    if count == 0 {
        return Ok(Effect::None);
    }
    context.notify(Classes::STREAM, "xtrim", args.get(1));
    if exact.is_none() {
        return Ok(Effect::Verbatim);
    }
    append_exact(context, args, exact, None);
    Ok(Effect::Rewritten)
}

pub(super) fn xlen(context: &mut ReadContext, args: Args) -> Result<()> {
    let stream = context.value::<Stream>(args.first_key())?;
    context.reply.integer(stream.map_or(0, Stream::len) as i64);
    Ok(())
}

fn range(context: &mut ReadContext, args: Args, is_back: bool) -> Result<()> {
    let (start, end) = if is_back { (3, 2) } else { (2, 3) };
    let (start, end) = (parse_start(args.get(start))?, parse_end(args.get(end))?);
    let (mut count, mut index) = (usize::MAX, 4);
    while index < args.len() {
        match args.maybe(index + 1) {
            Some(limit) if args.is(index, "count") => count = parse_limit(limit)?,
            _ => return Err(ErrorReply::SYNTAX),
        }
        index += 2;
    }
    match context.value::<Stream>(args.first_key())? {
        None => context.reply.array(0),
        Some(_) if count == 0 => context.reply.null_array(),
        Some(stream) if is_back => reply_entries(&mut context.reply, stream.range_back(start, end).take(count)),
        Some(stream) => reply_entries(&mut context.reply, stream.range(start, end).take(count)),
    }
    Ok(())
}

pub(super) fn xrange(context: &mut ReadContext, args: Args) -> Result<()> {
    range(context, args, false)
}

pub(super) fn xrevrange(context: &mut ReadContext, args: Args) -> Result<()> {
    range(context, args, true)
}

pub(super) fn xdel(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let key = args.first_key();
    let is_there = context.value::<Stream>(key)?.is_some();
    if !is_there {
        context.reply.integer(0);
        return Ok(Effect::None);
    }
    let ids: Vec<Id> = args.from(2).map(|id| parse_id(id, 0)).collect::<Result<_>>()?;
    let remove = |stream: &mut Stream| ids.iter().filter(|id| stream.remove(**id)).count();
    let removed = context.edit(key, Absent::Skip, remove)?.unwrap_or(0);
    context.reply.integer(removed as i64);
    if removed == 0 {
        return Ok(Effect::None);
    }
    context.notify(Classes::STREAM, "xdel", key.bytes);
    Ok(Effect::Verbatim)
}

pub(super) fn xsetid(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let id = parse_id(args.get(2), 0)?;
    let (mut added, mut deleted, mut index) = (None, Id::MIN, 3);
    while index < args.len() {
        match args.maybe(index + 1) {
            Some(count) if args.is(index, "entriesadded") => {
                let count = parse_integer(count)?;
                if count < 0 {
                    return Err(ErrorReply::new("ERR entries_added must be positive"));
                }
                added = Some(count);
            }
            Some(max) if args.is(index, "maxdeletedid") => {
                deleted = parse_id(max, 0)?;
                if id < deleted {
                    return Err(ErrorReply::new(
                        "ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id",
                    ));
                }
            }
            _ => return Err(ErrorReply::SYNTAX),
        }
        index += 2;
    }
    let key = args.first_key();
    let stream = context.value::<Stream>(key)?.ok_or(ErrorReply::NO_SUCH_KEY)?;
    if stream.first_id() > Id::MIN {
        if id < stream.last_entry_id() {
            return Err(ErrorReply::new("ERR The ID specified in XSETID is smaller than the target stream top item"));
        }
        if added.is_some_and(|added| added < stream.len() as i64) {
            return Err(ErrorReply::new(
                "ERR The entries_added specified in XSETID is smaller than the target stream length",
            ));
        }
    }
    context.edit(key, Absent::Skip, |stream: &mut Stream| {
        let deleted = if deleted == Id::MIN { stream.max_deleted_id() } else { deleted };
        stream.set_history(id, deleted, added.unwrap_or(stream.entries_added()));
    })?;
    context.notify(Classes::STREAM, "xsetid", key.bytes);
    context.reply.ok();
    Ok(Effect::Verbatim)
}
