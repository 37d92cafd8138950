//! What quantizing does to a network, measured on samples.
//!
//! [`compare_outputs`] holds two models of one network against each other: their outputs, and where in the network the
//! difference arises. [`sensitivity`] tells what each weight can bear, and [`search`] finds the smallest model that is good
//! enough. [`Samples`] are what they are run on: pictures, arrays, lines of JSON, or drawn.
//!
//! ```
//! use coreml_quant::evaluate::{CompareOptions, Samples, compare_outputs};
//! use coreml_quant::{Model, QuantConfig, quantize_weights};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/digits/digits.mlmodel");
//! let model = Model::open(path)?;
//! let quantized = quantize_weights(&model, &QuantConfig::kmeans_lut(4)?)?.model;
//! let samples = Samples::synthetic(&model, 16, 0)?;
//! let report = compare_outputs(&model, &quantized, &samples, &CompareOptions::new().with_per_layer(true))?;
//! println!("{report}");
//! # Ok(())
//! # }
//! ```

mod error;
mod layers;
mod outputs;
mod report;
mod samples;
mod search;
mod sensitivity;
mod statistics;

pub use error::{EvaluateError, Which};
pub use outputs::{CompareOptions, EvaluateProgress, compare_outputs};
pub use report::{ClassComparison, Flip, LayerComparison, OutputComparison, OutputReport, WorstSample};
#[cfg(feature = "images")]
pub use samples::Fit;
pub use samples::{Sample, Samples};
pub use search::{Candidate, Found, Goal, SearchOptions, SearchReport, search};
pub use sensitivity::{Damage, Sensitivity, SensitivityOptions, WeightSensitivity, sensitivity};
pub use statistics::{Difference, Proportion};
