//! Runs neural networks on any OS: the CPU reference of the format.
//!
//! What a layer means stands here, one file a family of layers; which weights it has stands in the table of layers.

pub(crate) mod engine;
pub(crate) mod layers;
pub(crate) mod ops;
mod tensor;
mod weights;

pub use tensor::LayerError;
pub(crate) use tensor::Tensor;
