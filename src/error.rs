//! What can go wrong, and where.
//!
//! One convention holds for all errors of the crate: `Display` tells everything, the cause included, and `source` returns
//! nothing that was told already. Whoever prints a chain of errors reads each fact once; the cause is a public field.

mod package;

pub use package::{BlobError, FormError, ManifestError, ValueError, WeightProblem};

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::format::form::{Nbits, StoredForm};

/// Why an operation failed. Nothing was changed or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {cause}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The input is something else than a `.mlmodel` file.
    #[error("{path}: {what}", path = path.display())]
    NotAModelFile {
        /// The file or folder.
        path: PathBuf,
        /// What it is instead.
        what: NotAModel,
    },
    /// A folder is no package in order.
    #[error("{path}: {cause}", path = path.display())]
    Package {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        cause: ManifestError,
    },
    /// The bytes are not a Core ML model.
    #[error("not a Core ML model: {0}")]
    NotAModel(NotAModel),
    /// The model has no neural network whose weights could be quantized.
    #[error("the model is of type {kind} and has no neural network to quantize")]
    NoNetwork {
        /// The model's type, under its name in the format.
        kind: &'static str,
    },
    /// One weight could not be read or quantized.
    #[error("{place}: {cause}")]
    Weight {
        /// The weight.
        place: Box<Place>,
        /// What is wrong with it.
        cause: WeightError,
    },
    /// A layer has no such weight.
    #[error("layer {index} of the model has no weight \"{field}\"")]
    NoWeight {
        /// The layer's index among all layers of the model.
        index: usize,
        /// The field's name.
        field: String,
    },
    /// Some weights have values that their new form cannot hold: NaN or an infinity, or a number beyond its range.
    #[error("{}", Refusals(refused))]
    Unrepresentable {
        /// All such weights, in the order of the model; at least one.
        refused: Vec<Refused>,
    },
    /// A weight does not take as many bytes as were left for it in the file. It is a fault of this crate's, and nothing was
    /// written.
    #[error("weight {index} takes {found} bytes in the file, {expected} were left for it; please report this")]
    EncodedLength {
        /// The weight's index, in the order of the model.
        index: usize,
        /// The bytes that were left.
        expected: usize,
        /// The bytes that it takes.
        found: usize,
    },
    /// Two models that are compared do not have the same weights.
    #[error("the models are not of the same network: {original} in one, {other} in the other")]
    DifferentNetworks {
        /// The first weight that differs, in the one model.
        original: String,
        /// What is in its place in the other.
        other: String,
    },
    /// A plan was made for another model, or folded otherwise.
    #[error("the plan is not for this model: weight {index} is {found} here, {planned} in the plan")]
    PlanMismatch {
        /// The first weight that differs.
        index: usize,
        /// The weight in the model.
        found: String,
        /// The weight in the plan.
        planned: String,
    },
    /// The target is smaller than the file with the smallest choice for every weight.
    #[error("the target of {target} bytes cannot be reached: the least is {least}")]
    TargetTooSmall {
        /// The bytes that were asked for.
        target: u64,
        /// The bytes of the model's file with the smallest choice for each weight.
        least: u64,
    },
    /// The bytes of a weight of an ML Program cannot be found or understood.
    #[error("{place}: {cause}")]
    ProgramWeight {
        /// The weight.
        place: Box<Place>,
        /// What is wrong with it.
        cause: WeightProblem,
    },
    /// A weight file of an ML Program is not in order.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A program is of an opset that is not known, or newer than the target.
    #[error("the program is of opset {found}, {expected}")]
    Opset {
        /// Its opset.
        found: String,
        /// What is expected.
        expected: String,
    },
    /// An ML Program's weights lie in files of their own: only a package holds them.
    #[error("{path}: an ML Program has weight files beside it and needs an .mlpackage folder", path = path.display())]
    NeedsPackage {
        /// Where it was to be written.
        path: PathBuf,
    },
    /// The caller ended the job, see [`QuantConfig::with_progress`](crate::QuantConfig::with_progress).
    #[error("cancelled")]
    Cancelled,
    /// A sample for calibration is none of the model's inputs, or the model cannot be run at all.
    #[error("calibration: {what}: {cause}")]
    Calibration {
        /// Which sample, or that it is the model.
        what: String,
        /// What is wrong.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There are no samples to calibrate on.
    #[error("there are no samples to calibrate on; give at least one, or draw synthetic ones")]
    NoSamples,
    /// The target is smaller than the average with the smallest choice for every weight.
    #[error("the target of {target} bits a value cannot be reached: the least is {}", Rounded(*least))]
    TooFewBits {
        /// The bits a value that were asked for.
        target: f64,
        /// The bits a value with the smallest choice for each weight.
        least: f64,
    },
    /// The target is no number that a plan could reach: NaN, or negative bits.
    #[error("a target of {value} {unit} makes no sense")]
    InvalidTarget {
        /// The number that was given.
        value: f64,
        /// What it counts: bits a value, or decibels.
        unit: &'static str,
    },
    /// A weighting that is NaN, infinite or negative.
    #[error("{place}: the weighting is {value}, a finite number that is not negative is expected")]
    InvalidWeighting {
        /// The weight.
        place: Box<Place>,
        /// What the function returned.
        value: f64,
    },
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// What was given instead of a `.mlmodel` file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NotAModel {
    /// A folder that Core ML's compiler wrote.
    #[error("a compiled model (.mlmodelc) cannot be changed; quantize the .mlmodel file it was compiled from")]
    Compiled,
    /// Another folder.
    #[error("a folder; a .mlmodel file or an .mlpackage folder is expected")]
    Folder,
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,
    /// The text that git's large-file store (git-lfs) leaves in the place of a file that was not fetched.
    #[error("the file is a git-lfs pointer, not the model itself; fetch that with `git lfs pull`")]
    LfsPointer,
    /// An alias of macOS's Finder: it names a file, which only the Finder follows.
    #[error("the file is an alias that the Finder made; give the path of the model it stands for")]
    Alias,
    /// Text: a web page, perhaps.
    #[error("the file is text and starts with {start:?}; a .mlmodel file is binary (protobuf)")]
    Text {
        /// The first line, shortened.
        start: String,
    },
    /// The bytes are not the protobuf message of a model: truncated, damaged, or something else.
    #[error("the file is truncated, damaged or no .mlmodel: {what} at byte {offset}{}", In(path))]
    Damaged {
        /// The way to the message: `neuralNetwork.layers[3].convolution`; empty for the model itself.
        path: String,
        /// Where in the file.
        offset: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// The structure is that of a model, but one of the values in it is damaged.
    #[error("the file is damaged or no .mlmodel: {0}")]
    Malformed(prost::DecodeError),
    /// A field that is not known: a newer Core ML may have written it. Saving the model would lose it; see
    /// [`DecodeOptions::allow_unknown_fields`](crate::DecodeOptions::allow_unknown_fields).
    #[error("field {number} of message {message}{} is not known, and would be lost", In(path))]
    UnknownField {
        /// The way to the message: `neuralNetwork.layers[3].convolution`; empty for the model itself.
        path: String,
        /// The message's type.
        message: &'static str,
        /// The field's number.
        number: u32,
    },
    /// The model is of a newer version of the format, see
    /// [`DecodeOptions::allow_newer_versions`](crate::DecodeOptions::allow_newer_versions).
    #[error("{path} has specificationVersion {version}, {newest} is the newest that is known")]
    NewerVersion {
        /// The model: `model`, `model/pipeline[1]`.
        path: String,
        /// The version it states.
        version: i32,
        /// The newest version that is known.
        newest: i32,
    },
    /// The file is longer than [`DecodeOptions::max_len`](crate::DecodeOptions::max_len).
    #[error("the file is longer than {max_len} bytes")]
    TooLong {
        /// The longest that is read, in bytes.
        max_len: u64,
    },
    /// Decoding would take more memory than [`DecodeOptions::max_memory`](crate::DecodeOptions::max_memory).
    #[error("decoding would take {needed} bytes of memory, {limit} are allowed")]
    TooMuchMemory {
        /// About how many bytes it would take.
        needed: u64,
        /// How many are allowed.
        limit: u64,
    },
    /// A protobuf message without a model type that we know.
    #[error("the file has no model type that is known (specificationVersion {version})")]
    NoType {
        /// The version the file states.
        version: i32,
    },
}

/// A weight with values that its new form cannot hold, see [`Error::Unrepresentable`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Refused {
    /// The weight.
    pub place: Place,
    /// The form it was to get.
    pub form: StoredForm,
    /// The first value that is in the way.
    pub cause: QuantizeError,
}

/// Which weight of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Place {
    /// The network: `model`, `model/pipeline[1]`, `model/cond/ifBranch`.
    pub network: Arc<str>,
    /// The layer's name.
    pub layer: Arc<str>,
    /// The layer's type, under its name in the format.
    pub layer_type: &'static str,
    /// The layer's index among all layers of the model, in its order: layers may share a name, or have none.
    pub index: usize,
    /// The field's name in the format.
    pub field: Cow<'static, str>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} layer \"{}\", {}", self.network, self.layer_type, self.layer, self.field)
    }
}

/// What is wrong with a weight.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WeightError {
    /// The layer's sizes make no shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The layer needs the weight, and it is not stored.
    #[error("no values are stored, {expected} are expected")]
    Missing {
        /// Number of values that the layer's sizes ask for.
        expected: usize,
    },
    /// More than one of the four forms is set.
    #[error("stored in several forms at once: {}", forms.join(", "))]
    SeveralForms {
        /// The fields that are set.
        forms: Vec<&'static str>,
    },
    /// A stored payload has another length than the layer's sizes ask for.
    #[error("{field} has {found} {unit}, {expected} are expected")]
    Length {
        /// The field of the stored weight.
        field: &'static str,
        /// What is counted: values or bytes.
        unit: &'static str,
        /// The length that is stored.
        found: usize,
        /// The length that the layer's sizes ask for.
        expected: usize,
    },
    /// Codes without `quantization`, or `quantization` without its type.
    #[error("{field} is set, but {missing} is not")]
    NoQuantization {
        /// The payload's field.
        field: &'static str,
        /// What is missing.
        missing: &'static str,
    },
    /// `numberOfBits` is not what the form allows.
    #[error("numberOfBits is {found}, {expected} is expected")]
    Bits {
        /// The number that is stored.
        found: u64,
        /// The allowed numbers.
        expected: &'static str,
    },
    /// A scale or bias vector has a length that Core ML does not allow.
    #[error("{field} has {found} values, {expected}", expected = Counts(expected))]
    ScaleCount {
        /// `scale` or `bias`.
        field: &'static str,
        /// The length that is stored.
        found: usize,
        /// The lengths that are allowed.
        expected: Vec<usize>,
    },
    /// A stored scale, bias or table entry is NaN or infinite.
    #[error("{field}[{index}] is {value}")]
    NonFiniteParameter {
        /// `scale`, `bias` or `floatValue` of the table.
        field: &'static str,
        /// Its index.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// The quantizer refused the weight.
    #[error(transparent)]
    Quantize(#[from] QuantizeError),
    /// A [`Quantizer`](crate::Quantizer) returned another form than it had announced.
    #[error("the quantizer announced {announced} and returned {returned}")]
    OtherForm {
        /// What `stored_form` said.
        announced: StoredForm,
        /// What `quantize` returned.
        returned: StoredForm,
    },
    /// A [`Quantizer`](crate::Quantizer) asks for a form that Core ML does not read in this place.
    #[error("{form} cannot be stored here")]
    NotAllowed {
        /// What `stored_form` said.
        form: StoredForm,
    },
}

/// Why the sizes of a layer make no shape.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// The product of the dimensions is not addressable.
    #[error("the shape {shape:?} has too many values")]
    Overflow {
        /// The dimensions.
        shape: Vec<u64>,
    },
    /// The channels cannot be divided into the groups.
    #[error("{what} {value} is not a multiple of nGroups {groups}")]
    Groups {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The number of groups.
        groups: u64,
    },
    /// `kernelSize` of a convolution has another number of dimensions than 2.
    #[error("kernelSize has {len} dimensions, 2 are expected")]
    KernelSize {
        /// The number that is stored.
        len: usize,
    },
    /// A size is negative.
    #[error("{what} is {value}")]
    Negative {
        /// The field.
        what: &'static str,
        /// Its value.
        value: i64,
    },
}

/// Why a [`Quantizer`](crate::Quantizer) cannot store a weight.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// A value is NaN or infinite.
    #[error("value {index} is {value}")]
    NonFinite {
        /// Its index, row-major.
        index: usize,
        /// The value.
        value: f32,
    },
    /// A value is beyond what float16 holds, +-65504.
    #[error("value {index} is {value}, beyond the range of float16 (65504)")]
    Float16Range {
        /// Its index, row-major.
        index: usize,
        /// The value.
        value: f32,
    },
    /// The values of a channel are too far apart for a float32 scale and bias.
    #[error("the range of channel {channel} does not fit a float32 scale and bias")]
    ScaleRange {
        /// The channel's index.
        channel: usize,
    },
    /// A lookup table has another length than 2^bits.
    #[error("the table has {found} entries, {expected} are expected")]
    TableLength {
        /// Its length.
        found: usize,
        /// 2^bits.
        expected: usize,
    },
    /// There is not one code for each value.
    #[error("{found} codes were returned for {expected} values")]
    CodeCount {
        /// Number of codes.
        found: usize,
        /// Number of values.
        expected: usize,
    },
    /// A code does not fit the number of bits.
    #[error("code {code} at index {index} does not fit {nbits} bits")]
    CodeRange {
        /// The code's index.
        index: usize,
        /// The code.
        code: u8,
        /// The number of bits.
        nbits: u8,
    },
    /// A quantizer of the caller's failed in its own way.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

/// Why a configuration cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The number of bits is not one that the mode has.
    #[error("{mode} takes {allowed} bits, not {found}{hint}", hint = if *found == 16 { "; 16 bits are the mode float16" } else { "" })]
    Bits {
        /// The mode's name.
        mode: &'static str,
        /// The range it takes.
        allowed: &'static str,
        /// What was asked for.
        found: u32,
    },
    /// No codes have this number of bits.
    #[error("codes have 1 to 8 bits, not {found}")]
    Nbits {
        /// What was asked for.
        found: u32,
    },
    /// The mode needs a number of bits.
    #[error("{mode} needs a number of bits, {allowed}")]
    NoBits {
        /// The mode's name.
        mode: &'static str,
        /// The range it takes.
        allowed: &'static str,
    },
    /// There is no such mode.
    #[error("there is no mode \"{found}\"; the modes are {}", known.join(", "))]
    UnknownMode {
        /// What was asked for.
        found: String,
        /// The names there are.
        known: Vec<&'static str>,
    },
    /// There is no such way to store a weight.
    #[error("\"{found}\" is no method; methods are keep, float16, and modes with bits as in kmeans_lut:4")]
    UnknownMethod {
        /// What was asked for.
        found: String,
    },
    /// There is no such range.
    #[error("there is no range \"{found}\"; the ranges are min-max and least-squares")]
    UnknownRange {
        /// What was asked for.
        found: String,
    },
    /// The option is for ML Programs, and the model has none.
    #[error("{option} is an option for ML Programs, and the model has none")]
    ProgramsOnly {
        /// The option.
        option: &'static str,
    },
    /// ML Programs have no such form.
    #[error(
        "ML Programs have no such form; they have linear codes of 4 or 8 bits and tables of 1, 2, 3, 4, 6 or 8 bits"
    )]
    NotInPrograms,
    /// There is no such way to store biases.
    #[error("there is no \"{found}\" for biases; there are float16, as-weights and keep")]
    UnknownBiases {
        /// What was asked for.
        found: String,
    },
    /// The mode cannot be made from its name alone.
    #[error("custom_lut needs a function, see QuantConfig::custom_lut")]
    NeedsFunction,
    /// There is no layer type of this name that is quantized.
    #[error("there is no quantizable layer type \"{found}\"; the types are {}", known.join(", "))]
    UnknownLayerType {
        /// What was asked for.
        found: String,
        /// The types there are.
        known: &'static [&'static str],
    },
}

impl TryFrom<u32> for Nbits {
    type Error = ConfigError;

    /// # Errors
    ///
    /// [`ConfigError::Nbits`] outside 1 to 8.
    fn try_from(nbits: u32) -> Result<Self, ConfigError> {
        Self::new(nbits).ok_or(ConfigError::Nbits { found: nbits })
    }
}

/// A number with four decimals, rounded up: as a target it can be reached.
struct Rounded(f64);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ((self.0 * 1e4).ceil() / 1e4).fmt(f)
    }
}

/// What cannot be stored, and what can be done about it.
struct Refusals<'a>(&'a [Refused]);

impl fmt::Display for Refusals<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [Refused { place, form, cause }] = self.0 {
            write!(f, "{place} cannot be stored as {form}: {cause}")?;
        } else {
            write!(f, "{} weights have values that their new form cannot hold:", self.0.len())?;
            for Refused { place, form, cause } in self.0 {
                write!(f, "\n  {place}, {form}: {cause}")?;
            }
            f.write_str("\n")?;
        }
        let overflows = self.0.iter().any(|refused| matches!(refused.cause, QuantizeError::Float16Range { .. }));
        f.write_str(match (overflows, self.0.len()) {
            (true, 1) => {
                "; folding batchnorm, scale and bias layers first may bring it into range (with_fold), else it "
            }
            (true, _) => {
                "folding batchnorm, scale and bias layers first may bring them into range (with_fold), else they "
            }
            (false, 1) => "; it ",
            (false, _) => "they ",
        })?;
        f.write_str("can be kept as before (with_fallback) or left out (with_selector)")
    }
}

/// Allowed counts in words.
struct Counts<'a>(&'a [usize]);

impl fmt::Display for Counts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, count) in self.0.iter().enumerate() {
            write!(f, "{}{count}", if index == 0 { "" } else { " or " })?;
        }
        f.write_str(" expected")
    }
}

/// Where a message is, unless it is the outermost.
struct In<'a>(&'a str);

impl fmt::Display for In<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " in {}", self.0) }
    }
}
