//! `CLIENT`: connections as their owners and operators see them.

use std::rc::Rc;

use super::connection::check_name;
use super::{Args, ErrorReply, Flow, Result, ServerContext, Users, parse_integer};
use crate::client::{Client, ClientKind, ReplyMode};
use crate::instance::{Pause, PausedBy};

pub(super) fn id(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let id = context.session.client.id;
    context.reply().integer(id as i64);
    Ok(Flow::Continue)
}

pub(super) fn getname(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let name = context.session.client.name.borrow().clone();
    context.reply().bulk_or_null((!name.is_empty()).then_some(&name));
    Ok(Flow::Continue)
}

pub(super) fn setname(context: &mut ServerContext, args: Args) -> Result<Flow> {
    check_name(args.get(2))?;
    *context.session.client.name.borrow_mut() = args.get(2).to_vec();
    context.ok()
}

/// What a library says of itself.
pub(super) fn setinfo(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let (field, name) = match args.get(2).to_ascii_lowercase().as_slice() {
        b"lib-name" => (&context.session.client.library.0, "lib-name"),
        b"lib-ver" => (&context.session.client.library.1, "lib-ver"),
        _ => return Err(ErrorReply::quoting("ERR Unrecognized option '", args.get(2), "'")),
    };
    if check_name(args.get(3)).is_err() {
        return Err(ErrorReply::owned(format!("ERR {name} cannot contain spaces, newlines or special characters.")));
    }
    *field.borrow_mut() = args.get(3).to_vec();
    context.ok()
}

pub(super) fn info(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let line = context.session.client.describe(context.instance.now_ms) + "\n";
    context.reply().verbatim(line.as_bytes());
    Ok(Flow::Continue)
}

pub(super) fn unpause(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    context.instance.unpause(PausedBy::Client);
    context.ok()
}

pub(super) fn no_evict(context: &mut ServerContext, args: Args) -> Result<Flow> {
    context.session.client.no_evict.set(parse_switch(args.get(2))?);
    context.ok()
}

pub(super) fn no_touch(context: &mut ServerContext, args: Args) -> Result<Flow> {
    context.session.client.no_touch.set(parse_switch(args.get(2))?);
    context.ok()
}

fn parse_switch(word: &[u8]) -> Result<bool> {
    match word.to_ascii_lowercase().as_slice() {
        b"on" => Ok(true),
        b"off" => Ok(false),
        _ => Err(ErrorReply::SYNTAX),
    }
}

fn parse_kind(name: &[u8]) -> Result<ClientKind> {
    ClientKind::from_name(name).ok_or_else(|| ErrorReply::client_type(name))
}

pub(super) fn list(context: &mut ServerContext, args: Args) -> Result<Flow> {
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
        if wanted && !client.is_killed() {
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
    fn parse(args: Args<'a>, users: &Users) -> Result<Self> {
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
        if let Some(name) = victims.user.filter(|name| users.get(name).is_none()) {
            return Err(ErrorReply::quoting("ERR No such user '", name, "'"));
        }
        Ok(victims)
    }

    fn include(&self, client: &Client, own: u64) -> bool {
        !(self.spare_self && client.id == own)
            && self.id.is_none_or(|id| client.id == id)
            && self.user.is_none_or(|name| client.user.borrow().name == name)
            && self.kind.is_none_or(|kind| client.kind.get() == kind)
            && self.address.is_none_or(|address| client.address.as_bytes() == address)
            && self.local_address.is_none_or(|address| client.local_address.as_bytes() == address)
    }
}

pub(super) fn kill(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let by_address = args.len() == 3;
    let victims = if by_address {
        Victims { address: Some(args.get(2)), ..Victims::default() }
    } else {
        Victims::parse(args, &context.instance.users)?
    };
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

pub(super) fn pause(context: &mut ServerContext, args: Args) -> Result<Flow> {
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

pub(super) fn reply(context: &mut ServerContext, args: Args) -> Result<Flow> {
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

pub(super) fn unblock(context: &mut ServerContext, args: Args) -> Result<Flow> {
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
