//! Quantization that looks at what a weight does: codes and grids chosen by the outputs on samples.
//!
//! | room | what is there |
//! |---|---|
//! | [`moments`] | inputs of a weight at some positions, their means and second moments: the metric |
//! | [`target`] | what quantized weights should be near, given the errors of earlier layers |
//! | [`levels`] | the values codes stand for |
//! | [`start`] | a first grid |
//! | [`descent`] | codes, one column after the other |
//! | [`refit`] | the best grid for given codes |
//! | [`matrix`] | all of it, for one weight |
//! | [`dense`] | products and factors of matrices |
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
mod accuracy;
#[cfg(test)]
mod tests;

pub(crate) use levels::Grid;
pub(crate) use matrix::{Calibrated, Coded, Errors, Method, calibrate_matrix};
pub(crate) use moments::{Inputs, Stats, generator, some_positions};
pub(crate) use network::{Overrides, calibrate};
pub use samples::{Calibration, Sample};
pub(crate) use sensitivity::sensitivities;
