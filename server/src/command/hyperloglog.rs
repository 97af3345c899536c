//! HyperLogLogs: <https://redis.io/docs/latest/commands/?group=hyperloglog>.

use super::{Args, Effect, ErrorReply, Flow, Result, ServerContext, WriteContext};
use crate::keyspace::{Deadline, Key};
use crate::notify::Classes;
use crate::value::{Corrupt, HyperLogLog, Registers, Run};

const NOT_ONE: ErrorReply = ErrorReply::new("WRONGTYPE Key is not a valid HyperLogLog string value.");

impl From<Corrupt> for ErrorReply {
    fn from(_: Corrupt) -> Self {
        ErrorReply::new("INVALIDOBJ Corrupted HLL object detected")
    }
}

/// What the key holds.
fn lookup<'a>(context: &'a WriteContext, key: Key) -> Result<Option<HyperLogLog<&'a [u8]>>> {
    let string = context.get(key).map(super::as_string).transpose()?;
    string.map(|bytes| HyperLogLog::of(bytes).ok_or(NOT_ONE)).transpose()
}

/// Edits what the key holds, or nothing if that turns out to be corrupt.
fn edit<R>(
    context: &mut WriteContext,
    key: Key,
    edit: impl FnOnce(&mut HyperLogLog<Vec<u8>>) -> std::result::Result<R, Corrupt>,
) -> Result<R> {
    let on_bytes = |bytes: &mut Vec<u8>| {
        // A dense value has no form that could be wrong.
        let before = HyperLogLog::of(&bytes[..]).is_some_and(|value| !value.is_dense()).then(|| bytes.clone());
        let mut value = HyperLogLog::of(std::mem::take(bytes)).expect("who edits it has looked at it");
        let result = edit(&mut value);
        *bytes = before.filter(|_| result.is_err()).unwrap_or_else(|| value.into_bytes());
        result
    };
    Ok(context.keyspace.str_mut(context.db, key, on_bytes).expect("who edits it has looked at it")?)
}

/// Lets the key hold one, if it is absent; whether it was.
fn create(context: &mut WriteContext, key: Key) -> Result<bool> {
    let is_absent = lookup(context, key)?.is_none();
    if is_absent {
        context.keyspace.set_str(context.db, key, &HyperLogLog::new().into_bytes(), Deadline::Clear);
    }
    Ok(is_absent)
}

fn sparse_max(context: &WriteContext) -> usize {
    usize::try_from(context.config.hll_sparse_max_bytes).unwrap_or(usize::MAX)
}

pub(super) fn pfadd(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let (key, sparse_max) = (args.first_key(), sparse_max(context));
    let is_new = create(context, key)?;
    let add = |value: &mut HyperLogLog<Vec<u8>>| {
        let mut changed = is_new;
        for element in args.from(2) {
            changed |= value.add(element, sparse_max)?;
        }
        if changed {
            value.forget_count();
        }
        Ok(changed)
    };
    let changed = edit(context, key, add)?;
    context.reply.integer(i64::from(changed));
    if !changed {
        return Ok(Effect::None);
    }
    context.notify(Classes::STRING, "pfadd", key.bytes);
    Ok(Effect::Verbatim)
}

/// Of one key, the count is noted in its value, and the replicas are told to do so too. A replica that is asked by its own
/// clients notes it as well, in silence.
pub(super) fn pfcount(context: &mut WriteContext, args: Args) -> Result<Effect> {
    if args.len() > 2 {
        let count = merged(context, args, 1)?.registers.count();
        context.reply.integer(count as i64);
        return Ok(Effect::None);
    }
    let key = args.first_key();
    context.looked_up(key);
    let Some(value) = lookup(context, key)? else {
        context.reply.integer(0);
        return Ok(Effect::None);
    };
    if let Some(count) = value.cached() {
        context.reply.integer(count as i64);
        return Ok(Effect::None);
    }
    let count = value.registers()?.count();
    context.reply.integer(count as i64);
    edit(context, key, |value| {
        value.cache(count);
        Ok(())
    })?;
    Ok(if context.owns_data { Effect::Verbatim } else { Effect::None })
}

/// Several values taken together.
struct Merged {
    registers: Registers,
    /// One of them is dense.
    has_dense: bool,
}

/// The values of the keys from argument `first` on.
fn merged(context: &mut WriteContext, args: Args, first: usize) -> Result<Merged> {
    let mut merged = Merged { registers: Registers::default(), has_dense: false };
    for name in args.from(first) {
        let key = context.keyspace.key(name);
        context.looked_up(key);
        if let Some(value) = lookup(context, key)? {
            merged.has_dense |= value.is_dense();
            merged.registers.merge(&value)?;
        }
    }
    Ok(merged)
}

pub(super) fn pfmerge(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let (key, sparse_max) = (args.first_key(), sparse_max(context));
    let merged = merged(context, args, 1)?;
    create(context, key)?;
    edit(context, key, |value| {
        if merged.has_dense {
            value.make_dense()?;
        }
        value.raise_all(&merged.registers, sparse_max)
    })?;
    context.notify(Classes::STRING, "pfadd", key.bytes);
    context.reply.ok();
    Ok(Effect::Verbatim)
}

/// `PFDEBUG GETREG | DECODE | ENCODING | TODENSE key`.
pub(super) fn pfdebug(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let (subcommand, key) = (args.get(1), context.keyspace.key(args.get(2)));
    let Some(value) = lookup(context, key)? else {
        return Err(ErrorReply::new("ERR The specified key does not exist"));
    };
    match subcommand.to_ascii_lowercase().as_slice() {
        b"encoding" => {
            let name = if value.is_dense() { "dense" } else { "sparse" };
            context.reply.simple(name);
            Ok(Effect::None)
        }
        b"decode" if value.is_dense() => Err(ErrorReply::new("ERR HLL encoding is not sparse")),
        b"decode" => {
            let words: Vec<String> = value.runs().map(word).collect();
            context.reply.bulk(words.join(" ").as_bytes());
            Ok(Effect::None)
        }
        b"todense" => {
            let changed = edit(context, key, HyperLogLog::make_dense)?;
            context.reply.integer(i64::from(changed));
            Ok(if changed { Effect::Verbatim } else { Effect::None })
        }
        b"getreg" => {
            let changed = edit(context, key, HyperLogLog::make_dense)?;
            let registers = lookup(context, key)?.ok_or(NOT_ONE)?.registers()?;
            context.reply.array(registers.iter().len());
            registers.iter().for_each(|register| context.reply.integer(i64::from(register)));
            Ok(if changed { Effect::Verbatim } else { Effect::None })
        }
        _ => Err(ErrorReply::quoting("ERR Unknown PFDEBUG subcommand '", subcommand, "'")),
    }
}

/// A run as `PFDEBUG DECODE` writes it.
fn word(run: Run) -> String {
    match run.value {
        0 => format!("{}:{}", if run.is_long { 'Z' } else { 'z' }, run.len),
        value => format!("v:{value},{}", run.len),
    }
}

/// Redis tests its own arithmetic here; that of this server is tested when it is built.
pub(super) fn pfselftest(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    context.ok()
}
