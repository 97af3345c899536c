//! A full resync, seen from the replica: the upstream's image is received, loaded, and put in the place of the data.

use std::fs::File;
use std::rc::Rc;

use tokio::task::yield_now;

use super::link::{LinkError, Wire, bring_up, set_link};
use super::{Server, now_ms, persist};
use crate::config::DisklessLoad;
use crate::log::log;
use crate::replication::{History, Link, ReplicationId};
use crate::snapshot::{self, DumpFile, Loaded};

/// The mark at the end of a payload whose length is not announced, in bytes.
const MARK_BYTES: usize = 40;

/// Replaces the data by the upstream's, which are those of history `id` at `offset`.
pub(super) async fn full_resync(
    server: &Rc<Server>,
    wire: &mut Wire,
    id: ReplicationId,
    offset: u64,
) -> Result<(), LinkError> {
    log!(Notice, "Full resync from master: {id}:{offset}");
    {
        let mut instance = server.instance.borrow_mut();
        instance.set_now(now_ms());
        if instance.replication.resumable {
            log!(Notice, "Discarding previously cached master state.");
        }
        set_link(&mut instance, Link::Transfer { total_bytes: None, read_bytes: 0 });
    }
    let payload = Payload::announced(wire).await?;
    let mode = server.instance.borrow().config.repl_diskless_load;
    let has_data = {
        let keyspace = &server.instance.borrow().keyspace;
        (0..keyspace.databases()).any(|db| keyspace.len(db) > 0)
    };
    let loaded = match mode {
        DisklessLoad::SwapDb => load_from_wire(server, wire, payload, has_data).await?,
        DisklessLoad::OnEmptyDb if !has_data => load_from_wire(server, wire, payload, false).await?,
        DisklessLoad::OnEmptyDb | DisklessLoad::Disabled => load_through_file(server, wire, payload).await?,
    };
    let mut instance = server.instance.borrow_mut();
    instance.set_now(now_ms());
    instance.cut_feeds();
    instance.install(loaded.keyspace, loaded.keys_loaded, loaded.keys_expired);
    let replication = &mut instance.replication;
    replication.history = History { replid: id, previous: None };
    replication.offset = offset;
    replication.stream_db = loaded.stream_db;
    instance.create_backlog().map_err(LinkError::Said)?;
    bring_up(&mut instance);
    instance.persistence.dirty += 1;
    log!(Notice, "MASTER <-> REPLICA sync: Finished with success");
    Ok(())
}

/// How the image's end is known.
enum Payload {
    Length(u64),
    Mark([u8; MARK_BYTES]),
}

impl Payload {
    async fn announced(wire: &mut Wire) -> Result<Payload, LinkError> {
        loop {
            let line = wire.line().await?;
            let text = String::from_utf8_lossy(&line).into_owned();
            if text.is_empty() {
                continue;
            }
            if let Some(mark) = line.strip_prefix(b"$EOF:")
                && let Ok(mark) = mark.try_into()
            {
                return Ok(Payload::Mark(mark));
            }
            if let Some(length) = text.strip_prefix('$').and_then(|digits| digits.parse().ok()) {
                return Ok(Payload::Length(length));
            }
            return Err(LinkError::Said(match text.strip_prefix('-') {
                Some(error) => format!("MASTER aborted replication with an error: {error}"),
                None => format!(
                    "Bad protocol from MASTER, the first byte is not '$' (we received '{text}'), are you sure the host and port are right?"
                ),
            }));
        }
    }

    fn announce(&self, place: &str) {
        match self {
            Payload::Length(bytes) => {
                log!(Notice, "MASTER <-> REPLICA sync: receiving {bytes} bytes from master to {place}")
            }
            Payload::Mark(_) => {
                log!(Notice, "MASTER <-> REPLICA sync: receiving streamed RDB from master with EOF to {place}");
            }
        }
    }

    fn total_bytes(&self) -> Option<u64> {
        match self {
            Payload::Length(bytes) => Some(*bytes),
            Payload::Mark(_) => None,
        }
    }
}

/// Says how much has come.
fn progress(server: &Server, total_bytes: Option<u64>, read_bytes: u64) {
    let mut instance = server.instance.borrow_mut();
    instance.set_now(now_ms());
    set_link(&mut instance, Link::Transfer { total_bytes, read_bytes });
    if let Some(loading) = &mut instance.loading {
        loading.loaded_bytes = read_bytes;
    }
}

/// Loads the image as it comes, into a key space of its own; the old data are there until it is complete.
async fn load_from_wire(
    server: &Rc<Server>,
    wire: &mut Wire,
    payload: Payload,
    serves_old_data: bool,
) -> Result<Loaded, LinkError> {
    payload.announce("parser");
    let total = payload.total_bytes();
    log!(Notice, "MASTER <-> REPLICA sync: Loading DB in memory");
    let mut loader = persist::begin_loading(server, total.unwrap_or(0), serves_old_data);
    let mut read_bytes = 0;
    loop {
        while wire.unread.is_empty() {
            wire.read().await?;
        }
        let bytes = std::mem::take(&mut wire.unread);
        read_bytes += bytes.len() as u64;
        if loader.feed(&bytes)? {
            break;
        }
        progress(server, total, read_bytes);
        yield_now().await;
    }
    wire.unread = loader.unread().to_vec();
    match payload {
        Payload::Length(length) if read_bytes - wire.unread.len() as u64 == length => {}
        Payload::Length(length) => {
            return Err(LinkError::Said(format!("The image ends elsewhere than after the {length} bytes announced")));
        }
        Payload::Mark(mark) => {
            while wire.unread.len() < MARK_BYTES {
                wire.read().await?;
            }
            if wire.unread[..MARK_BYTES] != mark {
                return Err(LinkError::Said("The image is not followed by the mark announced".into()));
            }
            wire.unread.drain(..MARK_BYTES);
        }
    }
    Ok(loader.finish()?)
}

/// Receives the image into a file, which becomes the dump file, and only then replaces the data.
async fn load_through_file(server: &Rc<Server>, wire: &mut Wire, payload: Payload) -> Result<Loaded, LinkError> {
    payload.announce("disk");
    let mut file = DumpFile::create(&snapshot::dump_path(&server.instance.borrow()))?;
    receive(server, wire, &payload, &mut file).await?;
    log!(Notice, "MASTER <-> REPLICA sync: Flushing old data");
    server.instance.borrow_mut().discard_data();
    let mut source = File::open(file.path())?;
    let total_bytes = source.metadata()?.len();
    log!(Notice, "MASTER <-> REPLICA sync: Loading DB in memory");
    let mut loader = persist::begin_loading(server, total_bytes, false);
    persist::load_file(server, &mut loader, &mut source).await?;
    let loaded = loader.finish()?;
    file.commit()?;
    Ok(loaded)
}

async fn receive(server: &Server, wire: &mut Wire, payload: &Payload, file: &mut DumpFile) -> Result<(), LinkError> {
    let mut received = 0;
    loop {
        let held = wire.unread.len();
        let (ready, complete) = match payload {
            Payload::Length(length) => {
                let left = length - received;
                (left.min(held as u64) as usize, left <= held as u64)
            }
            // Whatever may be the mark stays until more has come; nothing follows it before we say a word.
            Payload::Mark(mark) if wire.unread.ends_with(mark) => (held - MARK_BYTES, true),
            Payload::Mark(_) => (held.saturating_sub(MARK_BYTES), false),
        };
        file.write(&wire.unread[..ready])?;
        wire.unread.drain(..ready);
        received += ready as u64;
        if complete {
            if let Payload::Mark(_) = payload {
                wire.unread.clear();
            }
            return Ok(());
        }
        progress(server, payload.total_bytes(), received);
        wire.read().await?;
    }
}
