//! Strings as rows of bits, of which bit 0 is the highest of the first byte:
//! <https://redis.io/docs/latest/commands/?group=bitmap>.

use super::{Args, Effect, ErrorReply, ReadContext, Result, WriteContext, as_string, parse_integer};
use crate::keyspace::{Deadline, Key};
use crate::notify::Classes;
use crate::number::parse_i64;
use crate::resp::append_request;
use std::ops::RangeInclusive;

const BAD_OFFSET: ErrorReply = ErrorReply::new("ERR bit offset is not an integer or out of range");
const BAD_BIT: ErrorReply = ErrorReply::new("ERR bit is not an integer or out of range");
const BAD_TYPE: ErrorReply =
    ErrorReply::new("ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.");

/// No bits.
const EMPTY: RangeInclusive<u64> = RangeInclusive::new(1, 0);

/// The bits that a byte has.
const BYTE: u64 = 8;

fn read<'a>(context: &ReadContext<'a>, args: Args) -> Result<Option<&'a [u8]>> {
    context.get(args.first_key()).map(as_string).transpose()
}

/// A bit's number, in a string of up to `bytes_max` bytes. Where fields of some width are meant, `#` counts those.
fn offset(text: &[u8], field_bits: Option<u32>, bytes_max: u64) -> Result<u64> {
    let (digits, factor) = match (text, field_bits) {
        ([b'#', digits @ ..], Some(bits)) => (digits, i64::from(bits)),
        _ => (text, 1),
    };
    let offset = parse_i64(digits).and_then(|number| number.checked_mul(factor));
    let offset = offset.and_then(|offset| u64::try_from(offset).ok());
    offset.filter(|offset| offset / BYTE < bytes_max).ok_or(BAD_OFFSET)
}

fn bit(bytes: &[u8], offset: u64) -> bool {
    let byte = bytes.get((offset / BYTE) as usize);
    byte.is_some_and(|byte| byte << (offset % BYTE) & 0x80 != 0)
}

fn set_bit(bytes: &mut [u8], offset: u64, value: bool) {
    let byte = &mut bytes[(offset / BYTE) as usize];
    let mask = 0x80 >> (offset % BYTE);
    *byte = if value { *byte | mask } else { *byte & !mask };
}

/// Changes a string that has room for the bit `last`; it is made or lengthened if need be, and the change is told so.
fn edit<R>(context: &mut WriteContext, key: Key, last: u64, change: impl FnOnce(&mut [u8], bool) -> R) -> Result<R> {
    let len = (last / BYTE) as usize + 1;
    if context.get(key).map(as_string).transpose()?.is_none() {
        context.keyspace.set_str(context.db, key, b"", Deadline::Clear);
    }
    let edited = context.keyspace.str_mut(context.db, key, |value| {
        let grows = value.len() < len;
        if grows {
            value.resize(len, 0);
        }
        change(value, grows)
    });
    Ok(edited.expect("the key was just seen or made"))
}

pub(super) fn getbit(context: &mut ReadContext, args: Args) -> Result<()> {
    let offset = offset(args.get(2), None, context.config.proto_max_bulk_len)?;
    let value = read(context, args)?.unwrap_or_default();
    context.reply.integer(i64::from(bit(value, offset)));
    Ok(())
}

pub(super) fn setbit(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let offset = offset(args.get(2), None, context.config.proto_max_bulk_len)?;
    let new = match args.get(3) {
        b"0" => false,
        b"1" => true,
        _ => return Err(BAD_BIT),
    };
    let (old, grown) = edit(context, args.first_key(), offset, |bytes, grown| {
        let old = bit(bytes, offset);
        set_bit(bytes, offset, new);
        (old, grown)
    })?;
    context.reply.integer(i64::from(old));
    if !grown && old == new {
        return Ok(Effect::None);
    }
    context.notify(Classes::STRING, "setbit", args.get(1));
    Ok(Effect::Verbatim)
}

/// The bits between two indexes of bytes or bits, either of which counts from the end if it is negative.
fn bits_between(start: i64, end: i64, in_bits: bool, bytes: &[u8]) -> RangeInclusive<u64> {
    let unit = if in_bits { 1 } else { BYTE };
    let len = (bytes.len() as u64 * BYTE / unit) as i64;
    let absolute = |index: i64| if index < 0 { (len + index).max(0) } else { index };
    let (start, end) = (absolute(start), absolute(end).min(len - 1));
    if start > end { EMPTY } else { start as u64 * unit..=end as u64 * unit + unit - 1 }
}

/// Whether `BIT` or `BYTE` is said.
fn is_in_bits(args: Args, index: usize) -> Result<bool> {
    match args.maybe(index) {
        None => Ok(false),
        Some(_) if args.is(index, "byte") => Ok(false),
        Some(_) if args.is(index, "bit") => Ok(true),
        Some(_) => Err(ErrorReply::SYNTAX),
    }
}

/// How many bits of the range are set.
fn count_ones(bytes: &[u8], range: RangeInclusive<u64>) -> u64 {
    let (start, end) = range.into_inner();
    if start > end {
        return 0;
    }
    let (first, last) = ((start / BYTE) as usize, (end / BYTE) as usize);
    let ones: u64 = bytes[first..=last].iter().map(|byte| u64::from(byte.count_ones())).sum();
    let before = bytes[first] & !(0xff >> (start % BYTE));
    let behind = bytes[last] & !(0xff << (BYTE - 1 - end % BYTE));
    ones - u64::from(before.count_ones()) - u64::from(behind.count_ones())
}

/// The first bit of the range that has this value.
fn find(bytes: &[u8], wanted: bool, range: RangeInclusive<u64>) -> Option<u64> {
    /// So many bytes are passed over at once.
    const BLOCK: usize = 64;
    let (start, end) = range.into_inner();
    if start > end {
        return None;
    }
    let flip = if wanted { 0 } else { 0xff };
    let (first, last) = ((start / BYTE) as usize, (end / BYTE) as usize);
    let mut index = first;
    while index <= last {
        let mut found = bytes[index] ^ flip;
        if index == first {
            found &= 0xff >> (start % BYTE);
        }
        if index == last {
            found &= 0xff << (BYTE - 1 - end % BYTE);
        }
        if found != 0 {
            return Some(index as u64 * BYTE + u64::from(found.leading_zeros()));
        }
        index += 1;
        while index + BLOCK <= last && bytes[index..index + BLOCK].iter().fold(0, |any, byte| any | (byte ^ flip)) == 0
        {
            index += BLOCK;
        }
    }
    None
}

pub(super) fn bitcount(context: &mut ReadContext, args: Args) -> Result<()> {
    let Some(bytes) = read(context, args)? else {
        context.reply.integer(0);
        return Ok(());
    };
    let range = match args.len() {
        2 => bits_between(0, -1, false, bytes),
        4 | 5 => {
            let (start, end) = (parse_integer(args.get(2))?, parse_integer(args.get(3))?);
            let is_reversed = start < 0 && end < 0 && start > end;
            if is_reversed { EMPTY } else { bits_between(start, end, is_in_bits(args, 4)?, bytes) }
        }
        _ => return Err(ErrorReply::SYNTAX),
    };
    context.reply.integer(count_ones(bytes, range) as i64);
    Ok(())
}

pub(super) fn bitpos(context: &mut ReadContext, args: Args) -> Result<()> {
    let wanted = match parse_integer(args.get(2))? {
        0 => false,
        1 => true,
        _ => return Err(ErrorReply::new("ERR The bit argument must be 1 or 0.")),
    };
    let Some(bytes) = read(context, args)? else {
        context.reply.integer(if wanted { -1 } else { 0 });
        return Ok(());
    };
    if args.len() > 6 {
        return Err(ErrorReply::SYNTAX);
    }
    let start = args.maybe(3).map_or(Ok(0), parse_integer)?;
    let in_bits = is_in_bits(args, 5)?;
    let end = args.maybe(4).map(parse_integer).transpose()?;
    let range = bits_between(start, end.unwrap_or(-1), in_bits, bytes);
    // Without an end, the string goes on with zeros.
    let beyond = if wanted || end.is_some() || range.is_empty() { -1 } else { *range.end() as i64 + 1 };
    context.reply.integer(find(bytes, wanted, range).map_or(beyond, |offset| offset as i64));
    Ok(())
}

/// `BITOP operation target source …`; shorter sources go on with zeros.
pub(super) fn bitop(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let operation: fn(u8, u8) -> u8 = match args.get(1).to_ascii_lowercase().as_slice() {
        b"and" => |a, b| a & b,
        b"or" => |a, b| a | b,
        b"xor" => |a, b| a ^ b,
        // The bits are turned below, once the only source has its place.
        b"not" if args.len() == 4 => |a, _| a,
        b"not" => return Err(ErrorReply::new("ERR BITOP NOT must be called with a single source key.")),
        _ => return Err(ErrorReply::SYNTAX),
    };
    for name in args.from(3) {
        let key = context.keyspace.key(name);
        context.looked_up(key);
        context.get(key).map(as_string).transpose()?;
    }
    let source = |name| Ok(context.get(context.keyspace.key(name)).map(as_string).transpose()?.unwrap_or_default());
    let sources: Vec<&[u8]> = args.from(3).map(source).collect::<Result<_>>()?;
    let len = sources.iter().map(|source| source.len()).max().unwrap_or(0);
    let mut result = sources[0].to_vec();
    result.resize(len, 0);
    if args.is(1, "not") {
        result.iter_mut().for_each(|byte| *byte = !*byte);
    }
    for source in &sources[1..] {
        let (covered, beyond) = result.split_at_mut(source.len());
        covered.iter_mut().zip(*source).for_each(|(byte, other)| *byte = operation(*byte, *other));
        beyond.iter_mut().for_each(|byte| *byte = operation(*byte, 0));
    }
    context.reply.integer(len as i64);
    let target = context.keyspace.key(args.get(2));
    if len > 0 {
        context.keyspace.set_str(context.db, target, &result, Deadline::Clear);
        context.notify(Classes::STRING, "set", target.bytes);
        return Ok(Effect::Verbatim);
    }
    if !context.keyspace.remove(context.db, target) {
        return Ok(Effect::None);
    }
    context.notify(Classes::GENERIC, "del", target.bytes);
    append_request(context.effect, &[b"DEL", target.bytes]);
    Ok(Effect::Rewritten)
}

/// Some neighbouring bits, read as an integer whose highest bit comes first.
#[derive(Clone, Copy)]
struct Field {
    offset: u64,
    bits: u32,
    signed: bool,
}

/// What becomes of a number that has no room in its field.
#[derive(Clone, Copy)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

enum Change {
    Set(i64),
    Add(i64),
}

struct Operation {
    field: Field,
    /// `None` to look only.
    change: Option<(Change, Overflow)>,
}

impl Field {
    fn parse(kind: &[u8], offset_text: &[u8], bytes_max: u64) -> Result<Self> {
        let (signed, digits) = match kind {
            [b'i', digits @ ..] => (true, digits),
            [b'u', digits @ ..] => (false, digits),
            _ => return Err(BAD_TYPE),
        };
        let bits = parse_i64(digits).filter(|bits| (1..=if signed { 64 } else { 63 }).contains(bits));
        let bits = bits.ok_or(BAD_TYPE)? as u32;
        Ok(Field { offset: offset(offset_text, Some(bits), bytes_max)?, bits, signed })
    }

    fn last(self) -> u64 {
        self.offset + u64::from(self.bits) - 1
    }

    fn get(self, bytes: &[u8]) -> i64 {
        let bits = (self.offset..=self.last()).map(|offset| bit(bytes, offset));
        let value = bits.fold(0u64, |value, bit| value << 1 | u64::from(bit));
        let unused = u64::BITS - self.bits;
        if self.signed { (value << unused) as i64 >> unused } else { value as i64 }
    }

    fn set(self, bytes: &mut [u8], value: i64) {
        let places = (self.offset..=self.last()).rev().enumerate();
        places.for_each(|(place, offset)| set_bit(bytes, offset, value >> place & 1 != 0));
    }

    /// The largest number that has room.
    fn most(self) -> i128 {
        (1i128 << (self.bits - u32::from(self.signed))) - 1
    }

    /// The number itself if it has room, else what the rule makes of it.
    fn fit(self, number: i128, overflow: Overflow) -> Option<i64> {
        let most = self.most();
        let least = if self.signed { -1 - most } else { 0 };
        let fitting = match overflow {
            _ if (least..=most).contains(&number) => number,
            Overflow::Fail => return None,
            Overflow::Saturate => number.clamp(least, most),
            Overflow::Wrap => (number - least).rem_euclid(1i128 << self.bits) + least,
        };
        Some(fitting as i64)
    }

    /// The old value and the new one, unless it would overflow and may not.
    fn change(self, bytes: &[u8], change: &Change, overflow: Overflow) -> Option<(i64, i64)> {
        let old = self.get(bytes);
        let wanted = match *change {
            Change::Add(delta) => i128::from(old) + i128::from(delta),
            Change::Set(value) if self.signed => i128::from(value),
            // A negative number is a large one without a sign.
            Change::Set(value) => i128::from(value as u64),
        };
        // To see whether the number is too small Redis subtracts in 64 bits, finds it too large if that overflows, and
        // saturates there. Replicas must agree.
        let is_misjudged = |value| self.signed && self.bits < 64 && (self.most() as i64).checked_sub(value).is_none();
        let wanted = match (change, overflow) {
            (Change::Set(value), Overflow::Saturate) if is_misjudged(*value) => self.most(),
            _ => wanted,
        };
        Some((old, self.fit(wanted, overflow)?))
    }
}

fn parse_operations(args: Args, bytes_max: u64) -> Result<Vec<Operation>> {
    let (mut operations, mut overflow, mut index) = (Vec::new(), Overflow::Wrap, 2);
    while index < args.len() {
        let left = args.len() - index - 1;
        if args.is(index, "overflow") && left >= 1 {
            overflow = match args.get(index + 1).to_ascii_lowercase().as_slice() {
                b"wrap" => Overflow::Wrap,
                b"sat" => Overflow::Saturate,
                b"fail" => Overflow::Fail,
                _ => return Err(ErrorReply::new("ERR Invalid OVERFLOW type specified")),
            };
            index += 2;
            continue;
        }
        let change: Option<fn(i64) -> Change> = match args.get(index).to_ascii_lowercase().as_slice() {
            b"get" if left >= 2 => None,
            b"set" if left >= 3 => Some(Change::Set),
            b"incrby" if left >= 3 => Some(Change::Add),
            _ => return Err(ErrorReply::SYNTAX),
        };
        let field = Field::parse(args.get(index + 1), args.get(index + 2), bytes_max)?;
        let change = match change {
            Some(change) => Some((change(parse_integer(args.get(index + 3))?), overflow)),
            None => None,
        };
        index += if change.is_some() { 4 } else { 3 };
        operations.push(Operation { field, change });
    }
    Ok(operations)
}

pub(super) fn bitfield_ro(context: &mut ReadContext, args: Args) -> Result<()> {
    let operations = parse_operations(args, context.config.proto_max_bulk_len)?;
    if operations.iter().any(|operation| operation.change.is_some()) {
        return Err(ErrorReply::new("ERR BITFIELD_RO only supports the GET subcommand"));
    }
    let bytes = read(context, args)?.unwrap_or_default();
    context.reply.array(operations.len());
    operations.iter().for_each(|operation| context.reply.integer(operation.field.get(bytes)));
    Ok(())
}

pub(super) fn bitfield(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let operations = parse_operations(args, context.config.proto_max_bulk_len)?;
    let written = operations.iter().filter(|operation| operation.change.is_some());
    let Some(last) = written.map(|operation| operation.field.last()).max() else {
        context.looked_up(args.first_key());
        let bytes = context.get(args.first_key()).map(as_string).transpose()?.unwrap_or_default();
        let values: Vec<i64> = operations.iter().map(|operation| operation.field.get(bytes)).collect();
        context.reply.array(values.len());
        values.iter().for_each(|value| context.reply.integer(*value));
        return Ok(Effect::None);
    };
    context.check_string_len(last / BYTE + 1)?;
    let (results, changed) = edit(context, args.first_key(), last, |bytes, grown| run(&operations, bytes, grown))?;
    // Growth alone is no event.
    let is_event = changed && results.iter().any(Option::is_some);
    context.reply.array(results.len());
    for result in results {
        match result {
            Some(value) => context.reply.integer(value),
            None => context.reply.null(),
        }
    }
    if is_event {
        context.notify(Classes::STRING, "setbit", args.get(1));
    }
    Ok(if changed { Effect::Verbatim } else { Effect::None })
}

/// What the operations return, and whether they or the growth have changed something.
fn run(operations: &[Operation], bytes: &mut [u8], grown: bool) -> (Vec<Option<i64>>, bool) {
    let mut changed = grown;
    let mut step = |Operation { field, change }: &Operation| {
        let Some((change, overflow)) = change else { return Some(field.get(bytes)) };
        let (old, new) = field.change(bytes, change, *overflow)?;
        field.set(bytes, new);
        changed |= old != new;
        Some(if matches!(change, Change::Add(_)) { new } else { old })
    };
    (operations.iter().map(&mut step).collect(), changed)
}
