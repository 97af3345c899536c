//! From a request to its reply: gates, handler, commit.

use super::{
    Args, Command, Effect, ErrorReply, Handler, ReadContext, ServerContext, WriteContext, pubsub, table, transaction,
};
use crate::client::{Admission, ReplyMode, Session};
use crate::instance::Instance;
use crate::keyspace::Keyspace;
use crate::log::log;
use crate::number::parse_i64;
use crate::resp::{Reply, Request, Span, append_request};

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
    /// Looks the command up, and hashes its first key and fetches that key's slot into the cache.
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
            Some(command) if command.name.as_bytes().eq_ignore_ascii_case(args.get(0)) => Some(command),
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

/// A key that may be watched, before a write that names it.
struct WatchedTarget {
    db: usize,
    name: Box<[u8]>,
    existed: bool,
}

impl Instance {
    /// Runs one request of `session` and writes its reply to `out`.
    pub fn execute(
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
                self.refuse(session, None, &error, out);
                Flow::Continue
            }
            Some(command) => {
                let call = Call { command, args, canonical: (!planned.request.inline).then_some(bytes) };
                let admitted = match command.handler {
                    Handler::Read(_) => session.admission.reads,
                    Handler::Write(_) => session.admission.writes,
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
        if session.feed.is_some() && flow != Flow::Feed {
            // A reply would get into the stream.
            out.truncate(start);
        }
        suppress_reply(session, start, out);
        flow
    }

    /// What `session` may do to keys, as far as no gate has to be asked for each request.
    pub fn admission(&self, session: &Session) -> Admission {
        let unhindered = session.authenticated
            && session.transaction.is_none()
            && session.feed.is_none()
            && session.client.subscriptions.get() == (0, 0)
            && self.loading.is_none()
            && self.pause.is_none();
        let serves = self.replication.is_master() || self.config.replica_serve_stale_data;
        Admission { reads: unhindered && serves, writes: unhindered && serves && self.gate_write(session).is_ok() }
    }

    /// Says no before anything was run. A transaction that this was to belong to can't be run either; one that it was
    /// to end is over.
    fn refuse(&mut self, session: &mut Session, command: Option<&Command>, error: &ErrorReply, out: &mut Vec<u8>) {
        if command.is_some_and(|command| command.name == "exec") {
            transaction::abandon(self, session);
            let reason = error.text().strip_prefix(b"ERR ").unwrap_or(error.text());
            let text = [b"EXECABORT Transaction discarded because of: ", reason].concat();
            return self.reply_error(session, &text, out);
        }
        if let Some(transaction) = &mut session.transaction {
            transaction.aborted = true;
        }
        self.reply_error(session, error.text(), out);
    }

    fn reply_error(&mut self, session: &Session, text: &[u8], out: &mut Vec<u8>) {
        self.stats.total_error_replies += 1;
        if session.is_upstream() {
            let text = String::from_utf8_lossy(text);
            log!(Warning, "== CRITICAL == This replica is sending an error to its master: '{text}'");
        }
        Reply::new(out, session.protocol).error(text);
    }

    fn admit(&mut self, session: &mut Session, call: &Call, out: &mut Vec<u8>) -> Flow {
        let command = call.command;
        if !command.takes(call.args.len()) {
            self.refuse(session, Some(command), &ErrorReply::arity(command.name), out);
            return Flow::Continue;
        }
        if session.is_upstream() {
            return self.queue_or_call(session, call, out);
        }
        session.client.last_command.set(command.name);
        if let Err(error) = self.gate(session, call) {
            self.refuse(session, Some(command), &error, out);
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
    fn gate(&self, session: &Session, call: &Call) -> Result<(), ErrorReply> {
        let command = call.command;
        if !session.authenticated && !command.is(table::NO_AUTH) {
            return Err(ErrorReply::new("NOAUTH Authentication required."));
        }
        if command.is_write() || command.name == "exec" && self.may_write(session, command) {
            self.gate_write(session)?;
        }
        let subscriptions = session.client.subscriptions.get();
        if pubsub::is_restricted(session.protocol, subscriptions) && !command.is(table::WHILE_SUBSCRIBED) {
            return Err(ErrorReply::owned(format!(
                "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
                command.name
            )));
        }
        let stale =
            !self.config.replica_serve_stale_data && !self.replication.is_master() && !self.replication.is_linked();
        if stale && !command.is(table::STALE) {
            return Err(ErrorReply::new(
                "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            ));
        }
        let loading = self.loading.is_some_and(|loading| !loading.serves_old_data);
        // An upstream that takes its time can be left for another one.
        let transfer = || command.is(table::DURING_TRANSFER) && self.replication.is_transferring();
        if loading && !command.is(table::LOADING) && !transfer() {
            return Err(ErrorReply::new("LOADING Redis is loading the dataset in memory"));
        }
        if session.transaction.is_some() && command.is(table::NO_MULTI) {
            return Err(ErrorReply::new("ERR Command not allowed inside a transaction"));
        }
        Ok(())
    }

    fn gate_write(&self, session: &Session) -> Result<(), ErrorReply> {
        if session.feed.is_some() {
            return Err(ErrorReply::new("ERR Replica can't interact with the keyspace"));
        }
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
                transaction.queue.push(call.args.queue(call));
                session.client.queued.set(Some(transaction.queue.len()));
                Reply::new(out, session.protocol).simple("QUEUED");
                Flow::Continue
            }
            _ => self.call(session, call, out),
        }
    }

    /// Runs a command that nothing stands against.
    pub(crate) fn call(&mut self, session: &mut Session, call: &Call, out: &mut Vec<u8>) -> Flow {
        let start = out.len();
        let result = match call.command.handler {
            Handler::Read(handler) => self.call_read(session, call, handler, out).map(|()| Flow::Continue),
            Handler::Write(handler) => self.call_write(session, call, handler, out).map(|()| Flow::Continue),
            Handler::Server(handler) => {
                // Who watches a key that has expired watches one that is absent.
                self.expire_keys_of(session, call);
                handler(&mut ServerContext { instance: self, session: &mut *session, out: &mut *out }, call.args)
            }
        };
        result.unwrap_or_else(|error| {
            // A handler may fail after it has begun its reply.
            out.truncate(start);
            self.reply_error(session, error.text(), out);
            Flow::Continue
        })
    }

    fn call_read(
        &mut self,
        session: &Session,
        call: &Call,
        handler: fn(&mut ReadContext, Args) -> super::Result<()>,
        out: &mut Vec<u8>,
    ) -> super::Result<()> {
        let random = if call.command.name == "randomkey" { self.random() } else { 0 };
        let mut context = ReadContext {
            keyspace: &self.keyspace,
            db: session.db(),
            now_ms: self.now_ms,
            expiry_ms: self.expiry_ms(session),
            random,
            reply: Reply::new(out, session.protocol),
        };
        let result = handler(&mut context, call.args);
        if self.keyspace.take_saw_expired() {
            self.expire_keys_of(session, call);
        }
        result
    }

    fn call_write(
        &mut self,
        session: &Session,
        call: &Call,
        handler: fn(&mut WriteContext, Args) -> super::Result<Effect>,
        out: &mut Vec<u8>,
    ) -> super::Result<()> {
        let db = session.db();
        self.expire_keys_of(session, call);
        let targets = if self.watchers.is_empty() { Vec::new() } else { self.watched_targets(call, db) };
        let expiry_ms = self.expiry_ms(session);
        self.effect.clear();
        let mut context = WriteContext {
            db,
            now_ms: self.now_ms,
            expiry_ms,
            string_bytes_max: self.config.proto_max_bulk_len,
            keyspace: &mut self.keyspace,
            reply: Reply::new(out, session.protocol),
            effect: &mut self.effect,
        };
        let effect = handler(&mut context, call.args)?;
        if effect != Effect::None {
            // What was absent and still is has not changed.
            let changed = targets.iter().filter(|target| target.existed || self.exists(target.db, &target.name));
            changed.for_each(|target| self.touch(target.db, &target.name));
            self.commit(session, call, effect);
        }
        Ok(())
    }

    /// Tells the save points and the replicas of a change.
    #[inline]
    fn commit(&mut self, session: &Session, call: &Call, effect: Effect) {
        self.persistence.dirty += 1;
        let db = session.db();
        // A replica forwards its upstream's very bytes.
        if session.is_upstream() || self.replication.backlog.is_none() {
            return;
        }
        match (effect, call.canonical) {
            (Effect::None, _) => {}
            (Effect::Rewritten, _) => {
                let requests = std::mem::take(&mut self.effect);
                self.propagate(db, &requests, 1);
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

    /// What a write may change of what is watched.
    fn watched_targets(&self, call: &Call, db: usize) -> Vec<WatchedTarget> {
        let argument = |index| parse_i64(call.args.get(index)).and_then(|db| usize::try_from(db).ok());
        let in_databases = |affected: &dyn Fn(usize) -> bool| {
            self.watchers.keys().filter(|(db, _)| affected(*db)).cloned().collect::<Vec<_>>()
        };
        let places = match call.command.name {
            "flushall" => in_databases(&|_| true),
            "flushdb" => in_databases(&|at| at == db),
            "swapdb" if argument(1) == argument(2) => Vec::new(),
            "swapdb" => in_databases(&|at| [argument(1), argument(2)].contains(&Some(at))),
            "move" => [Some(db), argument(2)].into_iter().flatten().map(|at| (at, call.args.get(1).into())).collect(),
            _ => call.command.keys.of(call.args).map(|name| (db, name.into())).collect(),
        };
        let target = |(db, name): (usize, Box<[u8]>)| WatchedTarget { existed: self.exists(db, &name), db, name };
        places.into_iter().map(target).collect()
    }

    fn exists(&self, db: usize, name: &[u8]) -> bool {
        db < self.keyspace.databases() && self.keyspace.peek(db, self.keyspace.key(name)).is_some()
    }

    /// Deletes what has expired of the keys that a command names, and says so in the stream. Only a master does.
    fn expire_keys_of(&mut self, session: &Session, call: &Call) {
        let db = session.db();
        if self.keyspace.with_deadline(db) == 0 || session.is_upstream() {
            return;
        }
        if !self.replication.is_master() || self.is_paused(true) {
            return;
        }
        for name in call.command.keys.of(call.args) {
            let key = self.keyspace.key(name);
            if self.keyspace.peek(db, key).is_some_and(|entry| entry.is_expired(self.now_ms)) {
                self.keyspace.remove(db, key);
                self.stats.expired_keys += 1;
                self.touch(db, name);
                self.propagate_request(db, &[b"DEL", name]);
            }
        }
    }

    /// A replica applies its upstream's stream as if nothing ever expired: the upstream says when it has.
    fn expiry_ms(&self, session: &Session) -> i64 {
        if session.is_upstream() { i64::MIN } else { self.now_ms }
    }
}

fn suppress_reply(session: &mut Session, start: usize, out: &mut Vec<u8>) {
    match session.reply_mode {
        ReplyMode::On => {}
        ReplyMode::Off => out.truncate(start),
        ReplyMode::SkipNext => {
            out.truncate(start);
            session.reply_mode = ReplyMode::Skip;
        }
        ReplyMode::Skip => {
            out.truncate(start);
            session.reply_mode = ReplyMode::On;
        }
    }
}
