//! `MULTI`, `EXEC`, `DISCARD`, `WATCH`: <https://redis.io/docs/latest/develop/interact/transactions/>.

use super::execute::Call;
use super::{Args, Command, ErrorReply, Flow, Result, ServerContext};
use crate::client::{QueueSize, Queued, Session, Transaction};
use crate::instance::Instance;
use crate::resp::Span;

impl Args<'_> {
    /// A copy that can wait for `EXEC`.
    pub(super) fn queue(&self, call: &Call) -> Queued {
        Queued {
            command: call.command,
            request: self.request.to_vec(),
            spans: self.spans.to_vec(),
            inline: call.canonical.is_none(),
        }
    }
}

impl Queued {
    /// A request that nobody has sent in this form.
    pub(super) fn new(command: &'static Command, arguments: &[Vec<u8>]) -> Queued {
        let (mut request, mut spans) = (Vec::new(), Vec::new());
        for argument in arguments {
            spans.push(Span { start: request.len() as u32, len: argument.len() as u32 });
            request.extend_from_slice(argument);
        }
        Queued { command, request, spans, inline: true }
    }

    /// What it takes to keep it.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Queued>() + self.request.len() + size_of_val(&self.spans[..])
    }
}

pub(super) fn multi(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    if context.session.transaction.is_some() {
        return Err(ErrorReply::new("ERR MULTI calls can not be nested"));
    }
    context.session.transaction = Some(Transaction::default());
    context.session.client.queued.set(Some(QueueSize::default()));
    context.ok()
}

pub(super) fn discard(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    if context.session.transaction.is_none() {
        return Err(ErrorReply::new("ERR DISCARD without MULTI"));
    }
    abandon(context.instance, context.session);
    context.ok()
}

/// Ends a transaction, if there is one, and what was watched for it.
pub(super) fn abandon(instance: &mut Instance, session: &mut Session) {
    session.transaction = None;
    session.client.queued.set(None);
    instance.unwatch(session);
}

pub(super) fn exec(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let ServerContext { instance, session, out } = context;
    let Some(transaction) = session.transaction.take() else {
        return Err(ErrorReply::new("ERR EXEC without MULTI"));
    };
    session.client.queued.set(None);
    let broken = session.client.watch_broken.get()
        // A key that has expired since, whether anybody has noticed or not.
        || session.watched.iter().any(|(.., deadline_ms)| deadline_ms.is_some_and(|deadline| deadline <= instance.now_ms));
    instance.unwatch(session);
    if transaction.aborted {
        return Err(ErrorReply::new("EXECABORT Transaction discarded because of previous errors."));
    }
    let mut reply = crate::resp::Reply::new(out, session.protocol);
    if broken {
        reply.null_array();
        return Ok(Flow::Continue);
    }
    reply.array(transaction.queue.len());
    let mut last = Flow::Continue;
    instance.begin_transaction_stream();
    for queued in &transaction.queue {
        let args = Args::new(&queued.request, &queued.spans, 0);
        let hash = if queued.command.keys.first == 1 { instance.keyspace.hash(args.get(1)) } else { 0 };
        let args = Args::new(&queued.request, &queued.spans, hash);
        // The user may have fewer rights by now than when it was queued.
        let is_restricted = !session.client.user.borrow().is_unrestricted();
        if is_restricted && let Err(denied) = instance.check_permission(session, queued.command, args) {
            instance.reply_error(session, denied.reply_at_exec().text(), out);
            continue;
        }
        let canonical = (!queued.inline).then_some(&queued.request[..]);
        let flow = instance.call(session, &Call { command: queued.command, args, canonical }, out);
        if flow == Flow::Close {
            last = flow;
        }
    }
    instance.end_transaction_stream();
    Ok(last)
}

pub(super) fn watch(context: &mut ServerContext, args: Args) -> Result<Flow> {
    if context.session.transaction.is_some() {
        return Err(ErrorReply::new("ERR WATCH inside MULTI is not allowed"));
    }
    let db = context.session.db();
    for name in args.from(1) {
        context.instance.watch(context.session, db, name);
    }
    context.ok()
}

pub(super) fn unwatch(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    context.instance.unwatch(context.session);
    context.ok()
}
