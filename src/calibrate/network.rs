//! The walk: the float network and the one quantized so far, layer by layer over the same samples.
//!
//! A layer's weights are chosen when the inputs that it will have in the quantized network are known; then both networks
//! go on past it. A blob is freed after its last use. Samples that are held back go along, and beside them through a third
//! network, the one without calibration. Calibrated are the layers of a model's own network that can be run; the weights
//! of others are quantized without samples, and the report says why.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use rand::SeedableRng;
use rand_pcg::Pcg64;
use rayon::prelude::*;

use super::layer::{LayerInputs, Seen, calibrate_layer};
use super::moments::{DAMPING, DAMPING_OF_DRAWN};
use super::samples::{Calibration, CalibrationProgress, Entering};
use crate::error::Error;
use crate::format::form::StoredForm;
use crate::format::proto::neural_network_layer::Layer;
use crate::format::proto::{Model, NeuralNetworkLayer};
use crate::model::walk;
use crate::network::layers;
use crate::predict::Tensor;
use crate::predict::layers::{Limits, Prepared, prepare};
use crate::predict::ops;
use crate::quantize::calibration_report::{
    Agreement, CalibratedWeight, CalibrationReport, CalibrationWarning, NotCalibrated,
};
use crate::quantize::report::Outcome;
use crate::quantize::sites::Site;
use crate::quantize::{Chooser, Chosen, convert};
use crate::quantizer::{Needs, QuantizeContext};

/// Most values that a blob may have.
const MAX_VALUES: usize = 1 << 28;
/// The largest number in float16.
const LARGEST_HALF: f32 = 65504.0;

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

/// The layer after which a blob is not read any more; what `kept` names is read at the end.
pub(super) fn last_uses<'n>(network: &'n [NeuralNetworkLayer], kept: &'n [String]) -> HashMap<&'n str, usize> {
    let mut last = HashMap::new();
    for (index, layer) in network.iter().enumerate() {
        layer.input.iter().for_each(|name| {
            last.insert(name.as_str(), index);
        });
    }
    kept.iter().for_each(|name| {
        last.insert(name, usize::MAX);
    });
    last
}

/// The blobs that tell what the network says, and whether a softmax comes after: then it is what goes into it.
pub(super) fn watched(model: &Model, network: &[NeuralNetworkLayer]) -> Vec<(String, bool)> {
    let made = |name: &str| network.iter().any(|layer| layer.output.iter().any(|output| output == name));
    let outputs = model.description.iter().flat_map(|description| &description.output);
    let mut names: Vec<&str> = outputs.map(|output| output.name.as_str()).filter(|name| made(name)).collect();
    if names.is_empty() {
        names.extend(network.last().and_then(|layer| layer.output.first()).map(String::as_str));
    }
    let before_softmax = |name: &str| {
        let maker = network.iter().rev().find(|layer| layer.output.iter().any(|output| output == name))?;
        let is_softmax = matches!(maker.layer, Some(Layer::Softmax(_) | Layer::SoftmaxNd(_)));
        if is_softmax { maker.input.first().cloned() } else { None }
    };
    let watched = names.into_iter().map(|name| match before_softmax(name) {
        Some(input) => (input, true),
        None => (name.to_owned(), false),
    });
    watched.collect()
}

impl Chooser for Calibration {
    fn choose(&self, model: &Model, sites: &mut [Site<'_>]) -> Result<Chosen, Error> {
        let Some(mut entering) = self.enter(model)? else {
            // A pipeline.
            let weights = sites.iter().filter(|site| asks(site)).map(|site| left_out(site, NotCalibrated::InsideOther));
            let report = CalibrationReport { weights: weights.collect(), ..CalibrationReport::default() };
            return Ok(Chosen { report: Some(report), ..Chosen::default() });
        };
        if entering.held_back == 0 || entering.synthetic {
            return self.walk(model, sites, entering, 0, 1);
        }
        // Measured is what is calibrated without the samples that are held back; returned, what is with all.
        let before: Vec<(StoredForm, Outcome)> = sites.iter().map(|site| (site.after, site.outcome)).collect();
        let measured = self.walk(model, sites, entering.clone(), 0, 2)?.report.unwrap_or_default();
        for (site, (after, outcome)) in sites.iter_mut().zip(before) {
            (site.after, site.outcome) = (after, outcome);
        }
        entering.held_back = 0;
        let mut chosen = self.walk(model, sites, entering, 1, 2)?;
        if let Some(report) = &mut chosen.report {
            (report.held_back, report.outputs) = (measured.held_back, measured.outputs);
            let is_agreement =
                |warning: &CalibrationWarning| matches!(warning, CalibrationWarning::LessAgreement { .. });
            report.warnings.extend(measured.warnings.into_iter().filter(is_agreement));
        }
        Ok(chosen)
    }
}

impl Calibration {
    /// Walks through the network once; it is the turn `turn` of `turns`.
    fn walk(
        &self,
        model: &Model,
        sites: &mut [Site<'_>],
        entering: Entering,
        turn: usize,
        turns: usize,
    ) -> Result<Chosen, Error> {
        let network = walk::network(model).map_or(&[][..], |(layers, _)| layers);
        let outputs = watched(model, network);
        let kept: Vec<String> = outputs.iter().map(|(name, _)| name.clone()).collect();
        let mut walk = Walk::new(self, network, &kept, entering);
        let mut index_in_model = 0;
        for (index, layer) in network.iter().enumerate() {
            let after = index_in_model + 1 + walk::layers_inside(layer);
            let first = sites.partition_point(|site| site.place.index < index_in_model);
            let len = sites[first..].partition_point(|site| site.place.index == index_in_model);
            walk.layer(index, index_in_model, first, &mut sites[first..first + len])?;
            let inside = |site: &&Site<'_>| site.place.index < after && asks(site);
            let inside = sites[first + len..].iter().take_while(|site| site.place.index < after).filter(inside);
            walk.report.weights.extend(inside.map(|site| left_out(site, NotCalibrated::InsideOther)));
            index_in_model = after;
            let layers_done = turn * network.len() + index + 1;
            let progress = CalibrationProgress { layers_done, layers: turns * network.len() };
            if self.progress.as_ref().is_some_and(|tell| tell(progress) == ControlFlow::Break(())) {
                return Err(Error::Cancelled);
            }
        }
        walk.report.outputs = walk.agreement(&outputs);
        if let Some(Agreement { data_free_agreement: Some(data_free), agreement: Some(calibrated), .. }) =
            walk.report.outputs
            && calibrated < data_free
        {
            walk.report.warnings.push(CalibrationWarning::LessAgreement { data_free, calibrated });
        }
        walk.chosen.report = Some(walk.report);
        Ok(walk.chosen)
    }
}

/// Whether a weight is quantized by something that asks for statistics.
pub(super) fn asks(site: &Site<'_>) -> bool {
    site.outcome == Outcome::Converted
        && site.quantizer.as_ref().is_some_and(|quantizer| quantizer.needs() != Needs::Nothing)
}

fn left_out(site: &Site<'_>, reason: NotCalibrated) -> CalibratedWeight {
    CalibratedWeight {
        place: site.place.clone(),
        not_calibrated: Some(reason),
        inputs: 0,
        positions: 0,
        data_free_db: None,
        snr_db: None,
    }
}

struct Walk<'n> {
    calibration: &'n Calibration,
    network: &'n [NeuralNetworkLayer],
    last_use: HashMap<&'n str, usize>,
    /// By name, for each sample; those to calibrate on come first.
    blobs: HashMap<&'n str, Vec<Pair>>,
    /// For each sample that is held back, in the network without calibration.
    data_free: HashMap<&'n str, Vec<Tensor>>,
    samples: usize,
    held_back: usize,
    chosen: Chosen,
    report: CalibrationReport,
}

impl<'n> Walk<'n> {
    fn new(calibration: &'n Calibration, network: &'n [NeuralNetworkLayer], kept: &'n [String], all: Entering) -> Self {
        let last_use = last_uses(network, kept);
        let Entering { mut blobs, held_back, synthetic } = all;
        let given = blobs.len();
        let fit = fitting(network, &last_use, &blobs, calibration.memory);
        let mut held_back = held_back;
        let mut report = CalibrationReport { synthetic, ..CalibrationReport::default() };
        if fit < given {
            held_back = held_back * fit / given;
            let first_held = given - held_back;
            let used = fit - held_back;
            blobs.drain(used..first_held);
            report.warnings.push(CalibrationWarning::SamplesLeftOut { used: fit, given });
        }
        let samples = blobs.len() - held_back;
        (report.samples, report.held_back) = (samples, held_back);
        let count = blobs.len();
        let mut by_name: HashMap<&str, Vec<Pair>> = HashMap::new();
        for (name, tensor) in blobs.into_iter().flatten() {
            // What no layer reads is not kept.
            if let Some((&name, _)) = last_use.get_key_value(name.as_str()) {
                by_name.entry(name).or_default().push(Pair { float: tensor, quantized: None });
            }
        }
        // An optional input that not every sample has counts as missing.
        by_name.retain(|_, pairs| pairs.len() == count);
        let held = |pairs: &Vec<Pair>| pairs[samples..].iter().map(|pair| pair.float.clone()).collect();
        let data_free = by_name.iter().map(|(&name, pairs)| (name, held(pairs))).collect();
        Self {
            calibration,
            network,
            last_use,
            blobs: by_name,
            data_free,
            samples,
            held_back,
            chosen: Chosen::default(),
            report,
        }
    }

    /// Calibrates a layer, and goes past it. `first` is the number of its first site.
    fn layer(&mut self, index: usize, in_model: usize, first: usize, sites: &mut [Site<'_>]) -> Result<(), Error> {
        let layer = &self.network[index];
        let mut free = layer.clone();
        let mut context = QuantizeContext::new();
        for weight in layers::weights_mut(&mut free) {
            let site = sites.iter().find(|site| site.place.field == weight.field && site.converter().is_some());
            if let (Some(place), Some(site)) = (weight.params, site) {
                *place = convert(site, false, &mut context)?.0;
            }
        }
        let asked: Vec<usize> = (0..sites.len()).filter(|&site| asks(&sites[site])).collect();
        let runner = Runner::new(layer);
        let inputs = runner.as_ref().and_then(|runner| self.inputs(layer, runner.needed()));
        let mut entries: Vec<CalibratedWeight> = asked
            .iter()
            .map(|&site| {
                let reason = if runner.is_some() { NotCalibrated::NoInputs } else { NotCalibrated::NotRun };
                left_out(&sites[site], reason)
            })
            .collect();
        let mut made = false;
        if let (Some(runner), Some(inputs)) = (&runner, inputs) {
            let mut quantized = free.clone();
            if !asked.is_empty() {
                let all = LayerInputs {
                    inputs: &inputs[..self.samples],
                    seed: self.calibration.seed.wrapping_add(index as u64),
                    positions: self.calibration.positions,
                    damping: if self.report.synthetic { DAMPING_OF_DRAWN } else { DAMPING },
                };
                let done = calibrate_layer(layer, &mut quantized, runner, sites, &all)?;
                for (site, params) in done.weights {
                    self.chosen.weights.insert(first + site, params);
                }
                if let Some(bias) = done.added_bias {
                    self.chosen.biases.insert(in_model, bias);
                }
                for (&site, entry) in asked.iter().zip(&mut entries) {
                    let seen = done.seen.get(&site).copied().unwrap_or(Seen::left(NotCalibrated::UnknownUse));
                    (entry.not_calibrated, entry.inputs, entry.positions) = (seen.reason, seen.inputs, seen.positions);
                    if seen.reason.is_none() && seen.positions < seen.inputs {
                        let (place, positions) = (entry.place.clone(), seen.positions);
                        let warning = CalibrationWarning::FewPositions { place, positions, inputs: seen.inputs };
                        self.report.warnings.push(warning);
                    }
                }
            }
            let changed = sites.iter().any(|site| site.converter().is_some());
            made = self.run(layer, runner, changed, &free, &quantized, &inputs, &mut entries).is_some();
        }
        if !made {
            self.forget(layer);
        }
        self.report.weights.append(&mut entries);
        let last_use = &self.last_use;
        self.blobs.retain(|name, _| last_use.get(name).is_some_and(|&last| last > index));
        self.data_free.retain(|name, _| last_use.get(name).is_some_and(|&last| last > index));
        Ok(())
    }

    /// The inputs of a layer for each sample; `None` if one that is needed is missing.
    fn inputs(&self, layer: &NeuralNetworkLayer, needed: usize) -> Option<Vec<Vec<Pair>>> {
        let known: Vec<&Vec<Pair>> = layer.input.iter().map_while(|name| self.blobs.get(name.as_str())).collect();
        if known.len() < needed {
            return None;
        }
        let of_sample = |sample| known.iter().filter_map(|pairs| pairs.get(sample).cloned()).collect();
        Some((0..self.samples + self.held_back).map(of_sample).collect())
    }

    /// Runs a layer in all networks.
    #[expect(clippy::too_many_arguments, reason = "a layer in each network, and what is told of it")]
    fn run(
        &mut self,
        layer: &'n NeuralNetworkLayer,
        float: &Runner<'_>,
        changed: bool,
        free: &NeuralNetworkLayer,
        quantized: &NeuralNetworkLayer,
        inputs: &[Vec<Pair>],
        entries: &mut [CalibratedWeight],
    ) -> Option<()> {
        let other = if changed { Runner::new(quantized) } else { Runner::new(layer) };
        let data_free = if changed { Runner::new(free) } else { Runner::new(layer) };
        let (other, data_free) = (other?, data_free?);
        let held: Option<Vec<Vec<Tensor>>> = (0..self.held_back)
            .into_par_iter()
            .map(|sample| {
                let names = layer.input.iter().map_while(|name| self.data_free.get(name.as_str()));
                let inputs: Vec<Tensor> = names.filter_map(|tensors| tensors.get(sample).cloned()).collect();
                if inputs.len() < data_free.needed() { None } else { data_free.run(&inputs) }
            })
            .collect();
        for (output, name) in layer.output.iter().enumerate() {
            let of_output = |held: &Vec<Vec<Tensor>>| held.iter().map(|made| made.get(output).cloned()).collect();
            let Some((&name, _)) = self.last_use.get_key_value(name.as_str()) else { continue };
            match held.as_ref().and_then(of_output) {
                Some(tensors) => self.data_free.insert(name, tensors),
                None => self.data_free.remove(name),
            };
        }
        let outputs = run_both(float, &other, inputs, changed)?;
        if let (Some(pairs), false) = (outputs.first(), entries.is_empty()) {
            let calibrated = entries.iter().any(|entry| entry.not_calibrated.is_none());
            let after = Ratio::of(pairs[..self.samples].iter().map(|pair| (&pair.float, pair.in_quantized())));
            let before = if calibrated {
                let without: Option<Vec<Tensor>> = inputs[..self.samples]
                    .par_iter()
                    .map(|inputs| {
                        let inputs: Vec<Tensor> = inputs.iter().map(|pair| pair.in_quantized().clone()).collect();
                        data_free.run(&inputs)?.into_iter().next()
                    })
                    .collect();
                without.map(|without| Ratio::of(pairs.iter().map(|pair| &pair.float).zip(&without)))
            } else {
                Some(after)
            };
            for entry in entries {
                (entry.data_free_db, entry.snr_db) = (before.map(Ratio::db), Some(after.db()));
            }
            if after.largest > LARGEST_HALF {
                let (layer, largest) = (layer.name.clone(), after.largest);
                self.report.warnings.push(CalibrationWarning::BeyondFloat16 { layer, largest });
            }
        }
        for (name, pairs) in layer.output.iter().zip(outputs) {
            if let Some((&name, _)) = self.last_use.get_key_value(name.as_str()) {
                self.blobs.insert(name, pairs);
            }
        }
        Some(())
    }

    /// Forgets what a layer writes that could not be run.
    fn forget(&mut self, layer: &NeuralNetworkLayer) {
        for name in &layer.output {
            self.blobs.remove(name.as_str());
            self.data_free.remove(name.as_str());
        }
        for (_, inner) in walk::inner_networks(layer) {
            inner.layers.iter().for_each(|layer| self.forget(layer));
        }
    }

    /// How close the watched outputs are on the samples that are held back.
    fn agreement(&self, outputs: &[(String, bool)]) -> Option<Agreement> {
        if self.held_back == 0 {
            return None;
        }
        let (mut before, mut after) = (Ratio::default(), Ratio::default());
        let mut same: Option<(usize, usize)> = None;
        for (name, is_softmax) in outputs {
            let pairs = self.blobs.get(name.as_str())?.get(self.samples..)?;
            let free = self.data_free.get(name.as_str())?;
            after.add(pairs.iter().map(|pair| (&pair.float, pair.in_quantized())));
            before.add(pairs.iter().map(|pair| &pair.float).zip(free));
            if *is_softmax {
                let same = same.get_or_insert((0, 0));
                for (pair, free) in pairs.iter().zip(free) {
                    let best = largest(&pair.float);
                    same.0 += usize::from(largest(free) == best);
                    same.1 += usize::from(largest(pair.in_quantized()) == best);
                }
            }
        }
        let samples = (self.held_back * outputs.iter().filter(|(_, is_softmax)| *is_softmax).count()) as f64;
        Some(Agreement {
            data_free_db: before.db(),
            snr_db: after.db(),
            data_free_agreement: same.map(|same| same.0 as f64 / samples),
            agreement: same.map(|same| same.1 as f64 / samples),
        })
    }
}

/// The place of the largest value, the first of equal ones.
fn largest(tensor: &Tensor) -> Option<usize> {
    let mut values = tensor.iter().enumerate();
    let first = values.next()?;
    Some(values.fold(first, |best, next| if next.1 > best.1 { next } else { best }).0)
}

/// Signal and noise.
#[derive(Clone, Copy, Debug, Default)]
struct Ratio {
    signal: f64,
    noise: f64,
    /// The largest magnitude of a found value.
    largest: f32,
}

impl Ratio {
    fn of<'t>(pairs: impl Iterator<Item = (&'t Tensor, &'t Tensor)>) -> Self {
        let mut ratio = Self::default();
        ratio.add(pairs);
        ratio
    }

    fn add<'t>(&mut self, pairs: impl Iterator<Item = (&'t Tensor, &'t Tensor)>) {
        for (expected, found) in pairs.flat_map(|(expected, found)| expected.iter().zip(found.iter())) {
            self.signal += f64::from(*expected).powi(2);
            self.noise += f64::from(expected - found).powi(2);
            self.largest = self.largest.max(found.abs());
        }
    }

    /// In decibels; infinite without noise.
    fn db(self) -> f64 {
        if self.noise == 0.0 { f64::INFINITY } else { 10.0 * (self.signal / self.noise).log10() }
    }
}

/// How many samples fit into some memory, if the first is like the others: at least one. Both networks count.
pub(super) fn fitting(
    network: &[NeuralNetworkLayer],
    last_use: &HashMap<&str, usize>,
    samples: &[Vec<(String, Tensor)>],
    memory: u64,
) -> usize {
    let most = samples.first().map_or(0, |sample| most_alive(network, last_use, sample));
    usize::try_from(memory / (2 * most).max(1)).unwrap_or(usize::MAX).max(1)
}

/// The most bytes of blobs that are alive at once in the float network, for a sample. Layers that cannot be run count
/// nothing.
fn most_alive(network: &[NeuralNetworkLayer], last_use: &HashMap<&str, usize>, sample: &[(String, Tensor)]) -> u64 {
    let bytes = |tensor: &Tensor| size_of::<f32>() as u64 * tensor.len() as u64;
    let mut blobs: BTreeMap<&str, Tensor> =
        sample.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let mut most = 0;
    for (index, layer) in network.iter().enumerate() {
        let made = Runner::new(layer).and_then(|runner| {
            let inputs: Vec<Tensor> = layer.input.iter().map_while(|name| blobs.get(name.as_str()).cloned()).collect();
            if inputs.len() < runner.needed() { None } else { runner.run(&inputs) }
        });
        for (name, tensor) in layer.output.iter().zip(made.unwrap_or_default()) {
            blobs.insert(name, tensor);
        }
        most = most.max(blobs.values().map(bytes).sum());
        blobs.retain(|name, _| last_use.get(name).is_some_and(|&last| last > index));
    }
    most
}

/// The outputs of a layer for each sample in both networks: for each output, a pair for each sample.
fn run_both(float: &Runner<'_>, quantized: &Runner<'_>, inputs: &[Vec<Pair>], changed: bool) -> Option<Vec<Vec<Pair>>> {
    let of_sample = |inputs: &Vec<Pair>| {
        let own: Vec<Tensor> = inputs.iter().map(|pair| pair.float.clone()).collect();
        let outputs = float.run(&own)?;
        if !changed && inputs.iter().all(|pair| pair.quantized.is_none()) {
            return Some(outputs.into_iter().map(|float| Pair { float, quantized: None }).collect::<Vec<_>>());
        }
        let other: Vec<Tensor> = inputs.iter().map(|pair| pair.in_quantized().clone()).collect();
        let others = quantized.run(&other)?;
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
