//! A full resync, seen from the replica: the upstream's image is received, loaded, and put in the place of the data.

use std::fs::File;
use std::io::Seek;
use std::rc::Rc;

use tokio::task::yield_now;

use super::link::{LinkError, Wire};
use super::{Server, now_ms, persist};
use crate::config::DisklessLoad;
use crate::instance::Promise;
use crate::log::log;
use crate::replication::{Link, Payload};
use crate::snapshot::{self, DumpFile, Loaded};

/// Replaces the data by the upstream's, which it has promised.
pub(super) async fn full_resync(server: &Rc<Server>, wire: &mut Wire, promise: Promise) -> Result<(), LinkError> {
    let Promise { id, offset, payload } = promise;
    let mode = server.instance.borrow().config.repl_diskless_load;
    let has_data = {
        let keyspace = &server.instance.borrow().keyspace;
        (0..keyspace.databases()).any(|db| keyspace.len(db) > 0)
    };
    let loaded = match mode {
        DisklessLoad::SwapDb => load_from_wire(server, wire, payload, has_data).await?,
        DisklessLoad::OnEmptyDb if !has_data => load_from_wire(server, wire, payload, false).await?,
        DisklessLoad::OnEmptyDb | DisklessLoad::Disabled => load_through_file(server, wire, promise).await?,
    };
    let mut instance = server.instance.borrow_mut();
    instance.set_now(now_ms());
    // What was received into a file was judged before; then there are no old data any more.
    instance.judge_image(id, loaded.keys_loaded)?;
    Ok(instance.install_image(loaded, id, offset)?)
}

fn announce(payload: Payload, place: &str) {
    match payload {
        Payload::Length(bytes) => {
            log!(Notice, "MASTER <-> REPLICA sync: receiving {bytes} bytes from master to {place}")
        }
        Payload::Mark(_) => {
            log!(Notice, "MASTER <-> REPLICA sync: receiving streamed RDB from master with EOF to {place}");
        }
    }
}

/// Says how much has come.
fn progress(server: &Server, total_bytes: Option<u64>, read_bytes: u64) {
    let mut instance = server.instance.borrow_mut();
    instance.set_now(now_ms());
    instance.set_link(Link::Transfer { total_bytes, read_bytes });
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
    announce(payload, "parser");
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
    while !payload.end(read_bytes - wire.unread.len() as u64, &mut wire.unread)? {
        wire.read().await?;
    }
    Ok(loader.finish()?)
}

/// Receives the image into a file, which becomes the dump file, and only then replaces the data.
async fn load_through_file(server: &Rc<Server>, wire: &mut Wire, promise: Promise) -> Result<Loaded, LinkError> {
    let Promise { id, payload, .. } = promise;
    announce(payload, "disk");
    let mut file = DumpFile::create(&snapshot::dump_path(&server.instance.borrow()))?;
    receive(server, wire, &payload, &mut file).await?;
    let mut source = File::open(file.path())?;
    if server.instance.borrow().guards_against(id) {
        let keys = persist::count_keys(server, &mut source).await?;
        server.instance.borrow_mut().judge_image(id, keys)?;
        source.rewind()?;
    }
    log!(Notice, "MASTER <-> REPLICA sync: Flushing old data");
    server.instance.borrow_mut().discard_data();
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
        let (ready, complete) = payload.split(&wire.unread, received);
        file.write(&wire.unread[..ready])?;
        wire.unread.drain(..ready);
        received += ready as u64;
        if complete {
            payload.end(received, &mut wire.unread)?;
            return Ok(());
        }
        progress(server, payload.total_bytes(), received);
        wire.read().await?;
    }
}
