//! A Core ML model: read, looked at, written.

mod decode;
mod platform;
pub(crate) mod walk;
pub(crate) mod write;

pub use decode::DecodeOptions;
pub use write::SaveOptions;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use prost::Message;

use crate::error::{Error, NotAModel};
use crate::format::{self, proto};

/// A Core ML model.
///
/// Its weights share memory with the bytes it was decoded from, so that cloning costs little and copies no weight.
#[derive(Clone, PartialEq)]
pub struct Model {
    proto: proto::Model,
}

impl Model {
    /// Reads a `.mlmodel` file, within the limits of [`DecodeOptions::default`].
    ///
    /// To map the file instead of reading it, pass the map to [`from_bytes`](Self::from_bytes) with
    /// `Bytes::from_owner`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be read, [`Error::NotAModelFile`] if it is something else.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(path, &DecodeOptions::default())
    }

    /// Reads a `.mlmodel` file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be read, [`Error::NotAModelFile`] if it is something else, or more or newer than the
    /// options allow.
    pub fn open_with(path: impl AsRef<Path>, options: &DecodeOptions) -> Result<Self, Error> {
        let path = path.as_ref();
        let io = |cause| Error::Io { path: path.to_owned(), cause };
        let not_a_model = |what| Error::NotAModelFile { path: path.to_owned(), what };
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if metadata.is_dir() {
            return Err(not_a_model(match path.extension().and_then(|extension| extension.to_str()) {
                Some("mlpackage") => NotAModel::Package,
                Some("mlmodelc") => NotAModel::Compiled,
                _ => NotAModel::Folder,
            }));
        }
        // One byte more than is allowed tells that there is more, even where the system does not know the length.
        let longest = options.longest().saturating_add(1);
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(longest)).unwrap_or_default());
        file.take(longest).read_to_end(&mut bytes).map_err(io)?;
        decode::decode(bytes.into(), options).map(Self::from_proto).map_err(not_a_model)
    }

    /// Decodes the bytes of a `.mlmodel` file, within the limits of [`DecodeOptions::default`]. Weights are not
    /// copied: they share `bytes`.
    ///
    /// # Errors
    ///
    /// [`Error::NotAModel`] if the bytes are something else.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self, Error> {
        Self::from_bytes_with(bytes, &DecodeOptions::default())
    }

    /// Decodes the bytes of a `.mlmodel` file. Weights are not copied: they share `bytes`.
    ///
    /// # Errors
    ///
    /// [`Error::NotAModel`] if the bytes are something else, or more or newer than the options allow.
    pub fn from_bytes_with(bytes: impl Into<Bytes>, options: &DecodeOptions) -> Result<Self, Error> {
        decode::decode(bytes.into(), options).map(Self::from_proto).map_err(Error::NotAModel)
    }

    /// A model from its protobuf message.
    pub fn from_proto(proto: proto::Model) -> Self {
        Self { proto }
    }

    /// The protobuf message.
    pub fn proto(&self) -> &proto::Model {
        &self.proto
    }

    /// The protobuf message, to be changed.
    pub fn proto_mut(&mut self) -> &mut proto::Model {
        &mut self.proto
    }

    /// The protobuf message alone.
    pub fn into_proto(self) -> proto::Model {
        self.proto
    }

    /// The bytes of the `.mlmodel` file. The same model always gives the same bytes: maps are sorted by key.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.proto.encode_to_vec()
    }

    /// Writes a `.mlmodel` file, see [`save_with`](Self::save_with).
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be written; an old file is then as it was.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.save_with(path, &SaveOptions::default())
    }

    /// Writes a `.mlmodel` file: a temporary file in the same folder, renamed over the old one when it is complete.
    /// A failed or killed save leaves the old file as it was. The old file's permissions are kept; if `path` is a
    /// symbolic link, the file it points to is replaced.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be written.
    pub fn save_with(&self, path: impl AsRef<Path>, options: &SaveOptions) -> Result<(), Error> {
        write::save(&self.proto, path.as_ref(), options)
    }

    /// The model's type, under its name in the format: `neuralNetworkClassifier`, `pipeline`, `mlProgram`.
    pub fn kind(&self) -> &'static str {
        format::model_type(&self.proto)
    }

    /// Fails unless there is a network, in the model or in a pipeline's member.
    pub(crate) fn require_network(&self) -> Result<(), Error> {
        let mut found = false;
        walk::each_model(&self.proto, walk::ROOT, &mut |_, model| found |= walk::network(model).is_some());
        if found { Ok(()) } else { Err(Error::NoNetwork { kind: self.kind() }) }
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("kind", &self.kind())
            .field("specification_version", &self.proto.specification_version)
            .finish_non_exhaustive()
    }
}
