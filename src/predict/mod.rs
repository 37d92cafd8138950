//! Runs neural networks on any OS: the CPU reference of the format.
//!
//! What a layer means stands here, one file a family of layers; which weights it has stands in the table of layers.

mod description;
pub(crate) mod engine;
mod error;
mod features;
pub(crate) mod layers;
mod members;
pub(crate) mod network;
pub(crate) mod network_model;
pub(crate) mod ops;
mod predictor;
mod support;
mod tensor;
mod weights;

pub use description::{FeatureInfo, FeatureKind, Sizes};
pub use error::{LayerInfo, PredictError};
pub use features::{ColorOrder, Features, Image, Value};
pub use network::{CustomLayer, Precision};
pub use predictor::{Predictor, StandIn};
pub use support::{LayerSupport, support, uncertain};
pub use tensor::{LayerError, Tensor};
