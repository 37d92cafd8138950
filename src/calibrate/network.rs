//! The walk: the float network and the one quantized so far, layer by layer over the same samples.
//!
//! A layer's weights are chosen when the inputs that it will have in the quantized network are known; then both networks
//! go on past it. A blob is freed after its last use. Calibrated are the layers of a model's own network up to the
//! first that cannot be run (control flow, custom layers), and what does not depend on it after that; other weights are
//! quantized without samples.

use std::collections::{BTreeMap, HashMap};

use rand::SeedableRng;
use rand_pcg::Pcg64;
use rayon::prelude::*;

use super::layer::{LayerInputs, calibrate_layer};
use super::samples::Calibration;
use crate::format::proto::neural_network_layer::Layer;
use crate::format::proto::{Model, NeuralNetworkLayer, WeightParams};
use crate::network::layers;
use crate::network::walk;
use crate::predict::Tensor;
use crate::predict::layers::{Limits, Prepared, prepare};
use crate::predict::ops;
use crate::quantize::report::Outcome;
use crate::quantize::sites::{Site, has_site};

/// Most values that a blob may have.
const MAX_VALUES: usize = 1 << 28;

/// What calibration decided.
#[derive(Debug, Default)]
pub(crate) struct Overrides {
    /// New weights by the number of their site.
    pub(crate) weights: BTreeMap<usize, WeightParams>,
    /// Biases for layers of the model's own network that had none, by the layer's number.
    pub(crate) biases: BTreeMap<usize, WeightParams>,
}

/// A blob in both networks; `quantized` is `None` where it is the same.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) float: Tensor,
    pub(super) quantized: Option<Tensor>,
}

impl Pair {
    pub(super) fn in_quantized(&self) -> &Tensor {
        self.quantized.as_ref().unwrap_or(&self.float)
    }
}

/// A layer that can be run.
pub(super) struct Runner<'l> {
    layer: &'l NeuralNetworkLayer,
    prepared: Option<Box<dyn Prepared>>,
}

impl<'l> Runner<'l> {
    /// `None` if it cannot be.
    pub(super) fn new(layer: &'l NeuralNetworkLayer) -> Option<Self> {
        Some(Self { layer, prepared: prepare(layer).ok()? })
    }

    pub(super) fn prepared(&self) -> Option<&dyn Prepared> {
        self.prepared.as_deref()
    }

    pub(super) fn run(&self, inputs: &[Tensor]) -> Option<Vec<Tensor>> {
        let output_count = self.layer.output.len();
        if let Some(prepared) = &self.prepared {
            return prepared.eval(inputs, Limits { output_count, max_values: MAX_VALUES }).ok();
        }
        let kind = self.layer.layer.as_ref()?;
        if matches!(kind, Layer::Copy(_)) {
            return Some(inputs.to_vec());
        }
        let random = Pcg64::seed_from_u64(0);
        let mut context = ops::Context { output_count, max_values: MAX_VALUES, random, notes: Vec::new() };
        ops::eval(kind, inputs, &mut context)?.ok()
    }

    /// How many of the named inputs are needed, if those after them may be missing.
    pub(super) fn needed(&self) -> usize {
        let is_recurrent = self.prepared.as_ref().is_some_and(|prepared| prepared.state_len().is_some());
        if is_recurrent { 1 } else { self.layer.input.len() }
    }
}

/// Calibrates the weights of the model's own network. Sites of biases may change their form.
///
/// `data_free` makes a weight without samples: what the quantized network has where nothing is calibrated.
pub(crate) fn calibrate(
    model: &Model,
    sites: &mut [Site<'_>],
    calibration: &Calibration,
    data_free: &(dyn Fn(&Site<'_>) -> Option<WeightParams> + Sync),
) -> Overrides {
    let mut overrides = Overrides::default();
    let Some((network, _)) = walk::network(model) else { return overrides };
    let entering = calibration.blobs(model);
    let count = entering.len();
    let mut blobs: HashMap<String, Vec<Pair>> = HashMap::new();
    for sample in entering {
        for (name, tensor) in sample {
            blobs.entry(name).or_default().push(Pair { float: tensor, quantized: None });
        }
    }
    // What not every sample has is missing.
    blobs.retain(|_, pairs| pairs.len() == count && count > 0);
    let mut last_use: HashMap<&str, usize> = HashMap::new();
    for (index, layer) in network.iter().enumerate() {
        layer.input.iter().for_each(|name| {
            last_use.insert(name, index);
        });
    }
    let mut first = 0;
    for (index, layer) in network.iter().enumerate() {
        // The sites of the layer, and of the networks inside it.
        let own = layers::weights(layer).iter().filter(|weight| has_site(weight)).count();
        let inner = sites_inside(layer);
        let range = first..first + own;
        first += own + inner;
        let Some(layer_sites) = sites.get_mut(range.clone()) else { break };
        let mut quantized = layer.clone();
        let places = layers::weights_mut(&mut quantized).into_iter().filter(has_site);
        for (weight, site) in places.zip(layer_sites.iter()) {
            if !matches!(site.outcome, Outcome::Kept(_))
                && let (Some(place), Some(params)) = (weight.params, data_free(site))
            {
                *place = params;
            }
        }
        if let Some(runner) = Runner::new(layer)
            && let Some(inputs) = gather_inputs(&blobs, layer, runner.needed(), count)
        {
            let seed = calibration.seed.wrapping_add(index as u64);
            let all = LayerInputs { inputs: &inputs, seed, positions: calibration.positions };
            let done = calibrate_layer(layer, &mut quantized, &runner, layer_sites, &all);
            for (site, params) in done.weights {
                overrides.weights.insert(range.start + site, params);
            }
            if let Some(bias) = done.added_bias {
                overrides.biases.insert(index, bias);
            }
            let changed = layer_sites.iter().any(|site| !matches!(site.outcome, Outcome::Kept(_)));
            let other = if changed { Runner::new(&quantized) } else { Runner::new(layer) };
            if let Some(outputs) = run_both(&runner, other.as_ref(), &inputs, changed) {
                for (name, pairs) in layer.output.iter().zip(outputs) {
                    blobs.insert(name.clone(), pairs);
                }
            }
        }
        for name in &layer.input {
            if last_use.get(name.as_str()) == Some(&index) {
                blobs.remove(name);
            }
        }
        blobs.retain(|name, _| last_use.get(name.as_str()).is_some_and(|&last| last > index));
    }
    overrides
}

/// Runs a model's own network on preprocessed blobs. What cannot be computed is missing.
pub(super) fn forward(model: &Model, mut blobs: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let Some((network, _)) = walk::network(model) else { return blobs };
    for layer in network {
        let Some(runner) = Runner::new(layer) else { continue };
        let inputs: Vec<Tensor> = layer.input.iter().map_while(|name| blobs.get(name).cloned()).collect();
        if inputs.len() < runner.needed() {
            continue;
        }
        let Some(outputs) = runner.run(&inputs) else { continue };
        for (name, output) in layer.output.iter().zip(outputs) {
            blobs.insert(name.clone(), output);
        }
    }
    blobs
}

/// Sites of the networks inside a layer.
pub(super) fn sites_inside(layer: &NeuralNetworkLayer) -> usize {
    let of = |layer: &NeuralNetworkLayer| {
        layers::weights(layer).iter().filter(|weight| has_site(weight)).count() + sites_inside(layer)
    };
    layers::inner_networks(layer).iter().map(|(_, network)| network.layers.iter().map(of).sum::<usize>()).sum()
}

/// The inputs of a layer for each sample; `None` if one that is needed is missing.
fn gather_inputs(
    blobs: &HashMap<String, Vec<Pair>>,
    layer: &NeuralNetworkLayer,
    needed: usize,
    count: usize,
) -> Option<Vec<Vec<Pair>>> {
    let known: Vec<&Vec<Pair>> = layer.input.iter().map_while(|name| blobs.get(name)).collect();
    if known.len() < needed || count == 0 {
        return None;
    }
    Some((0..count).map(|sample| known.iter().filter_map(|pairs| pairs.get(sample).cloned()).collect()).collect())
}

/// The outputs of a layer for each sample in both networks: for each output, a pair for each sample.
fn run_both(
    float: &Runner<'_>,
    quantized: Option<&Runner<'_>>,
    inputs: &[Vec<Pair>],
    changed: bool,
) -> Option<Vec<Vec<Pair>>> {
    let of_sample = |inputs: &Vec<Pair>| {
        let own: Vec<Tensor> = inputs.iter().map(|pair| pair.float.clone()).collect();
        let outputs = float.run(&own)?;
        if !changed && inputs.iter().all(|pair| pair.quantized.is_none()) {
            return Some(outputs.into_iter().map(|float| Pair { float, quantized: None }).collect::<Vec<_>>());
        }
        let other: Vec<Tensor> = inputs.iter().map(|pair| pair.in_quantized().clone()).collect();
        let others = quantized?.run(&other)?;
        let pairs = outputs.into_iter().zip(others);
        Some(pairs.map(|(float, quantized)| Pair { float, quantized: Some(quantized) }).collect())
    };
    let samples: Vec<Vec<Pair>> = inputs.par_iter().map(of_sample).collect::<Option<_>>()?;
    let outputs = samples.first().map_or(0, Vec::len);
    let mut by_output: Vec<Vec<Pair>> = (0..outputs).map(|_| Vec::with_capacity(samples.len())).collect();
    for sample in samples {
        by_output.iter_mut().zip(sample).for_each(|(pairs, pair)| pairs.push(pair));
    }
    Some(by_output)
}
