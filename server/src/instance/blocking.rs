//! Clients that wait: for a key to hold something (`BLPOP` and its like), for replicas to acknowledge (`WAIT`), or for disks
//! (`WAITAOF`).
//!
//! A command that may wait is a [`Handler::Blocking`](crate::command::Handler). It is tried at once; if there is nothing
//! for it, its client is kept here with the request, in a queue for each key that it names. A write marks the keys that
//! it names as ready if somebody waits for them; when the command or the whole transaction is over and in the stream,
//! those who wait for a ready key are tried again with that key alone, in the order in which they came. So nobody is
//! served in the middle of a transaction, and nobody takes what was never there at the end of one.
//!
//! To be ready says only that it is worth a try: whoever finds nothing, or another type, waits on.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use super::{Instance, Place};
use crate::client::{Client, Queued, ReplyMode, Session};
use crate::resp::Reply;

/// What somebody waits for.
pub(crate) enum Awaited {
    /// So many replicas that have applied everything up to an offset.
    Acknowledgements { offset: u64, replicas: usize },
    /// That everything up to an offset is on this server's disk, if that is wanted, and on those of so many replicas.
    Disks { offset: u64, local: bool, replicas: usize },
    /// One of these keys, for this request.
    Keys { places: Vec<Place>, request: Rc<Queued> },
}

/// Somebody who waits.
struct Waiter {
    client: Rc<Client>,
    /// In milliseconds since the epoch; none: for ever.
    deadline_ms: Option<i64>,
    /// `CLIENT REPLY` is off: what comes of it is not told.
    silent: bool,
    awaited: Awaited,
}

/// The number of a waiter: who came earlier has a lower one.
type Ticket = u64;

/// All who wait.
#[derive(Default)]
pub(crate) struct Waiters {
    all: BTreeMap<Ticket, Waiter>,
    last_ticket: Ticket,
    /// By the client's id.
    tickets: HashMap<u64, Ticket>,
    /// Who waits for a key.
    queues: HashMap<Place, BTreeSet<Ticket>>,
    /// Who waits for replicas.
    for_replicas: BTreeSet<Ticket>,
    /// Who waits until when.
    deadlines: BTreeSet<(i64, Ticket)>,
    /// Keys that are worth a try, in the order in which they became so.
    ready: VecDeque<Place>,
}

impl Waiters {
    fn add(&mut self, waiter: Waiter) {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.tickets.insert(waiter.client.id, ticket);
        self.deadlines.extend(waiter.deadline_ms.map(|deadline| (deadline, ticket)));
        match &waiter.awaited {
            Awaited::Acknowledgements { .. } | Awaited::Disks { .. } => drop(self.for_replicas.insert(ticket)),
            Awaited::Keys { places, .. } => {
                for place in places {
                    self.queues.entry(place.clone()).or_default().insert(ticket);
                }
            }
        }
        self.all.insert(ticket, waiter);
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.all.remove(&ticket)?;
        self.tickets.remove(&waiter.client.id);
        if let Some(deadline) = waiter.deadline_ms {
            self.deadlines.remove(&(deadline, ticket));
        }
        match &waiter.awaited {
            Awaited::Acknowledgements { .. } | Awaited::Disks { .. } => drop(self.for_replicas.remove(&ticket)),
            Awaited::Keys { places, .. } => {
                for place in places {
                    // It may be named twice.
                    let Some(queue) = self.queues.get_mut(place) else { continue };
                    queue.remove(&ticket);
                    if queue.is_empty() {
                        self.queues.remove(place);
                    }
                }
            }
        }
        Some(waiter)
    }

    /// Who waits for this key, and came after `ticket`.
    fn after(&self, place: &Place, ticket: Ticket) -> Option<Ticket> {
        self.queues.get(place)?.range(ticket + 1..).next().copied()
    }

    /// Whether it is worth a try even if the key has gone, which a group's reader is told.
    fn needs_key(&self, ticket: Ticket) -> bool {
        let awaited = self.all.get(&ticket).map(|waiter| &waiter.awaited);
        matches!(awaited, Some(Awaited::Keys { request, .. }) if request.command.name == "xreadgroup")
    }

    /// Whether anybody waits for a key.
    pub(crate) fn await_keys(&self) -> bool {
        !self.queues.is_empty()
    }

    /// The keys that somebody waits for.
    pub(crate) fn places(&self) -> impl Iterator<Item = &Place> {
        self.queues.keys()
    }

    /// A key may hold something from now on.
    pub(crate) fn mark_ready(&mut self, place: Place) {
        if self.queues.contains_key(&place) && self.ready.back() != Some(&place) {
            self.ready.push_back(place);
        }
    }

    /// Whether a key is worth a try.
    pub(crate) fn any_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// When the first of them has waited long enough, in milliseconds since the epoch.
    pub(super) fn next_deadline_ms(&self) -> Option<i64> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }
}

impl Instance {
    /// Lets the client of `session` wait, until `deadline_ms` (since the epoch; none: for ever).
    pub(crate) fn block(&mut self, session: &Session, awaited: Awaited, deadline_ms: Option<i64>) {
        session.client.blocked.set(true);
        let silent = matches!(session.reply_mode, ReplyMode::Off | ReplyMode::Skip);
        self.waiters.add(Waiter { client: Rc::clone(&session.client), deadline_ms, silent, awaited });
    }

    /// How many clients wait, for whatever it is: the end of a pause, or of the server, too.
    pub fn blocked_clients(&self) -> usize {
        self.clients.values().filter(|client| client.is_held()).count()
    }

    /// Tries those who wait for a key that is ready.
    pub(crate) fn serve_ready(&mut self) {
        while let Some(place) = self.waiters.ready.pop_front() {
            // Who is tried for a key whose time has come waits on, but the key goes.
            self.expire_if_due(place.0, &place.1);
            let mut last = 0;
            // Whoever was served may have taken everything.
            while let Some(ticket) = self.waiters.after(&place, last) {
                if self.exists(place.0, &place.1) || self.waiters.needs_key(ticket) {
                    self.serve(ticket, &place);
                }
                last = ticket;
            }
        }
    }

    fn serve(&mut self, ticket: Ticket, place: &Place) {
        let Some(waiter) = self.waiters.all.get(&ticket) else { return };
        let Awaited::Keys { request, .. } = &waiter.awaited else { return };
        let (client, request) = (Rc::clone(&waiter.client), Rc::clone(request));
        let mut reply = Vec::new();
        if self.try_again(&client, &request, place, &mut reply) {
            self.release(ticket, &reply);
        }
    }

    /// Ends a waiting with a reply.
    fn release(&mut self, ticket: Ticket, reply: &[u8]) {
        let Some(waiter) = self.waiters.remove(ticket) else { return };
        if !waiter.silent {
            waiter.client.send(|mailbox| mailbox.extend_from_slice(reply));
        }
        waiter.client.unblock();
    }

    /// Ends those waitings that have lasted long enough.
    pub(super) fn release_due(&mut self) {
        while let Some((deadline, ticket)) = self.waiters.deadlines.first().copied()
            && deadline <= self.now_ms
        {
            self.give_up(ticket);
        }
    }

    /// Ends a waiting as if its time were over.
    fn give_up(&mut self, ticket: Ticket) {
        let Some(waiter) = self.waiters.all.get(&ticket) else { return };
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, waiter.client.protocol.get());
        match waiter.awaited {
            Awaited::Keys { .. } => reply.null_array(),
            Awaited::Acknowledgements { offset, .. } => reply.integer(self.replication.feeds_at(offset) as i64),
            Awaited::Disks { offset, .. } => {
                reply.array(2);
                reply.integer(i64::from(self.is_synced(offset)));
                reply.integer(self.feeds_synced(offset) as i64);
            }
        }
        self.release(ticket, &out);
    }

    /// Whether what somebody waits for is on so many disks.
    pub(crate) fn has_disks(&self, offset: u64, local: bool, replicas: usize) -> bool {
        (!local || self.is_synced(offset)) && self.feeds_synced(offset) >= replicas
    }

    /// Ends the waiting of those whose replicas are there.
    pub(super) fn release_acknowledged(&mut self) {
        let replication = &self.replication;
        let is_done = |ticket: &&Ticket| match self.waiters.all[*ticket].awaited {
            Awaited::Acknowledgements { offset, replicas } => replication.feeds_at(offset) >= replicas,
            Awaited::Disks { offset, local, replicas } => self.has_disks(offset, local, replicas),
            Awaited::Keys { .. } => false,
        };
        let done: Vec<Ticket> = self.waiters.for_replicas.iter().filter(is_done).copied().collect();
        done.into_iter().for_each(|ticket| self.give_up(ticket));
    }

    /// `CLIENT UNBLOCK`: ends the waiting of one client, as if its time were over or with an error; false if it does not
    /// wait.
    pub(crate) fn unblock_client(&mut self, id: u64, with_error: bool) -> bool {
        let Some(&ticket) = self.waiters.tickets.get(&id) else { return false };
        if with_error {
            self.count_error(b"UNBLOCKED");
            self.count_failure(ticket);
            self.release(ticket, b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
        } else {
            self.give_up(ticket);
        }
        true
    }

    fn count_failure(&mut self, ticket: Ticket) {
        if let Some(Awaited::Keys { request, .. }) = self.waiters.all.get(&ticket).map(|waiter| &waiter.awaited) {
            self.stats.commands.of(request.command).failed += 1;
        }
    }

    /// This server has become a replica: whatever somebody waits for, it is its master's now.
    pub(super) fn dismiss_waiters(&mut self) {
        const REASON: &[u8] =
            b"-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n";
        while let Some((&ticket, waiter)) = self.waiters.all.first_key_value() {
            waiter.client.dismiss();
            self.count_error(b"UNBLOCKED");
            self.release(ticket, REASON);
        }
    }

    /// Who waited has gone.
    pub(super) fn forget_waiter(&mut self, client: &Client) {
        if let Some(&ticket) = self.waiters.tickets.get(&client.id) {
            self.waiters.remove(ticket);
        }
    }
}
