//! The layers without weights: pure functions from inputs and parameters to outputs, a file a family.
//!
//! Values are float32; sums and formulas are computed in float64 where it costs nothing that matters, and rounded
//! once. Booleans are 0 and 1, and anything but zero is true. Indices are floats and are truncated towards zero.
//! What comes out is row-major. Nothing depends on the number of threads.

use rand_pcg::Pcg64;

use super::tensor::{LayerError, Tensor};
use crate::proto::neural_network_layer::Layer;

/// What a layer needs beside its inputs and parameters.
pub(crate) struct Context {
    /// How many outputs the layer names.
    pub output_count: usize,
    /// The most values a blob may have.
    pub max_values: usize,
    /// The state of the layers that draw numbers; each draws once from it, so that what a layer gives depends on the
    /// seed, on its own `seed` and on how many such layers ran before it.
    pub random: Pcg64,
    /// Which statements of [`uncertain`] were used, in order, each once.
    pub notes: Vec<&'static str>,
}

impl Context {
    /// Remembers that something uncertain was computed.
    pub(crate) fn note(&mut self, what: &'static str) {
        if !self.notes.contains(&what) {
            self.notes.push(what);
        }
    }
}

/// The layer's outputs; `None` for layers with weights, control flow and custom layers, which are computed elsewhere.
pub(crate) fn eval(_layer: &Layer, _inputs: &[Tensor], _cx: &mut Context) -> Option<Result<Vec<Tensor>, LayerError>> {
    None
}
