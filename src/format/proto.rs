//! The Core ML model format as Rust types, generated from `proto/` by `prost`.
//!
//! Field names are the format's own in snake case; the comments in `proto/` say what matters for weights.
//! One type is written by hand: [`WeightParams`](core_ml::specification::WeightParams) keeps its floats as the bytes
//! of the file, see [`crate::format::weight_params`].
//!
//! These types follow the schema: a field that Core ML adds to its format is added here in a minor version.
#![allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]

include!("generated/types.rs");

pub use core_ml::specification::*;

pub use crate::format::weight_params::WeightParams;
