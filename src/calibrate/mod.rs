//! Quantization that looks at what a weight does: codes and grids chosen by the outputs on samples.
//!
//! | room | what is there |
//! |---|---|
//! | [`samples`] | what calibration runs on |
//! | [`synthetic`] | samples where there are none |
//! | [`network`] | the walk through the float network and the quantized one |
//! | [`layer`] | the weights of a layer |
//! | [`gather`] | which inputs a weight meets |
//! | [`moments`] | inputs of a weight at some positions, their means and second moments: the metric |
//! | [`target`] | what quantized weights should be near, given the errors of earlier layers |
//! | [`levels`] | the values codes stand for |
//! | [`start`] | a first grid |
//! | [`descent`] | codes, one column after the other |
//! | [`refit`] | the best grid for given codes |
//! | [`matrix`] | all of it, for one weight |
//! | [`dense`] | products and factors of matrices |
//! | [`sensitivity`] | how much each weight's error matters to the network's outputs |
//!
//! Deterministic: the same inputs give the same bytes on any number of threads of the same kind of processor.

mod dense;
mod descent;
mod gather;
mod layer;
mod levels;
mod matrix;
mod moments;
mod network;
mod refit;
mod samples;
mod sensitivity;
mod start;
mod synthetic;
mod target;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use samples::{Calibration, CalibrationProgress};
pub(crate) use sensitivity::sensitivities;
pub(crate) use synthetic::{dead_leaves, tokens, vocabulary};

use crate::quantize::config::QuantConfig;

impl QuantConfig {
    /// Chooses codes, scales and tables of the modes linear, linear_symmetric and kmeans_lut, and of quantizers that ask
    /// for statistics, by the outputs of each layer on samples instead of by the weights alone; the biases of their
    /// layers are corrected to match, and become float16. Default: by the weights alone.
    ///
    /// A weight for which nothing better is found is stored as without samples, and so is what calibration cannot
    /// reach: [`CalibrationReport`](crate::CalibrationReport) says which, and why.
    #[must_use]
    pub fn with_calibration(mut self, calibration: Calibration) -> Self {
        self.chooser = Some(Arc::new(calibration));
        self
    }
}
