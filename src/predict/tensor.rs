//! What flows between layers, and what can be wrong with it.

use ndarray::{ArcArray, IxDyn};
use thiserror::Error;

/// The value of a blob: float32, row-major once it is made standard. Clones share memory.
pub type Tensor = ArcArray<f32, IxDyn>;

/// Why a layer cannot be computed. The caller adds the layer's place.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The layer has another number of inputs than it reads.
    #[error("{found} inputs, {expected} expected")]
    InputCount {
        /// How many there are.
        found: usize,
        /// How many the layer reads, in words.
        expected: &'static str,
    },
    /// An input has a shape that the layer does not take.
    #[error("input {input} has the shape {found:?}, {expected} expected")]
    InputShape {
        /// The input's index.
        input: usize,
        /// Its shape.
        found: Vec<usize>,
        /// What the layer takes, in words.
        expected: String,
    },
    /// Shapes of inputs that do not fit each other.
    #[error("the shapes {shapes:?} do not fit each other{hint}")]
    Shapes {
        /// The shapes.
        shapes: Vec<Vec<usize>>,
        /// Why, in words, with a leading separator; may be empty.
        hint: String,
    },
    /// A parameter of the layer makes no sense for its inputs.
    #[error("{name} is {found}, {expected} expected")]
    Parameter {
        /// The field's name in the format.
        name: &'static str,
        /// Its value.
        found: String,
        /// What would make sense, in words.
        expected: String,
    },
    /// An index among the values of an input is out of range.
    #[error("index {found} is out of range, {len} values can be reached")]
    Index {
        /// The index.
        found: f64,
        /// How many values there are to choose from.
        len: usize,
    },
    /// The result would have too many values.
    #[error("the result would have the shape {shape:?}, more than {limit} values")]
    TooLarge {
        /// The shape it would have.
        shape: Vec<usize>,
        /// The most values a blob may have.
        limit: usize,
    },
    /// The layer, or what its parameters ask for, cannot be run.
    #[error("{what} cannot be run")]
    Unsupported {
        /// The layer or feature, in words.
        what: String,
    },
}
