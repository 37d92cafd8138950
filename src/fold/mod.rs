//! Folding: a batchnorm, scale or bias layer becomes part of the layer before it, which leaves fewer weights, fewer
//! layers and fewer roundings.
//!
//! `scale * (W x + b) + shift` is one product with `scale * W` and the bias `scale * b + shift`. All of it is computed in
//! float64, a whole chain of layers at once, and rounded to float32 once.
//!
//! A fold is made only where it provably changes nothing but that rounding:
//!
//! - What lies between the two layers is read once in the whole model, branches and loops included, written once, and
//!   no output. Names are counted, not followed: a blob that a branch reads or overwrites is never folded away.
//! - The joined layer takes the place of the second one, so that whatever happens to its output's name in between
//!   still happens before; the first one's input must be the same there.
//! - The second layer works along the output channels of the first. Batchnorm, scale and bias go along the third axis
//!   from the end; `[1, 1, n]` along the last. A convolution's channels are the third axis from the end, those of a
//!   three-dimensional convolution the fourth, of a matrix product the last. An inner product's depend on the rank of
//!   its input. A single value fits everywhere.

mod affine;
mod blobs;
mod report;
mod target;
mod values;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use rayon::prelude::*;

use crate::error::Error;
use crate::format::layer_type;
use crate::format::proto::neural_network_layer::Layer;
use crate::format::proto::{self, NeuralNetworkLayer, WeightParams};
use crate::model::Model;
use crate::model::walk;
use crate::network::layers;

use affine::Affine;
use blobs::Blobs;
pub use report::{Fold, FoldReason, FoldReport, NotFolded};
use target::{Rank, Target, is_target, takes};

/// A model with fewer layers that computes the same, and what was folded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Folded {
    /// The model; weights that were not folded share their memory with the original.
    pub model: Model,
    /// What was folded into what.
    pub report: FoldReport,
}

/// Folds batchnorm, scale and bias layers into the layers before them, in every network of a model. The original stays
/// as it is.
///
/// What the layers take up:
///
/// - `convolution` (grouped, depthwise, dilated or transposed), `convolution3d`, `innerProduct` and one-input
///   `batchedMatmul`: a batchnorm with stored statistics, a scale, a bias;
/// - `batchnorm`: a scale, a bias;
/// - `scale`: a bias.
///
/// The weights of a layer that took something up are stored in float32, whatever they were before. A layer keeps its
/// name; its output is that of the last layer folded into it.
///
/// Nothing is folded where the result could differ by more than rounding, or where on-device training, quantized weights
/// or values beyond float32 are in the way: [`FoldReason`] lists the cases.
///
/// # Errors
///
/// [`Error::NoNetwork`] if the model has no neural network.
pub fn fold(model: &Model) -> Result<Folded, Error> {
    fold_except(model, |_, _| false)
}

/// As [`fold`], with layers that stay exactly as they are: those for which `keeps` says so, given the path of their
/// network and the layer, are neither folded into another one nor take one up.
///
/// # Errors
///
/// [`Error::NoNetwork`] if the model has no neural network.
pub fn fold_except(model: &Model, mut keeps: impl FnMut(&str, &NeuralNetworkLayer) -> bool) -> Result<Folded, Error> {
    model.require_network()?;
    let mut kept = BTreeSet::new();
    walk::each_layer(model.proto(), &mut |at, layer| {
        if keeps(at.network, layer) {
            kept.insert(at.index);
        }
    });
    let (model, report) = fold_proto(model.proto(), &kept);
    Ok(Folded { model: Model::from_proto(model), report })
}

/// As [`fold_except`], on the message, with the indices of the layers that stay as they are.
pub(crate) fn fold_proto(model: &proto::Model, kept: &BTreeSet<usize>) -> (proto::Model, FoldReport) {
    let mut folded = model.clone();
    let mut report = FoldReport::default();
    let mut index = 0;
    walk::change_networks(&mut folded, walk::ROOT, &mut |path, model| {
        let blobs = Blobs::of(model);
        if let Some((layers, _)) = walk::network_mut(model) {
            let mut folder = Folder { blobs, step: 0, kept, index, report: &mut report };
            folder.fold_network(&path.into(), layers);
            index = folder.index;
        }
        // Folding needs no newer version.
        0
    });
    (folded, report)
}

/// Whether a model has any layer that could be folded into another: if not, there is no need to copy it.
pub(crate) fn has_foldable(model: &proto::Model) -> bool {
    let mut found = false;
    walk::each_layer(model, &mut |_, layer| {
        found |= matches!(layer.layer, Some(Layer::Batchnorm(_) | Layer::Scale(_) | Layer::Bias(_)));
    });
    found
}

/// Folds the networks of one model.
struct Folder<'r> {
    blobs: Blobs,
    /// Counts the layers as they are passed, from 1, those inside branches and loops before the layer around them.
    step: usize,
    /// The layers that stay as they are, by their index among all layers of the model.
    kept: &'r BTreeSet<usize>,
    /// The index of the next layer.
    index: usize,
    report: &'r mut FoldReport,
}

/// A layer of the folded network.
struct Slot {
    /// `None` once the layer has moved to the place of the one folded into it.
    layer: Option<NeuralNetworkLayer>,
    /// What is to become of its weights, once something is folded into it.
    target: Option<Target>,
    /// The step from which on its inputs must stay.
    step: usize,
    /// The layer's name.
    name: Arc<str>,
    /// How many layers were folded into it.
    folds: usize,
    /// Whether it stays as it is.
    kept: bool,
}

/// Numbers that folding into one layer computes at most: a chain of thousands of layers over thousands of channels. A
/// file that asks for more was made to waste time.
const MAX_WORK: usize = 1 << 24;

impl Folder<'_> {
    fn fold_network(&mut self, path: &Arc<str>, layers: &mut Vec<NeuralNetworkLayer>) {
        let mut slots: Vec<Slot> = Vec::with_capacity(layers.len());
        // The slot of the layer that wrote a blob last, of those that take others up.
        let mut writers: HashMap<String, usize> = HashMap::new();
        for mut layer in layers.drain(..) {
            let name: Arc<str> = layer.name.as_str().into();
            let kept = self.kept.contains(&self.index);
            self.index += 1;
            for (field, inner) in walk::inner_networks_mut(&mut layer) {
                self.fold_network(&walk::inner_path(path, &name, field).into(), &mut inner.layers);
            }
            self.step += 1;
            let before = layer.input.first().and_then(|input| writers.get(input)).copied();
            let step = self.step;
            let next = Slot { layer: Some(layer), target: None, step, name, folds: 0, kept };
            let slot = match before.filter(|&before| self.try_fold(path, &mut slots[before], &next)) {
                Some(before) => slots[before].joined_with(next),
                None => next,
            };
            if let Some(layer) = &slot.layer {
                self.blobs.written_by(layer, self.step);
                for output in &layer.output {
                    if is_target(layer) {
                        writers.insert(output.clone(), slots.len());
                    } else {
                        writers.remove(output);
                    }
                }
            }
            slots.push(slot);
        }
        self.finish(slots, layers);
    }

    /// Adds a layer to the one before it, and reports on that if the two are of the right kinds. Returns whether it was
    /// added.
    fn try_fold(&mut self, path: &Arc<str>, before: &mut Slot, next: &Slot) -> bool {
        let (Some(target), Some(layer)) = (&before.layer, &next.layer) else { return false };
        if !takes(target, layer) {
            return false;
        }
        let fold = Fold {
            network: Arc::clone(path),
            layer: Arc::clone(&next.name),
            layer_type: layer_type(layer).unwrap_or_default(),
            into: Arc::clone(&before.name),
            into_type: layer_type(target).unwrap_or_default(),
        };
        let kept = if before.kept || next.kept { Err(FoldReason::Skipped) } else { Ok(()) };
        let result = kept.and_then(|()| self.check(target, before, layer)).and_then(|()| {
            let affine = Affine::of(layer)?;
            match &mut before.target {
                Some(target) => target.fold(&affine),
                None => {
                    let mut new = Target::of(target, self.rank(target, layer))?;
                    new.fold(&affine)?;
                    before.target = Some(new);
                    Ok(())
                }
            }
        });
        match result {
            Ok(()) => {
                self.report.bytes_before += weight_bytes(layer);
                self.report.folds.push(fold);
            }
            Err(reason) => self.report.not_folded.push(NotFolded { candidate: fold, reason }),
        }
        result.is_ok()
    }

    /// Whether the two layers can be joined in the place of the second, as far as that depends on the network around
    /// them.
    fn check(&self, first: &NeuralNetworkLayer, slot: &Slot, second: &NeuralNetworkLayer) -> Result<(), FoldReason> {
        let channels = slot.target.as_ref().map_or(1, Target::channels);
        if slot.folds.saturating_mul(channels) >= MAX_WORK {
            return Err(FoldReason::TooMany);
        }
        if matches!(first.layer, Some(Layer::Convolution(_) | Layer::BatchedMatmul(_))) && first.input.len() > 1 {
            return Err(FoldReason::DynamicWeights);
        }
        let ([input], [between], [_], [output]) =
            (&first.input[..], &first.output[..], &second.input[..], &second.output[..])
        else {
            return Err(FoldReason::Connections);
        };
        let usage = self.blobs.get(between);
        if usage.writes != 1 {
            return Err(FoldReason::WrittenTwice);
        }
        if usage.is_output {
            return Err(FoldReason::Output);
        }
        if usage.reads != 1 {
            return Err(FoldReason::ReadElsewhere);
        }
        if self.blobs.is_named(first) || self.blobs.is_named(second) {
            return Err(FoldReason::Output);
        }
        if self.blobs.get(input).last_write >= slot.step || input == output {
            return Err(FoldReason::InputOverwritten);
        }
        if layers::is_updatable(first) || layers::is_updatable(second) {
            return Err(FoldReason::Updatable);
        }
        Ok(())
    }

    /// The rank of the array between two layers.
    fn rank(&self, first: &NeuralNetworkLayer, second: &NeuralNetworkLayer) -> Rank {
        let stated = first.output_tensor.first().or(second.input_tensor.first()).map(|tensor| tensor.rank);
        match stated {
            Some(rank) if rank > 0 => Rank::Known(rank),
            _ if self.blobs.has_rank_5 => Rank::WithHeightAndWidth,
            _ => Rank::Unknown,
        }
    }

    /// Computes the weights of the joined layers and gathers what is left.
    fn finish(&mut self, mut slots: Vec<Slot>, layers: &mut Vec<NeuralNetworkLayer>) {
        let (before, after) = slots
            .par_iter_mut()
            .filter_map(|Slot { layer, target, .. }| layer.as_mut().zip(target.take()))
            .map(|(layer, target)| {
                let before = weight_bytes(layer);
                target.apply(layer);
                (before, weight_bytes(layer))
            })
            .reduce(|| (0, 0), |one, other| (one.0 + other.0, one.1 + other.1));
        self.report.bytes_before += before;
        self.report.bytes_after += after;
        layers.extend(slots.into_iter().filter_map(|slot| slot.layer));
    }
}

impl Slot {
    /// Moves the layer to the place of the one that was folded into it, whose output it writes now.
    fn joined_with(&mut self, next: Self) -> Self {
        let layer = self.layer.take().zip(next.layer).map(|(mut layer, next)| {
            layer.output = next.output;
            if !next.output_tensor.is_empty() {
                layer.output_tensor = next.output_tensor;
            }
            layer
        });
        let target = self.target.take();
        Self { layer, target, step: self.step, name: Arc::clone(&self.name), folds: self.folds + 1, kept: false }
    }
}

/// Bytes of a layer's float weights.
fn weight_bytes(layer: &NeuralNetworkLayer) -> u64 {
    let bytes = |params: &WeightParams| params.float_value.as_le_bytes().len() + params.float16_value.len();
    layers::weights(layer).iter().filter_map(|weight| weight.params).map(|params| bytes(params) as u64).sum()
}
