//! `SUBSCRIBE`, `PUBLISH` and their kin.

use super::{Args, ErrorReply, Flow, Result, ServerContext};
use crate::client::ClientKind;
use crate::pubsub::Topic;
use crate::resp::{Protocol, Reply};

fn count(context: &ServerContext, topic: Topic, added: isize) -> usize {
    let client = &context.session.client;
    let (mut channels, mut patterns) = client.subscriptions.get();
    match topic {
        Topic::Channel => channels = channels.saturating_add_signed(added),
        Topic::Pattern => patterns = patterns.saturating_add_signed(added),
    }
    client.subscriptions.set((channels, patterns));
    let kind = if channels + patterns > 0 { ClientKind::Subscriber } else { ClientKind::Normal };
    if matches!(client.kind.get(), ClientKind::Normal | ClientKind::Subscriber) {
        client.kind.set(kind);
    }
    channels + patterns
}

fn confirm(context: &mut ServerContext, word: &str, name: Option<&[u8]>, count: usize) {
    let mut reply = context.reply();
    reply.push(3);
    reply.bulk(word.as_bytes());
    reply.bulk_or_null(name);
    reply.integer(count as i64);
}

fn subscribe_to(context: &mut ServerContext, args: Args, topic: Topic, word: &str) -> Result<Flow> {
    for name in args.from(1) {
        let added = context.instance.pubsub.subscribe(topic, name, &context.session.client);
        let count = count(context, topic, isize::from(added));
        confirm(context, word, Some(name), count);
    }
    Ok(Flow::Continue)
}

fn unsubscribe_from(context: &mut ServerContext, args: Args, topic: Topic, word: &str) -> Result<Flow> {
    let id = context.session.client.id;
    let all = if args.len() == 1 { context.instance.pubsub.subscriptions(topic, id) } else { Vec::new() };
    let mut names: Vec<&[u8]> = args.from(1).collect();
    names.extend(all.iter().map(|name| &name[..]));
    if names.is_empty() {
        let count = count(context, topic, 0);
        confirm(context, word, None, count);
    }
    for name in names {
        let removed = context.instance.pubsub.unsubscribe(topic, name, id);
        let count = count(context, topic, -isize::from(removed));
        confirm(context, word, Some(name), count);
    }
    Ok(Flow::Continue)
}

pub(super) fn subscribe(context: &mut ServerContext, args: Args) -> Result<Flow> {
    subscribe_to(context, args, Topic::Channel, "subscribe")
}

pub(super) fn psubscribe(context: &mut ServerContext, args: Args) -> Result<Flow> {
    subscribe_to(context, args, Topic::Pattern, "psubscribe")
}

pub(super) fn unsubscribe(context: &mut ServerContext, args: Args) -> Result<Flow> {
    unsubscribe_from(context, args, Topic::Channel, "unsubscribe")
}

pub(super) fn punsubscribe(context: &mut ServerContext, args: Args) -> Result<Flow> {
    unsubscribe_from(context, args, Topic::Pattern, "punsubscribe")
}

/// Messages travel down the replication stream too.
pub(super) fn publish(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let receivers = context.instance.publish(args.get(1), args.get(2));
    let db = context.session.db();
    context.instance.propagate_request(db, &[b"PUBLISH", args.get(1), args.get(2)]);
    context.reply().integer(receivers as i64);
    Ok(Flow::Continue)
}

pub(super) fn channels(context: &mut ServerContext, args: Args) -> Result<Flow> {
    if args.len() > 3 {
        return Err(ErrorReply::subcommand_arguments(args));
    }
    let names = context.instance.pubsub.channels(args.maybe(2));
    let mut reply = Reply::new(context.out, context.session.protocol);
    reply.array(names.len());
    names.iter().for_each(|name| reply.bulk(name));
    Ok(Flow::Continue)
}

pub(super) fn numsub(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let mut reply = Reply::new(context.out, context.session.protocol);
    reply.array(2 * (args.len() - 2));
    for name in args.from(2) {
        reply.bulk(name);
        reply.integer(context.instance.pubsub.listener_count(name) as i64);
    }
    Ok(Flow::Continue)
}

pub(super) fn numpat(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let (_, patterns) = context.instance.pubsub.counts();
    context.reply().integer(patterns as i64);
    Ok(Flow::Continue)
}

/// In RESP2 a connection that listens may only change what it listens to.
pub(super) fn is_restricted(protocol: Protocol, subscriptions: (usize, usize)) -> bool {
    protocol == Protocol::Resp2 && subscriptions.0 + subscriptions.1 > 0
}
