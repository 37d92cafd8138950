//! Quantizes the weights of Core ML neural-network models (`.mlmodel`): float32 to 16, 8 or down to 1 bit.
//!
//! ```no_run
//! use coreml_quant::{Model, QuantConfig, quantize_weights};
//!
//! # fn main() -> Result<(), coreml_quant::Error> {
//! let model = Model::open("MobileNet.mlmodel")?;
//! let quantized = quantize_weights(&model, &QuantConfig::kmeans_lut(4)?)?;
//! quantized.model.save("MobileNet-4bit.mlmodel")?;
//! println!("{}", quantized.report);
//! # Ok(())
//! # }
//! ```
//!
//! A [`QuantConfig`] says how ([`Quantizer`]) and which weights ([`LayerSelector`]). What comes out is a model that
//! Core ML loads: what its rules do not allow is left as it was, and the [`Report`] says why.
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)
)]

mod check;
mod compare;
mod config;
mod decode;
mod error;
mod fold;
mod kernels;
mod kmeans;
mod layer_type;
mod layers;
mod measure;
mod method;
mod mixed;
mod model;
mod package;
mod plan;
#[cfg(feature = "predict")]
#[allow(dead_code, unused_imports, reason = "the executor is being written")]
pub mod predict;
mod program;
pub mod proto;
mod quantize;
mod quantizer;
mod report;
mod save;
mod selector;
mod stored;
mod survey;
mod walk;
pub mod weight_params;
mod wire;

pub use check::{Finding, Subject, Violation, check};
pub use compare::compare;
pub use config::{Mode, Progress, QuantConfig};
pub use decode::DecodeOptions;
pub use error::{ConfigError, Error, NotAModel, Place, QuantizeError, ShapeError, WeightError};
pub use fold::{Fold, FoldReason, FoldReport, Folded, NotFolded, fold};
pub use layer_type::layer_type;
pub use measure::Distortion;
pub use method::Method;
pub use mixed::{Plan, PlannedWeight, Planner, Target};
pub use model::Model;
pub use package::{ManifestError, Package};
pub use program::{BlobError, DeploymentTarget, Dtype, FormError, Granularity, Pruning, PruningError, UnknownGranularity, UnknownTarget, ValueError, WeightProblem};
pub use quantize::{Quantized, quantize_to_file, quantize_weights};
pub use quantizer::{
    Buffers, Codes, CustomLut, Dequantize, Float16, Int8, KmeansLut, Linear, LinearLut, LinearRange, LinearSymmetric,
    QuantizedWeight, Quantizer, WeightView,
};
pub use report::{LayerDistortion, Outcome, Reason, Report, Totals, WeightReport};
pub use save::SaveOptions;
pub use selector::{AdvancedSelector, And, DefaultSelector, LayerSelector, MatMulSelector, WeightInfo};
pub use stored::{Nbits, StoredForm};
pub use survey::{LayerSurvey, WeightSurvey};
