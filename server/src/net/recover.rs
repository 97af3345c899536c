//! A restart after a death: what the dead server's backlog has beyond what was loaded is applied, and its replicas can go on.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::Server;
use crate::instance::{Instance, Loading, Replay};
use crate::log::log;
use crate::replication::{BacklogError, Remains};
use crate::snapshot::Point;

/// How long the kernel may take to give back what a dead process had: who looks at it in `/proc` delays that.
const RELEASE_LIMIT: Duration = Duration::from_millis(500);

/// The backlog of the server that was here before, if it can be trusted.
pub(super) async fn remains(server: &Server) -> Option<Remains> {
    let path = server.instance.borrow().backlog_path();
    let give_up = Instant::now() + RELEASE_LIMIT;
    loop {
        match Remains::open(&path) {
            Ok(remains) => return Some(remains),
            Err(BacklogError::InUse) if Instant::now() < give_up => sleep(Duration::from_millis(1)).await,
            Err(BacklogError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                log!(Warning, "The replication backlog {} can't be used: {error}", path.display());
                return None;
            }
        }
    }
}

/// Goes on where the dead server ended: at the end of `remains`, whose history the loaded data are `point` of. Where that
/// cannot be, `remains` is kept out of the way of the next backlog, and false is returned.
///
/// # Errors
/// The stream in the backlog is none, or the disk says no.
pub(super) async fn recover(server: &Rc<Server>, remains: Remains, point: Option<Point>) -> Result<bool, String> {
    let beyond = match point {
        Some(point) => remains.beyond(point.id.as_str().as_bytes(), point.offset).map(|bytes| (point, bytes)),
        None => Err("the data that were loaded do not name their history".into()),
    };
    let (point, tail_bytes) = match beyond {
        Ok(found) => found,
        Err(reason) => {
            set_aside(&server.instance.borrow(), &remains, &reason);
            return Ok(false);
        }
    };
    let path = server.instance.borrow().backlog_path();
    let bytes = remains.bytes().map_err(|error| format!("{}: {error}", path.display()))?;
    let tail = bytes[(point.offset - remains.start) as usize..].to_vec();
    let db = replay(server, tail, point.db)
        .await
        .map_err(|error| format!("{}: {error}; move it out of the way to start without it", path.display()))?;
    let mut instance = server.instance.borrow_mut();
    instance.continue_history(&remains, &bytes, db)?;
    instance.append_missing(remains.history.replid, point.offset, &bytes[(point.offset - remains.start) as usize..]);
    log!(
        Notice,
        "Continuing the history {} at offset {}: {tail_bytes} bytes of the stream beyond what was loaded were in the backlog",
        remains.history.replid,
        remains.end
    );
    Ok(true)
}

/// Applies the stream, giving way to others now and then.
async fn replay(server: &Rc<Server>, stream: Vec<u8>, db: usize) -> Result<usize, String> {
    let mut replay = {
        let mut instance = server.instance.borrow_mut();
        let (started_ms, total_bytes) = (instance.now_ms, stream.len() as u64);
        instance.loading = Some(Loading { started_ms, total_bytes, loaded_bytes: 0, serves_old_data: false });
        Replay::begin(&mut instance, stream, db)
    };
    loop {
        {
            let mut instance = server.instance.borrow_mut();
            if !replay.step(&mut instance).map_err(|error| error.to_string())? {
                break;
            }
            if let Some(loading) = &mut instance.loading {
                loading.loaded_bytes = replay.applied_bytes() as u64;
            }
        }
        yield_now().await;
    }
    let mut instance = server.instance.borrow_mut();
    instance.loading = None;
    replay.finish(&mut instance).map_err(|error| error.to_string())
}

/// Nobody but a person can say whether it is still worth something, so it is not overwritten by the next backlog.
fn set_aside(instance: &Instance, remains: &Remains, reason: &str) {
    if remains.start == remains.end {
        return;
    }
    let path = instance.backlog_path();
    let aside = path.with_extension("bin.old");
    match std::fs::rename(&path, &aside) {
        Ok(()) => log!(
            Warning,
            "The backlog of the server that was here can't be continued: {reason}. It is kept: repld --salvage {}",
            aside.display()
        ),
        Err(error) => log!(Warning, "Can't keep the backlog {} out of the way: {error}", path.display()),
    }
}
