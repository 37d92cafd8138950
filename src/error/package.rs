//! What can be wrong with packages, weight files and the weights of ML Programs.

use thiserror::Error;

use crate::format::dtype::Dtype;

/// What is wrong with a package's `Manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It is not there.
    #[error("Manifest.json is missing")]
    Missing,
    /// It is no JSON.
    #[error("Manifest.json is no JSON: {0}")]
    Json(String),
    /// A key is missing or has a value of another type.
    #[error("Manifest.json: {key} is missing or not {expected}")]
    Key {
        /// The way to the key: `itemInfoEntries.<identifier>.path`.
        key: String,
        /// What it has to be.
        expected: &'static str,
    },
    /// The version is newer than what is known, or no version.
    #[error("Manifest.json has fileFormatVersion {found:?}; 1.0.0 is the newest that is known")]
    Version {
        /// What it states.
        found: String,
    },
    /// The root model's identifier is that of no item.
    #[error("Manifest.json: rootModelIdentifier {identifier:?} is no item")]
    NoRoot {
        /// The identifier.
        identifier: String,
    },
    /// The path of an item leaves the package.
    #[error("Manifest.json: item {identifier:?} has the path {path:?}, which is not inside Data/")]
    Path {
        /// The item's identifier.
        identifier: String,
        /// Its path.
        path: String,
    },
    /// An item is listed and not there.
    #[error("Manifest.json lists {path:?}, which is not in the package")]
    NotThere {
        /// The item's path, relative to `Data/`.
        path: String,
    },
}

/// What is wrong with a blob, or with the file it is in.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The file is not in the package.
    #[error("the weight file {file_name} is missing")]
    NoFile {
        /// The name that the program gives it.
        file_name: String,
    },
    /// The file is shorter than a header, or of another version.
    #[error("{file_name} is no blob storage of version 2")]
    Header {
        /// The name that the program gives it.
        file_name: String,
    },
    /// There is no metadata at the offset.
    #[error("there is no blob at offset {offset} of {file_name}")]
    NoBlob {
        /// The name that the program gives the file.
        file_name: String,
        /// The offset.
        offset: u64,
    },
    /// The data is not inside the file.
    #[error("the blob at offset {offset} has {size} bytes at {start}, beyond the file's {len}")]
    Bounds {
        /// The offset of the metadata.
        offset: u64,
        /// The offset of the data.
        start: u64,
        /// The size of the data.
        size: u64,
        /// The file's length.
        len: u64,
    },
    /// The blob is of another type than the value.
    #[error("the blob at offset {offset} is of type {found}, the value of type {expected}")]
    Type {
        /// The offset of the metadata.
        offset: u64,
        /// The blob's type, or its number.
        found: String,
        /// The value's type.
        expected: Dtype,
    },
    /// The blob has another size than the value's shape and type.
    #[error("the blob at offset {offset} has {found} bits, the value needs {expected}")]
    Size {
        /// The offset of the metadata.
        offset: u64,
        /// Its size in bits, without the unused ones.
        found: u64,
        /// The size that the value needs, in bits.
        expected: u64,
    },
    /// Two blobs share bytes.
    #[error("the blobs at offsets {first} and {second} overlap")]
    Overlap {
        /// The offset of the one's metadata.
        first: u64,
        /// The offset of the other's.
        second: u64,
    },
}

/// Why a value is no tensor that can be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ValueError {
    /// It is not there.
    #[error("{parameter} is missing")]
    Missing {
        /// The operation's parameter.
        parameter: String,
    },
    /// Its type is no tensor of fixed shape, or its element type is not known.
    #[error("the value is no tensor of a known type and fixed shape")]
    NotATensor,
    /// Its elements are kept in a list of another type, or there are not as many as its shape says.
    #[error("the value has {found} elements of its type, its shape {shape:?} needs {expected}")]
    Elements {
        /// How many there are.
        found: usize,
        /// How many the shape needs.
        expected: usize,
        /// The shape.
        shape: Vec<usize>,
    },
    /// It is in weight.bin, and cannot be read there.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// Why a weight cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WeightProblem {
    /// A value of it cannot be read.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// Its operation does not say how to decompress it.
    #[error(transparent)]
    Form(#[from] FormError),
}

/// What is wrong with the form of a compressed weight.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormError {
    /// There is no such form.
    #[error("{operation} is no form of a weight that is known")]
    Operation {
        /// The operation's type.
        operation: String,
    },
    /// More operations feed each other than any form has.
    #[error("too many constexpr operations feed each other")]
    Chain,
    /// A parameter does not fit the others.
    #[error("{parameter} does not fit the other parameters")]
    Parameter {
        /// Its name.
        parameter: &'static str,
    },
    /// A parameter is of a type that the form does not have.
    #[error("elements of type {found} are not allowed here")]
    Type {
        /// The type.
        found: Dtype,
    },
    /// A mask keeps another number of elements than there are.
    #[error("the mask keeps {ones} elements, {found} are stored")]
    Ones {
        /// The ones of the mask.
        ones: usize,
        /// The elements that are stored.
        found: usize,
    },
    /// The output's stated type is not what comes out.
    #[error("{operation} gives the shape {found:?}, its output states {expected:?}, or another element type")]
    Output {
        /// The operation's type.
        operation: String,
        /// The shape that comes out.
        found: Vec<usize>,
        /// The shape that is stated.
        expected: Vec<usize>,
    },
}
