//! From a request to its reply: gates, handler, commit.

use std::collections::HashSet;
use std::rc::Rc;

use super::table::Keys;
use super::{
    Args, Attempt, Command, Effect, ErrorReply, Handler, ReadContext, ServerContext, WriteContext, monitor, object,
    pubsub, table, transaction,
};
use crate::client::{Admission, Client, QueueSize, Queued, ReplyMode, Session};
use crate::instance::{Awaited, Instance, Place};
use crate::keyspace::{EntryRef, Key, Keyspace};
use crate::log::log;
use crate::notify::{Classes, Event};
use crate::number::parse_i64;
use crate::resp::{Protocol, Reply, Request, Span, append_request};
use crate::tracking::Wish;

/// What a command is called that nobody knows.
const UNKNOWN: &str = "<unknown>";

/// What the connection does after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Reads on.
    Continue,
    /// Sends what is to be sent and closes.
    Close,
    /// Reads on when its client is unblocked.
    Block,
    /// Runs this same request again when the pause is over.
    Postpone,
    /// Becomes a feed.
    Feed,
}

/// A request with what was found out before its turn.
#[derive(Clone, Copy)]
pub struct Planned {
    /// Where it lies.
    pub request: Request,
    /// What it asks for; `None` if nobody knows.
    pub command: Option<&'static Command>,
    /// Of its first key, if it has one.
    pub hash: u64,
}

impl Planned {
    /// Looks the command up, and hashes its first key and fetches that key's slot into the cache. `last` is what the last
    /// request of the same parser asked for, if that was planned and its name says it.
    #[inline]
    pub fn new(
        request: Request,
        bytes: &[u8],
        spans: &[Span],
        keyspace: &Keyspace,
        db: usize,
        last: &mut Option<&'static Command>,
    ) -> Self {
        if spans.is_empty() {
            return Planned { request, command: None, hash: 0 };
        }
        let args = Args::new(bytes, spans, 0);
        let command = match *last {
            Some(command) if request.repeats || command.name.as_bytes().eq_ignore_ascii_case(args.get(0)) => {
                Some(command)
            }
            _ => {
                let command = table::resolve(args).ok();
                // The name of what is divided, or of a part, does not say what is asked for.
                *last = command.filter(|command| command.is_whole());
                command
            }
        };
        let hash = match command {
            Some(command) if command.keys.first == 1 && spans.len() > 1 => {
                let hash = keyspace.hash(args.get(1));
                keyspace.prefetch_slot(db, hash);
                hash
            }
            _ => 0,
        };
        Planned { request, command, hash }
    }
}

/// A request on its way through the gates.
pub(crate) struct Call<'a> {
    pub(crate) command: &'static Command,
    pub(crate) args: Args<'a>,
    /// The request's bytes if they are its canonical form.
    pub(crate) canonical: Option<&'a [u8]>,
}

/// On whose behalf a command on keys is run.
#[derive(Clone, Copy)]
struct Caller {
    db: usize,
    protocol: Protocol,
    is_upstream: bool,
    /// Of its client.
    id: u64,
    touches: bool,
}

impl Caller {
    fn of(session: &Session) -> Caller {
        Caller {
            db: session.db(),
            protocol: session.protocol,
            is_upstream: session.is_upstream(),
            id: session.client.id,
            touches: session.touches(),
        }
    }
}

/// A key that may be watched, before a write that names it.
struct WatchedTarget {
    db: usize,
    name: Box<[u8]>,
    existed: bool,
}

impl Instance {
    /// Runs one request of `session` and writes its reply to `out`.
    #[inline]
    pub fn execute(
        &mut self,
        session: &mut Session,
        planned: &Planned,
        args: Args,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Flow {
        let may_pass = |command: &&Command| session.admission.unseen && command.is_quick() && command.takes(args.len());
        if let Some(command) = planned.command.filter(may_pass) {
            let canonical = (!planned.request.inline).then_some(bytes);
            let call = Call { command, args, canonical };
            match command.handler {
                Handler::Read(handler) if session.admission.reads => {
                    return self.read_unseen(session, &call, handler, out);
                }
                Handler::Write(handler) if session.admission.writes => {
                    return self.write_unseen(session, &call, handler, out);
                }
                _ => {}
            }
        }
        self.execute_any(session, planned, args, bytes, out)
    }

    /// Runs a quick command on keys whose gates are open, and of which nobody is to be told but replicas.
    #[inline]
    fn read_unseen(
        &mut self,
        session: &mut Session,
        call: &Call,
        handler: fn(&mut ReadContext, Args) -> super::Result<()>,
        out: &mut Vec<u8>,
    ) -> Flow {
        let start = self.begin_unseen(session, call, out);
        let caller = Caller::of(session);
        match self.call_read(caller, call, handler, out) {
            Ok(()) => Flow::Continue,
            Err(error) => self.fail(session, call, &error, start, out),
        }
    }

    /// The same for one that changes keys.
    #[inline]
    fn write_unseen(
        &mut self,
        session: &mut Session,
        call: &Call,
        handler: fn(&mut WriteContext, Args) -> super::Result<Effect>,
        out: &mut Vec<u8>,
    ) -> Flow {
        let start = self.begin_unseen(session, call, out);
        let caller = Caller::of(session);
        self.expire_keys_of(caller, call);
        self.effect.clear();
        match handler(&mut self.write_context(caller, out), call.args) {
            Ok(Effect::None) => {}
            Ok(effect) => self.commit(caller, call, effect),
            Err(error) => return self.fail(session, call, &error, start, out),
        }
        Flow::Continue
    }

    /// Counts it, and returns where its reply begins.
    #[inline]
    fn begin_unseen(&mut self, session: &Session, call: &Call, out: &[u8]) -> usize {
        session.client.last_command.set(call.command.name);
        self.stats.total_commands_processed += 1;
        self.count_call(session.is_upstream(), call.command);
        out.len()
    }

    #[inline(never)]
    fn execute_any(
        &mut self,
        session: &mut Session,
        planned: &Planned,
        args: Args,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Flow {
        if args.len() == 0 {
            if let Some(feed) = &session.feed {
                // A replica that is busy with its image says that it lives.
                feed.heard_ms.set(self.now_ms);
            }
            return Flow::Continue;
        }
        let start = out.len();
        let flow = match planned.command {
            None => {
                let error = table::resolve(args).err().expect("nobody knew the command when it was planned");
                session.client.last_command.set(UNKNOWN);
                self.refuse(session, None, &error, out);
                Flow::Continue
            }
            Some(command) => {
                let call = Call { command, args, canonical: (!planned.request.inline).then_some(bytes) };
                let admitted = match command.handler {
                    Handler::Read(_) => session.admission.reads,
                    Handler::Write(_) | Handler::Blocking(_) if !command.is_write() => session.admission.reads,
                    Handler::Write(_) | Handler::Blocking(_) => session.admission.writes,
                    Handler::Server(_) => {
                        session.admission = Admission::default();
                        false
                    }
                };
                if admitted && command.takes(args.len()) {
                    session.client.last_command.set(command.name);
                    self.call(session, &call, out)
                } else {
                    self.admit(session, &call, out)
                }
            }
        };
        if flow != Flow::Postpone {
            self.stats.total_commands_processed += 1;
        }
        suppress_reply(session, start, planned.command, out);
        if self.waiters.any_ready() {
            self.serve_ready();
        }
        if session.feed.is_some() && flow != Flow::Feed && out.len() > start {
            out.truncate(start);
            return self.refuse_reply(session, planned.command);
        }
        if self.tracking.is_on() {
            self.tell_trackers();
            if session.tracks {
                forget_caching(session, planned.command);
            }
            // What it is told of its own doing comes right behind the reply.
            session.client.collect(out);
        }
        flow
    }

    /// A replica has asked for something that has a reply, which it would take for a part of the stream.
    fn refuse_reply(&self, session: &Session, command: Option<&'static Command>) -> Flow {
        log!(
            Warning,
            "Replica generated a reply to command '{}', disconnecting it: {}",
            command.map_or(UNKNOWN, |command| command.name),
            session.client.describe(self.now_ms)
        );
        Flow::Close
    }

    /// Tells those who track keys of what has changed.
    pub(crate) fn tell_trackers(&mut self) {
        if self.tracking.is_on() {
            self.tracking.settle(self.config.tracking_table_max_keys, &self.clients);
        }
    }

    fn remember_reads(&mut self, session: &Session, call: &Call) {
        if session.client.tracking.borrow().as_ref().is_some_and(Wish::wants_reads) {
            self.tracking.remember(session.client.id, call.command.keys.of(call.args));
        }
    }

    /// What `session` may do to keys, as far as no gate has to be asked for each request.
    pub fn admission(&self, session: &Session) -> Admission {
        let unseen = self.is_unseen(session);
        if session.is_upstream() {
            // It is obeyed without asking.
            let obeyed = session.transaction.is_none();
            return Admission { reads: obeyed, writes: obeyed, unseen };
        }
        let unhindered = session.authenticated
            && session.transaction.is_none()
            && session.feed.is_none()
            && !session.client.subscriptions.get().any()
            && self.loading.is_none()
            && !self.has_pause()
            && session.client.user.borrow().is_unrestricted()
            && !self.replication.is_ghost();
        let serves = self.replication.is_master() || self.config.replica_serve_stale_data;
        Admission {
            reads: unhindered && serves && self.has_room(),
            writes: unhindered && serves && self.config.maxmemory == 0 && self.gate_write().is_ok(),
            unseen,
        }
    }

    /// Whether nobody looks on at what `session` does to keys: then there is only the data to be changed, the replicas to
    /// be told, and the session to be answered. If so, its commands count as uses of keys from here on.
    fn is_unseen(&self, session: &Session) -> bool {
        let unseen = self.monitors.is_empty()
            && !self.tracking.is_on()
            && !session.tracks
            && self.watchers.is_empty()
            && !self.waiters.await_keys()
            && !self.waiters.any_ready()
            && self.config.notify_keyspace_events == Classes::NONE
            && session.reply_mode == ReplyMode::On
            && session.touches()
            && session.feed.is_none()
            && self.transaction_stream.is_none()
            && !self.times_each();
        if unseen {
            self.keyspace.hold_access(false);
        }
        unseen
    }

    /// Says no before anything was run. A transaction that this was to belong to can't be run either; one that it was
    /// to end is over.
    fn refuse(&mut self, session: &mut Session, call: Option<&Call>, error: &ErrorReply, out: &mut Vec<u8>) {
        let command = call.map(|call| call.command);
        if let Some(command) = command {
            self.stats.commands.of(command).rejected += 1;
        }
        if command.is_some_and(|command| command.name == "exec") {
            transaction::abandon(self, session);
            if let Some(call) = call.filter(|_| !self.monitors.is_empty()) {
                self.show(session, call);
            }
            let reason = error.text().strip_prefix(b"ERR ").unwrap_or(error.text());
            let text = [b"EXECABORT Transaction discarded because of: ", reason].concat();
            return self.reply_error(session, &text, out);
        }
        if let Some(transaction) = &mut session.transaction {
            transaction.aborted = true;
        }
        self.reply_error(session, error.text(), out);
    }

    pub(super) fn reply_error(&mut self, session: &Session, text: &[u8], out: &mut Vec<u8>) {
        self.count_error(text);
        if session.is_upstream() || session.feed.is_some() {
            let (from, to) = if session.is_upstream() { ("replica", "master") } else { ("master", "replica") };
            log!(
                Warning,
                "== CRITICAL == This {from} is sending an error to its {to}: '{}' after processing the command '{}'",
                String::from_utf8_lossy(text),
                session.client.last_command.get()
            );
        }
        Reply::new(out, session.protocol).error(text);
    }

    fn admit(&mut self, session: &mut Session, call: &Call, out: &mut Vec<u8>) -> Flow {
        let command = call.command;
        if !command.takes(call.args.len()) {
            self.refuse(session, Some(call), &ErrorReply::arity(command.name), out);
            return Flow::Continue;
        }
        session.client.last_command.set(command.name);
        if session.is_upstream() {
            return self.queue_or_call(session, call, out);
        }
        let gate = self.gate(session, call);
        if self.tracking.is_on() {
            // Who was to make room has been evicted before the answer.
            self.tell_trackers();
            session.client.collect(out);
        }
        if let Err(error) = gate {
            self.refuse(session, Some(call), &error, out);
            return Flow::Continue;
        }
        if session.feed.is_none() && self.is_paused(self.may_write(session, command)) {
            return Flow::Postpone;
        }
        self.queue_or_call(session, call, out)
    }

    fn may_write(&self, session: &Session, command: &Command) -> bool {
        let queued_write = || {
            let transaction = session.transaction.as_ref();
            transaction.is_some_and(|transaction| transaction.queue.iter().any(|queued| queued.command.may_replicate()))
        };
        (session.transaction.is_none() && command.may_replicate()) || (command.name == "exec" && queued_write())
    }

    /// Whether this command may be run by this session now.
    fn gate(&mut self, session: &Session, call: &Call) -> Result<(), ErrorReply> {
        let command = call.command;
        if !session.authenticated && !command.is(table::NO_AUTH) && !self.users.default_user().is_open() {
            return Err(ErrorReply::new("NOAUTH Authentication required."));
        }
        let is_restricted = !session.client.user.borrow().is_unrestricted();
        if is_restricted {
            self.check_permission(session, command, call.args).map_err(|denied| denied.reply(command, call.args))?;
        }
        if session.feed.is_some() && !matches!(command.handler, Handler::Server(_)) {
            return Err(ErrorReply::new("ERR Replica can't interact with the keyspace"));
        }
        if self.replication.is_ghost() && !runs_on_a_ghost(command) {
            return Err(ErrorReply::owned(format!(
                "ERR '{}' is refused: this serves a dead server's backlog to its replicas and has no data",
                command.name
            )));
        }
        if command.is_write() || command.name == "exec" && self.may_write(session, command) {
            self.gate_write()?;
        }
        if self.config.maxmemory > 0 && !self.make_room() && self.needs_memory(session, command) {
            return Err(ErrorReply::new("OOM command not allowed when used memory > 'maxmemory'."));
        }
        let subscriptions = session.client.subscriptions.get();
        if pubsub::is_restricted(session.protocol, subscriptions) && !command.is(table::WHILE_SUBSCRIBED) {
            return Err(ErrorReply::owned(format!(
                "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
                command.name
            )));
        }
        let stale = !self.config.replica_serve_stale_data
            && self.replication.following().is_some()
            && !self.replication.is_linked();
        if stale && !runs_when(session, command, table::STALE) {
            return Err(ErrorReply::new(
                "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            ));
        }
        let loading = self.loading.is_some_and(|loading| !loading.serves_old_data);
        // An upstream that takes its time can be left for another one.
        let transfer = || command.is(table::DURING_TRANSFER) && self.replication.is_transferring();
        if loading && !runs_when(session, command, table::LOADING) && !transfer() {
            return Err(ErrorReply::new("LOADING Redis is loading the dataset in memory"));
        }
        if session.transaction.is_some() && command.is(table::NO_MULTI) {
            return Err(ErrorReply::new("ERR Command not allowed inside a transaction"));
        }
        Ok(())
    }

    fn needs_memory(&self, session: &Session, command: &Command) -> bool {
        let queued = || {
            let transaction = session.transaction.as_ref();
            transaction.is_some_and(|it| it.queue.iter().any(|queued| queued.command.is(table::DENY_OOM)))
        };
        let is_queued = session.transaction.is_some() && !command.is(table::RUNS_IN_MULTI);
        command.is(table::DENY_OOM) || is_queued || command.name == "exec" && queued()
    }

    /// Whether clients may change anything now.
    pub(super) fn gate_write(&self) -> Result<(), ErrorReply> {
        if self.config.stop_writes_on_bgsave_error
            && self.persistence.failed
            && !self.config.save.is_empty()
            && self.replication.is_master()
        {
            return Err(ErrorReply::new(
                "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. \
                 Commands that may modify the data set are disabled, because this instance is configured to report \
                 errors during writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the \
                 Redis logs for details about the RDB error.",
            ));
        }
        if let Some(error) = &self.aof.error
            && self.replication.is_master()
        {
            return Err(ErrorReply::owned(format!("MISCONF Errors writing to the AOF file: {error}")));
        }
        if self.replication.is_master() {
            let wanted = self.config.min_replicas_to_write as usize;
            let lag_ms = self.config.min_replicas_max_lag.as_millis() as i64;
            if wanted > 0 && lag_ms > 0 && self.replication.good_feeds(self.now_ms, lag_ms) < wanted {
                return Err(ErrorReply::new("NOREPLICAS Not enough good replicas to write."));
            }
        } else if self.config.replica_read_only {
            return Err(ErrorReply::new("READONLY You can't write against a read only replica."));
        }
        Ok(())
    }

    fn queue_or_call(&mut self, session: &mut Session, call: &Call, out: &mut Vec<u8>) -> Flow {
        match &mut session.transaction {
            Some(transaction) if !call.command.is(table::RUNS_IN_MULTI) => {
                let queued = call.args.queue(call);
                let size = session.client.queued.get().unwrap_or_default();
                let bytes = size.bytes + queued.memory_bytes();
                session.client.queued.set(Some(QueueSize { requests: size.requests + 1, bytes }));
                transaction.queue.push(queued);
                Reply::new(out, session.protocol).simple("QUEUED");
                Flow::Continue
            }
            _ => self.call(session, call, out),
        }
    }

    /// Runs a command that nothing stands against.
    pub(crate) fn call(&mut self, session: &mut Session, call: &Call, out: &mut Vec<u8>) -> Flow {
        let start = out.len();
        let caller = Caller::of(session);
        let is_timed = !self.count_call(caller.is_upstream, call.command) && !caller.is_upstream;
        let begun_us = if is_timed { self.end_run() } else { 0 };
        self.keyspace.hold_access(!caller.touches && call.command.name != "touch");
        let result = match call.command.handler {
            Handler::Read(handler) => self.call_read(caller, call, handler, out).map(|()| Flow::Continue),
            Handler::Write(handler) => {
                let run = |context: &mut WriteContext| handler(context, call.args);
                self.call_write(caller, call, out, run, |effect| *effect).map(|_| Flow::Continue)
            }
            Handler::Blocking(handler) => {
                let run = |context: &mut WriteContext| handler(context, call.args, None);
                let attempt = self.call_write(caller, call, out, run, Attempt::effect);
                attempt.map(|attempt| self.wait_if_must(session, call, attempt))
            }
            Handler::Server(handler) => {
                // Who watches a key that has expired watches one that is absent.
                self.expire_keys_of(caller, call);
                handler(&mut ServerContext { instance: self, session: &mut *session, out: &mut *out }, call.args)
            }
        };
        if !self.monitors.is_empty() {
            self.show(session, call);
        }
        if session.tracks && call.command.is_readonly() {
            self.remember_reads(session, call);
        }
        if let Ok(Flow::Block) = result {
            // What was written is for those who may not wait.
            out.truncate(start);
        } else if is_timed {
            let arguments = || monitor::shown(call.command, call.args);
            self.end_command(&session.client, call.command, begun_us, arguments);
        }
        result.unwrap_or_else(|error| self.fail(session, call, &error, start, out))
    }

    /// Counts a call, with the run that it belongs to if it does to one.
    #[inline]
    fn count_call(&mut self, is_upstream: bool, command: &'static Command) -> bool {
        // What an upstream sends comes in turns of its own, and is not timed.
        let joins = !is_upstream && self.joins_run(command);
        if !joins {
            self.stats.commands.of(command).calls += 1;
        }
        joins
    }

    /// Answers with an error in place of what a handler may have written before it failed.
    #[cold]
    #[inline(never)]
    fn fail(&mut self, session: &Session, call: &Call, error: &ErrorReply, start: usize, out: &mut Vec<u8>) -> Flow {
        out.truncate(start);
        self.stats.commands.of(call.command).failed += 1;
        self.reply_error(session, error.text(), out);
        Flow::Continue
    }

    /// Lets the client wait if its command found nothing: not within a transaction, nor one that must go on.
    fn wait_if_must(&mut self, session: &Session, call: &Call, attempt: Attempt) -> Flow {
        let (other, keys, deadline_ms) = match attempt {
            Attempt::Done(_) => return Flow::Continue,
            Attempt::Wait { keys, deadline_ms } => (None, keys, deadline_ms),
            Attempt::WaitWith { request, keys, deadline_ms } => (Some(request), keys, deadline_ms),
        };
        if self.transaction_stream.is_some() || session.is_upstream() {
            return Flow::Continue;
        }
        let places = keys.map(|index| (session.db(), call.args.get(index).into())).collect();
        let request = match other {
            Some(arguments) => Queued::new(call.command, &arguments),
            None => call.args.queue(call),
        };
        self.block(session, Awaited::Keys { places, request: Rc::new(request) }, deadline_ms);
        Flow::Block
    }

    /// Tries a request again that waits for a key that may hold something by now; false if it waits on.
    pub(crate) fn try_again(
        &mut self,
        client: &Rc<Client>,
        request: &Queued,
        place: &Place,
        out: &mut Vec<u8>,
    ) -> bool {
        let (db, key) = place;
        let Handler::Blocking(handler) = request.command.handler else { return false };
        let args = Args::new(&request.request, &request.spans, 0);
        let hash = if request.command.keys.first == 1 { self.keyspace.hash(args.get(1)) } else { 0 };
        let args = Args::new(&request.request, &request.spans, hash);
        let call = Call { command: request.command, args, canonical: None };
        let caller =
            Caller { db: *db, protocol: client.protocol.get(), is_upstream: false, id: client.id, touches: true };
        let begun_us = self.end_run();
        self.keyspace.hold_access(false);
        let run = |context: &mut WriteContext| handler(context, args, Some(key));
        let attempt = self.call_write(caller, &call, out, run, Attempt::effect);
        if !matches!(attempt, Ok(Attempt::Wait { .. } | Attempt::WaitWith { .. })) {
            self.end_command(client, call.command, begun_us, || monitor::shown(call.command, args));
        }
        match attempt {
            Ok(Attempt::Done(_)) => true,
            Ok(Attempt::Wait { .. } | Attempt::WaitWith { .. }) => false,
            Err(error) => {
                self.count_error(error.text());
                self.stats.commands.of(request.command).failed += 1;
                out.clear();
                Reply::new(out, caller.protocol).error(error.text());
                true
            }
        }
    }

    #[inline]
    fn call_read(
        &mut self,
        caller: Caller,
        call: &Call,
        handler: fn(&mut ReadContext, Args) -> super::Result<()>,
        out: &mut Vec<u8>,
    ) -> super::Result<()> {
        self.keyspace.begin_command();
        let mut context = ReadContext {
            keyspace: &self.keyspace,
            db: caller.db,
            now_ms: self.now_ms,
            expiry_ms: self.expiry_ms(caller),
            config: &self.config,
            random: &mut self.dice,
            stats: &self.stats,
            met: &self.met,
            reply: Reply::new(out, caller.protocol),
        };
        let result = handler(&mut context, call.args);
        if self.keyspace.saw_expired() || self.met.any() {
            self.follow_up(caller, call);
        }
        result
    }

    /// Does what follows from what a reading handler has met.
    #[cold]
    #[inline(never)]
    fn follow_up(&mut self, caller: Caller, call: &Call) {
        if self.keyspace.take_saw_expired() {
            self.expire_keys_of(caller, call);
        }
        for name in self.met.expired.take() {
            self.expire_if_due(caller.db, &name);
        }
        for name in self.met.missed.take() {
            self.notify(Classes::MISS, "keymiss", caller.db, &name);
        }
    }

    /// Deletes keys that a command of `session` has moved elsewhere, as its own `DEL` would.
    pub(super) fn delete_moved(&mut self, session: &Session, keys: &[&[u8]]) {
        let arguments: Vec<Vec<u8>> = [&b"DEL"[..]].iter().chain(keys).map(|argument| argument.to_vec()).collect();
        let command = table::find(b"del").expect("it is in the table");
        let Handler::Write(handler) = command.handler else { return };
        let request = Queued::new(command, &arguments);
        let args = Args::new(&request.request, &request.spans, self.keyspace.hash(keys[0]));
        let call = Call { command, args, canonical: None };
        let run = |context: &mut WriteContext| handler(context, args);
        let deleted = self.call_write(Caller::of(session), &call, &mut Vec::new(), run, |effect| *effect);
        debug_assert!(deleted.is_ok(), "nothing can be wrong with a DEL");
    }

    #[inline]
    fn write_context<'a>(&'a mut self, caller: Caller, out: &'a mut Vec<u8>) -> WriteContext<'a> {
        let is_heard = self.is_heard(caller);
        self.keyspace.begin_command();
        WriteContext {
            db: caller.db,
            now_ms: self.now_ms,
            expiry_ms: self.expiry_ms(caller),
            random: &mut self.dice,
            stats: &self.stats,
            config: &self.config,
            ignores_checksums: self.ignores_checksums,
            owns_data: caller.is_upstream || self.replication.is_master(),
            is_heard,
            keyspace: &mut self.keyspace,
            reply: Reply::new(out, caller.protocol),
            effect: &mut self.effect,
            events: &mut self.events,
        }
    }

    /// Runs a handler, and then what follows from the effect that its outcome has. Most outcomes are nothing but the effect: were
    /// they all made attempts here, whose copies are wider than what was just written into them, each would wait until
    /// everything that the handler has written was in the cache.
    #[inline(never)]
    fn call_write<R>(
        &mut self,
        caller: Caller,
        call: &Call,
        out: &mut Vec<u8>,
        run: impl FnOnce(&mut WriteContext) -> super::Result<R>,
        effect: impl FnOnce(&R) -> Effect,
    ) -> super::Result<R> {
        let db = caller.db;
        self.expire_keys_of(caller, call);
        let targets = if self.watchers.is_empty() { Vec::new() } else { self.watched_targets(call, db) };
        let is_observed = !targets.is_empty() || self.waiters.await_keys() || self.tracking.is_on();
        if is_observed {
            self.keyspace.record_writes();
        }
        self.effect.clear();
        let notifies = self.config.notify_keyspace_events != Classes::NONE;
        if notifies && self.config.notify_keyspace_events.has(Classes::NEW) {
            self.keyspace.record_created();
        }
        let outcome = run(&mut self.write_context(caller, out));
        let written = if is_observed { self.keyspace.take_written() } else { HashSet::new() };
        if notifies {
            self.end_events(outcome.is_ok());
        }
        let outcome = outcome?;
        let effect = effect(&outcome);
        if effect != Effect::None {
            if is_observed {
                self.tell_of_change(call, caller, &targets, &written);
            }
            self.commit(caller, call, effect);
        }
        if notifies {
            self.publish_events();
        }
        Ok(outcome)
    }

    /// A handler has said all that has happened to keys; nothing if it failed.
    fn end_events(&mut self, is_done: bool) {
        let created = self.keyspace.take_created().into_iter();
        self.events.extend(created.map(|(db, key)| Event { name: "new", db, key }));
        self.keyspace.forget_created();
        if !is_done {
            self.events.clear();
        }
    }

    /// Tells those who watch a key that was written, and those who wait for one.
    fn tell_of_change(
        &mut self,
        call: &Call,
        caller: Caller,
        targets: &[WatchedTarget],
        written: &HashSet<(usize, u64)>,
    ) {
        let db = caller.db;
        let keyspace = &self.keyspace;
        let is_written =
            |db: usize, name: &[u8]| call.command.keys == Keys::NONE || written.contains(&(db, keyspace.hash(name)));
        for target in targets.iter().filter(|target| is_written(target.db, &target.name)) {
            // What was absent and still is has not changed.
            if target.existed || self.exists(target.db, &target.name) {
                self.touch(target.db, &target.name);
            }
        }
        if self.waiters.await_keys() {
            let places = places_of(call, db, self.waiters.places());
            let ready: Vec<Place> = places.into_iter().filter(|(db, name)| is_written(*db, name)).collect();
            ready.into_iter().for_each(|place| self.waiters.mark_ready(place));
        }
        if self.tracking.is_on() {
            match call.command.name {
                "flushall" | "flushdb" => self.tracking.forget_all(&self.clients),
                "swapdb" => {}
                _ => {
                    let places = places_of(call, db, std::iter::empty()).into_iter();
                    for (_, name) in places.filter(|(db, name)| written.contains(&(*db, self.keyspace.hash(name)))) {
                        self.tracking.invalidate(&name, Some(caller.id));
                    }
                }
            }
        }
    }

    /// Tells the save points and the replicas of a change.
    #[inline]
    /// Whether anybody is told of the writes of this caller: a replica forwards its upstream's very bytes.
    fn is_heard(&self, caller: Caller) -> bool {
        !caller.is_upstream && (self.replication.backlog.is_some() || self.aof.is_open())
    }

    fn commit(&mut self, caller: Caller, call: &Call, effect: Effect) {
        self.persistence.dirty += 1;
        let db = caller.db;
        if self.replication.following().is_some() && (!caller.is_upstream || !self.own_deadlines.is_empty()) {
            self.note_own_deadlines(caller, call);
        }
        if !self.is_heard(caller) {
            return;
        }
        match (effect, call.canonical) {
            (Effect::None, _) => {}
            (Effect::Rewritten, _) => {
                let requests = std::mem::take(&mut self.effect);
                self.propagate_together(db, &requests);
                self.effect = requests;
            }
            (Effect::Verbatim, Some(bytes)) => self.propagate(db, bytes, 1),
            (Effect::Verbatim, None) => {
                let mut bytes = Vec::new();
                append_request(&mut bytes, &call.args.from(0).collect::<Vec<_>>());
                self.propagate(db, &bytes, 1);
            }
        }
    }

    /// A key that a client writes on a writable replica expires there; one that the upstream writes does when it says so.
    fn note_own_deadlines(&mut self, caller: Caller, call: &Call) {
        for name in call.command.keys.of(call.args) {
            let entry = self.keyspace.peek(caller.db, self.keyspace.key(name));
            let has_deadline = entry.is_some_and(|entry| entry.deadline_ms().is_some());
            let place = (caller.db, name.into());
            if has_deadline && !caller.is_upstream {
                self.own_deadlines.insert(place);
            } else {
                self.own_deadlines.remove(&place);
            }
        }
    }

    /// What a write may change of what is watched.
    fn watched_targets(&self, call: &Call, db: usize) -> Vec<WatchedTarget> {
        let target = |(db, name): Place| WatchedTarget { existed: self.exists(db, &name), db, name };
        let places = places_of(call, db, self.watchers.keys()).into_iter();
        places.filter(|place| self.watchers.contains_key(place)).map(target).collect()
    }

    pub(crate) fn exists(&self, db: usize, name: &[u8]) -> bool {
        let live = |entry: EntryRef| !entry.is_expired(self.now_ms);
        db < self.keyspace.databases() && self.keyspace.peek(db, self.keyspace.key(name)).is_some_and(live)
    }

    /// Deletes what has expired of the keys that a command names, and says so in the stream. Only a master does, and a
    /// writable replica where a client writes.
    #[inline]
    fn expire_keys_of(&mut self, caller: Caller, call: &Call) {
        let may_be_due =
            self.keyspace.with_deadline(caller.db) > 0 || self.keyspace.may_have_field_deadlines(caller.db);
        if !caller.is_upstream && (may_be_due || call.command.is(table::ELSEWHERE)) {
            self.expire_due_keys_of(caller, call);
        }
    }

    #[inline(never)]
    fn expire_due_keys_of(&mut self, caller: Caller, call: &Call) {
        let is_own = self.replication.is_master() || call.command.is_write();
        if !is_own || self.is_paused(true) {
            return;
        }
        if let Some((db, name)) = elsewhere(call) {
            self.expire_key(db, self.keyspace.key(name));
        }
        if self.keyspace.with_deadline(caller.db) > 0 {
            if call.command.keys == Keys::ONE {
                self.expire_key(caller.db, call.args.first_key());
            } else {
                call.command.keys.of(call.args).for_each(|name| self.expire_key(caller.db, self.keyspace.key(name)));
            }
        }
        if self.keyspace.may_have_field_deadlines(caller.db) {
            call.command.keys.of(call.args).for_each(|name| while self.expire_fields(caller.db, name) {});
        }
    }

    /// Removes fields of a hash whose time is over, some at a time, and says so in the stream; false if there was none.
    pub(crate) fn expire_fields(&mut self, db: usize, name: &[u8]) -> bool {
        /// As many as go well into one request.
        const FIELDS_AT_ONCE: usize = 512;
        let gone = self.keyspace.expire_fields(db, self.keyspace.key(name), self.now_ms, FIELDS_AT_ONCE);
        if gone.is_empty() {
            return false;
        }
        self.stats.expired_subkeys += gone.len() as u64;
        self.touch(db, name);
        self.notify(Classes::HASH, "hexpired", db, name);
        if !self.exists(db, name) {
            self.notify(Classes::GENERIC, "del", db, name);
        }
        let request: Vec<&[u8]> = [b"HDEL", name].into_iter().chain(gone.iter().map(Vec::as_slice)).collect();
        self.propagate_request(db, &request);
        true
    }

    /// Deletes a key whose time has come, if that is this server's decision.
    pub(crate) fn expire_if_due(&mut self, db: usize, name: &[u8]) {
        if self.replication.is_master() && !self.is_paused(true) {
            self.expire_key(db, self.keyspace.key(name));
        }
    }

    fn expire_key(&mut self, db: usize, key: Key) {
        if db >= self.keyspace.databases() || self.keyspace.with_deadline(db) == 0 {
            return;
        }
        let name = key.bytes;
        if self.keyspace.peek(db, key).is_some_and(|entry| entry.is_expired(self.now_ms)) {
            self.keyspace.remove(db, key);
            self.stats.expired_keys += 1;
            self.forget_key(db, name);
            self.notify(Classes::EXPIRED, "expired", db, name);
            if !planted!(ExpiryNotTold) {
                self.propagate_request(db, &[b"DEL", name]);
            }
        }
    }

    /// A replica applies its upstream's stream as if nothing ever expired: the upstream says when it has.
    fn expiry_ms(&self, caller: Caller) -> i64 {
        if caller.is_upstream { i64::MIN } else { self.now_ms }
    }
}

/// The key in another database that a command writes to, if it is one that does.
fn elsewhere<'a>(call: &Call<'a>) -> Option<(usize, &'a [u8])> {
    match call.command.name {
        "move" => Some((usize::try_from(parse_i64(call.args.get(2))?).ok()?, call.args.get(1))),
        "copy" => Some((object::copy_target(call.args)?, call.args.get(2))),
        _ => None,
    }
}

/// Where a write may change something: the keys that it names; of those that are `known`, if it is about whole databases.
fn places_of<'a>(call: &Call, db: usize, known: impl Iterator<Item = &'a Place>) -> Vec<Place> {
    let argument = |index| parse_i64(call.args.get(index)).and_then(|db| usize::try_from(db).ok());
    match call.command.name {
        "flushall" => known.cloned().collect(),
        "flushdb" => known.filter(|(at, _)| *at == db).cloned().collect(),
        "swapdb" if argument(1) == argument(2) => Vec::new(),
        "swapdb" => known.filter(|(at, _)| [argument(1), argument(2)].contains(&Some(*at))).cloned().collect(),
        "move" => [Some(db), argument(2)].into_iter().flatten().map(|at| (at, call.args.get(1).into())).collect(),
        "copy" => vec![(object::copy_target(call.args).unwrap_or(db), call.args.get(2).into())],
        // What comes behind the target is only read.
        name if name == "bitop" || name.ends_with("store") => {
            call.command.keys.of(call.args).take(1).map(|name| (db, name.into())).collect()
        }
        _ => call.command.keys.of(call.args).map(|name| (db, name.into())).collect(),
    }
}

/// Whether it has this flag, and, if it ends a transaction, everything that would be run with it.
fn runs_when(session: &Session, command: &Command, flag: table::Flags) -> bool {
    let queued = || session.transaction.as_ref().is_none_or(|it| it.queue.iter().all(|queued| queued.command.is(flag)));
    command.is(flag) && (command.name != "exec" || queued())
}

/// What `CLIENT CACHING` has said holds for one command, or for one transaction.
fn forget_caching(session: &Session, command: Option<&Command>) {
    let is_family = command.is_some_and(|command| command.name.starts_with("client|"));
    if !is_family
        && session.transaction.is_none()
        && let Some(wish) = session.client.tracking.borrow_mut().as_mut()
    {
        wish.caching = false;
    }
}

/// What a replica needs for its handshake, and what shows an operator how far the replicas are.
fn runs_on_a_ghost(command: &Command) -> bool {
    let family = command.name.split('|').next().unwrap_or_default();
    matches!(family, "client" | "command")
        || [
            "auth",
            "config|get",
            "echo",
            "hello",
            "info",
            "ping",
            "psync",
            "quit",
            "replconf",
            "replid",
            "reset",
            "role",
        ]
        .contains(&command.name)
        || ["shutdown", "time"].contains(&command.name)
}

fn suppress_reply(session: &mut Session, start: usize, command: Option<&Command>, out: &mut Vec<u8>) {
    let mode = session.reply_mode;
    if mode == ReplyMode::On {
        return;
    }
    session.reply_mode = match mode {
        ReplyMode::SkipNext => ReplyMode::Skip,
        ReplyMode::Skip => ReplyMode::On,
        ReplyMode::On | ReplyMode::Off => mode,
    };
    // What confirms a subscription is a message like those that follow.
    let listens = |command: &Command| command.is(table::PUBSUB) && command.is(table::WHILE_SUBSCRIBED);
    if !command.is_some_and(listens) {
        out.truncate(start);
    }
}
