//! ML Programs: typed operations whose weights lie in a file beside the model, and the forms in which they are compressed.

mod blobs;
mod dtype;
mod value;

pub use blobs::BlobError;
pub use dtype::Dtype;
pub use opset::{DeploymentTarget, UnknownTarget};
pub use recipe::{Granularity, Pruning, PruningError, UnknownGranularity};
pub use value::ValueError;

mod axes;
mod evaluate;
mod form;
mod graph;
mod opset;
mod recipe;
mod rewrite;

use thiserror::Error;

/// Why a weight cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WeightProblem {
    /// A value of it cannot be read.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// Its operation does not say how to decompress it.
    #[error(transparent)]
    Form(#[from] FormError),
}

/// What is wrong with the form of a compressed weight.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormError {
    /// There is no such form.
    #[error("{operation} is no form of a weight that is known")]
    Operation {
        /// The operation's type.
        operation: String,
    },
    /// More operations feed each other than any form has.
    #[error("too many constexpr operations feed each other")]
    Chain,
    /// A parameter does not fit the others.
    #[error("{parameter} does not fit the other parameters")]
    Parameter {
        /// Its name.
        parameter: &'static str,
    },
    /// A parameter is of a type that the form does not have.
    #[error("elements of type {found} are not allowed here")]
    Type {
        /// The type.
        found: Dtype,
    },
    /// A mask keeps another number of elements than there are.
    #[error("the mask keeps {ones} elements, {found} are stored")]
    Ones {
        /// The ones of the mask.
        ones: usize,
        /// The elements that are stored.
        found: usize,
    },
    /// The output's stated type is not what comes out.
    #[error("{operation} gives the shape {found:?}, its output states {expected:?}, or another element type")]
    Output {
        /// The operation's type.
        operation: String,
        /// The shape that comes out.
        found: Vec<usize>,
        /// The shape that is stated.
        expected: Vec<usize>,
    },
}
