//! embedding and embeddingND: token `t` is column `t` of a matrix `[size, vocabulary]`.
//!
//! Tokens are floats and are truncated toward zero; a token outside the vocabulary is an error.

use crate::format::proto::{EmbeddingLayerParams, EmbeddingNdLayerParams};
use crate::predict::tensor::{LayerError, Tensor};
use crate::predict::weights::Weights;

use super::values::{result_len, row_major, single, size, tensor, wrong_shape};
use super::{Limits, PrepareError, Prepared};

/// An embedding of either kind.
#[derive(Debug)]
pub(super) struct Embedding {
    vocabulary: usize,
    size: usize,
    weights: Vec<f32>,
    bias: Option<Vec<f32>>,
    /// Whether the embedding goes along the channels, third from the last, or along the last axis.
    along_channels: bool,
}

impl Embedding {
    pub(super) fn legacy(p: &EmbeddingLayerParams, weights: &Weights<'_>) -> Result<Self, PrepareError> {
        Ok(Self {
            vocabulary: size("inputDim", p.input_dim)?,
            size: size("outputChannels", p.output_channels)?,
            weights: weights.require("weights")?,
            bias: weights.get("bias")?,
            along_channels: true,
        })
    }

    pub(super) fn nd(p: &EmbeddingNdLayerParams, weights: &Weights<'_>) -> Result<Self, PrepareError> {
        Ok(Self {
            vocabulary: size("vocabSize", p.vocab_size)?,
            size: size("embeddingSize", p.embedding_size)?,
            weights: weights.require("weights")?,
            bias: weights.get("bias")?,
            along_channels: false,
        })
    }
}

impl Prepared for Embedding {
    fn eval(&self, inputs: &[Tensor], limits: Limits) -> Result<Vec<Tensor>, LayerError> {
        let input = single(inputs)?;
        let inner = if self.along_channels { 3 } else { 1 };
        let outer = input.ndim().checked_sub(inner);
        let mut shape = input.shape().to_vec();
        let axis = outer.filter(|&outer| shape[outer..].iter().all(|&len| len == 1)).ok_or_else(|| {
            let expected = if self.along_channels { "three axes of 1 at the end" } else { "a last axis of 1" };
            wrong_shape(0, input, expected)
        })?;
        shape[axis] = self.size;
        let mut out = Vec::with_capacity(result_len(&shape, limits.max_values)?);
        for &token in row_major(input).iter() {
            let index = token.trunc();
            if !(index >= 0.0 && (index as usize) < self.vocabulary) {
                return Err(LayerError::Index { found: token.into(), len: self.vocabulary });
            }
            let column = self.weights.iter().skip(index as usize).step_by(self.vocabulary);
            match &self.bias {
                Some(bias) => out.extend(column.zip(bias).map(|(weight, bias)| weight + bias)),
                None => out.extend(column),
            }
        }
        Ok(vec![tensor(&shape, out)?])
    }
}
