//! A Core ML model: read, looked at, written.

mod decode;
mod metadata;
pub(crate) mod package;
mod platform;
pub(crate) mod walk;
pub(crate) mod write;

pub use decode::DecodeOptions;
pub use metadata::{ClassLabels, Metadata};
pub use package::Package;
pub use write::SaveOptions;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use prost::Message;

use crate::error::{Error, NotAModel};
use crate::format::{self, proto};
use package::manifest::MANIFEST;

/// A Core ML model.
///
/// Its weights share memory with the bytes it was decoded from, so that cloning costs little and copies no weight.
#[derive(Clone, PartialEq)]
pub struct Model {
    proto: proto::Model,
    /// The package it came in, with its weight files.
    package: Option<Package>,
}

impl Model {
    /// Reads a `.mlmodel` file or an `.mlpackage` folder, within the limits of [`DecodeOptions::default`].
    ///
    /// To map files instead of reading them, pass the maps to [`from_bytes`](Self::from_bytes) or
    /// [`Package::new`] with `Bytes::from_owner`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be read, [`Error::Package`] for a folder that is no package in order,
    /// [`Error::NotAModelFile`] if it is something else.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(path, &DecodeOptions::default())
    }

    /// Reads a `.mlmodel` file or an `.mlpackage` folder. The limits hold for the model's own file, not for weight files.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be read, [`Error::Package`] for a folder that is no package in order,
    /// [`Error::NotAModelFile`] if it is something else, or more or newer than the
    /// options allow.
    pub fn open_with(path: impl AsRef<Path>, options: &DecodeOptions) -> Result<Self, Error> {
        let path = path.as_ref();
        let io = |cause| Error::Io { path: path.to_owned(), cause };
        let not_a_model = |what| Error::NotAModelFile { path: path.to_owned(), what };
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if metadata.is_dir() {
            if is_package(path) || path.join(MANIFEST).exists() {
                return Self::decode_package(Package::read(path)?, options).map_err(not_a_model);
            }
            return Err(not_a_model(match path.extension().and_then(|extension| extension.to_str()) {
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

    /// The model of a package, within the limits of [`DecodeOptions::default`]. Weights share the package's bytes.
    ///
    /// # Errors
    ///
    /// [`Error::NotAModel`] if its root is no model.
    pub fn from_package(package: Package) -> Result<Self, Error> {
        Self::decode_package(package, &DecodeOptions::default()).map_err(Error::NotAModel)
    }

    fn decode_package(mut package: Package, options: &DecodeOptions) -> Result<Self, NotAModel> {
        let root = package.file(package.root()).cloned().unwrap_or_default();
        let proto = decode::decode(root, options)?;
        // From here on, the message is what counts.
        package.set_root(Bytes::new());
        Ok(Self { proto, package: Some(package) })
    }

    /// The model as a package: the one it came in with the model of now, or a new one. Other files of the package are as
    /// they were.
    pub fn to_package(&self) -> Package {
        let mut package = self.package.clone().unwrap_or_else(Package::empty);
        package.set_root(self.to_bytes().into());
        package
    }

    /// A model from its protobuf message.
    pub fn from_proto(proto: proto::Model) -> Self {
        Self { proto, package: None }
    }

    /// The package that the model came in.
    pub(crate) fn package(&self) -> Option<&Package> {
        self.package.as_ref()
    }

    /// Another model with the files of this one, but for weight files, under the names that programs give them.
    pub(crate) fn with_weights(&self, proto: proto::Model, files: Vec<(String, Bytes)>) -> Self {
        let mut package = self.package.clone();
        if !files.is_empty() {
            let package = package.get_or_insert_with(Package::empty);
            for (name, bytes) in files {
                if let Some(path) = package.weight_path(&name) {
                    package.set_weights(&path, bytes);
                }
            }
        }
        Self { proto, package }
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

    /// The bytes of the `.mlmodel` file. The same model always gives the same bytes: maps are sorted by key. An ML
    /// Program's weight files are not part of it, see [`to_package`](Self::to_package).
    pub fn to_bytes(&self) -> Vec<u8> {
        self.proto.encode_to_vec()
    }

    /// Writes a `.mlmodel` file or an `.mlpackage` folder, see [`save_with`](Self::save_with).
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be written; an old file is then as it was. [`Error::NeedsPackage`] for an ML Program
    /// that is to become a `.mlmodel` file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.save_with(path, &SaveOptions::default())
    }

    /// Writes a `.mlmodel` file: a temporary file in the same folder, renamed over the old one when it is complete.
    /// A failed or killed save leaves the old file as it was. The old file's permissions are kept; if `path` is a
    /// symbolic link, the file it points to is replaced.
    ///
    /// If `path` ends in `.mlpackage`, it becomes a folder, written beside the old one and put in its place when it is
    /// complete: with all files of the package that the model was opened from. Any model can be in a package; an ML
    /// Program has to.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be written, [`Error::NeedsPackage`] for an ML Program without one.
    pub fn save_with(&self, path: impl AsRef<Path>, options: &SaveOptions) -> Result<(), Error> {
        let path = path.as_ref();
        if is_package(path) {
            return package::save::save(&self.to_package(), path, options.is_sync());
        }
        self.require_no_package(path)?;
        write::save(&self.proto, path, options)
    }

    /// Fails for a model with weights in other files, which is to become a single one.
    pub(crate) fn require_no_package(&self, path: &Path) -> Result<(), Error> {
        if self.has_program() { Err(Error::NeedsPackage { path: path.to_owned() }) } else { Ok(()) }
    }

    /// Whether there is an ML Program, in the model or in a pipeline's member.
    pub(crate) fn has_program(&self) -> bool {
        let mut found = false;
        walk::each_model(&self.proto, walk::ROOT, &mut |_, model| {
            found |= matches!(model.r#type, Some(proto::model::Type::MlProgram(_)));
        });
        found
    }

    /// Whether there is a network, in the model or in a pipeline's member.
    pub(crate) fn has_network(&self) -> bool {
        let mut found = false;
        walk::each_model(&self.proto, walk::ROOT, &mut |_, model| found |= walk::network(model).is_some());
        found
    }

    /// The model's type, under its name in the format: `neuralNetworkClassifier`, `pipeline`, `mlProgram`.
    pub fn kind(&self) -> &'static str {
        format::model_type(&self.proto)
    }

    /// Fails unless there is a network, in the model or in a pipeline's member.
    pub(crate) fn require_network(&self) -> Result<(), Error> {
        if self.has_network() { Ok(()) } else { Err(Error::NoNetwork { kind: self.kind() }) }
    }
}

/// Whether a path is to be a package's.
pub(crate) fn is_package(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "mlpackage")
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("kind", &self.kind())
            .field("specification_version", &self.proto.specification_version)
            .finish_non_exhaustive()
    }
}
