//! The way back into the data.

use std::fs;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use tokio::task::yield_now;

use super::files::{directory, make_directory, store, sync_directory};
use crate::aof::{self, Kind, Manifest, Part, Restore, Restored};
use crate::instance::Instance;
use crate::log::{log, reason};
use crate::net::{Server, loading, now_ms, recover};
use crate::replication::Remains;

/// The manifest of what is there, after a single file of old was made a part; `None` if there is nothing.
fn find(instance: &Instance) -> Result<Option<Manifest>, String> {
    let config = &instance.config;
    let manifest = aof::read_manifest(config).map_err(|error| error.to_string())?;
    let (old, new) = (config.dir.join(&config.appendfilename), directory(instance).join(&config.appendfilename));
    let is_upgrade = aof::is_there(&old)
        && match &manifest {
            None => true,
            Some(manifest) => {
                let is_base = manifest.base.as_ref().is_some_and(|base| base.name == config.appendfilename);
                is_base && manifest.increments.is_empty() && !aof::is_there(&new)
            }
        };
    if !is_upgrade {
        return Ok(manifest);
    }
    let failed = |error: io::Error| format!("can't make {} a part of {}: {error}", old.display(), new.display());
    let base = Part { name: config.appendfilename.clone(), seq: 1, kind: Kind::Base };
    let manifest = Manifest { base: Some(base), ..Manifest::default() };
    make_directory(instance).map_err(failed)?;
    store(instance, &manifest).map_err(failed)?;
    fs::rename(&old, &new).and_then(|()| sync_directory(&directory(instance))).map_err(failed)?;
    log!(Notice, "Successfully migrated an old-style AOF configuration ({}) into the AOF directory.", old.display());
    Ok(Some(manifest))
}

/// Loads the append-only file, if there is one, and goes on with it. `remains` is what the dead server's backlog holds: it
/// is given back if there is no append-only file.
///
/// # Errors
/// It can't be loaded; the words say which file and why. Nothing of it was changed then.
pub(in crate::net) async fn load(
    server: &Rc<Server>,
    remains: Option<Remains>,
) -> Result<Result<(), Option<Remains>>, String> {
    let found = find(&server.instance.borrow())?;
    let Some(manifest) = found else { return Ok(Err(remains)) };
    let started = Instant::now();
    let mut restore = Restore::begin(&server.instance.borrow(), &manifest).map_err(|error| error.to_string())?;
    loading::announce(server, restore.total_bytes(), false);
    let mut restored = loop {
        {
            let mut instance = server.instance.borrow_mut();
            instance.set_now(now_ms());
            if let Some(restored) = restore.step(&mut instance).map_err(|error| error.to_string())? {
                break restored;
            }
            if let Some(loading) = &mut instance.loading {
                loading.loaded_bytes = restore.read_bytes();
            }
        }
        yield_now().await;
    };
    {
        let mut instance = server.instance.borrow_mut();
        instance.loading = None;
        instance.persistence.dirty = 0;
        distrust_foreign_bytes(&mut restored, remains.as_ref());
        let resumed = server.aof.borrow_mut().resume(&mut instance, manifest, &mut restored);
        resumed.map_err(|error| format!("can't go on with the append only file: {}", reason(&error)))?;
        if let Some(point) = restored.point {
            instance.replication.stream_db = point.db;
            instance.select_in_aof(restored.file_db);
        }
    }
    let is_recovered = match remains {
        Some(remains) => recover::recover(server, remains, restored.point).await?,
        None => false,
    };
    let mut instance = server.instance.borrow_mut();
    if !is_recovered {
        instance.continue_log(&restored)?;
    }
    instance.aof.written = instance.replication.offset;
    log!(Notice, "DB loaded from append only file: {:.3} seconds", started.elapsed().as_secs_f64());
    Ok(Ok(()))
}

/// The file cannot be ahead of the backlog, unless another server has appended to it: its offset means nothing then.
fn distrust_foreign_bytes(restored: &mut Restored, remains: Option<&Remains>) {
    let (Some(point), Some(remains)) = (restored.point, remains) else { return };
    let previous = remains.history.previous.map(|(id, _)| id);
    if (point.id == remains.history.replid || Some(point.id) == previous) && point.offset > remains.end {
        log!(Warning, "The append only file was written by another server since: its replication offset is not used");
        restored.point = None;
    }
}

/// Makes the append-only file of the data that are there.
///
/// # Errors
/// The disk says no.
pub(in crate::net) fn create(server: &Server) -> Result<(), String> {
    let mut instance = server.instance.borrow_mut();
    let created = server.aof.borrow_mut().create_now(&mut instance);
    created.map_err(|error| {
        format!("can't make the append only file in {}: {}", directory(&instance).display(), reason(&error))
    })
}

/// `DEBUG LOADAOF`: loads what is on the disk in place of the data, while everything else waits.
pub(in crate::net) fn reload(server: &Server) -> Result<(), String> {
    server.write_aof();
    let mut instance = server.instance.borrow_mut();
    let manifest = aof::read_manifest(&instance.config).map_err(|error| error.to_string())?.unwrap_or_default();
    let empty = crate::keyspace::Keyspace::new(instance.keyspace.databases(), instance.keyspace.seed());
    let mut restore = Restore::begin(&instance, &manifest).map_err(|error| error.to_string())?;
    let old = (instance.install(empty, 0, 0), std::mem::take(&mut instance.functions));
    let result = loop {
        match restore.step(&mut instance) {
            Ok(None) => {}
            Ok(Some(_)) => break Ok(()),
            Err(error) => break Err(error.to_string()),
        }
    };
    if result.is_err() {
        instance.install(old.0, 0, 0);
        instance.functions = old.1;
    }
    instance.persistence.dirty = 0;
    result
}
