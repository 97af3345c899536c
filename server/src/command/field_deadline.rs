//! Deadlines of hash fields, as Redis 7.4 and later and Valkey 9 have them: <https://valkey.io/commands/#hash>. The replies and
//! errors are Valkey's where the two differ.
//!
//! Replicas are told what was done and when, never how long it is to last: a deadline as `HPEXPIREAT`, one that is over as `HDEL`,
//! `HSETEX` as it would have been with an absolute time.

use super::hash::small;
use super::{Args, Effect, ErrorReply, ReadContext, Result, WriteContext, parse_integer};
use crate::keyspace::{Absent, Key};
use crate::notify::Classes;
use crate::resp::append_request;
use crate::value::Hash;

const NUMFIELDS: ErrorReply =
    ErrorReply::new("ERR numfields should be greater than 0 and match the provided number of fields");

/// In what a time is given, and since when.
#[derive(Debug, Clone, Copy)]
struct Unit {
    ms: i64,
    is_absolute: bool,
}

impl Unit {
    const SECONDS: Unit = Unit { ms: 1000, is_absolute: false };
    const MILLISECONDS: Unit = Unit { ms: 1, is_absolute: false };
    const SECONDS_AT: Unit = Unit { ms: 1000, is_absolute: true };
    const MILLISECONDS_AT: Unit = Unit { ms: 1, is_absolute: true };

    fn of_option(option: &[u8]) -> Option<Unit> {
        Some(match option.to_ascii_lowercase().as_slice() {
            b"ex" => Unit::SECONDS,
            b"px" => Unit::MILLISECONDS,
            b"exat" => Unit::SECONDS_AT,
            b"pxat" => Unit::MILLISECONDS_AT,
            _ => return None,
        })
    }

    /// The moment that an argument names, in milliseconds since the epoch.
    fn parse(self, argument: &[u8], now_ms: i64, command: &str) -> Result<i64> {
        let time = parse_integer(argument)?;
        let base_ms = if self.is_absolute { 0 } else { now_ms };
        let deadline_ms = time.checked_mul(self.ms).and_then(|ms| ms.checked_add(base_ms));
        deadline_ms.filter(|_| time >= 0).ok_or_else(|| ErrorReply::expire_time(command))
    }
}

/// What is behind `FIELDS count`: elements of this size, as many as are said.
fn counted(args: Args, at: usize, size: usize) -> Result<usize> {
    let count = args.maybe(at).map(parse_integer).transpose()?.ok_or(NUMFIELDS)?;
    let given = args.len() - at - 1;
    if count < 1 || i64::try_from(given) != Ok(count.saturating_mul(size as i64)) {
        return Err(NUMFIELDS);
    }
    Ok(at + 1)
}

/// The same where nothing may come before `FIELDS`.
fn fields(args: Args) -> Result<usize> {
    if args.is(2, "fields") { counted(args, 3, 1) } else { Err(ErrorReply::SYNTAX) }
}

/// Whether a deadline takes effect at once. Never where an upstream says it: it says as well when it is over.
fn is_over(context: &WriteContext, deadline_ms: i64) -> bool {
    deadline_ms <= context.expiry_ms
}

/// Encodes a request about some fields: `words`, their number if it is wanted, and they.
fn tell(context: &mut WriteContext, words: &[&[u8]], is_counted: bool, fields: &[&[u8]]) {
    let count = fields.len().to_string();
    let count: &[&[u8]] = if is_counted { &[b"FIELDS", count.as_bytes()] } else { &[] };
    append_request(context.effect, &[words, count, fields].concat());
}

fn rewritten(context: &WriteContext) -> Effect {
    if context.effect.is_empty() { Effect::None } else { Effect::Rewritten }
}

/// Lets fields that are there expire then; those that do so at once go. Tells the replicas.
fn set_deadlines(context: &mut WriteContext, key: Key, deadline_ms: i64, fields: &[&[u8]]) -> Result<()> {
    if fields.is_empty() {
        return Ok(());
    }
    let goes = is_over(context, deadline_ms);
    context.edit(key, Absent::Skip, |hash: &mut Hash| {
        for field in fields {
            if goes {
                hash.remove(field);
            } else {
                hash.set_deadline(field, Some(deadline_ms));
            }
        }
    })?;
    if goes {
        context.notify_taken(Classes::HASH, "hdel", key.bytes);
        tell(context, &[b"HDEL", key.bytes], false, fields);
    } else {
        context.notify(Classes::HASH, "hexpire", key.bytes);
        tell(context, &[b"HPEXPIREAT", key.bytes, deadline_ms.to_string().as_bytes()], true, fields);
    }
    Ok(())
}

/// When a field may be given another deadline.
#[derive(Debug, Clone, Copy, Default)]
struct Conditions {
    /// It has none.
    absent: bool,
    /// It has one.
    present: bool,
    /// The new one is later; none is later than all.
    later: bool,
    /// The new one is earlier.
    earlier: bool,
}

impl Conditions {
    /// Reads the conditions from `args[3]` on; returns where `FIELDS` is.
    fn parse(args: Args) -> Result<(Conditions, usize)> {
        let (mut conditions, mut at) = (Conditions::default(), 3);
        while at < args.len() && !args.is(at, "fields") {
            match args.get(at).to_ascii_lowercase().as_slice() {
                b"nx" => conditions.absent = true,
                b"xx" => conditions.present = true,
                b"gt" => conditions.later = true,
                b"lt" => conditions.earlier = true,
                _ => return Err(NUMFIELDS),
            }
            at += 1;
        }
        let Conditions { absent, present, later, earlier } = conditions;
        if absent && (present || later || earlier) {
            return Err(ErrorReply::new("ERR NX and XX, GT or LT options at the same time are not compatible"));
        }
        if later && earlier {
            return Err(ErrorReply::new("ERR GT and LT options at the same time are not compatible"));
        }
        Ok((conditions, at))
    }

    fn hold(self, present_ms: Option<i64>, new_ms: i64) -> bool {
        match present_ms {
            None => !self.present && !self.later,
            Some(present_ms) => {
                !self.absent && (!self.later || new_ms > present_ms) && (!self.earlier || new_ms < present_ms)
            }
        }
    }
}

pub(super) fn hexpire(context: &mut WriteContext, args: Args) -> Result<Effect> {
    expire(context, args, Unit::SECONDS, "hexpire")
}

pub(super) fn hpexpire(context: &mut WriteContext, args: Args) -> Result<Effect> {
    expire(context, args, Unit::MILLISECONDS, "hpexpire")
}

pub(super) fn hexpireat(context: &mut WriteContext, args: Args) -> Result<Effect> {
    expire(context, args, Unit::SECONDS_AT, "hexpireat")
}

pub(super) fn hpexpireat(context: &mut WriteContext, args: Args) -> Result<Effect> {
    expire(context, args, Unit::MILLISECONDS_AT, "hpexpireat")
}

/// For each field: -2 if it is absent, 0 if a condition does not hold, 2 if its time is over, 1 otherwise.
fn expire(context: &mut WriteContext, args: Args, unit: Unit, command: &str) -> Result<Effect> {
    let deadline_ms = unit.parse(args.get(2), context.now_ms, command)?;
    let (conditions, at) = Conditions::parse(args)?;
    let first = counted(args, at + 1, 1)?;
    let key = args.first_key();
    let (mut chosen, done): (Vec<&[u8]>, _) = (Vec::new(), if is_over(context, deadline_ms) { 2 } else { 1 });
    let hash = context.value::<Hash>(key)?;
    let mut answers = Vec::with_capacity(args.len() - first);
    for field in args.from(first) {
        let is_there = hash.is_some_and(|hash| hash.live(context.expiry_ms).get(field).is_some());
        let present_ms = hash.and_then(|hash| hash.deadline_ms(field));
        answers.push(match is_there && !(done == 2 && chosen.contains(&field)) {
            false => -2,
            true if !conditions.hold(present_ms, deadline_ms) => 0,
            true => {
                chosen.push(field);
                done
            }
        });
    }
    set_deadlines(context, key, deadline_ms, &chosen)?;
    context.reply.array(answers.len());
    answers.into_iter().for_each(|answer| context.reply.integer(answer));
    Ok(rewritten(context))
}

pub(super) fn httl(context: &mut ReadContext, args: Args) -> Result<()> {
    let now_ms = context.now_ms;
    deadlines(context, args, |deadline_ms| ((deadline_ms - now_ms).max(0) + 500) / 1000)
}

pub(super) fn hpttl(context: &mut ReadContext, args: Args) -> Result<()> {
    let now_ms = context.now_ms;
    deadlines(context, args, |deadline_ms| (deadline_ms - now_ms).max(0))
}

pub(super) fn hexpiretime(context: &mut ReadContext, args: Args) -> Result<()> {
    deadlines(context, args, |deadline_ms| (deadline_ms + 500) / 1000)
}

pub(super) fn hpexpiretime(context: &mut ReadContext, args: Args) -> Result<()> {
    deadlines(context, args, |deadline_ms| deadline_ms)
}

/// For each field: -2 if it is absent, -1 if it has no deadline, otherwise what `shown` makes of it.
fn deadlines(context: &mut ReadContext, args: Args, shown: impl Fn(i64) -> i64) -> Result<()> {
    let first = fields(args)?;
    let hash = context.value::<Hash>(args.first_key())?;
    context.reply.array(args.len() - first);
    for field in args.from(first) {
        let live = hash.filter(|hash| hash.live(context.expiry_ms).get(field).is_some());
        context.reply.integer(live.map_or(-2, |hash| hash.deadline_ms(field).map_or(-1, &shown)));
    }
    Ok(())
}

/// For each field: -2 if it is absent, -1 if it had no deadline, 1 otherwise.
pub(super) fn hpersist(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let first = fields(args)?;
    let (key, expiry_ms) = (args.first_key(), context.expiry_ms);
    let mut chosen: Vec<&[u8]> = Vec::new();
    let answers = context.edit(key, Absent::Skip, |hash: &mut Hash| {
        let mut persist = |field| {
            if hash.live(expiry_ms).get(field).is_none() {
                return -2;
            }
            if hash.deadline_ms(field).is_none() {
                return -1;
            }
            hash.set_deadline(field, None);
            chosen.push(field);
            1
        };
        args.from(first).map(&mut persist).collect::<Vec<i64>>()
    })?;
    let answers = answers.unwrap_or_else(|| vec![-2; args.len() - first]);
    context.reply.array(answers.len());
    answers.into_iter().for_each(|answer| context.reply.integer(answer));
    tell_of_persistence(context, key, &chosen);
    Ok(rewritten(context))
}

/// Tells whoever wants to know that these fields, if any, have no deadline any more.
fn tell_of_persistence(context: &mut WriteContext, key: Key, fields: &[&[u8]]) {
    if !fields.is_empty() {
        context.notify(Classes::HASH, "hpersist", key.bytes);
        tell(context, &[b"HPERSIST", key.bytes], true, fields);
    }
}

/// What becomes of the deadlines of fields that are read or set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Keep,
    Clear,
    At(i64),
}

/// `HGETEX key [EX s | PX ms | EXAT s | PXAT ms | PERSIST] FIELDS count field…`: the values.
pub(super) fn hgetex(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let (mut change, mut at) = (None, 2);
    while at < args.len() && !args.is(at, "fields") {
        let unit = Unit::of_option(args.get(at)).filter(|_| change.is_none());
        change = Some(match (unit, args.maybe(at + 1)) {
            (Some(unit), Some(time)) => {
                at += 1;
                Change::At(unit.parse(time, context.now_ms, "hgetex")?)
            }
            _ if args.is(at, "persist") && change.is_none() => Change::Clear,
            _ => return Err(ErrorReply::SYNTAX),
        });
        at += 1;
    }
    let first = counted(args, at + 1, 1)?;
    context.looked_up(args.first_key());
    let present = reply_values(context, args, first)?;
    match change {
        None | Some(Change::Keep) => {}
        Some(Change::At(deadline_ms)) => set_deadlines(context, args.first_key(), deadline_ms, &present)?,
        Some(Change::Clear) => {
            let had_deadlines = context.edit(args.first_key(), Absent::Skip, |hash: &mut Hash| {
                let had = present.iter().copied().filter(|field| hash.deadline_ms(field).is_some()).collect::<Vec<_>>();
                had.iter().for_each(|field| hash.set_deadline(field, None));
                had
            })?;
            tell_of_persistence(context, args.first_key(), &had_deadlines.unwrap_or_default());
        }
    }
    Ok(rewritten(context))
}

/// Replies the values of the fields from `args[first]` on, and returns those that are there, each once.
fn reply_values<'a>(context: &mut WriteContext, args: Args<'a>, first: usize) -> Result<Vec<&'a [u8]>> {
    let key = args.first_key();
    let hash = match context.keyspace.get(context.db, key, context.expiry_ms) {
        Some(entry) => {
            entry.touch(context.keyspace.clock(), key.hash);
            Some(super::aggregate::<Hash>(entry)?.live(context.expiry_ms))
        }
        None => None,
    };
    context.reply.array(args.len() - first);
    let mut present: Vec<&[u8]> = Vec::new();
    for field in args.from(first) {
        let value = hash.and_then(|hash| hash.get(field));
        context.reply.bulk_or_null(value);
        if value.is_some() && !present.contains(&field) {
            present.push(field);
        }
    }
    Ok(present)
}

/// `HGETDEL key FIELDS count field…`: the values, and they go.
pub(super) fn hgetdel(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let first = fields(args)?;
    let present = reply_values(context, args, first)?;
    context.edit(args.first_key(), Absent::Skip, |hash: &mut Hash| {
        present.iter().for_each(|field| _ = hash.remove(field));
    })?;
    if !present.is_empty() {
        context.notify_taken(Classes::HASH, "hdel", args.get(1));
        tell(context, &[b"HDEL", args.get(1)], false, &present);
    }
    Ok(rewritten(context))
}

/// Options of `HSETEX`.
struct SetOptions {
    change: Change,
    /// The key must, or must not, be there.
    key: Option<bool>,
    /// All of the fields must be there, or none.
    fields: Option<bool>,
    /// Where the fields and values begin.
    first: usize,
}

impl SetOptions {
    fn parse(context: &WriteContext, args: Args) -> Result<SetOptions> {
        let (mut change, mut key, mut fields, mut at) = (None, None, None, 2);
        while at < args.len() && !args.is(at, "fields") {
            match (args.get(at).to_ascii_lowercase().as_slice(), args.maybe(at + 1)) {
                (b"nx", _) if key.is_none() => key = Some(false),
                (b"xx", _) if key.is_none() => key = Some(true),
                (b"fnx", _) if fields.is_none() => fields = Some(false),
                (b"fxx", _) if fields.is_none() => fields = Some(true),
                (b"keepttl", _) if change.is_none() => change = Some(Change::Keep),
                (option, Some(time)) if change.is_none() => {
                    let unit = Unit::of_option(option).ok_or(ErrorReply::SYNTAX)?;
                    change = Some(Change::At(unit.parse(time, context.now_ms, "hsetex")?));
                    at += 1;
                }
                _ => return Err(ErrorReply::SYNTAX),
            }
            at += 1;
        }
        Ok(SetOptions { change: change.unwrap_or(Change::Clear), key, fields, first: counted(args, at + 1, 2)? })
    }

    /// Whether everything is there that must be, and nothing that must not.
    fn hold(&self, context: &WriteContext, args: Args) -> Result<bool> {
        let hash = context.value::<Hash>(args.first_key())?.map(|hash| hash.live(context.expiry_ms));
        let is_there = |field: &[u8]| hash.is_some_and(|hash| hash.get(field).is_some());
        let mut fields = args.from(self.first).step_by(2);
        Ok(self.key.is_none_or(|wanted| wanted == hash.is_some())
            && self.fields.is_none_or(|wanted| fields.all(|field| is_there(field) == wanted)))
    }
}

/// `HSETEX key [NX | XX] [FNX | FXX] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL] FIELDS count field value…`: 1 if they were set.
pub(super) fn hsetex(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let options = SetOptions::parse(context, args)?;
    if !options.hold(context, args)? {
        context.reply.integer(0);
        return Ok(Effect::None);
    }
    context.reply.integer(1);
    let key = args.first_key();
    let fields: Vec<&[u8]> = args.from(options.first).step_by(2).collect();
    if let Change::At(deadline_ms) = options.change
        && is_over(context, deadline_ms)
    {
        set_deadlines(context, key, deadline_ms, &fields)?;
        return Ok(rewritten(context));
    }
    let small = small(context);
    context.edit(key, Absent::Create, |hash: &mut Hash| {
        for index in (options.first..args.len()).step_by(2) {
            let (field, value) = (args.get(index), args.get(index + 1));
            match options.change {
                Change::Keep => _ = hash.update(field, value, small),
                Change::Clear => _ = hash.insert(field, value, small),
                Change::At(deadline_ms) => {
                    hash.insert(field, value, small);
                    hash.set_deadline(field, Some(deadline_ms));
                }
            }
        }
    })?;
    context.notify(Classes::HASH, "hset", key.bytes);
    if let Change::At(_) = options.change {
        context.notify(Classes::HASH, "hexpire", key.bytes);
    }
    let pairs: Vec<&[u8]> = args.from(options.first).collect();
    let count = fields.len().to_string();
    let deadline = if let Change::At(deadline_ms) = options.change { deadline_ms.to_string() } else { String::new() };
    let words: &[&[u8]] = match options.change {
        // Who knows nothing of deadlines understands this, too.
        Change::Clear => &[b"HSET", key.bytes],
        Change::Keep => &[b"HSETEX", key.bytes, b"KEEPTTL", b"FIELDS", count.as_bytes()],
        Change::At(_) => &[b"HSETEX", key.bytes, b"PXAT", deadline.as_bytes(), b"FIELDS", count.as_bytes()],
    };
    tell(context, words, false, &pairs);
    Ok(rewritten(context))
}
