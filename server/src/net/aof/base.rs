//! Bases: made by a walk that others may share, or while everything else waits.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::files::directory;
use crate::aof::{Part, RequestBase, State};
use crate::instance::Instance;
use crate::keyspace::Chunk;
use crate::snapshot::{self, DumpFile, Image, KeyDelay, Point};

/// A base in the making.
pub(in crate::net) struct Rewriting {
    pub(super) base: Part,
    pub(super) target: PathBuf,
    /// How the append-only file stood when it was begun.
    pub(super) state: State,
    compress: bool,
    stamp_s: Option<i64>,
    functions: Vec<Arc<[u8]>>,
    pub(super) point: Option<Point>,
}

impl Rewriting {
    /// Whether the base is an image.
    pub(in crate::net) fn is_image(&self) -> bool {
        self.base.name.ends_with(".rdb")
    }
}

/// The base's way into its file, on a thread.
pub(in crate::net) struct BaseFile {
    file: DumpFile,
    requests: Option<RequestBase>,
    point: Option<Point>,
}

impl BaseFile {
    pub(in crate::net) fn create(rewriting: &Rewriting) -> io::Result<BaseFile> {
        let mut file = DumpFile::create(&rewriting.target)?;
        let mut requests = None;
        if !rewriting.is_image() {
            let (base, bytes) = RequestBase::begin(rewriting.compress, rewriting.stamp_s, &rewriting.functions);
            file.write(&bytes)?;
            requests = Some(base);
        }
        Ok(BaseFile { file, requests, point: rewriting.point })
    }

    /// Whether it is an image, and no requests.
    pub(in crate::net) fn is_image(&self) -> bool {
        self.requests.is_none()
    }

    /// Takes a piece of the image.
    pub(in crate::net) fn write_image(&mut self, slice: &[u8]) -> io::Result<()> {
        if self.is_image() { self.file.write(slice) } else { Ok(()) }
    }

    /// Takes the same as a chunk of the walk.
    pub(in crate::net) fn write_chunk(&mut self, chunk: &Chunk) -> io::Result<()> {
        match &mut self.requests {
            None => Ok(()),
            Some(requests) => self.file.write(&requests.encode(chunk)),
        }
    }

    /// Puts it into its place, whole and on the disk.
    pub(in crate::net) fn commit(mut self) -> io::Result<()> {
        if let Some(requests) = self.requests.take() {
            self.file.write(&requests.finish(self.point))?;
        }
        self.file.commit().map(|_| ())
    }
}

/// Writes a base of the present data while everything else waits, and says which point it is of.
pub(super) fn write_base(instance: &mut Instance, base: &Part) -> io::Result<Option<Point>> {
    let target = directory(instance).join(&base.name);
    let image = Image::begin(instance).map_err(io::Error::other)?;
    let rewriting = Rewriting { point: image.point, ..rewriting(instance, base.clone(), target) };
    let mut encoder = image.encoder();
    let mut file = BaseFile::create(&rewriting)?;
    snapshot::walk_now(instance, |chunk| {
        if !file.is_image() {
            return file.write_chunk(chunk);
        }
        snapshot::encode(&mut encoder, chunk, &KeyDelay::fixed(0), |slice| file.write_image(&slice))
    })?;
    file.write_image(&encoder.finish())?;
    file.commit()?;
    Ok(image.point)
}

pub(super) fn rewriting(instance: &Instance, base: Part, target: PathBuf) -> Rewriting {
    Rewriting {
        base,
        target,
        state: instance.aof.state,
        compress: instance.config.rdbcompression,
        stamp_s: instance.aof_stamp_s(),
        functions: instance.functions.iter().map(|library| Arc::clone(&library.code)).collect(),
        point: None,
    }
}
