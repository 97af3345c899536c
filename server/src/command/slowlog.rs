//! `SLOWLOG` and `LATENCY`: what took long.

use super::table::{self, Command};
use super::{Args, ErrorReply, Flow, Result, ServerContext, parse_integer};
use crate::delays::Event;
use crate::instance::CommandCount;
use crate::resp::Reply;

/// So many entries are shown unless told otherwise.
const SHOWN: usize = 10;

pub(super) fn get(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let invalid = ErrorReply::new("ERR count should be greater than or equal to -1");
    let most = match args.maybe(2) {
        None => SHOWN,
        Some(count) => match parse_integer(count) {
            Ok(-1) => usize::MAX,
            Ok(count @ 0..) => count as usize,
            _ => return Err(invalid),
        },
    };
    if args.len() > 3 {
        return Err(ErrorReply::subcommand_arguments(args));
    }
    let slowlog = &context.instance.slowlog;
    let mut reply = Reply::new(context.out, context.session.protocol);
    reply.array(slowlog.len().min(most));
    for entry in slowlog.iter().take(most) {
        reply.array(6);
        reply.integer(entry.id as i64);
        reply.integer(entry.at_s);
        reply.integer(entry.took_us);
        reply.array(entry.arguments.len());
        entry.arguments.iter().for_each(|argument| reply.bulk(argument));
        reply.bulk(entry.address.as_bytes());
        reply.bulk(&entry.name);
    }
    Ok(Flow::Continue)
}

pub(super) fn len(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let len = context.instance.slowlog.len();
    context.reply().integer(len as i64);
    Ok(Flow::Continue)
}

pub(super) fn reset(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    context.instance.slowlog.clear();
    context.ok()
}

pub(super) fn latency_history(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let event = context.instance.delays.named(args.get(2));
    let mut reply = Reply::new(context.out, context.session.protocol);
    reply.array(event.map_or(0, |(_, event)| event.samples().len()));
    for (at_s, took_ms) in event.into_iter().flat_map(|(_, event)| event.samples()) {
        reply.array(2);
        reply.integer(at_s);
        reply.integer(took_ms as i64);
    }
    Ok(Flow::Continue)
}

pub(super) fn latency_latest(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let events = &context.instance.delays.events;
    let mut reply = Reply::new(context.out, context.session.protocol);
    reply.array(events.len());
    for (name, event) in events {
        let (at_s, took_ms) = event.last();
        reply.array(4);
        reply.bulk(name.as_bytes());
        [at_s, took_ms as i64, event.longest_ms as i64].into_iter().for_each(|number| reply.integer(number));
    }
    Ok(Flow::Continue)
}

pub(super) fn latency_reset(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let events = &mut context.instance.delays.events;
    let before = events.len();
    events.retain(|name, _| args.len() > 2 && !args.from(2).any(|wanted| wanted == name.as_bytes()));
    let gone = before - events.len();
    context.reply().integer(gone as i64);
    Ok(Flow::Continue)
}

pub(super) fn latency_doctor(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let threshold_ms = context.instance.config.latency_monitor_threshold;
    let mut text = String::new();
    if threshold_ms == 0 {
        text.push_str("Delays are not noted: set 'latency-monitor-threshold' to what is too long, in milliseconds.\n");
    } else if context.instance.delays.events.is_empty() {
        text.push_str(&format!("Nothing has taken {threshold_ms} ms or more.\n"));
    }
    for (name, event) in &context.instance.delays.events {
        let count = event.samples().len();
        let sum: u64 = event.samples().map(|(_, took_ms)| took_ms).sum();
        let mean = sum / count.max(1) as u64;
        text.push_str(&format!("{name}: {count} delays, {mean} ms on average, {} ms at most.\n", event.longest_ms));
    }
    if context.instance.delays.events.keys().any(|name| name.ends_with("command")) {
        text.push_str("SLOWLOG GET shows which commands were slow.\n");
    }
    context.reply().verbatim(text.as_bytes());
    Ok(Flow::Continue)
}

/// A line for each delay: how long ago, and a bar as long as it lasted.
pub(super) fn latency_graph(context: &mut ServerContext, args: Args) -> Result<Flow> {
    const BAR: u64 = 60;
    let now_s = context.instance.now_ms / 1000;
    let named = context.instance.delays.named(args.get(2));
    let none = || ErrorReply::quoting("ERR No samples available for event '", args.get(2), "'");
    let (name, event): (_, &Event) = named.ok_or_else(none)?;
    let most = event.samples().map(|(_, took_ms)| took_ms).max().unwrap_or(1).max(1);
    let mut text = format!("{name} - high {most} ms (all time high {} ms)\n", event.longest_ms);
    for (at_s, took_ms) in event.samples() {
        let bar = "#".repeat((took_ms * BAR / most) as usize);
        text.push_str(&format!("{:>8} s ago {took_ms:>8} ms {bar}\n", now_s - at_s));
    }
    context.reply().verbatim(text.as_bytes());
    Ok(Flow::Continue)
}

/// `HISTOGRAM [command…]`; a command that is divided stands for its subcommands.
pub(super) fn latency_histogram(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let named = |name| {
        table::find_by_full_name(name)
            .into_iter()
            .flat_map(|command: &'static Command| std::iter::once(command).chain(command.subcommands))
    };
    let wanted: Vec<&Command> =
        if args.len() == 2 { table::all().collect() } else { args.from(2).flat_map(named).collect() };
    let count = |command: &Command| context.instance.stats.commands.get(command.name);
    let known = wanted.iter().filter_map(|command| Some((command.name, count(command)?)));
    let shown: Vec<(&str, &CommandCount)> = known.filter(|(_, count)| count.histogram.calls() > 0).collect();
    let mut reply = Reply::new(context.out, context.session.protocol);
    reply.map(shown.len());
    for (name, count) in shown {
        reply.bulk(name.as_bytes());
        reply.map(2);
        reply.bulk(b"calls");
        reply.integer(count.histogram.calls() as i64);
        reply.bulk(b"histogram_usec");
        let steps = count.histogram.powers_of_two();
        reply.map(steps.len());
        for (limit_us, calls) in steps {
            reply.integer(limit_us as i64);
            reply.integer(calls as i64);
        }
    }
    Ok(Flow::Continue)
}
