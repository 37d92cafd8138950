//! From bytes to a model: what is accepted, and what that may cost.

use bytes::Bytes;
use prost::Message;

use super::walk;
use crate::error::NotAModel;
use crate::format::proto;
use crate::format::scan;

/// The newest specificationVersion whose fields are all known.
pub(crate) const NEWEST_VERSION: i32 = 10;

/// What is accepted as a model, and within which limits.
///
/// The default refuses what it does not understand completely, because saving the model would lose it, and keeps the
/// memory for any file within a small multiple of its size:
///
/// | limit | default | error |
/// |---|---|---|
/// | fields and their wire types are known | yes | [`NotAModel::UnknownField`] |
/// | specificationVersion, also of the members of pipelines | at most 10 | [`NotAModel::NewerVersion`] |
/// | length of the file | 2 GiB - 1, as for protobuf's official parsers | [`NotAModel::TooLong`] |
/// | memory for the structure, beside the file's own bytes | 64 MiB, or 16 times the file's length if that is more | [`NotAModel::TooMuchMemory`] |
/// | depth of messages in messages | 100, fixed, as for protobuf's official parsers | [`NotAModel::Damaged`] |
///
/// Everything that protobuf allows to write in several ways is accepted in each of them: defaults that are written
/// out, repeated numbers packed or not or in several runs, fields in any order or more than once. Two things are not as
/// in protobuf's official parsers: a varint of more than 64 bits is an error, not cut off, and a single float field that
/// is -0 is written as 0.
///
/// ```
/// use coreml_quant::{DecodeOptions, Error, Model, NotAModel};
///
/// // A scaler, the model type of field 600, and specificationVersion 11.
/// let bytes: &[u8] = &[8, 11, 0xc2, 0x25, 0];
/// let error = Model::from_bytes(bytes).unwrap_err();
/// assert!(matches!(error, Error::NotAModel(NotAModel::NewerVersion { version: 11, .. })));
/// assert!(Model::from_bytes_with(bytes, &DecodeOptions::new().allow_newer_versions(true)).is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    allow_unknown_fields: bool,
    allow_newer_versions: bool,
    max_len: u64,
    max_memory: Option<u64>,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self { allow_unknown_fields: false, allow_newer_versions: false, max_len: i32::MAX as u64, max_memory: None }
    }
}

impl DecodeOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether fields that are not known are dropped. What they held is lost when the model is saved, and its meaning
    /// may change. Default: they are an error. A known field with another wire type than its own stays one: nothing
    /// sensible is left of it.
    #[must_use]
    pub fn allow_unknown_fields(mut self, allow: bool) -> Self {
        self.allow_unknown_fields = allow;
        self
    }

    /// Whether a specificationVersion beyond the newest known one is accepted. Fields are held against the known ones
    /// all the same, but values may mean something new. Default: it is an error.
    #[must_use]
    pub fn allow_newer_versions(mut self, allow: bool) -> Self {
        self.allow_newer_versions = allow;
        self
    }

    /// The longest file that is read, in bytes. Default: 2 GiB - 1.
    #[must_use]
    pub fn max_len(mut self, bytes: u64) -> Self {
        self.max_len = bytes;
        self
    }

    /// How much memory the decoded structure may take, in bytes; the weights are not counted as long as they lie in
    /// one piece, because they share the file's. Default: 64 MiB, or 16 times the file's length if that is more.
    #[must_use]
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.max_memory = Some(bytes);
        self
    }

    /// The longest file that is read.
    pub(crate) fn longest(&self) -> u64 {
        self.max_len
    }

    fn memory_limit(&self, len: u64) -> u64 {
        self.max_memory.unwrap_or_else(|| DEFAULT_MEMORY.max(len.saturating_mul(DEFAULT_MEMORY_FACTOR)))
    }
}

/// What any model may take: tens of thousands of layers.
const DEFAULT_MEMORY: u64 = 64 << 20;

/// Models with many small values, such as trees and vocabularies, take 3 to 10 times their length.
const DEFAULT_MEMORY_FACTOR: u64 = 16;

/// How many bytes at the start tell text from protobuf.
const TEXT_PROBE: usize = 64;

/// Decodes the bytes of a file. Weights share them.
pub(crate) fn decode(bytes: Bytes, options: &DecodeOptions) -> Result<proto::Model, NotAModel> {
    if bytes.is_empty() {
        return Err(NotAModel::Empty);
    }
    let len = bytes.len() as u64;
    if len > options.max_len {
        return Err(NotAModel::TooLong { max_len: options.max_len });
    }
    let start = bytes.slice(..bytes.len().min(TEXT_PROBE));
    let proto = decode_known(bytes, options).map_err(|error| other_kind(&start).unwrap_or(error))?;
    if proto.r#type.is_none() {
        return Err(other_kind(&start).unwrap_or(NotAModel::NoType { version: proto.specification_version }));
    }
    if !options.allow_newer_versions {
        check_versions(&proto)?;
    }
    Ok(proto)
}

fn decode_known(bytes: Bytes, options: &DecodeOptions) -> Result<proto::Model, NotAModel> {
    let scan::Findings { unknown, memory } =
        scan::scan(&bytes).map_err(|scan::Damage { path, offset, what }| NotAModel::Damaged { path, offset, what })?;
    if let Some(scan::Unknown { path, message, number }) = unknown.filter(|_| !options.allow_unknown_fields) {
        return Err(NotAModel::UnknownField { path, message, number });
    }
    let limit = options.memory_limit(bytes.len() as u64);
    if memory > limit {
        return Err(NotAModel::TooMuchMemory { needed: memory, limit });
    }
    proto::Model::decode(bytes).map_err(NotAModel::Malformed)
}

fn check_versions(model: &proto::Model) -> Result<(), NotAModel> {
    let mut newer = None;
    walk::each_model(model, walk::ROOT, &mut |path, model| {
        if newer.is_none() && model.specification_version > NEWEST_VERSION {
            newer = Some((path.to_owned(), model.specification_version));
        }
    });
    match newer {
        Some((path, version)) => Err(NotAModel::NewerVersion { path, version, newest: NEWEST_VERSION }),
        None => Ok(()),
    }
}

/// Whether a file that is no model is text, or something else that is well known, to say so.
fn other_kind(start: &[u8]) -> Option<NotAModel> {
    if start.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Some(NotAModel::LfsPointer);
    }
    if start.starts_with(b"book\0\0\0\0mark\0\0\0\0") {
        return Some(NotAModel::Alias);
    }
    let readable = start.iter().all(|&byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~'));
    let line = start.split(|&byte| byte == b'\n').next().unwrap_or_default();
    readable.then(|| NotAModel::Text { start: String::from_utf8_lossy(line).trim_end().to_owned() })
}
