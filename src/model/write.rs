//! Writing a model to a file: atomically, and without gathering it in memory first.
//!
//! The model is encoded with its weights left out, which takes kilobytes. The length of every weight is known, so the
//! place of each in the file is too, and threads fill in the weights side by side, each computed (or copied) just
//! before it is written.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use prost::Message;
use rayon::prelude::*;

use super::platform::{self, write_at};
use super::walk;
use crate::error::Error;
use crate::format::proto::{Model, WeightParams};
use crate::format::slots_mut;
use crate::format::weight_params::Hole;
use crate::weight::Buffers;

/// How a file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaveOptions {
    sync: bool,
}

impl SaveOptions {
    /// Whether to wait until the disk has the file (fsync), so that it survives a power failure right after. Default:
    /// no; it takes several times as long as quantizing.
    #[must_use]
    pub fn sync(mut self, sync: bool) -> Self {
        self.sync = sync;
        self
    }

    /// Whether to wait for the disk.
    pub(crate) fn is_sync(&self) -> bool {
        self.sync
    }
}

/// Computes the weight with an index, using memory from the buffers.
pub(crate) type Produce<'a> = dyn Fn(usize, &mut Buffers) -> Result<WeightParams, Error> + Sync + 'a;

/// Small weights are gathered into pieces of about this many bytes; a larger one is written from where it lies.
const PIECE_BYTES: usize = 256 << 10;

/// Writes a model as it is.
pub(crate) fn save(model: &Model, path: &Path, options: &SaveOptions) -> Result<(), Error> {
    let mut skeleton = model.clone();
    let (mut holes, mut weights) = (Vec::new(), Vec::new());
    walk::change_networks(&mut skeleton, walk::ROOT, &mut |_, model| {
        if let Some((layers, _)) = walk::network_mut(model) {
            walk::change_layers(layers, &mut 0, &mut |_, layer| {
                for params in slots_mut(layer).into_iter().filter_map(|(_, params)| params) {
                    let hole = Arc::new(Hole::new(params.encoded_len()));
                    weights.push(std::mem::replace(params, WeightParams::hole(&hole)));
                    holes.push(hole);
                }
            });
        }
        0
    });
    write_file(&skeleton, &holes, path, options, &|index, _| Ok(weights[index].clone()))
}

/// Writes a model whose weights are holes, and fills them with what `produce` returns for their indices.
pub(crate) fn write_file(
    skeleton: &Model,
    holes: &[Arc<Hole>],
    path: &Path,
    options: &SaveOptions,
    produce: &Produce<'_>,
) -> Result<(), Error> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |cause| Error::Io { path, cause }
    };
    let target = target(path).map_err(io(path))?;
    let permissions = match fs::metadata(&target) {
        Ok(old) if old.is_file() => Some(old.permissions()),
        // A device or pipe must not be replaced by a file, nor a folder.
        Ok(_) => return Err(io(path)(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))),
        Err(_) => None,
    };
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".coreml-quant-").suffix(".tmp");
    platform::set_permissions(&mut builder, permissions.as_ref());
    // The error speaks of the temporary file, which nobody asked for.
    let temporary = builder.tempfile_in(&folder).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io(path)(io::Error::new(error.kind(), "there is no such folder")),
        kind => io(path)(kind.into()),
    })?;
    write_pieces(temporary.as_file(), skeleton, holes, produce, &|error| io(path)(error))?;
    if let Some(permissions) = permissions {
        temporary.as_file().set_permissions(permissions).map_err(io(path))?;
    }
    if options.sync {
        temporary.as_file().sync_all().map_err(io(path))?;
    }
    temporary.persist(&target).map_err(|error| io(path)(error.error))?;
    if options.sync {
        // The new name is in the folder.
        platform::sync_folder(&folder).map_err(io(path))?;
    }
    Ok(())
}

/// The file to write: a symbolic link stays a link, and the file it points to is replaced, or made.
fn target(path: &Path) -> io::Result<PathBuf> {
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&target) {
            // What is no link or is not there yet.
            Err(_) => return Ok(target),
            // Relative to the link's own folder; an absolute path replaces it all.
            Ok(link) => target = target.parent().unwrap_or(Path::new("")).join(link),
        }
    }
    Err(io::Error::other("too many levels of symbolic links"))
}

/// As many links in a row as Linux follows.
const MAX_LINKS: usize = 40;

/// A run of the file: some of the skeleton, each time followed by a weight.
struct Piece {
    /// Where it starts in the file.
    offset: u64,
    /// The weights in it, with the stretch of the skeleton before each.
    weights: Vec<(usize, std::ops::Range<usize>)>,
    /// Its length in bytes.
    len: usize,
}

fn write_pieces(
    file: &File,
    skeleton: &Model,
    holes: &[Arc<Hole>],
    produce: &Produce<'_>,
    io: &(dyn Fn(io::Error) -> Error + Sync),
) -> Result<(), Error> {
    // Holes write nothing, so the buffer is as long as the skeleton alone.
    let total = skeleton.encoded_len();
    let weights: usize = holes.iter().map(|hole| hole.len()).sum();
    let mut bytes = Vec::with_capacity(total - weights);
    let capacity = bytes::BufMut::remaining_mut(&bytes);
    skeleton.encode_raw(&mut bytes);

    // In the order of the file, whatever the order in which they were listed.
    let mut order: Vec<usize> = (0..holes.len()).collect();
    order.sort_by_key(|&index| holes[index].offset(capacity));
    let mut pieces: Vec<Piece> = Vec::new();
    let (mut offset, mut done) = (0_u64, 0);
    for index in order {
        let hole = &holes[index];
        let before = done..hole.offset(capacity);
        done = before.end;
        let len = before.len() + hole.len();
        match pieces.last_mut() {
            Some(piece) if piece.len + len <= PIECE_BYTES => {
                piece.weights.push((index, before));
                piece.len += len;
            }
            _ => pieces.push(Piece { offset, weights: vec![(index, before)], len }),
        }
        offset += len as u64;
    }

    file.set_len(total as u64).map_err(io)?;
    write_at(file, &bytes[done..], offset).map_err(io)?;
    let pool = Mutex::new(Vec::<Buffers>::new());
    let failure = pieces.par_iter().find_map_first(|piece| {
        let lock = || pool.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffers = lock().pop().unwrap_or_default();
        let result = write_piece(file, &bytes, piece, holes, produce, io, &mut buffers);
        lock().push(buffers);
        result.err()
    });
    failure.map_or(Ok(()), Err)
}

fn write_piece(
    file: &File,
    skeleton: &[u8],
    piece: &Piece,
    holes: &[Arc<Hole>],
    produce: &Produce<'_>,
    io: &(dyn Fn(io::Error) -> Error + Sync),
    buffers: &mut Buffers,
) -> Result<(), Error> {
    let mut gathered = buffers.take(0);
    let mut offset = piece.offset;
    for (index, before) in &piece.weights {
        gathered.extend_from_slice(&skeleton[before.clone()]);
        let params = produce(*index, buffers)?;
        let (expected, found) = (holes[*index].len(), params.encoded_len());
        if found != expected {
            // What follows would be overwritten, or moved.
            return Err(Error::EncodedLength { index: *index, expected, found });
        }
        // Only what fills a piece alone is worth a write of its own.
        let around = if piece.len > PIECE_BYTES { params.encode_around_payload() } else { None };
        match around {
            Some((head, payload, tail)) => {
                gathered.extend_from_slice(&head);
                write_at(file, &gathered, offset).map_err(io)?;
                offset += gathered.len() as u64;
                write_at(file, payload, offset).map_err(io)?;
                offset += payload.len() as u64;
                gathered.clear();
                gathered.extend_from_slice(&tail);
            }
            None => params.encode_raw(&mut gathered),
        }
        buffers.recycle(params);
    }
    write_at(file, &gathered, offset).map_err(io)?;
    buffers.give_back(gathered);
    Ok(())
}
