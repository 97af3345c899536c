//! An image on its way from the walk's chunks to a file and to replicas, encoded on a thread of its own: once for each version of
//! the format that its readers need, which is once, but for what only some of them have a place for.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use tokio::sync::mpsc;

use super::Payload;
use super::aof::{BaseFile, Rewriting};
use crate::keyspace::Chunk;
use crate::priority;
use crate::rdb::{Encoder, Format, Reader};
use crate::replication::ReplicationId;
use crate::snapshot::{self, DumpFile, Image};

/// What the thread that encodes is sent: chunks, then the end. A queue that ends without it was given up.
pub(super) type Chunks = mpsc::Receiver<Option<Chunk>>;

/// A replica: what it reads, and the queue of its connection.
pub(super) type Target = (Reader, mpsc::Sender<Payload>);

/// What has become of a snapshot.
pub(super) struct Made {
    /// The image was encoded to its end.
    pub(super) image: io::Result<()>,
    /// The dump file, if one was to be written.
    pub(super) file: Option<io::Result<File>>,
    /// The append-only file's base, if one was to be made.
    pub(super) base: Option<io::Result<()>>,
}

/// The files that are to be made.
pub(super) struct Files<'a> {
    /// Where the dump file is to be.
    pub(super) dump: Option<PathBuf>,
    /// A base of the append-only file.
    pub(super) base: Option<&'a Rewriting>,
}

impl Made {
    pub(super) fn failed(reason: &str) -> Made {
        let error = || io::Error::other(reason.to_owned());
        Made { image: Err(error()), file: Some(Err(error())), base: Some(Err(error())) }
    }
}

/// One encoding of the image, and who gets it.
struct Output {
    format: Format,
    encoder: Encoder,
    sinks: Sinks,
}

#[derive(Default)]
struct Sinks {
    file: Option<io::Result<DumpFile>>,
    base: Option<io::Result<BaseFile>>,
    replicas: Vec<mpsc::Sender<Payload>>,
}

impl Sinks {
    /// Hands a slice to all. An empty one only asks whether anybody is there.
    fn write(&mut self, slice: Vec<u8>, use_of_it: &Weak<()>) -> io::Result<()> {
        if let Some(Ok(file)) = &mut self.file
            && let Err(error) = file.write(&slice)
        {
            self.file = Some(Err(error));
        }
        self.write_base(|base| base.write_image(&slice));
        if slice.is_empty() {
            self.replicas.retain(|replica| !replica.is_closed());
        } else {
            broadcast(&mut self.replicas, slice);
        }
        let has_file = matches!(self.file, Some(Ok(_))) || matches!(self.base, Some(Ok(_)));
        let goes_nowhere = self.replicas.is_empty() && !has_file;
        if goes_nowhere || use_of_it.strong_count() == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    /// Whether anybody has a use for the image itself.
    fn want_image(&self) -> bool {
        self.file.is_some() || !self.replicas.is_empty() || self.base.iter().flatten().any(BaseFile::is_image)
    }

    fn write_base(&mut self, write: impl FnOnce(&mut BaseFile) -> io::Result<()>) {
        if let Some(Ok(base)) = &mut self.base
            && let Err(error) = write(base)
        {
            self.base = Some(Err(error));
        }
    }
}

impl Output {
    /// Encodes a chunk for all that want it.
    fn write(&mut self, chunk: &Chunk, image: &Image, use_of_it: &Weak<()>) -> io::Result<()> {
        let Output { encoder, sinks, .. } = self;
        sinks.write_base(|base| base.write_chunk(chunk));
        if sinks.want_image() {
            return snapshot::encode(encoder, chunk, image.delay(), |slice| sinks.write(slice, use_of_it));
        }
        (1..).zip(chunk.iter()).for_each(|(number, _)| image.delay().pause(number));
        sinks.write(Vec::new(), use_of_it)
    }
}

fn output_for<'a>(reader: Reader, image: &Image, outputs: &'a mut Vec<Output>) -> &'a mut Sinks {
    let format = reader.format(image.contents());
    let index = outputs.iter().position(|output| output.format == format).unwrap_or_else(|| {
        outputs.push(Output { format, encoder: image.encoder_for(reader), sinks: Sinks::default() });
        outputs.len() - 1
    });
    &mut outputs[index].sinks
}

/// One output for each format that is needed.
fn outputs(image: &Image, files: Files, targets: Vec<Target>, mark: ReplicationId) -> Vec<Output> {
    let mut outputs: Vec<Output> = Vec::new();
    if files.dump.is_some() || files.base.is_some() {
        let own = output_for(Reader::OWN, image, &mut outputs);
        own.file = files.dump.map(|path| DumpFile::create(&path));
        own.base = files.base.map(BaseFile::create);
    }
    for (reader, sender) in targets {
        output_for(reader, image, &mut outputs).replicas.push(sender);
    }
    for Output { sinks, .. } in &mut outputs {
        broadcast(&mut sinks.replicas, format!("$EOF:{mark}\r\n").into_bytes());
    }
    outputs
}

/// Encodes what comes, into the files that there are to be, and for the replicas, for whom `mark` follows the end. It ends early
/// when `use_of_it` does.
pub(super) fn encode(
    image: &Image,
    chunks: Chunks,
    files: Files,
    targets: Vec<Target>,
    mark: ReplicationId,
    use_of_it: &Weak<()>,
) -> Made {
    priority::step_back();
    let mut outputs = outputs(image, files, targets, mark);
    let encoded = encode_chunks(image, chunks, &mut outputs, use_of_it);
    let copy = |error: &io::Error| io::Error::new(error.kind(), error.to_string());
    let (mut file, mut base, mut made) = (None, None, Err(io::ErrorKind::BrokenPipe.into()));
    for Output { encoder, mut sinks, .. } in outputs {
        let result = match &encoded {
            Ok(()) => sinks.write(encoder.finish(), use_of_it),
            Err(error) => Err(copy(error)),
        };
        if result.is_ok() {
            broadcast(&mut sinks.replicas, mark.as_str().as_bytes().to_vec());
        }
        if let Some(written) = sinks.file {
            // What the disk said comes before what followed from it.
            file = Some(written.and_then(|written| result.as_ref().map(|()| written).map_err(copy)));
        }
        if let Some(written) = sinks.base {
            base = Some(written.and_then(|written| result.as_ref().map(|()| written).map_err(copy)));
        }
        if made.is_err() {
            made = result;
        }
    }
    // The replicas have got everything: they need not wait for the disk.
    Made {
        image: made,
        file: file.map(|file| file.and_then(DumpFile::commit)),
        base: base.map(|base| base.and_then(BaseFile::commit)),
    }
}

/// Encodes all chunks for all that still want them.
fn encode_chunks(image: &Image, mut chunks: Chunks, outputs: &mut Vec<Output>, use_of_it: &Weak<()>) -> io::Result<()> {
    while let Some(message) = chunks.blocking_recv() {
        let Some(chunk) = message else { return Ok(()) };
        let mut failed = None;
        for (index, output) in outputs.iter_mut().enumerate() {
            if let Err(error) = output.write(&chunk, image, use_of_it) {
                failed = Some((index, error));
            }
        }
        if let Some((index, error)) = failed {
            // The others go on; of what the disk said the end is told.
            let Sinks { file, base, .. } = &outputs[index].sinks;
            if outputs.len() == 1 || file.is_some() || base.is_some() {
                return Err(error);
            }
            outputs.remove(index);
        }
    }
    Err(io::Error::other("it was given up"))
}

/// Sends a piece to everyone who still takes it. Who takes nothing makes the others wait until it is cut.
pub(super) fn broadcast(replicas: &mut Vec<mpsc::Sender<Payload>>, bytes: Vec<u8>) {
    let piece: Payload = Arc::from(bytes);
    replicas.retain(|replica| replica.blocking_send(Arc::clone(&piece)).is_ok());
}
