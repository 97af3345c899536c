//! `REPLICAOF`, `FAILOVER`, `PSYNC`, `REPLCONF`, `WAIT`, `WAITAOF`, `ROLE`.

use std::rc::Rc;

use super::{Args, ErrorReply, Flow, Result, ServerContext, parse_integer};
use crate::config::Upstream;
use crate::instance::{Action, Awaited, Instance, TimeLimit};
use crate::log::log;
use crate::number::parse_i64;
use crate::rdb::Reader;
use crate::replication::{Feed, FeedState, History, Link, ReplicationId, Role, SyncAnswer};
use crate::snapshot::{Image, Point};

pub(super) fn replicaof(context: &mut ServerContext, args: Args) -> Result<Flow> {
    check_upstream(context.instance, None)?;
    let asked_by = context.session.client.describe(context.instance.now_ms);
    if args.is(1, "no") && args.is(2, "one") {
        if !context.instance.replication.is_master() {
            context.instance.unfollow();
            log!(Notice, "MASTER MODE enabled (user request from '{asked_by}')");
        }
        return context.ok();
    }
    if context.session.feed.is_some() {
        return Err(ErrorReply::new("ERR Command is not valid when client is a replica."));
    }
    let port = parse_integer(args.get(2)).ok().and_then(|port| u16::try_from(port).ok());
    let port = port.ok_or(ErrorReply::new("ERR Invalid master port"))?;
    let host = std::str::from_utf8(args.get(1)).map_err(|_| ErrorReply::new("ERR Invalid master host"))?;
    if host.is_empty() || host.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
        return Err(ErrorReply::new("ERR Invalid master host"));
    }
    let upstream = Upstream { host: host.to_owned(), port };
    check_upstream(context.instance, Some(&upstream))?;
    if context.instance.replication.following().is_some_and(|following| following.upstream == upstream) {
        log!(
            Notice,
            "REPLICAOF would result into synchronization with the master we are already connected with. No operation performed."
        );
        context.reply().simple("OK Already connected to specified master");
        return Ok(Flow::Continue);
    }
    context.instance.follow(upstream);
    log!(Notice, "REPLICAOF {host}:{port} enabled (user request from '{asked_by}')");
    context.ok()
}

/// Whether this server may follow `upstream`, or nobody, as far as that is known before anyone is asked.
pub(super) fn check_upstream(instance: &Instance, upstream: Option<&Upstream>) -> Result<()> {
    if instance.failover.is_some() {
        return Err(ErrorReply::new("ERR REPLICAOF not allowed while failing over."));
    }
    if let Some(upstream) = upstream.filter(|upstream| instance.is_own_address(upstream)) {
        return Err(ErrorReply::owned(format!(
            "ERR {upstream} is this server itself: it can't be a replica of itself"
        )));
    }
    Ok(())
}

/// Says which histories are here, before any password is asked for: who has one to tell may want to know whom he tells
/// it to. `repld`'s own.
pub(super) fn replid(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let History { replid, previous } = context.instance.replication.history;
    let text = match previous {
        Some((previous, _)) => format!("REPLID {replid} {previous}"),
        None => format!("REPLID {replid}"),
    };
    context.reply().simple(&text);
    Ok(Flow::Continue)
}

pub(super) fn failover(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let instance = &mut *context.instance;
    if args.len() == 2 && args.is(1, "abort") {
        if instance.failover.is_none() {
            return Err(ErrorReply::new("ERR No failover in progress."));
        }
        instance.abort_failover("Failover manually aborted");
        return context.ok();
    }
    let wanted = FailoverOptions::parse(args)?;
    if instance.failover.is_some() {
        return Err(ErrorReply::new("ERR FAILOVER already in progress."));
    }
    if !instance.replication.is_master() {
        return Err(ErrorReply::new("ERR FAILOVER is not valid when server is a replica."));
    }
    if instance.replication.feeds.is_empty() {
        return Err(ErrorReply::new("ERR FAILOVER requires connected replicas."));
    }
    if wanted.force && (wanted.timeout_ms.is_none() || wanted.target.is_none()) {
        return Err(ErrorReply::new("ERR FAILOVER with force option requires both a timeout and target HOST and IP."));
    }
    if let Some((host, port)) = wanted.target {
        let is_it = |feed: &&Rc<Feed>| feed.ip.as_bytes() == host && i64::from(feed.port) == port;
        match instance.replication.feeds.iter().find(is_it) {
            None => return Err(ErrorReply::new("ERR FAILOVER target HOST and PORT is not a replica.")),
            Some(feed) if !feed.is_online() => {
                return Err(ErrorReply::new("ERR FAILOVER target replica is not online."));
            }
            Some(_) => {}
        }
    }
    let target = wanted.target.map(|(host, port)| Upstream {
        host: String::from_utf8_lossy(host).into_owned(),
        port: u16::try_from(port).expect("it is a replica's"),
    });
    let now_ms = instance.now_ms;
    let limit = |timeout_ms| TimeLimit { deadline_ms: now_ms.saturating_add(timeout_ms), force: wanted.force };
    instance.begin_failover(target, wanted.timeout_ms.map(limit));
    context.ok()
}

/// What follows `FAILOVER`, but for `ABORT`.
#[derive(Default)]
struct FailoverOptions<'a> {
    target: Option<(&'a [u8], i64)>,
    timeout_ms: Option<i64>,
    force: bool,
}

impl<'a> FailoverOptions<'a> {
    fn parse(args: Args<'a>) -> Result<Self> {
        let (mut options, mut index) = (FailoverOptions::default(), 1);
        while let Some(option) = args.maybe(index) {
            match option.to_ascii_lowercase().as_slice() {
                b"timeout" if index + 1 < args.len() && options.timeout_ms.is_none() => {
                    let timeout_ms = parse_integer(args.get(index + 1))?;
                    if timeout_ms <= 0 {
                        return Err(ErrorReply::new("ERR FAILOVER timeout must be greater than 0"));
                    }
                    options.timeout_ms = Some(timeout_ms);
                    index += 2;
                }
                b"to" if index + 2 < args.len() && options.target.is_none() => {
                    options.target = Some((args.get(index + 1), parse_integer(args.get(index + 2))?));
                    index += 3;
                }
                b"force" if !options.force => {
                    options.force = true;
                    index += 1;
                }
                _ => return Err(ErrorReply::SYNTAX),
            }
        }
        Ok(options)
    }
}

pub(super) fn replconf(context: &mut ServerContext, args: Args) -> Result<Flow> {
    if args.len().is_multiple_of(2) {
        return Err(ErrorReply::SYNTAX);
    }
    for index in (1..args.len()).step_by(2) {
        let value = args.get(index + 1);
        let identity = &mut context.session.identity;
        match args.get(index).to_ascii_lowercase().as_slice() {
            b"listening-port" => {
                let port = u16::try_from(parse_integer(value)?).map_err(|_| ErrorReply::NOT_AN_INTEGER)?;
                identity.listening_port = port;
            }
            b"ip-address" => identity.announced_ip = parse_announced_ip(value)?,
            b"capa" if value.eq_ignore_ascii_case(b"eof") => identity.eof = true,
            b"capa" if value.eq_ignore_ascii_case(b"psync2") => identity.psync2 = true,
            b"capa" => {}
            b"ack" => return acknowledge(context, value, args.maybe(index + 3).filter(|_| args.is(index + 2, "fack"))),
            // The link answers it: only the link knows how much has been applied.
            b"getack" => return Ok(Flow::Continue),
            b"rdb-only" => identity.rdb_only = parse_integer(value)? == 1,
            b"rdb-filter-only" => {
                (identity.without_keys, identity.without_functions) = (true, !wants_functions(value)?);
            }
            b"version" => identity.reader = std::str::from_utf8(value).ok().and_then(Reader::of_version),
            b"repld-run-id" => return answer_with_ancestry(context, value),
            _ => {
                let option = String::from_utf8_lossy(args.get(index));
                return Err(ErrorReply::owned(format!("ERR Unrecognized REPLCONF option: {option}")));
            }
        }
    }
    context.ok()
}

/// Which parts an image is to have: functions, or nothing. Keys it has not.
fn wants_functions(value: &[u8]) -> Result<bool> {
    let mut wanted = false;
    for part in value.split(|byte| *byte == b' ').filter(|part| !part.is_empty()) {
        if !part.eq_ignore_ascii_case(b"functions") {
            let text = format!("ERR Unsupported rdb-filter-only option: {}", String::from_utf8_lossy(part));
            return Err(ErrorReply::owned(text));
        }
        wanted = true;
    }
    Ok(wanted)
}

/// A replica that is a repld says which run of a server it is, and is told whom it would follow. Others never ask.
fn answer_with_ancestry(context: &mut ServerContext, value: &[u8]) -> Result<Flow> {
    let run_id = ReplicationId::parse(value).ok_or(ErrorReply::new("ERR a run id has 40 hexadecimal digits"))?;
    let ancestry = context.instance.ancestry();
    if ancestry.chain.contains(&run_id) {
        return Err(ErrorReply::owned(format!("CYCLE {run_id} is this server or above it: {ancestry}")));
    }
    context.reply().simple(&ancestry.to_string());
    context.session.identity.told_chain = Some(ancestry.chain);
    Ok(Flow::Continue)
}

fn parse_announced_ip(value: &[u8]) -> Result<Option<String>> {
    // The longest textual IPv6 address, with room for a host's name.
    const BYTES_MAX: usize = 255;
    match std::str::from_utf8(value) {
        Ok(text) if text.len() <= BYTES_MAX && !text.chars().any(char::is_control) => {
            Ok((!text.is_empty()).then(|| text.to_owned()))
        }
        _ => Err(ErrorReply::new("ERR REPLCONF ip-address provided by replica instance is too long or not text")),
    }
}

/// Has no reply: it would get into the stream.
fn acknowledge(context: &mut ServerContext, value: &[u8], synced: Option<&[u8]>) -> Result<Flow> {
    let number = |digits: &[u8]| parse_i64(digits).and_then(|offset| u64::try_from(offset).ok());
    if let Some(feed) = context.session.feed.clone()
        && let Some(offset) = number(value)
    {
        context.instance.acknowledge(&feed, offset, synced.and_then(number));
    }
    Ok(Flow::Continue)
}

pub(super) fn psync(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let id = args.get(1);
    let next = parse_integer(args.get(2)).inspect_err(|_| {
        log!(Warning, "Replica {} asks for synchronization but with a wrong offset", feed_name(context));
    })?;
    // The wire names the next byte wanted; what a replica has ends one before.
    let request = next.checked_sub(1).and_then(|offset| u64::try_from(offset).ok());
    let request = request.filter(|_| id != b"?").map(|offset| (id, offset));
    if args.is(3, "failover") && context.session.feed.is_none() {
        take_over(context, id)?;
    }
    begin_feed(context, request)
}

/// The master asks this replica to take its place.
fn take_over(context: &mut ServerContext, id: &[u8]) -> Result<()> {
    log!(Warning, "Failover request received for replid {}.", String::from_utf8_lossy(id));
    if context.instance.replication.following().is_none() {
        return Err(ErrorReply::new("ERR PSYNC FAILOVER can't be sent to a master."));
    }
    if id != context.instance.replication.history.replid.as_str().as_bytes() {
        return Err(ErrorReply::new("ERR PSYNC FAILOVER replid must match my replid."));
    }
    context.instance.unfollow();
    let asked_by = context.session.client.describe(context.instance.now_ms);
    log!(Notice, "MASTER MODE enabled (failover request from '{asked_by}')");
    Ok(())
}

/// For clients that know neither partial resyncs nor payloads of unknown length.
pub(super) fn sync(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    context.session.old_sync = true;
    begin_feed(context, None)
}

fn begin_feed(context: &mut ServerContext, request: Option<(&[u8], u64)>) -> Result<Flow> {
    if context.session.feed.is_some() {
        return Ok(Flow::Continue);
    }
    if context.instance.failover.is_some() {
        return Err(ErrorReply::new("NOMASTERLINK Can't SYNC while failing over"));
    }
    let replication = &context.instance.replication;
    if replication.following().is_some() && !replication.is_linked() {
        return Err(ErrorReply::new("NOMASTERLINK Can't SYNC while not connected with my master"));
    }
    if context.session.identity.told_chain.as_ref().is_some_and(|told| *told != context.instance.ancestry().chain) {
        // Believing the old one, it would turn away a server that is no longer above it.
        return Err(ErrorReply::new("NOMASTERLINK Those above this server have changed since you asked"));
    }
    log!(Notice, "Replica {} asks for synchronization", feed_name(context));
    if replication.is_ghost()
        && let SyncAnswer::Full(reason) = replication.answer(request)
    {
        // A replica takes this code for "not now" and keeps what it has; any other error makes some of them ask for SYNC.
        log!(Warning, "Partial resynchronization not accepted, and there is no other here: {reason}");
        return Err(ErrorReply::owned(format!(
            "NOMASTERLINK Can't SYNC in full from a dead server's backlog: {reason}"
        )));
    }
    let answer =
        context.instance.attach(context.session, request).map_err(|error| ErrorReply::owned(format!("ERR {error}")))?;
    if let SyncAnswer::Continue(_) = answer {
        let replid = context.instance.replication.history.replid;
        let line = if context.session.identity.psync2 { format!("CONTINUE {replid}") } else { "CONTINUE".into() };
        context.reply().simple(&line);
    } else if context.session.identity.without_keys {
        return send_image_without_keys(context);
    }
    Ok(Flow::Feed)
}

/// An image without keys needs no walk over them.
fn send_image_without_keys(context: &mut ServerContext) -> Result<Flow> {
    let Some(feed) = context.session.feed.clone() else { return Ok(Flow::Close) };
    let point = Point {
        id: context.instance.replication.history.replid,
        offset: context.instance.replication.offset,
        db: context.instance.replication.stream_db,
    };
    context.instance.promise_image(&[Rc::clone(&feed)], point, FeedState::ReceivesSnapshot { is_marked: false });
    let with_functions = !context.session.identity.without_functions;
    let image = Image::without_keys(context.instance, point, with_functions).encoder_for(feed.reader).finish();
    feed.client.send(|mailbox| {
        mailbox.extend_from_slice(format!("${}\r\n", image.len()).as_bytes());
        mailbox.extend_from_slice(&image);
    });
    if feed.rdb_only {
        return Ok(Flow::Close);
    }
    feed.state.set(FeedState::Online);
    Ok(Flow::Feed)
}

fn feed_name(context: &ServerContext) -> String {
    let identity = &context.session.identity;
    let (ip, port) = context.session.client.address.rsplit_once(':').unwrap_or(("?", "0"));
    let ip = identity.announced_ip.as_deref().unwrap_or(ip);
    if identity.listening_port == 0 { format!("{ip}:{port}") } else { format!("{ip}:{}", identity.listening_port) }
}

/// How many replicas have acknowledged what this client has written, when there are enough of them or time is over.
pub(super) fn wait(context: &mut ServerContext, args: Args) -> Result<Flow> {
    if !context.instance.replication.is_master() {
        return Err(ErrorReply::new(
            "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica is \
             configured to be writable (which is not the default) writes to replicas are just local and are not propagated.",
        ));
    }
    let wanted = parse_integer(args.get(1))?;
    let timeout_ms =
        parse_integer(args.get(2)).map_err(|_| ErrorReply::new("ERR timeout is not an integer or out of range"))?;
    if timeout_ms < 0 {
        return Err(ErrorReply::new("ERR timeout is negative"));
    }
    let instance = &mut *context.instance;
    let there = instance.replication.feeds_at(instance.replication.offset);
    let wanted = usize::try_from(wanted).unwrap_or(0);
    if there >= wanted || instance.transaction_stream.is_some() {
        context.reply().integer(there as i64);
        return Ok(Flow::Continue);
    }
    let deadline_ms = (timeout_ms > 0).then(|| instance.now_ms.saturating_add(timeout_ms));
    let offset = instance.replication.offset;
    instance.block(context.session, Awaited::Acknowledgements { offset, replicas: wanted }, deadline_ms);
    instance.ask_for_acknowledgement();
    Ok(Flow::Block)
}

/// The same for what is on disks: this server's, and those of its replicas.
/// <https://redis.io/docs/latest/commands/waitaof/>
pub(super) fn waitaof(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let local = parse_integer(args.get(1))?;
    if !(0..=1).contains(&local) {
        return Err(ErrorReply::new("ERR value is out of range, value must between 0 and 1"));
    }
    let wanted = usize::try_from(parse_integer(args.get(2))?).map_err(|_| ErrorReply::NOT_POSITIVE)?;
    let timeout_ms = parse_integer(args.get(3)).map_err(|_| ErrorReply::BAD_TIMEOUT)?;
    if timeout_ms < 0 {
        return Err(ErrorReply::NEGATIVE_TIMEOUT);
    }
    let instance = &mut *context.instance;
    if !instance.replication.is_master() {
        return Err(ErrorReply::new(
            "ERR WAITAOF cannot be used with replica instances. Please also note that writes to replicas are just local \
             and are not propagated.",
        ));
    }
    let local = local == 1;
    if local && !instance.config.appendonly {
        return Err(ErrorReply::new("ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled."));
    }
    let offset = instance.replication.offset;
    if instance.has_disks(offset, local, wanted) || instance.transaction_stream.is_some() {
        let (here, there) = (instance.is_synced(offset), instance.feeds_synced(offset));
        let mut reply = context.reply();
        reply.array(2);
        reply.integer(i64::from(here));
        reply.integer(there as i64);
        return Ok(Flow::Continue);
    }
    let deadline_ms = (timeout_ms > 0).then(|| instance.now_ms.saturating_add(timeout_ms));
    if wanted > 0 {
        instance.ask_for_acknowledgement();
    }
    instance.block(context.session, Awaited::Disks { offset, local, replicas: wanted }, deadline_ms);
    instance.act(Action::SyncAof);
    Ok(Flow::Block)
}

pub(super) fn role(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let ServerContext { instance, session, out } = context;
    let mut reply = crate::resp::Reply::new(out, session.protocol);
    let replication = &instance.replication;
    match &replication.role {
        Role::Master | Role::Ghost => {
            reply.array(3);
            reply.bulk(b"master");
            reply.integer(replication.offset as i64);
            let online: Vec<_> = replication.feeds.iter().filter(|feed| feed.is_online()).collect();
            reply.array(online.len());
            for feed in online {
                reply.array(3);
                reply.bulk(feed.ip.as_bytes());
                reply.bulk(feed.port.to_string().as_bytes());
                reply.bulk(feed.acknowledged.get().to_string().as_bytes());
            }
        }
        Role::Replica(following) => {
            reply.array(5);
            reply.bulk(b"slave");
            reply.bulk(following.upstream.host.as_bytes());
            reply.integer(i64::from(following.upstream.port));
            let (state, offset) = match following.link {
                Link::Down => ("connect", -1),
                Link::Handshake => ("handshake", -1),
                Link::Transfer { .. } => ("sync", -1),
                Link::Up => ("connected", replication.offset as i64),
            };
            reply.bulk(state.as_bytes());
            reply.integer(offset);
        }
    }
    Ok(Flow::Continue)
}
