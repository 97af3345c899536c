//! The connection itself: <https://redis.io/docs/latest/commands/?group=connection>.

use std::rc::Rc;

use super::key::{database, parse_database};
use super::{Args, ErrorReply, Flow, Result, ServerContext};
use crate::client::{ClientKind, ReplyMode, Subscriptions};
use crate::instance::REDIS_VERSION;
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
    let index = database(&context.instance.keyspace, parse_database(args.get(1))?)?;
    context.session.client.db.set(index);
    context.ok()
}

pub(super) fn auth(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let ServerContext { instance, session, .. } = context;
    let (user, password) = match args.len() {
        2 if instance.users.default_user().needs_no_password() => {
            return Err(ErrorReply::new(
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                 configuration is correct?",
            ));
        }
        2 => (b"default".as_slice(), args.get(1)),
        3 => (args.get(1), args.get(2)),
        _ => return Err(ErrorReply::SYNTAX),
    };
    instance.log_in(session, user, password)?;
    context.ok()
}

pub(super) fn check_name(name: &[u8]) -> Result<()> {
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
                context.instance.log_in(context.session, args.get(index + 1), args.get(index + 2))?;
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
    if !context.session.authenticated && !context.instance.users.default_user().is_open() {
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
    let user = Rc::clone(instance.users.default_user());
    session.authenticated = user.is_open();
    *session.client.user.borrow_mut() = user;
    instance.forget_monitor(session);
    session.tracks = false;
    let client = &session.client;
    instance.tracking.stop(client);
    client.no_evict.set(false);
    client.no_touch.set(false);
    if client.subscriptions.get().any() {
        instance.pubsub.forget(client.id);
        client.subscriptions.set(Subscriptions::default());
        client.kind.set(ClientKind::Normal);
    }
    client.queued.set(None);
    client.db.set(0);
    client.protocol.set(Protocol::Resp2);
    client.name.borrow_mut().clear();
    Reply::new(out, Protocol::Resp2).simple("RESET");
    Ok(Flow::Continue)
}
