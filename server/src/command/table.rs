//! The table of commands: the one source of arity, flags, key positions and handlers.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::LazyLock;

use super::{
    Args, ErrorReply, Handler, QUOTED_BYTES_MAX, about::about, acl, bit, client, connection, debug, field_deadline,
    function, geo, hash, hyperloglog, introspection, key, lcs, list, memory, migrate, monitor, object, pubsub,
    quotable, replication, server, set, slowlog, sort, sorted_set, stream, string, tracking, transaction,
};
use crate::number::parse_i64;

/// What the gates must know of a command; `WRITE` and `READONLY` follow from its handler.
pub type Flags = u32;

/// Runs while the data are being loaded.
pub const LOADING: Flags = 1;
/// Runs on a replica whose link is down even if it does not serve stale data.
pub const STALE: Flags = 1 << 1;
/// Runs before authentication.
pub const NO_AUTH: Flags = 1 << 2;
/// May not be queued by `MULTI`.
pub const NO_MULTI: Flags = 1 << 3;
/// Is not queued by `MULTI` but run.
pub const RUNS_IN_MULTI: Flags = 1 << 4;
/// Runs while a RESP2 connection listens to channels.
pub const WHILE_SUBSCRIBED: Flags = 1 << 5;
/// Is sent to replicas though it changes no key.
pub const MAY_REPLICATE: Flags = 1 << 6;
/// Takes constant or logarithmic time.
pub const FAST: Flags = 1 << 7;
/// For operators.
pub const ADMIN: Flags = 1 << 8;
/// Not for scripts.
pub const NO_SCRIPT: Flags = 1 << 9;
/// Needs memory.
pub const DENY_OOM: Flags = 1 << 10;
/// Concerns channels.
pub const PUBSUB: Flags = 1 << 11;
/// Is not shown by `MONITOR`, or not by itself.
pub const SKIP_MONITOR: Flags = 1 << 12;
/// Is not kept by `SLOWLOG`: it may be slow for other reasons.
pub const SKIP_SLOWLOG: Flags = 1 << 13;
/// Names another database than the session's.
pub const ELSEWHERE: Flags = 1 << 14;

/// Changes something that is no key.
pub const CHANGES: Flags = 1 << 29;
/// May wait or note something, or does no more than read, but changes nothing.
pub const READS: Flags = 1 << 30;
/// Takes about as long each time, though it is not called fast.
pub const QUICK: Flags = 1 << 29;
/// Runs while data come from an upstream, though not while the server's own are being loaded.
pub const DURING_TRANSFER: Flags = 1 << 31;

/// The flags as `COMMAND` names them.
const NAMES: [(Flags, &str); 11] = [
    (DENY_OOM, "denyoom"),
    (ADMIN, "admin"),
    (PUBSUB, "pubsub"),
    (NO_SCRIPT, "noscript"),
    (LOADING, "loading"),
    (STALE, "stale"),
    (SKIP_MONITOR, "skip_monitor"),
    (SKIP_SLOWLOG, "skip_slowlog"),
    (FAST, "fast"),
    (NO_AUTH, "no_auth"),
    (NO_MULTI, "no_multi"),
];

/// Which arguments are keys; the command's name is argument 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// The first, 0 for none.
    pub first: usize,
    /// The last; counted from the end if negative.
    pub last: isize,
    /// From one to the next.
    pub step: usize,
    /// The argument that says how many more keys follow it, 0 for none.
    pub count: usize,
    /// What follows the option `STORE` is a key, too.
    pub stored: bool,
    /// The first half of what follows the option `STREAMS` are keys.
    pub streams: bool,
}

impl Keys {
    pub(super) const NONE: Keys = Keys { first: 0, last: 0, step: 0, count: 0, stored: false, streams: false };
    pub(super) const ONE: Keys = Keys { first: 1, last: 1, step: 1, ..Keys::NONE };
    const SECOND: Keys = Keys { first: 2, last: 2, step: 1, ..Keys::NONE };
    const FROM_SECOND: Keys = Keys { first: 2, ..Keys::ALL };
    const TWO: Keys = Keys { first: 1, last: 2, step: 1, ..Keys::NONE };
    const ALL: Keys = Keys { first: 1, last: -1, step: 1, ..Keys::NONE };
    const ALL_BUT_LAST: Keys = Keys { last: -2, ..Keys::ALL };
    const THIRD: Keys = Keys { first: 3, last: 3, step: 1, ..Keys::NONE };
    const PAIRS: Keys = Keys { first: 1, last: -1, step: 2, ..Keys::NONE };
    /// So many as the first argument says.
    const COUNTED: Keys = Keys { count: 1, ..Keys::NONE };
    /// So many as the second argument says.
    const SCRIPTED: Keys = Keys { count: 2, ..Keys::NONE };
    /// One, and so many as the second argument says.
    const ONE_AND_COUNTED: Keys = Keys { count: 2, ..Keys::ONE };

    /// One, and where `SORT` and `GEORADIUS` store.
    /// Those of `XREAD`.
    const STREAMS: Keys = Keys { streams: true, ..Keys::NONE };
    const ONE_AND_STORED: Keys = Keys { stored: true, ..Keys::ONE };

    /// The keys among `args`.
    pub fn of(self, args: Args<'_>) -> impl Iterator<Item = &'_ [u8]> {
        let len = args.len();
        let last = if self.last < 0 { len.saturating_add_signed(self.last) } else { (self.last as usize).min(len - 1) };
        let first = if self.first == 0 { last + 1 } else { self.first };
        (first..=last)
            .step_by(self.step.max(1))
            .chain(self.counted(args))
            .chain(self.stored(args))
            .chain(self.streams(args))
            .map(move |index| args.get(index))
    }

    /// Where `SORT` or `GEORADIUS` is told where to store; the last word counts.
    pub(super) fn stored(self, args: Args) -> Option<usize> {
        let (mut index, mut stored) = (2, None);
        while self.stored && index < args.len() {
            index += match args.get(index).to_ascii_lowercase().as_slice() {
                b"limit" => 3,
                b"by" | b"get" => 2,
                b"store" | b"storedist" => {
                    stored = Some(index + 1);
                    2
                }
                _ => 1,
            };
        }
        stored.filter(|index| *index < args.len())
    }

    /// Where those of `XREAD` are.
    fn streams(self, args: Args) -> Range<usize> {
        let mut index = 1;
        while self.streams && index < args.len() {
            index += match args.get(index).to_ascii_lowercase().as_slice() {
                b"streams" => return index + 1..index + 1 + (args.len() - index - 1) / 2,
                b"group" => 3,
                b"count" | b"block" => 2,
                _ => 1,
            };
        }
        0..0
    }

    /// Where those are whose number is an argument.
    fn counted(self, args: Args) -> Range<usize> {
        let start = (self.count + 1).min(args.len());
        let count = if self.count == 0 { None } else { args.maybe(self.count).and_then(parse_i64) };
        let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        start..start.saturating_add(count).min(args.len())
    }
}

/// One command, or one of the subcommands that some are divided into.
pub struct Command {
    /// In lower case; that of a subcommand is `command|subcommand`.
    pub name: &'static str,
    /// How many arguments it takes, its name included; at least so many if negative.
    pub arity: i32,
    /// What the gates must know of it.
    pub flags: Flags,
    /// Which of its arguments are keys.
    pub keys: Keys,
    /// What runs it.
    pub handler: Handler,
    /// What it is divided into: its first argument names one of these, or is `HELP`.
    pub subcommands: &'static [Command],
}

impl Command {
    /// Neither divided nor a part: its name alone says what is asked for.
    pub fn is_whole(&self) -> bool {
        self.subcommands.is_empty() && !self.name.contains('|')
    }

    /// The subcommand of this name, in any case.
    pub fn subcommand(&self, name: &[u8]) -> Option<&'static Command> {
        let own_name = |command: &Command| command.name.as_bytes()[self.name.len() + 1..].eq_ignore_ascii_case(name);
        self.subcommands.iter().find(|command| own_name(command))
    }

    /// Whether it has this flag.
    #[inline]
    pub fn is(&self, flag: Flags) -> bool {
        self.flags & flag != 0
    }

    /// Whether one call takes about as long as the next one.
    #[inline]
    pub fn is_quick(&self) -> bool {
        self.flags & (FAST | QUICK) != 0
    }

    /// Whether it is called fast.
    pub fn is_fast(&self) -> bool {
        self.is(FAST)
    }

    /// Whether its being slow says something.
    pub fn is_logged_if_slow(&self) -> bool {
        !self.is(SKIP_SLOWLOG)
    }

    /// Whether it changes keys.
    #[inline]
    pub fn is_write(&self) -> bool {
        match self.handler {
            Handler::Write(_) | Handler::Blocking(_) => !self.is(READS),
            Handler::Read(_) | Handler::Server(_) => false,
        }
    }

    /// Whether replicas may be told of it.
    pub fn may_replicate(&self) -> bool {
        self.is_write() || self.is(MAY_REPLICATE)
    }

    /// Whether it takes so many arguments, its name included.
    #[inline]
    pub fn takes(&self, count: usize) -> bool {
        if self.arity < 0 { count >= self.arity.unsigned_abs() as usize } else { count == self.arity as usize }
    }

    /// Whether it looks at keys and changes none.
    pub fn is_readonly(&self) -> bool {
        match self.handler {
            Handler::Read(_) => true,
            Handler::Write(_) | Handler::Blocking(_) => self.is(READS),
            Handler::Server(_) => self.is(READS),
        }
    }

    /// Whether it changes keys, or what is replicated like them.
    pub fn counts_as_write(&self) -> bool {
        self.is_write() || self.is(CHANGES)
    }

    /// The names of its flags.
    pub fn flag_names(&self) -> impl Iterator<Item = &'static str> {
        let kind = if self.counts_as_write() { Some("write") } else { self.is_readonly().then_some("readonly") };
        let blocking = matches!(self.handler, Handler::Blocking(_)).then_some("blocking");
        let own = NAMES.iter().filter(|(flag, _)| self.is(*flag)).map(|(_, name)| *name);
        let movable = about(self.name).specs.iter().any(|spec| !spec.is_range()).then_some("movablekeys");
        kind.into_iter().chain(blocking).chain(own).chain(movable)
    }
}

const fn command(name: &'static str, arity: i32, flags: Flags, keys: Keys, handler: Handler) -> Command {
    Command { name, arity, flags, keys, handler, subcommands: &[] }
}

/// What tells of a family of commands.
const fn help(name: &'static str) -> Command {
    command(name, 2, LOADING | STALE, Keys::NONE, Server(introspection::help))
}

/// A command that is nothing but its subcommands.
const fn container(name: &'static str, subcommands: &'static [Command]) -> Command {
    Command { subcommands, ..command(name, -2, 0, Keys::NONE, Server(introspection::help)) }
}

use Handler::{Blocking, Read, Server, Write};

const CONNECTION: Flags = LOADING | STALE | NO_SCRIPT | FAST;
const OPERATOR: Flags = LOADING | STALE | NO_SCRIPT | ADMIN;
const IN_MULTI: Flags = CONNECTION | RUNS_IN_MULTI;
const PERSONAL: Flags = LOADING | STALE | NO_SCRIPT;
const LIBRARY: Flags = NO_SCRIPT | MAY_REPLICATE | CHANGES;
const SCRIPT: Flags = NO_SCRIPT | STALE | SKIP_MONITOR;
const LISTENING: Flags = LOADING | STALE | NO_SCRIPT | PUBSUB | WHILE_SUBSCRIBED;

/// All commands, by group.
#[rustfmt::skip]
pub static COMMANDS: &[Command] = &[
    // Strings.
    command("append", 3, DENY_OOM | FAST, Keys::ONE, Write(string::append)),
    command("decr", 2, DENY_OOM | FAST, Keys::ONE, Write(string::decr)),
    command("decrby", 3, DENY_OOM | FAST, Keys::ONE, Write(string::decrby)),
    command("get", 2, FAST, Keys::ONE, Read(string::get)),
    command("getdel", 2, FAST, Keys::ONE, Write(string::getdel)),
    command("getex", -2, FAST, Keys::ONE, Write(string::getex)),
    command("getrange", 4, 0, Keys::ONE, Read(string::getrange)),
    command("getset", 3, DENY_OOM | FAST, Keys::ONE, Write(string::getset)),
    command("incr", 2, DENY_OOM | FAST, Keys::ONE, Write(string::incr)),
    command("incrby", 3, DENY_OOM | FAST, Keys::ONE, Write(string::incrby)),
    command("incrbyfloat", 3, DENY_OOM | FAST, Keys::ONE, Write(string::incrbyfloat)),
    command("lcs", -3, 0, Keys::TWO, Read(lcs::lcs)),
    command("mget", -2, FAST, Keys::ALL, Read(string::mget)),
    command("mset", -3, DENY_OOM, Keys::PAIRS, Write(string::mset)),
    command("msetnx", -3, DENY_OOM, Keys::PAIRS, Write(string::msetnx)),
    command("psetex", 4, DENY_OOM, Keys::ONE, Write(string::psetex)),
    command("set", -3, DENY_OOM | QUICK, Keys::ONE, Write(string::set)),
    command("setex", 4, DENY_OOM, Keys::ONE, Write(string::setex)),
    command("setnx", 3, DENY_OOM | FAST, Keys::ONE, Write(string::setnx)),
    command("setrange", 4, DENY_OOM, Keys::ONE, Write(string::setrange)),
    command("strlen", 2, FAST, Keys::ONE, Read(string::strlen)),
    command("substr", 4, 0, Keys::ONE, Read(string::getrange)),
    // Bits of strings.
    command("bitcount", -2, 0, Keys::ONE, Read(bit::bitcount)),
    command("bitfield", -2, DENY_OOM, Keys::ONE, Write(bit::bitfield)),
    command("bitfield_ro", -2, FAST, Keys::ONE, Read(bit::bitfield_ro)),
    command("bitop", -4, DENY_OOM, Keys::FROM_SECOND, Write(bit::bitop)),
    command("bitpos", -3, 0, Keys::ONE, Read(bit::bitpos)),
    command("getbit", 3, FAST, Keys::ONE, Read(bit::getbit)),
    command("setbit", 4, DENY_OOM, Keys::ONE, Write(bit::setbit)),
    // HyperLogLogs.
    command("pfadd", -2, DENY_OOM | FAST, Keys::ONE, Write(hyperloglog::pfadd)),
    command("pfcount", -2, READS | MAY_REPLICATE, Keys::ALL, Write(hyperloglog::pfcount)),
    command("pfdebug", 3, DENY_OOM | ADMIN, Keys::SECOND, Write(hyperloglog::pfdebug)),
    command("pfmerge", -2, DENY_OOM, Keys::ALL, Write(hyperloglog::pfmerge)),
    command("pfselftest", 1, ADMIN, Keys::NONE, Server(hyperloglog::pfselftest)),
    // Hashes.
    command("hexpire", -6, FAST, Keys::ONE, Write(field_deadline::hexpire)),
    command("hexpireat", -6, FAST, Keys::ONE, Write(field_deadline::hexpireat)),
    command("hexpiretime", -5, FAST, Keys::ONE, Read(field_deadline::hexpiretime)),
    command("hgetdel", -5, FAST, Keys::ONE, Write(field_deadline::hgetdel)),
    command("hgetex", -5, FAST, Keys::ONE, Write(field_deadline::hgetex)),
    command("hpersist", -5, FAST, Keys::ONE, Write(field_deadline::hpersist)),
    command("hpexpire", -6, FAST, Keys::ONE, Write(field_deadline::hpexpire)),
    command("hpexpireat", -6, FAST, Keys::ONE, Write(field_deadline::hpexpireat)),
    command("hpexpiretime", -5, FAST, Keys::ONE, Read(field_deadline::hpexpiretime)),
    command("hpttl", -5, FAST, Keys::ONE, Read(field_deadline::hpttl)),
    command("hsetex", -6, FAST | DENY_OOM, Keys::ONE, Write(field_deadline::hsetex)),
    command("httl", -5, FAST, Keys::ONE, Read(field_deadline::httl)),
    command("hdel", -3, FAST, Keys::ONE, Write(hash::hdel)),
    command("hexists", 3, FAST, Keys::ONE, Read(hash::hexists)),
    command("hget", 3, FAST, Keys::ONE, Read(hash::hget)),
    command("hgetall", 2, 0, Keys::ONE, Read(hash::hgetall)),
    command("hincrby", 4, FAST | DENY_OOM, Keys::ONE, Write(hash::hincrby)),
    command("hincrbyfloat", 4, FAST | DENY_OOM, Keys::ONE, Write(hash::hincrbyfloat)),
    command("hkeys", 2, 0, Keys::ONE, Read(hash::hkeys)),
    command("hlen", 2, FAST, Keys::ONE, Read(hash::hlen)),
    command("hmget", -3, FAST, Keys::ONE, Read(hash::hmget)),
    command("hmset", -4, FAST | DENY_OOM, Keys::ONE, Write(hash::hmset)),
    command("hrandfield", -2, 0, Keys::ONE, Read(hash::hrandfield)),
    command("hscan", -3, 0, Keys::ONE, Read(hash::hscan)),
    command("hset", -4, FAST | DENY_OOM, Keys::ONE, Write(hash::hset)),
    command("hsetnx", 4, FAST | DENY_OOM, Keys::ONE, Write(hash::hsetnx)),
    command("hstrlen", 3, FAST, Keys::ONE, Read(hash::hstrlen)),
    command("hvals", 2, 0, Keys::ONE, Read(hash::hvals)),
    // Sets.
    command("sadd", -3, FAST | DENY_OOM, Keys::ONE, Write(set::sadd)),
    command("scard", 2, FAST, Keys::ONE, Read(set::scard)),
    command("sdiff", -2, 0, Keys::ALL, Read(set::sdiff)),
    command("sdiffstore", -3, DENY_OOM, Keys::ALL, Write(set::sdiffstore)),
    command("sinter", -2, 0, Keys::ALL, Read(set::sinter)),
    command("sintercard", -3, 0, Keys::COUNTED, Read(set::sintercard)),
    command("sinterstore", -3, DENY_OOM, Keys::ALL, Write(set::sinterstore)),
    command("sismember", 3, FAST, Keys::ONE, Read(set::sismember)),
    command("smembers", 2, 0, Keys::ONE, Read(set::smembers)),
    command("smismember", -3, FAST, Keys::ONE, Read(set::smismember)),
    command("smove", 4, FAST, Keys::TWO, Write(set::smove)),
    command("spop", -2, FAST, Keys::ONE, Write(set::spop)),
    command("srandmember", -2, 0, Keys::ONE, Read(set::srandmember)),
    command("srem", -3, FAST, Keys::ONE, Write(set::srem)),
    command("sscan", -3, 0, Keys::ONE, Read(set::sscan)),
    command("sunion", -2, 0, Keys::ALL, Read(set::sunion)),
    command("sunionstore", -3, DENY_OOM, Keys::ALL, Write(set::sunionstore)),
    // Lists.
    command("blmove", 6, DENY_OOM | NO_SCRIPT, Keys::TWO, Blocking(list::blmove)),
    command("blmpop", -5, 0, Keys { count: 2, ..Keys::NONE }, Blocking(list::blmpop)),
    command("blpop", -3, NO_SCRIPT, Keys::ALL_BUT_LAST, Blocking(list::blpop)),
    command("brpop", -3, NO_SCRIPT, Keys::ALL_BUT_LAST, Blocking(list::brpop)),
    command("brpoplpush", 4, DENY_OOM | NO_SCRIPT, Keys::TWO, Blocking(list::brpoplpush)),
    command("lindex", 3, 0, Keys::ONE, Read(list::lindex)),
    command("linsert", 5, DENY_OOM, Keys::ONE, Write(list::linsert)),
    command("llen", 2, FAST, Keys::ONE, Read(list::llen)),
    command("lmove", 5, DENY_OOM, Keys::TWO, Write(list::lmove)),
    command("lmpop", -4, 0, Keys::COUNTED, Write(list::lmpop)),
    command("lpop", -2, FAST, Keys::ONE, Write(list::lpop)),
    command("lpos", -3, 0, Keys::ONE, Read(list::lpos)),
    command("lpush", -3, DENY_OOM | FAST, Keys::ONE, Write(list::lpush)),
    command("lpushx", -3, DENY_OOM | FAST, Keys::ONE, Write(list::lpushx)),
    command("lrange", 4, 0, Keys::ONE, Read(list::lrange)),
    command("lrem", 4, 0, Keys::ONE, Write(list::lrem)),
    command("lset", 4, DENY_OOM, Keys::ONE, Write(list::lset)),
    command("ltrim", 4, 0, Keys::ONE, Write(list::ltrim)),
    command("rpop", -2, FAST, Keys::ONE, Write(list::rpop)),
    command("rpoplpush", 3, DENY_OOM, Keys::TWO, Write(list::rpoplpush)),
    command("rpush", -3, DENY_OOM | FAST, Keys::ONE, Write(list::rpush)),
    command("rpushx", -3, DENY_OOM | FAST, Keys::ONE, Write(list::rpushx)),
    // Streams.
    command("xack", -4, FAST, Keys::ONE, Write(stream::xack)),
    command("xadd", -5, DENY_OOM | FAST, Keys::ONE, Write(stream::xadd)),
    command("xautoclaim", -6, FAST, Keys::ONE, Write(stream::xautoclaim)),
    command("xclaim", -6, FAST, Keys::ONE, Write(stream::xclaim)),
    command("xdel", -3, FAST, Keys::ONE, Write(stream::xdel)),
    container("xgroup", &[
        command("xgroup|create", -5, DENY_OOM, Keys::SECOND, Write(stream::xgroup_create)),
        command("xgroup|createconsumer", 5, DENY_OOM, Keys::SECOND, Write(stream::xgroup_createconsumer)),
        command("xgroup|delconsumer", 5, 0, Keys::SECOND, Write(stream::xgroup_delconsumer)),
        command("xgroup|destroy", 4, 0, Keys::SECOND, Write(stream::xgroup_destroy)),
        help("xgroup|help"),
        command("xgroup|setid", -5, 0, Keys::SECOND, Write(stream::xgroup_setid)),
    ]),
    container("xinfo", &[
        command("xinfo|consumers", 4, 0, Keys::SECOND, Read(stream::xinfo_consumers)),
        command("xinfo|groups", 3, 0, Keys::SECOND, Read(stream::xinfo_groups)),
        help("xinfo|help"),
        command("xinfo|stream", -3, 0, Keys::SECOND, Read(stream::xinfo_stream)),
    ]),
    command("xlen", 2, FAST, Keys::ONE, Read(stream::xlen)),
    command("xpending", -3, 0, Keys::ONE, Read(stream::xpending)),
    command("xrange", -4, 0, Keys::ONE, Read(stream::xrange)),
    command("xread", -4, READS, Keys::STREAMS, Blocking(stream::xread)),
    command("xreadgroup", -7, 0, Keys::STREAMS, Blocking(stream::xreadgroup)),
    command("xrevrange", -4, 0, Keys::ONE, Read(stream::xrevrange)),
    command("xsetid", -3, DENY_OOM | FAST, Keys::ONE, Write(stream::xsetid)),
    command("xtrim", -4, 0, Keys::ONE, Write(stream::xtrim)),
    // Sorted sets.
    command("bzmpop", -5, 0, Keys { count: 2, ..Keys::NONE }, Blocking(sorted_set::bzmpop)),
    command("bzpopmax", -3, NO_SCRIPT | FAST, Keys::ALL_BUT_LAST, Blocking(sorted_set::bzpopmax)),
    command("bzpopmin", -3, NO_SCRIPT | FAST, Keys::ALL_BUT_LAST, Blocking(sorted_set::bzpopmin)),
    command("zadd", -4, DENY_OOM | FAST, Keys::ONE, Write(sorted_set::zadd)),
    command("zcard", 2, FAST, Keys::ONE, Read(sorted_set::zcard)),
    command("zcount", 4, FAST, Keys::ONE, Read(sorted_set::zcount)),
    command("zdiff", -3, 0, Keys::COUNTED, Read(sorted_set::zdiff)),
    command("zdiffstore", -4, DENY_OOM, Keys::ONE_AND_COUNTED, Write(sorted_set::zdiffstore)),
    command("zincrby", 4, DENY_OOM | FAST, Keys::ONE, Write(sorted_set::zincrby)),
    command("zinter", -3, 0, Keys::COUNTED, Read(sorted_set::zinter)),
    command("zintercard", -3, 0, Keys::COUNTED, Read(sorted_set::zintercard)),
    command("zinterstore", -4, DENY_OOM, Keys::ONE_AND_COUNTED, Write(sorted_set::zinterstore)),
    command("zlexcount", 4, FAST, Keys::ONE, Read(sorted_set::zlexcount)),
    command("zmpop", -4, 0, Keys::COUNTED, Write(sorted_set::zmpop)),
    command("zmscore", -3, FAST, Keys::ONE, Read(sorted_set::zmscore)),
    command("zpopmax", -2, FAST, Keys::ONE, Write(sorted_set::zpopmax)),
    command("zpopmin", -2, FAST, Keys::ONE, Write(sorted_set::zpopmin)),
    command("zrandmember", -2, 0, Keys::ONE, Read(sorted_set::zrandmember)),
    command("zrange", -4, 0, Keys::ONE, Read(sorted_set::zrange)),
    command("zrangebylex", -4, 0, Keys::ONE, Read(sorted_set::zrangebylex)),
    command("zrangebyscore", -4, 0, Keys::ONE, Read(sorted_set::zrangebyscore)),
    command("zrangestore", -5, DENY_OOM, Keys::TWO, Write(sorted_set::zrangestore)),
    command("zrank", 3, FAST, Keys::ONE, Read(sorted_set::zrank)),
    command("zrem", -3, FAST, Keys::ONE, Write(sorted_set::zrem)),
    command("zremrangebylex", 4, 0, Keys::ONE, Write(sorted_set::zremrangebylex)),
    command("zremrangebyrank", 4, 0, Keys::ONE, Write(sorted_set::zremrangebyrank)),
    command("zremrangebyscore", 4, 0, Keys::ONE, Write(sorted_set::zremrangebyscore)),
    command("zrevrange", -4, 0, Keys::ONE, Read(sorted_set::zrevrange)),
    command("zrevrangebylex", -4, 0, Keys::ONE, Read(sorted_set::zrevrangebylex)),
    command("zrevrangebyscore", -4, 0, Keys::ONE, Read(sorted_set::zrevrangebyscore)),
    command("zrevrank", 3, FAST, Keys::ONE, Read(sorted_set::zrevrank)),
    command("zscan", -3, 0, Keys::ONE, Read(sorted_set::zscan)),
    command("zscore", 3, FAST, Keys::ONE, Read(sorted_set::zscore)),
    command("zunion", -3, 0, Keys::COUNTED, Read(sorted_set::zunion)),
    command("zunionstore", -4, DENY_OOM, Keys::ONE_AND_COUNTED, Write(sorted_set::zunionstore)),
    // Places.
    command("geoadd", -5, DENY_OOM, Keys::ONE, Write(geo::geoadd)),
    command("geodist", -4, 0, Keys::ONE, Read(geo::geodist)),
    command("geohash", -2, 0, Keys::ONE, Read(geo::geohash)),
    command("geopos", -2, 0, Keys::ONE, Read(geo::geopos)),
    command("georadius", -6, DENY_OOM, Keys::ONE_AND_STORED, Write(geo::georadius)),
    command("georadius_ro", -6, 0, Keys::ONE, Read(geo::georadius_ro)),
    command("georadiusbymember", -5, DENY_OOM, Keys::ONE_AND_STORED, Write(geo::georadiusbymember)),
    command("georadiusbymember_ro", -5, 0, Keys::ONE, Read(geo::georadiusbymember_ro)),
    command("geosearch", -7, 0, Keys::ONE, Read(geo::geosearch)),
    command("geosearchstore", -8, DENY_OOM, Keys::TWO, Write(geo::geosearchstore)),
    // Keys and databases.
    command("copy", -3, DENY_OOM | ELSEWHERE, Keys::TWO, Write(object::copy)),
    command("dbsize", 1, FAST, Keys::NONE, Read(key::dbsize)),
    command("del", -2, 0, Keys::ALL, Write(key::del)),
    command("dump", 2, 0, Keys::ONE, Read(object::dump)),
    command("exists", -2, FAST, Keys::ALL, Read(key::exists)),
    command("expire", -3, FAST, Keys::ONE, Write(key::expire)),
    command("expireat", -3, FAST, Keys::ONE, Write(key::expireat)),
    command("expiretime", 2, FAST, Keys::ONE, Read(key::expiretime)),
    command("flushall", -1, 0, Keys::NONE, Write(key::flushall)),
    command("flushdb", -1, 0, Keys::NONE, Write(key::flushdb)),
    command("keys", 2, 0, Keys::NONE, Read(key::keys)),
    container("memory", &[
        command("memory|doctor", 2, 0, Keys::NONE, Server(memory::doctor)),
        help("memory|help"),
        command("memory|malloc-stats", 2, 0, Keys::NONE, Server(memory::malloc_stats)),
        command("memory|purge", 2, 0, Keys::NONE, Server(memory::purge)),
        command("memory|stats", 2, 0, Keys::NONE, Server(memory::stats)),
        command("memory|usage", -3, 0, Keys::SECOND, Read(object::memory_usage)),
    ]),
    command("migrate", -6, MAY_REPLICATE | CHANGES, Keys::THIRD, Server(migrate::migrate)),
    command("move", 3, FAST | ELSEWHERE, Keys::ONE, Write(key::move_key)),
    container("object", &[
        command("object|encoding", 3, 0, Keys::SECOND, Read(object::encoding)),
        command("object|freq", 3, 0, Keys::SECOND, Read(object::freq)),
        help("object|help"),
        command("object|idletime", 3, 0, Keys::SECOND, Read(object::idletime)),
        command("object|refcount", 3, 0, Keys::SECOND, Read(object::refcount)),
    ]),
    command("persist", 2, FAST, Keys::ONE, Write(key::persist)),
    command("pexpire", -3, FAST, Keys::ONE, Write(key::pexpire)),
    command("pexpireat", -3, FAST, Keys::ONE, Write(key::pexpireat)),
    command("pexpiretime", 2, FAST, Keys::ONE, Read(key::pexpiretime)),
    command("pttl", 2, FAST, Keys::ONE, Read(key::pttl)),
    command("randomkey", 1, 0, Keys::NONE, Read(key::randomkey)),
    command("rename", 3, 0, Keys::TWO, Write(key::rename)),
    command("renamenx", 3, FAST, Keys::TWO, Write(key::renamenx)),
    command("restore", -4, DENY_OOM, Keys::ONE, Write(object::restore)),
    command("scan", -2, 0, Keys::NONE, Read(key::scan)),
    command("sort", -2, DENY_OOM, Keys::ONE_AND_STORED, Write(sort::sort)),
    command("sort_ro", -2, 0, Keys::ONE_AND_STORED, Read(sort::sort_ro)),
    command("swapdb", 3, FAST, Keys::NONE, Write(key::swapdb)),
    command("touch", -2, FAST, Keys::ALL, Read(key::touch)),
    command("ttl", 2, FAST, Keys::ONE, Read(key::ttl)),
    command("type", 2, FAST, Keys::ONE, Read(key::kind)),
    command("unlink", -2, FAST, Keys::ALL, Write(key::del)),
    // Transactions.
    command("discard", 1, IN_MULTI, Keys::NONE, Server(transaction::discard)),
    command("exec", 1, (IN_MULTI | SKIP_SLOWLOG) & !FAST, Keys::NONE, Server(transaction::exec)),
    command("multi", 1, IN_MULTI, Keys::NONE, Server(transaction::multi)),
    command("unwatch", 1, CONNECTION, Keys::NONE, Server(transaction::unwatch)),
    command("watch", -2, IN_MULTI, Keys::ALL, Server(transaction::watch)),
    // Publish and subscribe.
    command("psubscribe", -2, LISTENING, Keys::NONE, Server(pubsub::psubscribe)),
    command("publish", 3, LOADING | STALE | FAST | PUBSUB | MAY_REPLICATE, Keys::NONE, Server(pubsub::publish)),
    container("pubsub", &[
        command("pubsub|channels", -2, LOADING | STALE | PUBSUB, Keys::NONE, Server(pubsub::channels)),
        help("pubsub|help"),
        command("pubsub|numpat", 2, LOADING | STALE | PUBSUB, Keys::NONE, Server(pubsub::numpat)),
        command("pubsub|numsub", -2, LOADING | STALE | PUBSUB, Keys::NONE, Server(pubsub::numsub)),
        command("pubsub|shardchannels", -2, LOADING | STALE | PUBSUB, Keys::NONE, Server(pubsub::shardchannels)),
        command("pubsub|shardnumsub", -2, LOADING | STALE | PUBSUB, Keys::NONE, Server(pubsub::shardnumsub)),
    ]),
    command("punsubscribe", -1, LISTENING, Keys::NONE, Server(pubsub::punsubscribe)),
    command("spublish", 3, LOADING | STALE | FAST | PUBSUB | MAY_REPLICATE, Keys::ONE, Server(pubsub::spublish)),
    command("ssubscribe", -2, LISTENING, Keys::ALL, Server(pubsub::ssubscribe)),
    command("subscribe", -2, LISTENING, Keys::NONE, Server(pubsub::subscribe)),
    command("sunsubscribe", -1, LISTENING, Keys::ALL, Server(pubsub::sunsubscribe)),
    command("unsubscribe", -1, LISTENING, Keys::NONE, Server(pubsub::unsubscribe)),
    // The connection.
    command("auth", -2, CONNECTION | NO_AUTH, Keys::NONE, Server(connection::auth)),
    container("client", &[
        command("client|caching", 3, PERSONAL, Keys::NONE, Server(tracking::caching)),
        command("client|getname", 2, PERSONAL, Keys::NONE, Server(client::getname)),
        command("client|getredir", 2, PERSONAL, Keys::NONE, Server(tracking::getredir)),
        help("client|help"),
        command("client|id", 2, PERSONAL, Keys::NONE, Server(client::id)),
        command("client|info", 2, PERSONAL, Keys::NONE, Server(client::info)),
        command("client|kill", -3, OPERATOR, Keys::NONE, Server(client::kill)),
        command("client|list", -2, OPERATOR, Keys::NONE, Server(client::list)),
        command("client|no-evict", 3, OPERATOR, Keys::NONE, Server(client::no_evict)),
        command("client|no-touch", 3, PERSONAL, Keys::NONE, Server(client::no_touch)),
        command("client|pause", -3, OPERATOR, Keys::NONE, Server(client::pause)),
        command("client|reply", 3, PERSONAL, Keys::NONE, Server(client::reply)),
        command("client|setinfo", 4, PERSONAL, Keys::NONE, Server(client::setinfo)),
        command("client|setname", 3, PERSONAL, Keys::NONE, Server(client::setname)),
        command("client|tracking", -3, PERSONAL, Keys::NONE, Server(tracking::tracking)),
        command("client|trackinginfo", 2, PERSONAL, Keys::NONE, Server(tracking::trackinginfo)),
        command("client|unblock", -3, OPERATOR, Keys::NONE, Server(client::unblock)),
        command("client|unpause", 2, OPERATOR, Keys::NONE, Server(client::unpause)),
    ]),
    command("echo", 2, LOADING | STALE | FAST, Keys::NONE, Server(connection::echo)),
    command("hello", -1, CONNECTION | NO_AUTH, Keys::NONE, Server(connection::hello)),
    command("ping", -1, FAST | WHILE_SUBSCRIBED, Keys::NONE, Server(connection::ping)),
    command("quit", -1, IN_MULTI | NO_AUTH | WHILE_SUBSCRIBED, Keys::NONE, Server(connection::quit)),
    command("reset", 1, IN_MULTI | NO_AUTH | WHILE_SUBSCRIBED, Keys::NONE, Server(connection::reset)),
    command("select", 2, LOADING | STALE | FAST, Keys::NONE, Server(connection::select)),
    // The server.
    container("acl", &[
        command("acl|cat", -2, PERSONAL, Keys::NONE, Server(acl::cat)),
        command("acl|deluser", -3, OPERATOR, Keys::NONE, Server(acl::deluser)),
        command("acl|dryrun", -4, OPERATOR, Keys::NONE, Server(acl::dryrun)),
        command("acl|genpass", -2, PERSONAL, Keys::NONE, Server(acl::genpass)),
        command("acl|getuser", 3, OPERATOR, Keys::NONE, Server(acl::getuser)),
        help("acl|help"),
        command("acl|list", 2, OPERATOR, Keys::NONE, Server(acl::list)),
        command("acl|load", 2, OPERATOR, Keys::NONE, Server(acl::load)),
        command("acl|log", -2, OPERATOR, Keys::NONE, Server(acl::log)),
        command("acl|save", 2, OPERATOR, Keys::NONE, Server(acl::save)),
        command("acl|setuser", -3, OPERATOR, Keys::NONE, Server(acl::setuser)),
        command("acl|users", 2, OPERATOR, Keys::NONE, Server(acl::users)),
        command("acl|whoami", 2, PERSONAL, Keys::NONE, Server(acl::whoami)),
    ]),
    command("bgrewriteaof", 1, NO_SCRIPT | ADMIN, Keys::NONE, Server(server::bgrewriteaof)),
    command("bgsave", -1, NO_SCRIPT | ADMIN, Keys::NONE, Server(server::bgsave)),
    Command { arity: -1, flags: LOADING | STALE, handler: Server(introspection::command), ..container("command", &[
        command("command|count", 2, LOADING | STALE, Keys::NONE, Server(introspection::count)),
        command("command|docs", -2, LOADING | STALE, Keys::NONE, Server(introspection::docs)),
        command("command|getkeys", -4, LOADING | STALE, Keys::NONE, Server(introspection::getkeys)),
        command("command|getkeysandflags", -4, LOADING | STALE, Keys::NONE, Server(introspection::getkeysandflags)),
        help("command|help"),
        command("command|info", -2, LOADING | STALE, Keys::NONE, Server(introspection::info)),
        command("command|list", -2, LOADING | STALE, Keys::NONE, Server(introspection::list)),
    ]) },
    container("config", &[
        command("config|get", -3, OPERATOR, Keys::NONE, Server(server::config_get)),
        help("config|help"),
        command("config|resetstat", 2, OPERATOR, Keys::NONE, Server(server::config_resetstat)),
        command("config|rewrite", 2, OPERATOR, Keys::NONE, Server(server::config_rewrite)),
        command("config|set", -4, OPERATOR, Keys::NONE, Server(server::config_set)),
    ]),
    command("debug", -2, OPERATOR, Keys::NONE, Server(debug::debug)),
    command("info", -1, LOADING | STALE, Keys::NONE, Server(server::info)),
    container("latency", &[
        command("latency|doctor", 2, OPERATOR, Keys::NONE, Server(slowlog::latency_doctor)),
        command("latency|graph", 3, OPERATOR, Keys::NONE, Server(slowlog::latency_graph)),
        help("latency|help"),
        command("latency|histogram", -2, OPERATOR, Keys::NONE, Server(slowlog::latency_histogram)),
        command("latency|history", 3, OPERATOR, Keys::NONE, Server(slowlog::latency_history)),
        command("latency|latest", 2, OPERATOR, Keys::NONE, Server(slowlog::latency_latest)),
        command("latency|reset", -2, OPERATOR, Keys::NONE, Server(slowlog::latency_reset)),
    ]),
    command("monitor", 1, OPERATOR, Keys::NONE, Server(monitor::monitor)),
    command("lastsave", 1, LOADING | STALE | FAST, Keys::NONE, Server(server::lastsave)),
    command("save", 1, NO_SCRIPT | ADMIN | NO_MULTI, Keys::NONE, Server(server::save)),
    // Scripts and functions.
    command("eval", -3, SCRIPT, Keys::SCRIPTED, Server(function::eval)),
    command("eval_ro", -3, SCRIPT | READS, Keys::SCRIPTED, Server(function::eval)),
    command("evalsha", -3, SCRIPT, Keys::SCRIPTED, Server(function::eval)),
    command("evalsha_ro", -3, SCRIPT | READS, Keys::SCRIPTED, Server(function::eval)),
    command("fcall", -3, SCRIPT, Keys::SCRIPTED, Server(function::fcall)),
    command("fcall_ro", -3, SCRIPT | READS, Keys::SCRIPTED, Server(function::fcall)),
    container("function", &[
        help("function|help"),
        command("function|delete", 3, LIBRARY, Keys::NONE, Server(function::delete)),
        command("function|dump", 2, NO_SCRIPT, Keys::NONE, Server(function::dump)),
        command("function|flush", -2, LIBRARY, Keys::NONE, Server(function::flush)),
        command("function|kill", 2, NO_SCRIPT, Keys::NONE, Server(function::kill)),
        command("function|list", -2, NO_SCRIPT, Keys::NONE, Server(function::list)),
        command("function|load", -3, LIBRARY | DENY_OOM, Keys::NONE, Server(function::load)),
        command("function|restore", -3, LIBRARY | DENY_OOM, Keys::NONE, Server(function::restore)),
        command("function|stats", 2, NO_SCRIPT, Keys::NONE, Server(function::stats)),
    ]),
    container("script", &[
        help("script|help"),
        command("script|exists", -3, NO_SCRIPT, Keys::NONE, Server(function::script_exists)),
        command("script|flush", -2, NO_SCRIPT, Keys::NONE, Server(function::script_flush)),
        command("script|kill", 2, NO_SCRIPT, Keys::NONE, Server(function::kill)),
        command("script|load", 3, NO_SCRIPT | STALE, Keys::NONE, Server(function::script_load)),
    ]),
    command("shutdown", -1, OPERATOR | NO_MULTI, Keys::NONE, Server(server::shutdown)),
    container("slowlog", &[
        command("slowlog|get", -2, ADMIN | LOADING | STALE, Keys::NONE, Server(slowlog::get)),
        help("slowlog|help"),
        command("slowlog|len", 2, ADMIN | LOADING | STALE, Keys::NONE, Server(slowlog::len)),
        command("slowlog|reset", 2, ADMIN | LOADING | STALE, Keys::NONE, Server(slowlog::reset)),
    ]),
    command("time", 1, LOADING | STALE | FAST, Keys::NONE, Server(server::time)),
    // Replication.
    command("failover", -1, NO_SCRIPT | ADMIN | STALE, Keys::NONE, Server(replication::failover)),
    command("psync", -3, NO_SCRIPT | ADMIN | NO_MULTI, Keys::NONE, Server(replication::psync)),
    command("replconf", -1, OPERATOR, Keys::NONE, Server(replication::replconf)),
    command("replid", 1, CONNECTION | NO_AUTH, Keys::NONE, Server(replication::replid)),
    command("replicaof", 3, NO_SCRIPT | ADMIN | STALE | DURING_TRANSFER, Keys::NONE, Server(replication::replicaof)),
    command("role", 1, LOADING | STALE | FAST | NO_SCRIPT, Keys::NONE, Server(replication::role)),
    command("slaveof", 3, NO_SCRIPT | ADMIN | STALE | DURING_TRANSFER, Keys::NONE, Server(replication::replicaof)),
    command("sync", 1, NO_SCRIPT | ADMIN | NO_MULTI, Keys::NONE, Server(replication::sync)),
    command("wait", 3, NO_SCRIPT, Keys::NONE, Server(replication::wait)),
    command("waitaof", 4, NO_SCRIPT, Keys::NONE, Server(replication::waitaof)),
];

/// All commands, and what they are divided into.
pub fn all() -> impl Iterator<Item = &'static Command> {
    COMMANDS.iter().flat_map(|command| std::iter::once(command).chain(command.subcommands))
}

/// The longest name of a command, in bytes.
const NAME_BYTES_MAX: usize = 32;

/// What a request asks for: of a command that is divided, the subcommand.
///
/// # Errors
/// Nobody knows it; the error says how it might have been meant.
pub fn resolve(args: Args) -> super::Result<&'static Command> {
    let command = find(args.get(0)).ok_or_else(|| unknown_command(args))?;
    match args.maybe(1) {
        Some(name) if !command.subcommands.is_empty() => {
            command.subcommand(name).ok_or_else(|| unknown_subcommand(name, command))
        }
        _ => Ok(command),
    }
}

fn unknown_command(args: Args) -> ErrorReply {
    let mut rest = Vec::new();
    for argument in args.from(1) {
        let room = QUOTED_BYTES_MAX.saturating_sub(rest.len());
        if room == 0 {
            break;
        }
        rest.extend([b"'", quotable(&argument[..argument.len().min(room)]), b"' "].concat());
    }
    let before = [b"ERR unknown command '", quotable(args.get(0)), b"', with args beginning with: "].concat();
    ErrorReply::from_bytes([before, rest].concat())
}

fn unknown_subcommand(name: &[u8], command: &Command) -> ErrorReply {
    let after = format!("'. Try {} HELP.", command.name.to_ascii_uppercase());
    ErrorReply::quoting("ERR unknown subcommand '", name, &after)
}

/// The command of this name, in any case; it may have subcommands.
pub fn find(name: &[u8]) -> Option<&'static Command> {
    static INDEX: LazyLock<HashMap<&'static [u8], &'static Command>> =
        LazyLock::new(|| COMMANDS.iter().map(|command| (command.name.as_bytes(), command)).collect());
    let mut lower = [0; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    INDEX.get(&*lower).copied()
}

/// The same for `command` and `command|subcommand`, as [`Command::name`] writes them.
pub fn find_by_full_name(name: &[u8]) -> Option<&'static Command> {
    match memchr::memchr(b'|', name) {
        None => find(name),
        Some(bar) => find(&name[..bar])?.subcommand(&name[bar + 1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_by_its_name_in_any_case() {
        for command in COMMANDS {
            let found = find(command.name.to_ascii_uppercase().as_bytes()).expect("it is in the table");
            assert_eq!(found.name, command.name);
        }
        assert!(find(b"nosuchcommand").is_none());
        assert!(find(&[b'x'; NAME_BYTES_MAX + 1]).is_none());
    }

    #[test]
    fn the_keys_that_a_command_names_lie_within_its_least_arguments() {
        for command in COMMANDS {
            let least = command.arity.unsigned_abs() as usize;
            assert!(command.keys.first < least.max(2), "{}", command.name);
            assert!(command.keys.last < least as isize, "{}", command.name);
            assert!(command.keys.count < least, "{}", command.name);
        }
    }
}
