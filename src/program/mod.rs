//! ML Programs: typed operations whose weights lie in a file beside the model, and the forms in which they are compressed.

pub(crate) mod blobs;
pub(crate) mod value;

pub use opset::{DeploymentTarget, UnknownTarget};
pub use recipe::{Granularity, Pruning, PruningError, Recipe, UnknownGranularity};

mod axes;
pub(crate) mod encode;
pub(crate) mod evaluate;
pub(crate) mod form;
mod graph;
mod operations;
pub(crate) use operations::name as operation_name;

pub(crate) mod opset;
pub(crate) mod raise;
pub(crate) mod recipe;
pub(crate) mod rewrite;
pub(crate) mod weights;
