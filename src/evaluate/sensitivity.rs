//! What each weight can bear: the damage to the outputs of quantizing it, and it alone.
//!
//! The damage is the noise of the network's outputs over their signal, `sum |y' - y|^2 / sum |y|^2` over all samples, the
//! mean of all outputs; where an output comes from a softmax layer, what goes into that layer is looked at. The layers
//! before a weight are run once for all that is tried with it, so that a weight costs as many runs of the layers from its
//! own to the last as there are samples and methods.

use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use rayon::prelude::*;

use super::error::{EvaluateError, Which};
use super::outputs::{EvaluateProgress, Progress};
use super::samples::Samples;
use super::statistics::{Decibels, Sums};
use crate::error::Place;
use crate::format::form::Nbits;
use crate::format::proto::neural_network_layer::Layer;
use crate::format::proto::{self, NeuralNetworkLayer};
use crate::model::{Model, walk};
use crate::network::layers;
use crate::planner::Planner;
use crate::predict::network::{Network, Options, Run};
use crate::predict::network_model::NetworkModel;
use crate::predict::{PredictError, Tensor};
use crate::quantize::config::{Biases, QuantConfig};
use crate::quantize::method::Method;
use crate::quantize::quantize_weights;
use crate::quantize::report::{Outcome, Report};

/// What is tried with the weights, and on what.
#[derive(Clone)]
pub struct SensitivityOptions {
    methods: Vec<Method>,
    memory: u64,
    fold: bool,
    progress: Option<Arc<Progress>>,
}

impl Default for SensitivityOptions {
    fn default() -> Self {
        let methods = [Nbits::TWO, Nbits::FOUR].map(|nbits| Method::KmeansLut { nbits });
        Self { methods: methods.to_vec(), memory: 1 << 30, fold: true, progress: None }
    }
}

impl fmt::Debug for SensitivityOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SensitivityOptions")
            .field("methods", &self.methods)
            .field("memory", &self.memory)
            .field("fold", &self.fold)
            .finish_non_exhaustive()
    }
}

impl SensitivityOptions {
    /// The best tables of 4 and of 16 values, the model folded, 1 GiB.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is tried with each weight. Each costs as much time as the others.
    #[must_use]
    pub fn with_methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = methods.into_iter().filter(|method| *method != Method::Keep).collect();
        self
    }

    /// Bytes that the samples' blobs may take. With less memory, samples go through the network in several batches, and the
    /// weights are decoded anew for each; one sample is always run. Default: 1 GiB.
    #[must_use]
    pub fn with_memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// Whether the model is folded first, as a plan for it will be. Default: yes.
    #[must_use]
    pub fn with_fold(mut self, fold: bool) -> Self {
        self.fold = fold;
        self
    }

    /// Calls `progress` after each method of each weight; [`ControlFlow::Break`] ends the job with
    /// [`EvaluateError::Stopped`].
    #[must_use]
    pub fn with_progress(
        mut self,
        progress: impl Fn(EvaluateProgress) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }
}

/// What each weight of a model can bear.
///
/// `Display` writes a table, the most sensitive weights first.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Sensitivity {
    /// The number of samples.
    pub samples: usize,
    /// Whether the samples were drawn, not given.
    pub synthetic: bool,
    /// The weights that can be quantized, in the order of the model.
    pub weights: Vec<WeightSensitivity>,
    /// Layers that were run, over all samples: what it cost.
    pub layers_run: u64,
}

/// What one weight can bear.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WeightSensitivity {
    /// The network: `model`, `model/cond/ifBranch`.
    pub network: String,
    /// The layer's name.
    pub layer: String,
    /// The field's name in the format.
    pub field: String,
    /// Number of values.
    pub values: u64,
    /// What was tried. What Core ML's rules do not allow is left out.
    pub damages: Vec<Damage>,
}

/// What quantizing a weight, and it alone, does.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Damage {
    /// How it was stored.
    pub method: Method,
    /// The weight's own relative squared error.
    pub relative_error: f64,
    /// Noise over signal of the outputs.
    pub output_noise: f64,
}

impl WeightSensitivity {
    /// Noise of the outputs for a unit of the weight's relative squared error: the geometric mean of what was tried. `None`
    /// if nothing tells.
    pub fn noise_per_error(&self) -> Option<f64> {
        let tried = self.damages.iter().filter(|damage| damage.relative_error > 0.0 && damage.output_noise.is_finite());
        let logarithms: Vec<f64> = tried.map(|damage| (damage.output_noise / damage.relative_error).ln()).collect();
        (!logarithms.is_empty()).then(|| (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp())
    }
}

impl Sensitivity {
    /// A weighting for [`Planner::with_weighting`]: the noise of the outputs for a unit of a weight's relative error.
    /// Weights that were not measured get the smallest of all that matter for each of their values.
    pub fn weighting(&self) -> impl Fn(&Place, u64) -> f64 + Send + Sync + 'static {
        type Key = (String, String, String);
        let measured: HashMap<Key, f64> = self
            .weights
            .iter()
            .filter_map(|weight| {
                let key = (weight.network.clone(), weight.layer.clone(), weight.field.clone());
                Some((key, weight.noise_per_error()?))
            })
            .collect();
        let per_value = self.weights.iter().filter_map(|weight| Some(weight.noise_per_error()? / weight.values as f64));
        let least = per_value.filter(|noise| *noise > 0.0).fold(f64::INFINITY, f64::min);
        let least = if least.is_finite() { least } else { 1.0 };
        move |place, values| {
            let key = (place.network.to_string(), place.layer.to_string(), place.field.to_string());
            measured.get(&key).copied().unwrap_or(least * values as f64)
        }
    }
}

impl Planner {
    /// Weighs the error of each weight by what it does to the outputs, as [`sensitivity`] has measured it: a shorthand for
    /// [`with_weighting`](Self::with_weighting).
    #[must_use]
    pub fn with_sensitivity(self, sensitivity: &Sensitivity) -> Self {
        self.with_weighting(sensitivity.weighting())
    }
}

impl fmt::Display for Sensitivity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut weights: Vec<_> = self.weights.iter().collect();
        let noise = |weight: &WeightSensitivity| weight.noise_per_error().unwrap_or(0.0);
        weights.sort_by(|a, b| noise(b).total_cmp(&noise(a)));
        for weight in weights {
            write!(f, "{}/{} {}, {} values:", weight.network, weight.layer, weight.field, weight.values)?;
            for (index, damage) in weight.damages.iter().enumerate() {
                let snr = crate::weight::distortion::decibels(damage.output_noise);
                write!(f, "{} {} {}", if index == 0 { "" } else { "," }, damage.method, Decibels(snr))?;
            }
            writeln!(f)?;
        }
        let drawn = if self.synthetic { " synthetic" } else { "" };
        write!(f, "{}{drawn} samples, {} layers run", self.samples, self.layers_run)
    }
}

/// Measures what each weight of a model can bear. The result does not depend on the number of threads.
///
/// # Errors
///
/// [`EvaluateError::Quantize`] if the model is no network (a pipeline has several), or cannot be quantized; if it cannot be
/// run on a sample.
pub fn sensitivity(
    model: &Model,
    samples: &Samples,
    options: &SensitivityOptions,
) -> Result<Sensitivity, EvaluateError> {
    if samples.is_empty() {
        return Err(EvaluateError::NoSamples { place: None });
    }
    let folded = if options.fold { crate::fold::fold(model)?.model } else { model.clone() };
    let which = Which::Original;
    let fail = |cause| EvaluateError::Model { which, cause };
    let Some(compiled) = NetworkModel::compile(folded.proto(), walk::ROOT).map_err(fail)? else {
        return Err(crate::error::Error::NoNetwork { kind: model.kind() }.into());
    };
    let trials = Trials::new(&folded, &options.methods)?;
    let network = watched(&folded, &compiled).map_err(fail)?;
    let mut job = Job {
        network: &network,
        options,
        trials: &trials,
        run_options: Options::default(),
        done: 0,
        batches: 1,
        layers_run: 0,
    };
    let blobs = |index: usize| -> Result<Entering, EvaluateError> {
        let sample = samples.get(index).unwrap_or(Err(EvaluateError::NoSamples { place: None }))?;
        let fail = |cause| EvaluateError::Predict { which, sample: sample.name.clone(), cause };
        Ok((sample.name.clone(), compiled.blobs(&sample.features, &mut Vec::new()).map_err(fail)?))
    };
    let batch = job.batch_len(blobs(0)?)?.min(samples.len());
    job.batches = samples.len().div_ceil(batch);
    let mut sums = vec![Vec::new(); trials.all.len()];
    for start in (0..samples.len()).step_by(batch) {
        let indices = start..samples.len().min(start + batch);
        let entering = indices.into_par_iter().map(blobs).collect::<Result<Vec<_>, _>>()?;
        job.batch(entering, &mut sums)?;
    }
    let weights = trials.weights.iter().map(|weight| {
        let of = trials.all.iter().zip(&sums).filter(|(trial, _)| trial.weight == weight.number);
        let damages = of.map(|(trial, sums): (_, &Vec<Sums>)| Damage {
            method: trials.methods[trial.method].0,
            relative_error: trial.relative_error,
            output_noise: sums.iter().map(Sums::relative).sum::<f64>() / sums.len().max(1) as f64,
        });
        WeightSensitivity {
            network: weight.place.network.to_string(),
            layer: weight.place.layer.to_string(),
            field: weight.place.field.to_string(),
            values: weight.values,
            damages: damages.collect(),
        }
    });
    Ok(Sensitivity {
        samples: samples.len(),
        synthetic: samples.is_synthetic(),
        weights: weights.collect(),
        layers_run: job.layers_run,
    })
}

/// The network, asked for what the damage is measured on.
fn watched(model: &Model, compiled: &NetworkModel) -> Result<Network, PredictError> {
    let layers = walk::network(model.proto()).map_or(&[][..], |(layers, _)| layers);
    let watched = compiled.network.output_names().map(|name| {
        let writer = layers.iter().rev().find(|layer| layer.output.iter().any(|output| output == name));
        match writer {
            Some(NeuralNetworkLayer { layer: Some(Layer::Softmax(_) | Layer::SoftmaxNd(_)), input, .. }) => {
                input.first().map_or(name, String::as_str)
            }
            _ => name,
        }
    });
    let watched: Vec<&str> = watched.collect();
    let inputs: Vec<&str> = compiled.inputs.iter().map(|input| input.name.as_str()).collect();
    Network::compile(walk::ROOT, layers, &inputs, &watched)
}

/// A weight that something is tried with.
struct Weight {
    /// Its place in the report.
    number: usize,
    place: Place,
    values: u64,
}

/// One method for one weight.
struct Trial {
    weight: usize,
    layer: usize,
    method: usize,
    relative_error: f64,
}

/// All that is tried. The model is quantized as a whole with each method, and weights are taken from there.
struct Trials<'m> {
    layers: Vec<&'m NeuralNetworkLayer>,
    methods: Vec<(Method, Model)>,
    weights: Vec<Weight>,
    /// In the order of the weights.
    all: Vec<Trial>,
}

fn layers_of(model: &proto::Model) -> Vec<&NeuralNetworkLayer> {
    let mut layers = Vec::new();
    walk::each_layer(model, &mut |_, layer| layers.push(layer));
    layers
}

impl<'m> Trials<'m> {
    fn new(model: &'m Model, methods: &[Method]) -> Result<Self, EvaluateError> {
        let mut quantized = Vec::new();
        let mut reports: Vec<Report> = Vec::new();
        for method in methods {
            let Some(quantizer) = method.quantizer() else { continue };
            // Each weight by the method itself, biases too.
            let config = QuantConfig::shared(quantizer).with_biases(Biases::AsWeights);
            let result = quantize_weights(model, &config.with_fold(false).with_measure(true))?;
            quantized.push((*method, result.model));
            reports.push(result.report);
        }
        let (mut weights, mut all) = (Vec::new(), Vec::new());
        for number in 0..reports.first().map_or(0, |report| report.weights.len()) {
            let mut found = Vec::new();
            for (method, report) in reports.iter().enumerate() {
                let Some(weight) = report.weights.get(number) else { continue };
                if weight.outcome == Outcome::Converted {
                    let relative_error = weight.distortion.map_or(f64::NAN, |distortion| distortion.relative_error());
                    found.push(Trial { weight: number, layer: weight.place.index, method, relative_error });
                }
            }
            let Some(weight) = reports.first().and_then(|report| report.weights.get(number)) else { continue };
            if !found.is_empty() {
                let values = weight.shape.iter().product::<usize>() as u64;
                weights.push(Weight { number, place: weight.place.clone(), values });
                all.extend(found);
            }
        }
        Ok(Self { layers: layers_of(model.proto()), methods: quantized, weights, all })
    }

    /// The layer with one weight quantized.
    fn layer(&self, trial: &Trial) -> Option<NeuralNetworkLayer> {
        let field = &self.weights.iter().find(|weight| weight.number == trial.weight)?.place.field;
        let mut layer = (*self.layers.get(trial.layer)?).clone();
        let quantized = layers_of(self.methods[trial.method].1.proto());
        let source = layers::weights(quantized.get(trial.layer)?);
        let source = source.into_iter().find(|weight| weight.field == *field)?.params?.clone();
        let place = layers::weights_mut(&mut layer).into_iter().find(|weight| weight.field == *field)?.params?;
        *place = source;
        Some(layer)
    }
}

struct Job<'j> {
    network: &'j Network,
    options: &'j SensitivityOptions,
    trials: &'j Trials<'j>,
    run_options: Options,
    done: usize,
    batches: usize,
    layers_run: u64,
}

type Entering = (String, Vec<(String, Tensor)>);

impl Job<'_> {
    /// How many samples may be on their way at once.
    fn batch_len(&self, (name, blobs): Entering) -> Result<usize, EvaluateError> {
        let mut run = self.network.start(blobs, &self.run_options);
        let mut most = 1;
        for step in 0..self.network.steps().len() {
            run.advance(step..step + 1).map_err(predicting(&name))?;
            most = most.max(run.bytes());
        }
        // Its own blobs, and those of one run beyond.
        Ok(usize::try_from(self.options.memory / (2 * most)).unwrap_or(usize::MAX).max(1))
    }

    fn batch(&mut self, entering: Vec<Entering>, sums: &mut [Vec<Sums>]) -> Result<(), EvaluateError> {
        let steps = self.network.steps().len();
        let count = entering.len() as u64;
        let (names, mut states): (Vec<String>, Vec<Run<'_>>) =
            entering.into_iter().map(|(name, blobs)| (name, self.network.start(blobs, &self.run_options))).unzip();
        let finish = |run: &Run<'_>, network: &Network, from: usize| {
            let mut run = run.clone().in_network(network);
            run.advance(from..steps)?;
            run.outputs()
        };
        let with_names = || states.par_iter().zip(&names);
        let expected: Vec<Vec<Tensor>> = with_names()
            .map(|(state, name)| finish(state, self.network, 0).map_err(predicting(name)))
            .collect::<Result<_, _>>()?;
        self.layers_run += count * steps as u64;
        let (mut next, total) = (0, self.trials.all.len() * self.batches);
        for step in 0..steps {
            let end = self.network.steps().get(step + 1).map_or(usize::MAX, |step| step.info.index);
            while let Some(trial) = self.trials.all.get(next).filter(|trial| trial.layer < end) {
                if let Some(layer) = self.trials.layer(trial) {
                    let fail = |cause| EvaluateError::Model { which: Which::Other, cause };
                    let network = self.network.with_layer(trial.layer, &layer).map_err(fail)?;
                    let found = states.par_iter().zip(&names).zip(&expected).map(|((state, name), expected)| {
                        let found = finish(state, &network, step).map_err(predicting(name))?;
                        let sums = |(expected, found): (&Tensor, &Tensor)| {
                            Sums::of(expected.iter().copied(), found.iter().copied())
                        };
                        Ok(expected.iter().zip(&found).map(sums).collect::<Vec<_>>())
                    });
                    for found in found.collect::<Result<Vec<_>, EvaluateError>>()? {
                        sums[next].resize(found.len(), Sums::default());
                        sums[next].iter_mut().zip(&found).for_each(|(sums, found)| sums.add(found));
                    }
                    self.layers_run += count * (steps - step) as u64;
                }
                next += 1;
                self.done += 1;
                let stop = |progress: &Arc<Progress>| progress(EvaluateProgress { done: self.done, total }).is_break();
                if self.options.progress.as_ref().is_some_and(stop) {
                    return Err(EvaluateError::Stopped);
                }
            }
            states
                .par_iter_mut()
                .zip(&names)
                .try_for_each(|(state, name)| state.advance(step..step + 1).map_err(predicting(name)))?;
            self.layers_run += count;
        }
        Ok(())
    }
}

fn predicting(sample: &str) -> impl Fn(PredictError) -> EvaluateError + '_ {
    |cause| EvaluateError::Predict { which: Which::Original, sample: sample.to_owned(), cause }
}
