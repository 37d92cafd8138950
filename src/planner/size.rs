//! How many bytes the weights of a layer take in the file, to the byte.
//!
//! Every message states its length in one to five bytes before it, and a layer lies in several. So a layer is encoded
//! with holes for its weights, whose lengths can be set: what comes out is what will be written.

use std::sync::Arc;

use prost::Message;

use crate::format::form::StoredForm;
use crate::format::proto::{NeuralNetworkLayer, WeightParams};
use crate::format::weight_params::Hole;
use crate::network::{layers, rules};
use crate::quantize::sites::Site;

/// A layer of which the lengths of the weights can be set.
#[derive(Debug)]
pub(super) struct LayerSize {
    layer: NeuralNetworkLayer,
    /// One for each of the weights.
    holes: Vec<Arc<Hole>>,
    /// Whether the layer quantizes its activations, which ends when its int8 weight does.
    int8: Option<bool>,
}

impl LayerSize {
    /// The layer, and the weights of it that count.
    pub(super) fn new(layer: &NeuralNetworkLayer, weights: &[Site<'_>]) -> Self {
        let mut layer = layer.clone();
        let holes: Vec<Arc<Hole>> = weights.iter().map(|site| Arc::new(Hole::new(site.params.encoded_len()))).collect();
        for weight in layers::weights_mut(&mut layer) {
            let hole = weights.iter().zip(&holes).find(|(site, _)| site.place.field == weight.field);
            if let (Some(params), Some((_, hole))) = (weight.params, hole) {
                *params = WeightParams::hole(hole);
            }
        }
        let int8 = rules::int8_dynamic(&layer).map(|int8| int8.enabled);
        let int8 = int8.filter(|_| weights.iter().any(|site| site.before == StoredForm::Int8));
        Self { layer, holes, int8 }
    }

    /// The bytes of the layer with weights of these lengths, the layer's own length included. `requantized`: whether a
    /// weight that was int8 is not any more.
    pub(super) fn bytes(&mut self, lens: impl IntoIterator<Item = usize>, requantized: bool) -> u64 {
        for (hole, len) in self.holes.iter().zip(lens) {
            hole.set_len(len);
        }
        if let Some(enabled) = self.int8 {
            rules::set_int8_dynamic(&mut self.layer, enabled && !requantized);
        }
        let len = self.layer.encoded_len();
        (len + prost::length_delimiter_len(len)) as u64
    }
}
