//! The connection itself: <https://redis.io/docs/latest/commands/?group=connection>.

use std::rc::Rc;

use subtle::ConstantTimeEq;

use super::key::database;
use super::{Args, ErrorReply, Flow, Result, ServerContext, parse_integer};
use crate::client::{Client, ClientKind, ReplyMode};
use crate::instance::{Pause, PausedBy, REDIS_VERSION};
use crate::resp::{Protocol, Reply};

pub(super) fn ping(context: &mut ServerContext, args: Args) -> Result<Flow> {
    if args.len() > 2 {
        return Err(ErrorReply::arity("ping"));
    }
    let subscribed = super::pubsub::is_restricted(context.session.protocol, context.session.client.subscriptions.get());
    let mut reply = context.reply();
    match args.maybe(1) {
        message if subscribed => {
            reply.array(2);
            reply.bulk(b"pong");
            reply.bulk(message.unwrap_or_default());
        }
        Some(message) => reply.bulk(message),
        None => reply.simple("PONG"),
    }
    Ok(Flow::Continue)
}

pub(super) fn echo(context: &mut ServerContext, args: Args) -> Result<Flow> {
    context.reply().bulk(args.get(1));
    Ok(Flow::Continue)
}

pub(super) fn quit(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    context.reply().ok();
    Ok(Flow::Close)
}

pub(super) fn select(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let index = database(&context.instance.keyspace, parse_integer(args.get(1))?)?;
    context.session.client.db.set(index);
    context.ok()
}

fn check_password(context: &ServerContext, user: &[u8], password: &[u8]) -> Result<()> {
    let right = match &context.instance.config.requirepass {
        None => user == b"default",
        Some(secret) => user == b"default" && bool::from(secret.expose().ct_eq(password)),
    };
    if right { Ok(()) } else { Err(ErrorReply::new("WRONGPASS invalid username-password pair or user is disabled.")) }
}

pub(super) fn auth(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let (user, password) = match args.len() {
        2 if context.instance.config.requirepass.is_none() => {
            return Err(ErrorReply::new(
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                 configuration is correct?",
            ));
        }
        2 => (b"default".as_slice(), args.get(1)),
        3 => (args.get(1), args.get(2)),
        _ => return Err(ErrorReply::SYNTAX),
    };
    check_password(context, user, password)?;
    context.session.authenticated = true;
    context.ok()
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Ok(());
    }
    Err(ErrorReply::new("ERR Client names cannot contain spaces, newlines or special characters."))
}

pub(super) fn hello(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let mut protocol = context.session.protocol;
    if let Some(version) = args.maybe(1) {
        protocol = match crate::number::parse_i64(version) {
            Some(2) => Protocol::Resp2,
            Some(3) => Protocol::Resp3,
            Some(_) => return Err(ErrorReply::new("NOPROTO unsupported protocol version")),
            None => return Err(ErrorReply::new("ERR Protocol version is not an integer or out of range")),
        };
    }
    let (mut name, mut index) = (None, 2);
    while let Some(option) = args.maybe(index) {
        match option.to_ascii_lowercase().as_slice() {
            b"auth" if index + 2 < args.len() => {
                check_password(context, args.get(index + 1), args.get(index + 2))?;
                context.session.authenticated = true;
                index += 3;
            }
            b"setname" if index + 1 < args.len() => {
                check_name(args.get(index + 1))?;
                name = Some(args.get(index + 1));
                index += 2;
            }
            _ => return Err(ErrorReply::quoting("ERR Syntax error in HELLO option '", option, "'")),
        }
    }
    if !context.session.authenticated {
        return Err(ErrorReply::new(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> \
             <pass> option can be used to authenticate the client and select the RESP protocol version at the \
             same time",
        ));
    }
    if let Some(name) = name {
        *context.session.client.name.borrow_mut() = name.to_vec();
    }
    context.session.protocol = protocol;
    context.session.client.protocol.set(protocol);
    introduce(context);
    Ok(Flow::Continue)
}

fn introduce(context: &mut ServerContext) {
    let id = context.session.client.id as i64;
    let role = if context.instance.replication.following().is_some() { "replica" } else { "master" };
    let mut reply = context.reply();
    let version = if reply.protocol() == Protocol::Resp3 { 3 } else { 2 };
    reply.map(7);
    for (field, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    for (field, value) in [("proto", version), ("id", id)] {
        reply.bulk(field.as_bytes());
        reply.integer(value);
    }
    for (field, value) in [("mode", "standalone"), ("role", role)] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
}

/// Back to where a fresh connection is, but for its authentication where no password is asked.
pub(super) fn reset(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let ServerContext { instance, session, out } = context;
    instance.unwatch(session);
    session.transaction = None;
    session.protocol = Protocol::Resp2;
    session.reply_mode = ReplyMode::On;
    session.authenticated = instance.config.requirepass.is_none();
    let client = &session.client;
    if client.subscriptions.get() != (0, 0) {
        instance.pubsub.forget(client.id);
        client.subscriptions.set((0, 0));
        client.kind.set(ClientKind::Normal);
    }
    client.queued.set(None);
    client.db.set(0);
    client.protocol.set(Protocol::Resp2);
    client.name.borrow_mut().clear();
    Reply::new(out, Protocol::Resp2).simple("RESET");
    Ok(Flow::Continue)
}

pub(super) fn client_id(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let id = context.session.client.id;
    context.reply().integer(id as i64);
    Ok(Flow::Continue)
}

pub(super) fn client_getname(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let name = context.session.client.name.borrow().clone();
    context.reply().bulk_or_null((!name.is_empty()).then_some(&name));
    Ok(Flow::Continue)
}

pub(super) fn client_setname(context: &mut ServerContext, args: Args) -> Result<Flow> {
    check_name(args.get(2))?;
    *context.session.client.name.borrow_mut() = args.get(2).to_vec();
    context.ok()
}

/// What a library says of itself is taken and not kept: nothing here shows it.
pub(super) fn client_setinfo(context: &mut ServerContext, args: Args) -> Result<Flow> {
    if args.is(2, "lib-name") || args.is(2, "lib-ver") {
        return context.ok();
    }
    Err(ErrorReply::quoting("ERR Unrecognized option '", args.get(2), "'"))
}

pub(super) fn client_info(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let line = context.session.client.describe(context.instance.now_ms) + "\n";
    context.reply().verbatim(line.as_bytes());
    Ok(Flow::Continue)
}

pub(super) fn client_unpause(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    context.instance.unpause(PausedBy::Client);
    context.ok()
}

/// Nothing is ever evicted: it is as the client wishes either way.
pub(super) fn client_no_evict(context: &mut ServerContext, args: Args) -> Result<Flow> {
    if args.is(2, "on") || args.is(2, "off") { context.ok() } else { Err(ErrorReply::SYNTAX) }
}

fn parse_kind(name: &[u8]) -> Result<ClientKind> {
    ClientKind::from_name(name).ok_or_else(|| ErrorReply::client_type(name))
}

pub(super) fn client_list(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let mut kind = None;
    let mut ids = None;
    match args.len() {
        2 => {}
        4 if args.is(2, "type") => kind = Some(parse_kind(args.get(3))?),
        4.. if args.is(2, "id") => {
            let invalid = |_| ErrorReply::new("ERR Invalid client ID");
            let wanted: Result<Vec<u64>> =
                args.from(3).map(|id| parse_integer(id).map(|id| id as u64).map_err(invalid)).collect();
            ids = Some(wanted?);
        }
        _ => return Err(ErrorReply::SYNTAX),
    }
    context.instance.measure_feeds();
    let now_ms = context.instance.now_ms;
    let mut text = String::new();
    for client in context.instance.clients.values() {
        let wanted = kind.is_none_or(|kind| client.kind.get() == kind)
            && ids.as_ref().is_none_or(|ids| ids.contains(&client.id));
        if wanted {
            text.push_str(&client.describe(now_ms));
            text.push('\n');
        }
    }
    context.reply().verbatim(text.as_bytes());
    Ok(Flow::Continue)
}

/// Which connections `CLIENT KILL` ends.
#[derive(Default)]
struct Victims<'a> {
    id: Option<u64>,
    kind: Option<ClientKind>,
    address: Option<&'a [u8]>,
    local_address: Option<&'a [u8]>,
    user: Option<&'a [u8]>,
    spare_self: bool,
}

impl<'a> Victims<'a> {
    fn parse(args: Args<'a>) -> Result<Self> {
        let mut victims = Victims { spare_self: true, ..Victims::default() };
        for index in (2..args.len()).step_by(2) {
            let value = args.maybe(index + 1).ok_or(ErrorReply::SYNTAX)?;
            match args.get(index).to_ascii_lowercase().as_slice() {
                b"id" => {
                    let id = parse_integer(value).ok().and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0);
                    victims.id = Some(id.ok_or(ErrorReply::new("ERR client-id should be greater than 0"))?);
                }
                b"type" => victims.kind = Some(parse_kind(value)?),
                b"addr" => victims.address = Some(value),
                b"laddr" => victims.local_address = Some(value),
                b"user" => victims.user = Some(value),
                b"skipme" if value.eq_ignore_ascii_case(b"yes") => victims.spare_self = true,
                b"skipme" if value.eq_ignore_ascii_case(b"no") => victims.spare_self = false,
                _ => return Err(ErrorReply::SYNTAX),
            }
        }
        if victims.user.is_some_and(|user| user != b"default") {
            return Err(ErrorReply::quoting("ERR No such user '", victims.user.unwrap_or_default(), "'"));
        }
        Ok(victims)
    }

    fn include(&self, client: &Client, own: u64) -> bool {
        !(self.spare_self && client.id == own)
            && self.id.is_none_or(|id| client.id == id)
            && self.kind.is_none_or(|kind| client.kind.get() == kind)
            && self.address.is_none_or(|address| client.address.as_bytes() == address)
            && self.local_address.is_none_or(|address| client.local_address.as_bytes() == address)
    }
}

pub(super) fn client_kill(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let by_address = args.len() == 3;
    let victims =
        if by_address { Victims { address: Some(args.get(2)), ..Victims::default() } } else { Victims::parse(args)? };
    let own = context.session.client.id;
    let doomed: Vec<Rc<Client>> =
        context.instance.clients.values().filter(|client| victims.include(client, own)).cloned().collect();
    for client in doomed.iter().filter(|client| client.id != own) {
        client.kill();
    }
    context.instance.has_killed = true;
    // What a replica lacks that is among them is not kept for it any more.
    context.instance.hold_for_slowest();
    match (by_address, doomed.len()) {
        (true, 0) => return Err(ErrorReply::new("ERR No such client")),
        (true, _) => context.reply().ok(),
        (false, count) => context.reply().integer(count as i64),
    }
    let suicide = doomed.iter().any(|client| client.id == own);
    Ok(if suicide { Flow::Close } else { Flow::Continue })
}

pub(super) fn client_pause(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let writes_only = match args.len() {
        3 => false,
        4 if args.is(3, "all") => false,
        4 if args.is(3, "write") => true,
        4 => return Err(ErrorReply::new("ERR CLIENT PAUSE mode must be WRITE or ALL")),
        _ => return Err(ErrorReply::subcommand_arguments(args)),
    };
    let ms = parse_integer(args.get(2)).map_err(|_| ErrorReply::BAD_TIMEOUT)?;
    if ms < 0 {
        return Err(ErrorReply::NEGATIVE_TIMEOUT);
    }
    let until_ms = context.instance.now_ms.saturating_add(ms);
    context.instance.pause(PausedBy::Client, Pause { until_ms, writes_only });
    context.ok()
}

pub(super) fn client_reply(context: &mut ServerContext, args: Args) -> Result<Flow> {
    match args.get(2).to_ascii_lowercase().as_slice() {
        b"on" => {
            context.session.reply_mode = ReplyMode::On;
            context.reply().ok();
        }
        b"off" => context.session.reply_mode = ReplyMode::Off,
        b"skip" if context.session.reply_mode != ReplyMode::Off => context.session.reply_mode = ReplyMode::SkipNext,
        b"skip" => {}
        _ => return Err(ErrorReply::SYNTAX),
    }
    Ok(Flow::Continue)
}

pub(super) fn client_unblock(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let with_error = match args.len() {
        3 => false,
        4 if args.is(3, "timeout") => false,
        4 if args.is(3, "error") => true,
        4 => return Err(ErrorReply::new("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
        _ => return Err(ErrorReply::subcommand_arguments(args)),
    };
    let id = parse_integer(args.get(2))?;
    let unblocked = u64::try_from(id).is_ok_and(|id| context.instance.unblock_client(id, with_error));
    context.reply().integer(i64::from(unblocked));
    Ok(Flow::Continue)
}
