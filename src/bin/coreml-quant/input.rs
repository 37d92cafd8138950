//! Reading a model: from a file, through a memory map, or from standard input.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use coreml_quant::{DecodeOptions, Model};
use memmap2::Mmap;

use crate::failure::Failure;
use crate::output::{is_standard, len_of};

/// A model, and the size of its file.
#[derive(Clone, Copy, Debug)]
pub struct Input {
    /// The model. It stays until the process ends, which takes all of its memory back at once instead of layer by layer.
    pub model: &'static Model,
    /// The bytes of its file.
    pub len: u64,
}

/// Reads a model; `-` is standard input.
///
/// A file is mapped, so that its weights are read once, when they are needed. Nobody may write into it meanwhile: another
/// program that truncates it ends this one with a signal. Replacing it by renaming does no harm.
pub fn open(path: &Path) -> Result<Input, Failure> {
    let (model, len) = if is_standard(path) { read_standard()? } else { open_file(path)? };
    Ok(Input { model: Box::leak(Box::new(model)), len })
}

/// Reads two models, at most one of them from standard input.
pub fn open_two(first: &Path, second: &Path) -> Result<(Input, Input), Failure> {
    if is_standard(first) && is_standard(second) {
        return Err(Failure::Usage("only one of the models can be standard input".to_owned()));
    }
    Ok((open(first)?, open(second)?))
}

fn read_standard() -> Result<(Model, u64), Failure> {
    let mut bytes = Vec::new();
    // One byte more than a model may have tells that there is more.
    let longest = i32::MAX as u64 + 1;
    std::io::stdin().lock().take(longest).read_to_end(&mut bytes)?;
    let len = bytes.len() as u64;
    let named = |error: coreml_quant::Error| Failure::Job(format!("standard input: {error}"));
    Ok((Model::from_bytes_with(bytes, &DecodeOptions::default()).map_err(named)?, len))
}

fn open_file(path: &Path) -> Result<(Model, u64), Failure> {
    let named = |error: &dyn std::fmt::Display| Failure::of_file(path, error);
    let file = File::open(path).map_err(|error| named(&error))?;
    let metadata = file.metadata().map_err(|error| named(&error))?;
    if !metadata.is_file() {
        // A package, or a folder that gets its explanation there; and a pipe is read.
        let model = Model::open(path)?;
        let len = if metadata.is_dir() { len_of(path)? } else { prost::Message::encoded_len(model.proto()) as u64 };
        return Ok((model, len));
    }
    // SAFETY: a map is sound as long as nobody changes the file while it is mapped. This program does not: its outputs
    // are new files that replace old ones by name. Another program that writes into the file at this very moment would
    // spoil any copy of it too.
    #[expect(unsafe_code, reason = "mapping a file is the caller's decision, which the library leaves to it")]
    let map = unsafe { Mmap::map(&file) };
    let model = match map {
        Ok(map) => Model::from_bytes(Bytes::from_owner(map)).map_err(|error| match error {
            coreml_quant::Error::NotAModel(what) => {
                coreml_quant::Error::NotAModelFile { path: path.to_owned(), what }.into()
            }
            error => Failure::from(error),
        })?,
        // Not everything can be mapped; everything can be read.
        Err(_) => Model::open(path)?,
    };
    Ok((model, metadata.len()))
}
