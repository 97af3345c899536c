//! What the server says of its own commands: `COMMAND` and each family's `HELP`, all read off the table.

use super::about::about;
use super::keyspec::KeySpec;
use super::table::{self, Command, Keys};
use super::{Args, ErrorReply, Flow, Result, ServerContext, category, keyspec};
use crate::glob;
use crate::resp::Reply;

/// `HELP` of any command that is divided: what it is divided into.
pub(super) fn help(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let command = table::find(args.get(0)).expect("the table led here");
    let name = command.name.to_uppercase();
    let title = format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:");
    let mut reply = context.reply();
    reply.array(1 + 2 * command.subcommands.len());
    reply.simple(&title);
    for part in command.subcommands {
        reply.simple(&part.name[name.len() + 1..].to_uppercase());
        reply.simple(&format!("    {}.", about(part.name).summary));
    }
    Ok(Flow::Continue)
}

/// `COMMAND` alone.
pub(super) fn command(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    describe_all(&mut context.reply());
    Ok(Flow::Continue)
}

pub(super) fn count(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    context.reply().integer(table::COMMANDS.len() as i64);
    Ok(Flow::Continue)
}

pub(super) fn docs(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let named = args.from(2).filter_map(table::find_by_full_name);
    let wanted: Vec<&Command> = if args.len() == 2 { table::COMMANDS.iter().collect() } else { named.collect() };
    let mut reply = context.reply();
    reply.map(wanted.len());
    wanted.iter().for_each(|command| document(&mut reply, command));
    Ok(Flow::Continue)
}

fn document(reply: &mut Reply, command: &Command) {
    let about = about(command.name);
    reply.bulk(command.name.as_bytes());
    reply.map(if command.subcommands.is_empty() { 3 } else { 4 });
    for (field, value) in [("summary", about.summary), ("since", about.since), ("group", about.group.name())] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    if !command.subcommands.is_empty() {
        reply.bulk(b"subcommands");
        reply.map(command.subcommands.len());
        command.subcommands.iter().for_each(|command| document(reply, command));
    }
}

/// `LIST [FILTERBY MODULE name | ACLCAT category | PATTERN pattern]`.
pub(super) fn list(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let wanted: Vec<&Command> = match args.len() {
        2 => table::all().collect(),
        5 if args.is(2, "filterby") && args.is(3, "module") => Vec::new(),
        5 if args.is(2, "filterby") && args.is(3, "aclcat") => {
            let wanted = category::named(args.get(4)).unwrap_or(0);
            table::all().filter(|command| category::of(command) & wanted != 0).collect()
        }
        5 if args.is(2, "filterby") && args.is(3, "pattern") => {
            let matches = |command: &&Command| glob::matches(args.get(4), command.name.as_bytes(), glob::Case::Ignored);
            table::all().filter(matches).collect()
        }
        _ => return Err(ErrorReply::SYNTAX),
    };
    let mut reply = context.reply();
    reply.array(wanted.len());
    wanted.iter().for_each(|command| reply.bulk(command.name.as_bytes()));
    Ok(Flow::Continue)
}

pub(super) fn info(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let mut reply = context.reply();
    if args.len() == 2 {
        describe_all(&mut reply);
        return Ok(Flow::Continue);
    }
    reply.array(args.len() - 2);
    for name in args.from(2) {
        match table::find_by_full_name(name) {
            Some(command) => describe(&mut reply, command),
            None => reply.null(),
        }
    }
    Ok(Flow::Continue)
}

fn describe_all(reply: &mut Reply) {
    reply.array(table::COMMANDS.len());
    table::COMMANDS.iter().for_each(|command| describe(reply, command));
}

fn describe(reply: &mut Reply, command: &Command) {
    reply.array(10);
    reply.bulk(command.name.as_bytes());
    reply.integer(i64::from(command.arity));
    let flags: Vec<&str> = command.flag_names().collect();
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.simple(flag));
    let Keys { first, last, step, .. } = command.keys;
    for number in [first as i64, last as i64, step as i64] {
        reply.integer(number);
    }
    let categories = category::of(command);
    let names = category::NAMES.iter().enumerate().filter(|(index, _)| categories & (1 << index) != 0);
    reply.set(categories.count_ones() as usize);
    names.for_each(|(_, name)| reply.simple(&format!("@{name}")));
    // Tips are for proxies that divide requests among nodes.
    reply.set(0);
    let specs = about(command.name).specs;
    reply.set(specs.len());
    specs.iter().for_each(|spec| spec.describe(reply));
    reply.array(command.subcommands.len());
    command.subcommands.iter().for_each(|command| describe(reply, command));
}

/// The keys of the request that follows, and what would be done to each.
fn keys_of<'a>(args: Args<'a>) -> Result<(Args<'a>, Vec<(usize, keyspec::Access)>)> {
    let inner = args.inner(2);
    let command = table::resolve(inner).map_err(|_| ErrorReply::new("ERR Invalid command specified"))?;
    if !about(command.name).specs.iter().any(KeySpec::finds_keys) {
        return Err(ErrorReply::new("ERR The command has no key arguments"));
    }
    if !command.takes(inner.len()) {
        return Err(ErrorReply::new("ERR Invalid number of arguments specified for command"));
    }
    let keys = keyspec::keys(command, inner);
    let are_found = about(command.name).specs.iter().all(|spec| spec.is_met_by(inner));
    if (keys.is_empty() || !are_found) && about(command.name).group != super::about::Group::Scripting {
        return Err(ErrorReply::new("ERR Invalid arguments specified for command"));
    }
    Ok((inner, keys))
}

pub(super) fn getkeys(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let (inner, keys) = keys_of(args)?;
    let mut reply = context.reply();
    reply.array(keys.len());
    keys.iter().for_each(|(place, _)| reply.bulk(inner.get(*place)));
    Ok(Flow::Continue)
}

pub(super) fn getkeysandflags(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let (inner, keys) = keys_of(args)?;
    let mut reply = context.reply();
    reply.array(keys.len());
    for (place, access) in keys {
        reply.array(2);
        reply.bulk(inner.get(place));
        keyspec::describe_access(&mut reply, access);
    }
    Ok(Flow::Continue)
}
