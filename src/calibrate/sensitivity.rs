//! How much a weight's error matters: the damage to the network's outputs of storing it, and it alone, in 4 bits.
//!
//! For a weight, `|y' - y|^2 / e`: y are the network's outputs on the samples (what goes into a last softmax), y' those
//! with this weight as a table of 16 values and the mean of its layer's outputs corrected, as calibration will do it; e is
//! the weight's relative squared error. Times the relative error in other bits it estimates the damage there. The layers
//! before the weight are run once for all weights.

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;

use super::network::{Runner, fitting, last_uses, watched};
use super::samples::Calibration;
use crate::error::{Error, WeightError};
use crate::format::form::Nbits;
use crate::format::proto::{Model, NeuralNetworkLayer};
use crate::model::walk;
use crate::network::{layers, params};
use crate::predict::Tensor;
use crate::quantize::report::Outcome;
use crate::quantize::sites::Site;
use crate::quantizer::{KmeansLut, QuantizeContext, Quantizer};
use crate::weight::distortion;

/// Samples that are run at most: each weight takes a run of all layers after it.
const MOST_SAMPLES: usize = 128;

type Blobs = HashMap<String, Tensor>;

/// For each site, how much its relative error matters; `None` where it cannot be told, or the weight is no candidate.
///
/// # Errors
///
/// If a sample is none of the model's, or there are none; those of weights that cannot be quantized.
pub(crate) fn sensitivities(
    model: &Model,
    sites: &[Site<'_>],
    calibration: &Calibration,
) -> Result<Vec<Option<f64>>, Error> {
    let mut found = vec![None; sites.len()];
    let Some((network, _)) = walk::network(model) else { return Ok(found) };
    let Some(entering) = calibration.enter(model)? else { return Ok(found) };
    let outputs: Vec<String> = watched(model, network).into_iter().map(|(name, _)| name).collect();
    let last_use = last_uses(network, &outputs);
    let samples = fitting(network, &last_use, &entering.blobs, calibration.memory).min(MOST_SAMPLES);
    let mut blobs: Vec<Blobs> =
        entering.blobs.into_iter().take(samples).map(|blobs| blobs.into_iter().collect()).collect();
    let runners: Vec<Option<Runner<'_>>> = network.iter().map(Runner::new).collect();
    let walk = Walk { network, runners: &runners, last_use: &last_use };
    let Some(expected) = walk.all(&blobs, 0, &outputs) else { return Ok(found) };
    let mut in_model = 0;
    for (index, layer) in network.iter().enumerate() {
        for (site, found) in sites.iter().zip(&mut found) {
            if site.place.index == in_model && site.outcome == Outcome::Converted && site.after.is_quantized() {
                *found = walk.damage(&blobs, index, site, &outputs, &expected)?;
            }
        }
        in_model += 1 + walk::layers_inside(layer);
        blobs.par_iter_mut().for_each(|blobs| walk.step(blobs, index));
    }
    Ok(found)
}

struct Walk<'a> {
    network: &'a [NeuralNetworkLayer],
    runners: &'a [Option<Runner<'a>>],
    last_use: &'a HashMap<&'a str, usize>,
}

impl Walk<'_> {
    /// Runs a layer, if that is possible, and frees what is not used any more.
    fn step(&self, blobs: &mut Blobs, index: usize) {
        let layer = &self.network[index];
        let made = self.runners[index].as_ref().and_then(|runner| runner.run(&inputs(runner, blobs, layer)?));
        self.put(blobs, index, made.unwrap_or_default());
    }

    fn put(&self, blobs: &mut Blobs, index: usize, made: Vec<Tensor>) {
        for (name, tensor) in self.network[index].output.iter().zip(made) {
            blobs.insert(name.clone(), tensor);
        }
        blobs.retain(|name, _| self.last_use.get(name.as_str()).is_some_and(|&last| last > index));
    }

    /// The watched outputs of all samples, from a layer on.
    fn all(&self, blobs: &[Blobs], from: usize, outputs: &[String]) -> Option<Vec<Vec<Tensor>>> {
        let of_sample = |blobs: &Blobs| -> Option<Vec<Tensor>> {
            let mut blobs = blobs.clone();
            (from..self.network.len()).for_each(|index| self.step(&mut blobs, index));
            let found: Vec<Tensor> = outputs.iter().filter_map(|name| blobs.get(name).cloned()).collect();
            (!found.is_empty()).then_some(found)
        };
        blobs.par_iter().map(of_sample).collect()
    }

    /// The damage of storing a weight in 4 bits, for a relative error of 1.
    fn damage(
        &self,
        blobs: &[Blobs],
        index: usize,
        site: &Site<'_>,
        outputs: &[String],
        expected: &[Vec<Tensor>],
    ) -> Result<Option<f64>, Error> {
        let layer = &self.network[index];
        let fail = |cause: WeightError| Error::Weight { place: Box::new(site.place.clone()), cause };
        let mut context = QuantizeContext::new();
        let weight = site.view(&mut context.buffers).map_err(fail)?;
        let quantized =
            KmeansLut::new(Nbits::FOUR).quantize(weight.clone(), &mut context).map_err(|error| fail(error.into()))?;
        let relative = distortion::distortion(&weight, &quantized).relative_error();
        if relative == 0.0 {
            return Ok(Some(0.0));
        }
        let mut other = layer.clone();
        let place = layers::weights_mut(&mut other).into_iter().find(|weight| weight.field == site.place.field);
        let Some(place) = place.and_then(|weight| weight.params) else { return Ok(None) };
        *place = params::to_params(quantized, false);
        let noise = self.noise(blobs, index, &other, outputs, expected);
        Ok(noise.filter(|noise| noise.is_finite()).map(|noise| noise / relative))
    }

    /// The squared difference of the watched outputs with another layer in one's place, its means corrected.
    fn noise(
        &self,
        blobs: &[Blobs],
        index: usize,
        other: &NeuralNetworkLayer,
        outputs: &[String],
        expected: &[Vec<Tensor>],
    ) -> Option<f64> {
        let layer = &self.network[index];
        let (own, changed) = (self.runners[index].as_ref()?, Runner::new(other)?);
        let made = blobs.par_iter().map(|blobs| {
            let inputs = inputs(own, blobs, layer)?;
            Some((own.run(&inputs)?, changed.run(&inputs)?))
        });
        let mut made: Vec<(Vec<Tensor>, Vec<Tensor>)> = made.collect::<Option<_>>()?;
        correct_means(&mut made);
        let of_sample = |(blobs, (_, made)): (&Blobs, (Vec<Tensor>, Vec<Tensor>))| -> Option<Vec<Tensor>> {
            let mut blobs = blobs.clone();
            self.put(&mut blobs, index, made);
            (index + 1..self.network.len()).for_each(|index| self.step(&mut blobs, index));
            Some(outputs.iter().filter_map(|name| blobs.get(name).cloned()).collect())
        };
        let found: Vec<Vec<Tensor>> = blobs.par_iter().zip(made).map(of_sample).collect::<Option<_>>()?;
        let noise: f64 = found
            .iter()
            .flatten()
            .zip(expected.iter().flatten())
            .flat_map(|(found, expected)| found.iter().zip(expected.iter()))
            .map(|(found, expected)| f64::from(found - expected).powi(2))
            .sum();
        Some(noise)
    }
}

/// The inputs of a layer, if those that are needed are there.
fn inputs(runner: &Runner<'_>, blobs: &Blobs, layer: &NeuralNetworkLayer) -> Option<Vec<Tensor>> {
    let inputs: Vec<Tensor> = layer.input.iter().map_while(|name| blobs.get(name).cloned()).collect();
    (inputs.len() >= runner.needed()).then_some(inputs)
}

/// Shifts the channels of a layer's changed first output so that their means over all samples are those of the original.
fn correct_means(made: &mut [(Vec<Tensor>, Vec<Tensor>)]) {
    let mut sums: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for (own, changed) in made.iter() {
        let (Some(own), Some(changed)) = (own.first(), changed.first()) else { return };
        let Some(channels) = channels(own) else { return };
        for (at, (own, changed)) in own.iter().zip(changed.iter()).enumerate() {
            let sum = sums.entry(channels.of(at)).or_default();
            sum.0 += f64::from(own - changed);
            sum.1 += 1.0;
        }
    }
    for (own, changed) in made.iter_mut() {
        let (Some(own), Some(changed)) = (own.first(), changed.first_mut()) else { return };
        let Some(channels) = channels(own) else { return };
        for (at, value) in changed.iter_mut().enumerate() {
            let (sum, count) = sums.get(&channels.of(at)).copied().unwrap_or((0.0, 1.0));
            *value += (sum / count) as f32;
        }
    }
}

/// How channels lie in a tensor: the third axis from the end, or the last of fewer.
struct Channels {
    count: usize,
    inner: usize,
}

impl Channels {
    fn of(&self, at: usize) -> usize {
        at / self.inner % self.count
    }
}

fn channels(tensor: &Tensor) -> Option<Channels> {
    let shape = tensor.shape();
    let (count, inner) = match *shape {
        [.., count, height, width] if shape.len() > 3 => (count, height * width),
        [.., count] => (count, 1),
        [] => return None,
    };
    (count > 0 && inner > 0).then_some(Channels { count, inner })
}
