//! `SUBSCRIBE`, `PUBLISH` and their kin.

use super::{Args, ErrorReply, Flow, Result, ServerContext};
use crate::client::{ClientKind, Subscriptions, remembered_bytes};
use crate::pubsub::Topic;
use crate::resp::{Protocol, Reply};

/// Counts a subscription that has come or gone, and returns how many there are of such topics.
fn count(context: &ServerContext, topic: Topic, name: &[u8], added: isize) -> usize {
    let client = &context.session.client;
    let mut counts = client.subscriptions.get();
    let count = match topic {
        Topic::Channel => &mut counts.channels,
        Topic::Pattern => &mut counts.patterns,
        Topic::Shard => &mut counts.shards,
    };
    *count = count.saturating_add_signed(added);
    counts.bytes = counts.bytes.saturating_add_signed(added * remembered_bytes(name) as isize);
    client.subscriptions.set(counts);
    let kind = if counts.any() { ClientKind::Subscriber } else { ClientKind::Normal };
    if matches!(client.kind.get(), ClientKind::Normal | ClientKind::Subscriber) {
        client.kind.set(kind);
    }
    if topic == Topic::Shard { counts.shards } else { counts.channels + counts.patterns }
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
        let count = count(context, topic, name, isize::from(added));
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
        let count = count(context, topic, b"", 0);
        confirm(context, word, None, count);
    }
    for name in names {
        let removed = context.instance.pubsub.unsubscribe(topic, name, id);
        let count = count(context, topic, name, -isize::from(removed));
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

pub(super) fn ssubscribe(context: &mut ServerContext, args: Args) -> Result<Flow> {
    subscribe_to(context, args, Topic::Shard, "ssubscribe")
}

pub(super) fn sunsubscribe(context: &mut ServerContext, args: Args) -> Result<Flow> {
    unsubscribe_from(context, args, Topic::Shard, "sunsubscribe")
}

/// Messages travel down the replication stream too.
pub(super) fn publish(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let receivers = context.instance.publish(args.get(1), args.get(2));
    finish(context, args, receivers, b"PUBLISH")
}

/// There is one shard: this server and its replicas.
pub(super) fn spublish(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let limit = context.instance.output_limit(ClientKind::Subscriber);
    let published = context.instance.pubsub.publish_to_shard(args.get(1), args.get(2), limit.hard_bytes);
    for client in published.too_slow {
        context.instance.enforce_output_limit(&client, client.pending_bytes());
    }
    finish(context, args, published.receivers, b"SPUBLISH")
}

fn finish(context: &mut ServerContext, args: Args, receivers: usize, name: &[u8]) -> Result<Flow> {
    let db = context.session.db();
    context.instance.propagate_request(db, &[name, args.get(1), args.get(2)]);
    context.reply().integer(receivers as i64);
    Ok(Flow::Continue)
}

pub(super) fn channels(context: &mut ServerContext, args: Args) -> Result<Flow> {
    list(context, args, Topic::Channel)
}

pub(super) fn shardchannels(context: &mut ServerContext, args: Args) -> Result<Flow> {
    list(context, args, Topic::Shard)
}

fn list(context: &mut ServerContext, args: Args, topic: Topic) -> Result<Flow> {
    if args.len() > 3 {
        return Err(ErrorReply::subcommand_arguments(args));
    }
    let names = context.instance.pubsub.channels(topic, args.maybe(2));
    let mut reply = Reply::new(context.out, context.session.protocol);
    reply.array(names.len());
    names.iter().for_each(|name| reply.bulk(name));
    Ok(Flow::Continue)
}

pub(super) fn numsub(context: &mut ServerContext, args: Args) -> Result<Flow> {
    count_listeners(context, args, Topic::Channel)
}

pub(super) fn shardnumsub(context: &mut ServerContext, args: Args) -> Result<Flow> {
    count_listeners(context, args, Topic::Shard)
}

fn count_listeners(context: &mut ServerContext, args: Args, topic: Topic) -> Result<Flow> {
    let mut reply = Reply::new(context.out, context.session.protocol);
    reply.array(2 * (args.len() - 2));
    for name in args.from(2) {
        reply.bulk(name);
        reply.integer(context.instance.pubsub.listener_count(topic, name) as i64);
    }
    Ok(Flow::Continue)
}

pub(super) fn numpat(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let patterns = context.instance.pubsub.counts().patterns;
    context.reply().integer(patterns as i64);
    Ok(Flow::Continue)
}

/// In RESP2 a connection that listens may only change what it listens to.
pub(super) fn is_restricted(protocol: Protocol, subscriptions: Subscriptions) -> bool {
    protocol == Protocol::Resp2 && subscriptions.any()
}
