//! The Core ML model format as Rust types, generated from `proto/` by `prost`.
//!
//! Field names are the format's own in snake case; the comments in `proto/` say what matters for weights.
//! One type is written by hand: [`WeightParams`](core_ml::specification::WeightParams) keeps its floats as the bytes
//! of the file, see [`crate::weight_params`].
#![allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]

include!(concat!(env!("OUT_DIR"), "/schema.rs"));

pub use core_ml::specification::*;

pub use crate::weight_params::WeightParams;
