//! A full resync, seen from the replica: the upstream's image is received, loaded, and put in the place of the data.
//!
//! ```text
//!                            file     loaded from     the old data are there until
//! swapdb, or on-empty-db          –        the wire        the new ones are whole, and stay if these never are
//! disabled, without data     written       the file, while it grows
//! disabled, with data        written       the file, when it is whole and the old data have gone
//! ```
//!
//! Every way the data are loaded into a key space of their own, on a thread of its own, and exchanged for the present ones
//! at once: nobody ever sees some of both.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::link::{LinkError, Wire};
use super::loading::{self, Load, Source};
use super::{Server, now_ms};
use crate::config::DisklessLoad;
use crate::instance::Promise;
use crate::log::log;
use crate::priority;
use crate::replication::{Link, Payload};
use crate::snapshot::{self, DumpFile, KeyCounter, LoadError, Loaded, Loader};

/// Pieces of an image that wait to be loaded or written before no more are read.
const PIECES_QUEUED: usize = 16;

/// How often the upstream is told that this server lives, while it has no time to read.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// Replaces the data by the upstream's, which it has promised.
pub(super) async fn full_resync(server: &Rc<Server>, wire: &mut Wire, promise: Promise) -> Result<(), LinkError> {
    let Promise { id, offset, payload } = promise;
    let (mode, has_data, is_same_history) = {
        let instance = server.instance.borrow();
        let keyspace = &instance.keyspace;
        let has_data = (0..keyspace.databases()).any(|db| !keyspace.is_empty(db));
        (instance.config.repl_diskless_load, has_data, instance.replication.history.replid == id)
    };
    let loaded = match mode {
        DisklessLoad::SwapDb => load_from_wire(server, wire, payload, has_data && is_same_history).await?,
        DisklessLoad::OnEmptyDb if !has_data => load_from_wire(server, wire, payload, false).await?,
        DisklessLoad::OnEmptyDb | DisklessLoad::Disabled => load_through_file(server, wire, promise, has_data).await?,
    };
    let old = {
        let mut instance = server.instance.borrow_mut();
        instance.set_now(now_ms());
        // What was received into a file was judged before: by now there are no old data.
        instance.judge_image(id, loaded.keys_loaded)?;
        instance.install_image(loaded, id, offset)?
    };
    discard(old);
    // A save may have been asked for meanwhile.
    server.snapshot.notify_one();
    Ok(())
}

/// Frees what may be large where it holds up nobody.
fn discard<T: Send + 'static>(old: T) {
    spawn_blocking(move || {
        priority::step_back();
        drop(old);
    });
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

/// Loads the image as it comes; the old data are there until it is complete.
async fn load_from_wire(
    server: &Rc<Server>,
    wire: &mut Wire,
    payload: Payload,
    serves_old_data: bool,
) -> Result<Loaded, LinkError> {
    announce(payload, "parser");
    log!(Notice, "MASTER <-> REPLICA sync: Loading DB in memory");
    loading::announce(server, payload.total_bytes().unwrap_or(0), serves_old_data);
    let (sender, pieces) = mpsc::channel(PIECES_QUEUED);
    let load = Load::spawn(Loader::new(&server.instance.borrow()), Source::Pieces(pieces));
    let loading = async {
        receive(server, wire, &payload, sender).await?;
        finish(server, wire, load).await
    };
    loading.await.inspect_err(|error| log!(Warning, "Internal error in RDB from the master, which is dropped: {error}"))
}

/// Receives the image into a file, which becomes the dump file.
async fn load_through_file(
    server: &Rc<Server>,
    wire: &mut Wire,
    promise: Promise,
    has_data: bool,
) -> Result<Loaded, LinkError> {
    let Promise { id, payload, .. } = promise;
    announce(payload, "disk");
    let file = DumpFile::create(&snapshot::dump_path(&server.instance.borrow()))?;
    let mut reader = file.reader()?;
    let (grown, grows) = std::sync::mpsc::channel();
    // There is no room for two data sets at a time, but there is nothing wrong with one that grows with its file.
    let loader = (!has_data).then(|| Loader::new(&server.instance.borrow()));
    let early = loader.map(|loader| (reader.try_clone(), loader, grows));
    let early = match early {
        Some((file, loader, grows)) => Some(Load::spawn(loader, Source::GrowingFile(file?, grows))),
        None => None,
    };
    let (sender, pieces) = mpsc::channel(PIECES_QUEUED);
    let writing = spawn_blocking(move || write(pieces, file, &grown));
    receive(server, wire, &payload, sender).await?;
    let file = joined(writing).await?;
    if server.instance.borrow().guards_against(id) {
        let (copy, counter) = (reader.try_clone()?, KeyCounter::new(&server.instance.borrow()));
        let keys = spawn_blocking(move || counter.count(copy)).await.map_err(std::io::Error::other)??;
        server.instance.borrow_mut().judge_image(id, keys)?;
    }
    log!(Notice, "MASTER <-> REPLICA sync: Flushing old data");
    let old = server.instance.borrow_mut().discard_data();
    discard(old);
    log!(Notice, "MASTER <-> REPLICA sync: Loading DB in memory");
    loading::announce(server, reader.metadata()?.len(), false);
    let load = match early {
        Some(load) => load,
        None => {
            std::io::Seek::rewind(&mut reader)?;
            Load::spawn(Loader::new(&server.instance.borrow()), Source::File(reader))
        }
    };
    // The disk has work to do while the data are loaded.
    let syncing = spawn_blocking(move || file.sync().map(|()| file));
    let loaded = finish(server, wire, load).await?;
    let file = joined(syncing).await?;
    joined(spawn_blocking(move || file.commit())).await?;
    Ok(loaded)
}

async fn joined<T>(thread: JoinHandle<std::io::Result<T>>) -> Result<T, LinkError> {
    Ok(thread.await.map_err(std::io::Error::other)??)
}

/// Writes what comes into the file, and says after each piece how much it has by now.
fn write(
    mut pieces: mpsc::Receiver<Vec<u8>>,
    mut file: DumpFile,
    grown: &std::sync::mpsc::Sender<u64>,
) -> std::io::Result<DumpFile> {
    let mut bytes = 0;
    while let Some(piece) = pieces.blocking_recv() {
        file.write(&piece)?;
        bytes += piece.len() as u64;
        // Where there are old data, nobody reads along.
        let _ = grown.send(bytes);
    }
    Ok(file)
}

/// Waits for the loaded data, and lets the upstream know meanwhile that this server lives.
async fn finish(server: &Server, wire: &mut Wire, load: Load) -> Result<Loaded, LinkError> {
    let mut said = std::time::Instant::now();
    let sign_of_life = || {
        if said.elapsed() > SIGN_OF_LIFE {
            said = std::time::Instant::now();
            wire.sign_of_life();
        }
    };
    load.finish(server, sign_of_life).await.map_err(LoadError::into)
}

/// Hands on what comes until the image has come whole, or nobody takes it any more.
async fn receive(
    server: &Server,
    wire: &mut Wire,
    payload: &Payload,
    pieces: mpsc::Sender<Vec<u8>>,
) -> Result<(), LinkError> {
    let mut received = 0;
    loop {
        let (ready, complete) = payload.split(&wire.unread, received);
        if ready > 0 {
            let rest = wire.unread.split_off(ready);
            let piece = std::mem::replace(&mut wire.unread, rest);
            received += ready as u64;
            if !hand_on(wire, &pieces, piece).await {
                // Its thread has ended, and says why.
                return Ok(());
            }
        }
        if complete {
            payload.end(received, &mut wire.unread)?;
            return Ok(());
        }
        progress(server, payload.total_bytes(), received);
        wire.read().await?;
    }
}

/// False if nobody takes it.
async fn hand_on(wire: &mut Wire, pieces: &mpsc::Sender<Vec<u8>>, piece: Vec<u8>) -> bool {
    let piece = match pieces.try_send(piece) {
        Ok(()) => return true,
        Err(TrySendError::Closed(_)) => return false,
        Err(TrySendError::Full(piece)) => piece,
    };
    loop {
        match timeout(SIGN_OF_LIFE, pieces.reserve()).await {
            Ok(Ok(permit)) => {
                permit.send(piece);
                return true;
            }
            Ok(Err(_)) => return false,
            Err(_) => wire.sign_of_life(),
        }
    }
}

/// Says how much has come.
fn progress(server: &Server, total_bytes: Option<u64>, read_bytes: u64) {
    let mut instance = server.instance.borrow_mut();
    instance.set_now(now_ms());
    instance.set_link(Link::Transfer { total_bytes, read_bytes });
}
