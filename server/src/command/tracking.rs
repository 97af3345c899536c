//! `CLIENT TRACKING` and its kin.

use super::{Args, ErrorReply, Flow, Result, ServerContext, parse_integer};
use crate::resp::Reply;
use crate::tracking::{Interest, Wish};

/// `ON|OFF [REDIRECT id] [PREFIX prefix …] [BCAST] [OPTIN] [OPTOUT] [NOLOOP]`.
pub(super) fn tracking(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let (wish, given) = parse(context, args)?;
    let ServerContext { instance, session, .. } = context;
    if args.is(2, "off") {
        instance.tracking.stop(&session.client);
    } else if args.is(2, "on") {
        let present = session.client.tracking.borrow().clone();
        instance.tracking.start(&session.client, allowed(present, wish, &given)?);
    } else {
        return Err(ErrorReply::SYNTAX);
    }
    session.tracks = session.client.tracking.borrow().as_ref().is_some_and(|wish| !wish.broadcast);
    context.ok()
}

/// What is wished, and the prefixes in the order in which they were given.
fn parse<'a>(context: &ServerContext, args: Args<'a>) -> Result<(Wish, Vec<&'a [u8]>)> {
    let (mut wish, mut given) = (Wish::default(), Vec::new());
    let (mut opt_in, mut opt_out) = (false, false);
    let mut index = 3;
    while index < args.len() {
        let has_value = index + 1 < args.len();
        match args.get(index).to_ascii_lowercase().as_slice() {
            b"redirect" if has_value => {
                index += 1;
                if wish.redirect.is_some() {
                    return Err(ErrorReply::new("ERR A client can only redirect to a single other client"));
                }
                let id = parse_integer(args.get(index))? as u64;
                if !context.instance.clients.contains_key(&id) {
                    return Err(ErrorReply::new("ERR The client ID you want redirect to does not exist"));
                }
                wish.redirect = Some(id);
            }
            b"prefix" if has_value => {
                index += 1;
                given.push(args.get(index));
            }
            b"bcast" => wish.broadcast = true,
            b"optin" => opt_in = true,
            b"optout" => opt_out = true,
            b"noloop" => wish.no_loop = true,
            _ => return Err(ErrorReply::SYNTAX),
        }
        index += 1;
    }
    if args.is(2, "off") {
        return Ok((wish, given));
    }
    if !wish.broadcast && !given.is_empty() {
        return Err(ErrorReply::new("ERR PREFIX option requires BCAST mode to be enabled"));
    }
    wish.interest = match (opt_in, opt_out) {
        (true, true) => return Err(ErrorReply::new("ERR You can't specify both OPTIN mode and OPTOUT mode")),
        (true, false) => Interest::OptIn,
        (false, true) => Interest::OptOut,
        (false, false) => Interest::All,
    };
    if wish.broadcast && wish.interest != Interest::All {
        return Err(ErrorReply::new("ERR OPTIN and OPTOUT are not compatible with BCAST"));
    }
    Ok((wish, given))
}

/// What comes of a wish beside what was asked for before.
fn allowed(present: Option<Wish>, mut wish: Wish, given: &[&[u8]]) -> Result<Wish> {
    if let Some(present) = &present {
        if present.broadcast != wish.broadcast {
            return Err(ErrorReply::new(
                "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then \
                 re-enabling it with a different mode.",
            ));
        }
        let switches = present.interest != Interest::All && wish.interest != Interest::All;
        if switches && present.interest != wish.interest {
            return Err(ErrorReply::new(
                "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then \
                 re-enabling it with a different mode.",
            ));
        }
    }
    if !wish.broadcast {
        return Ok(wish);
    }
    let known = present.map(|present| present.prefixes).unwrap_or_default();
    if given.is_empty() && known.is_empty() {
        wish.prefixes.insert(Box::default());
    }
    for (index, prefix) in given.iter().enumerate() {
        let overlaps = |other: &[u8]| prefix.starts_with(other) || other.starts_with(prefix);
        if let Some(other) = known.iter().find(|other| &***other != *prefix && overlaps(other)) {
            return Err(overlap(prefix, "an existing", other));
        }
        if let Some(other) = given[index + 1..].iter().find(|other| *other != prefix && overlaps(other)) {
            return Err(overlap(prefix, "another provided", other));
        }
    }
    wish.prefixes.extend(known);
    wish.prefixes.extend(given.iter().map(|prefix| Box::from(*prefix)));
    Ok(wish)
}

fn overlap(prefix: &[u8], which: &str, other: &[u8]) -> ErrorReply {
    let before = [b"ERR Prefix '", super::quotable(prefix), b"' overlaps with ", which.as_bytes()].concat();
    let after = b"'. Prefixes for a single client must not overlap.";
    ErrorReply::from_bytes([&before, &b" prefix '"[..], super::quotable(other), after].concat())
}

/// `YES|NO`: what becomes of the keys of the next command, or transaction.
pub(super) fn caching(context: &mut ServerContext, args: Args) -> Result<Flow> {
    {
        let mut tracking = context.session.client.tracking.borrow_mut();
        let wish = tracking.as_mut().filter(|wish| wish.interest != Interest::All).ok_or(ErrorReply::new(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode \
             enabled",
        ))?;
        wish.caching = match (args.is(2, "yes"), args.is(2, "no"), wish.interest) {
            (true, _, Interest::OptIn) | (_, true, Interest::OptOut) => true,
            (true, ..) => {
                return Err(ErrorReply::new(
                    "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.",
                ));
            }
            (_, true, _) => {
                return Err(ErrorReply::new(
                    "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.",
                ));
            }
            _ => return Err(ErrorReply::SYNTAX),
        };
    }
    context.ok()
}

pub(super) fn getredir(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let redirect = redirect(context.session.client.tracking.borrow().as_ref());
    context.reply().integer(redirect);
    Ok(Flow::Continue)
}

fn redirect(wish: Option<&Wish>) -> i64 {
    wish.map_or(-1, |wish| wish.redirect.unwrap_or(0) as i64)
}

pub(super) fn trackinginfo(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let tracking = context.session.client.tracking.borrow();
    let wish = tracking.as_ref();
    let is = |test: fn(&Wish) -> bool| wish.is_some_and(test);
    let flags = [
        ("on", wish.is_some()),
        ("off", wish.is_none()),
        ("bcast", is(|wish| wish.broadcast)),
        ("optin", is(|wish| wish.interest == Interest::OptIn)),
        ("caching-yes", is(|wish| wish.interest == Interest::OptIn && wish.caching)),
        ("optout", is(|wish| wish.interest == Interest::OptOut)),
        ("caching-no", is(|wish| wish.interest == Interest::OptOut && wish.caching)),
        ("noloop", is(|wish| wish.no_loop)),
        ("broken_redirect", is(|wish| wish.broken)),
    ];
    let flags: Vec<&str> = flags.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
    let mut reply = Reply::new(context.out, context.session.protocol);
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.bulk(flag.as_bytes()));
    reply.bulk(b"redirect");
    reply.integer(redirect(wish));
    reply.bulk(b"prefixes");
    let prefixes: Vec<&[u8]> = wish.into_iter().flat_map(|wish| &wish.prefixes).map(|prefix| &**prefix).collect();
    reply.array(prefixes.len());
    prefixes.iter().for_each(|prefix| reply.bulk(prefix));
    Ok(Flow::Continue)
}
