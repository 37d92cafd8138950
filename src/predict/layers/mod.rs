//! The layers that have weights or windows, prepared once and run often. One file a family.
//!
//! Numbers: float32 in and out; sums in float32 as the engine makes them, statistics in float64.

mod constant;
mod convolution;
mod embedding;
mod normalization;
mod pooling;
mod product;
mod recurrent;
pub(crate) mod uncertain;
mod values;

use std::fmt;

use crate::format::proto::NeuralNetworkLayer;
use crate::format::proto::activation_params::NonlinearityType;
use crate::format::proto::neural_network_layer::Layer;

use super::engine::Geometry;
use super::tensor::{LayerError, Tensor};
use super::weights::{UnreadableWeight, Weights};

/// A layer whose weights are decoded.
pub(crate) trait Prepared: fmt::Debug + Send + Sync {
    /// The outputs for these inputs. A result of more than `limits.max_values` values is an error.
    fn eval(&self, inputs: &[Tensor], limits: Limits) -> Result<Vec<Tensor>, LayerError>;

    /// For convolutions on such an input, their sizes, and whether they are transposed: then these are the sizes of the
    /// convolution whose transpose it is.
    fn windows(&self, _input: &Tensor) -> Option<(Geometry, bool)> {
        None
    }

    /// For recurrent layers, the length of a state: inputs from the second on may be missing, which means zeros.
    fn state_len(&self) -> Option<usize> {
        None
    }

    /// Which statement of [`uncertain`] it needs.
    fn note(&self) -> Option<&'static str> {
        None
    }
}

/// What a layer may make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How many outputs the layer has.
    pub output_count: usize,
    /// The most values a blob may have.
    pub max_values: usize,
}

/// Why a layer cannot be prepared.
#[derive(Debug)]
pub(crate) enum PrepareError {
    /// A weight cannot be read.
    Weight(UnreadableWeight),
    /// A parameter makes no sense.
    Layer(LayerError),
}

impl From<UnreadableWeight> for PrepareError {
    fn from(error: UnreadableWeight) -> Self {
        Self::Weight(error)
    }
}

impl From<LayerError> for PrepareError {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}

/// Prepares a layer; `None` for those that have neither weights nor windows.
pub(crate) fn prepare(layer: &NeuralNetworkLayer) -> Result<Option<Box<dyn Prepared>>, PrepareError> {
    let weights = Weights::of(layer);
    let Some(kind) = &layer.layer else { return Ok(None) };
    let inputs = layer.input.len();
    Ok(Some(match kind {
        Layer::Convolution(p) => Box::new(convolution::Convolution::flat(p, &weights, inputs)?),
        Layer::Convolution3d(p) => Box::new(convolution::Convolution::deep(p, &weights)?),
        Layer::Pooling(p) => Box::new(pooling::Pool::flat(p)?),
        Layer::Pooling3d(p) => Box::new(pooling::Pool::deep(p)?),
        Layer::GlobalPooling3d(p) => Box::new(pooling::Pool::global(p)),
        Layer::InnerProduct(p) => Box::new(product::InnerProduct::new(p, &weights)?),
        Layer::BatchedMatmul(p) if inputs > 1 => Box::new(product::MatrixProduct::new(p)),
        Layer::BatchedMatmul(p) => Box::new(product::InnerProduct::of_matrix(p, &weights)?),
        Layer::Embedding(p) => Box::new(embedding::Embedding::legacy(p, &weights)?),
        Layer::EmbeddingNd(p) => Box::new(embedding::Embedding::nd(p, &weights)?),
        Layer::Batchnorm(p) => Box::new(normalization::BatchNorm::new(p, &weights)?),
        Layer::LayerNormalization(p) => Box::new(normalization::LayerNorm::new(p, &weights)?),
        Layer::Scale(p) => Box::new(constant::Affine::scale(p, &weights)?),
        Layer::Bias(p) => Box::new(constant::Affine::bias(p, &weights)?),
        Layer::LoadConstant(p) => Box::new(constant::Constant::legacy(p, &weights)?),
        Layer::LoadConstantNd(p) => Box::new(constant::Constant::nd(p, &weights)?),
        Layer::SimpleRecurrent(p) => Box::new(recurrent::Recurrent::simple(p, &weights)?),
        Layer::Gru(p) => Box::new(recurrent::Recurrent::gru(p, &weights)?),
        Layer::UniDirectionalLstm(p) => Box::new(recurrent::Recurrent::lstm(p, &weights)?),
        Layer::BiDirectionalLstm(p) => Box::new(recurrent::Recurrent::both_ways(p, &weights)?),
        Layer::Activation(p) => match &p.nonlinearity_type {
            Some(NonlinearityType::PReLu(_)) => Box::new(constant::Prelu::new(&weights)?),
            Some(NonlinearityType::ParametricSoftplus(_)) => Box::new(constant::ParametricSoftplus::new(&weights)?),
            _ => return Ok(None),
        },
        _ => return Ok(None),
    }))
}
