//! Quantizes the weights of Core ML models, neural networks (`.mlmodel`) and ML Programs (`.mlpackage`): to 16, 8 or down
//! to 1 bit.
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

#[cfg(feature = "predict")]
mod calibrate;
mod error;
#[cfg(feature = "predict")]
pub mod evaluate;
mod fold;
mod format;
mod inspect;
mod kernels;
mod model;
mod network;
mod planner;
#[cfg(feature = "predict")]
pub mod predict;
mod program;
mod quantize;
mod quantizer;
mod weight;

#[cfg(feature = "predict")]
pub use calibrate::{Calibration, CalibrationProgress};
pub use error::{
    BlobError, ConfigError, Error, FormError, ManifestError, NotAModel, Place, QuantizeError, Refused, ShapeError,
    ValueError, WeightError, WeightProblem,
};
pub use fold::{Fold, FoldReason, FoldReport, Folded, NotFolded, fold, fold_except};
pub use format::dtype::Dtype;
pub use format::form::{Nbits, ProgramForm, StoredForm};
pub use format::{layer_type, layer_types, model_type, proto, weight_params};
pub use inspect::{Finding, LayerSurvey, Subject, Violation, WeightSurvey, check, compare};
pub use model::{ClassLabels, DecodeOptions, Metadata, Model, Package, SaveOptions};
pub use network::mean_image::{MeanImage, MeanImageObstacle};
pub use network::uses::ValueUse;
pub use planner::{Planner, Target};
pub use program::{DeploymentTarget, Granularity, Pruning, PruningError, UnknownGranularity, UnknownTarget};
pub use quantize::calibration_report::{
    Agreement, CalibratedWeight, CalibrationReport, CalibrationWarning, NotCalibrated,
};
pub use quantize::config::{Biases, Mode, Progress, QuantConfig};
pub use quantize::method::Method;
pub use quantize::plan::{Plan, PlannedWeight};
pub use quantize::report::{LayerDistortion, Outcome, Reason, Report, Totals, WeightReport};
pub use quantize::selector::{
    AdvancedSelector, And, DefaultSelector, LayerSelector, MatMulSelector, Not, Pattern, WeightInfo,
};
pub use quantize::{Quantized, preview, quantize_to_file, quantize_weights};
pub use quantizer::{
    CustomLut, Dequantize, Float16, Int8, KmeansLut, Levels, Linear, LinearLut, LinearRange, LinearSymmetric, Needs,
    Prune, QuantizeContext, Quantizer, Statistics, SymmetricBits,
};
pub use weight::distortion::Distortion;
pub use weight::{Blocks, Codes, Payload, WeightSpec, WeightView};
