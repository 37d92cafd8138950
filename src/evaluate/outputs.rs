//! Runs two models on samples and compares what comes out.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::error::{EvaluateError, Which};
use super::layers::{self, LayerSums};
use super::report::{ClassComparison, Flip, OutputComparison, OutputReport, WorstSample};
use super::samples::{Sample, Samples};
use super::statistics::{Proportion, Sums};
use crate::model::Model;
use crate::predict::{Features, PredictError, Predictor, Value};

/// How far an evaluation is.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct EvaluateProgress {
    /// Samples, or what else the job counts, that are done.
    pub done: usize,
    /// How many there are.
    pub total: usize,
}

pub(super) type Progress = dyn Fn(EvaluateProgress) -> ControlFlow<()> + Send + Sync;
type Setup = dyn Fn(Predictor) -> Predictor + Send + Sync;

/// How two models are compared.
#[derive(Clone)]
pub struct CompareOptions {
    k: usize,
    worst: usize,
    per_layer: bool,
    setup: Option<Arc<Setup>>,
    progress: Option<Arc<Progress>>,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self { k: 5, worst: 3, per_layer: false, setup: None, progress: None }
    }
}

impl fmt::Debug for CompareOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { k, worst, per_layer, .. } = self;
        f.debug_struct("CompareOptions")
            .field("k", k)
            .field("worst", worst)
            .field("per_layer", per_layer)
            .finish_non_exhaustive()
    }
}

impl CompareOptions {
    /// The outputs alone, the best 5 classes, the worst 3 samples.
    pub fn new() -> Self {
        Self::default()
    }

    /// Among how many of the other model's best classes the original's is looked for. Default: 5.
    #[must_use]
    pub fn with_top_k(mut self, k: usize) -> Self {
        self.k = k;
        self
    }

    /// How many samples are named for each output: those that are worst, and those that change their class. Default: 3.
    #[must_use]
    pub fn with_worst(mut self, samples: usize) -> Self {
        self.worst = samples;
        self
    }

    /// Whether every layer is compared, too. Each is run twice then, and the original's blobs of a sample are in memory at
    /// once, for as many samples as there are threads. Default: no.
    #[must_use]
    pub fn with_per_layer(mut self, per_layer: bool) -> Self {
        self.per_layer = per_layer;
        self
    }

    /// Gets both predictors before they run: for their precision, custom layers, stand-ins.
    #[must_use]
    pub fn with_setup(mut self, setup: impl Fn(Predictor) -> Predictor + Send + Sync + 'static) -> Self {
        self.setup = Some(Arc::new(setup));
        self
    }

    /// Calls `progress` after each sample, from any thread; [`ControlFlow::Break`] ends the job with
    /// [`EvaluateError::Stopped`].
    #[must_use]
    pub fn with_progress(
        mut self,
        progress: impl Fn(EvaluateProgress) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }

    pub(super) fn predictor(&self, model: &Model, which: Which) -> Result<Predictor, EvaluateError> {
        let predictor = Predictor::new(model).map_err(|cause| EvaluateError::Model { which, cause })?;
        Ok(match &self.setup {
            Some(setup) => setup(predictor),
            None => predictor,
        })
    }
}

/// Compares the outputs of two models of one network: folded, quantized, or stored otherwise.
///
/// The result does not depend on the number of threads.
///
/// # Errors
///
/// If a model cannot be run on a sample, or the outputs are not of the same names, types and shapes. No sample is left out.
pub fn compare_outputs(
    original: &Model,
    other: &Model,
    samples: &Samples,
    options: &CompareOptions,
) -> Result<OutputReport, EvaluateError> {
    let original = Original::new(original, samples, options)?;
    original.compare(other, samples, options)
}

/// The original, ready to be compared with.
pub(super) struct Original {
    predictor: Predictor,
    /// Outputs that a softmax layer writes.
    softmaxes: Vec<String>,
}

impl Original {
    pub(super) fn new(model: &Model, samples: &Samples, options: &CompareOptions) -> Result<Self, EvaluateError> {
        if samples.is_empty() {
            return Err(EvaluateError::NoSamples { place: None });
        }
        Ok(Self { predictor: options.predictor(model, Which::Original)?, softmaxes: layers::softmaxes(model.proto()) })
    }

    pub(super) fn compare(
        &self,
        other: &Model,
        samples: &Samples,
        options: &CompareOptions,
    ) -> Result<OutputReport, EvaluateError> {
        let predictors = [&self.predictor, &options.predictor(other, Which::Other)?];
        let done = AtomicUsize::new(0);
        let run = |index: usize| {
            let sample = samples.get(index).unwrap_or(Err(EvaluateError::NoSamples { place: None }))?;
            let ran = self.run(predictors, &sample, options)?;
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            match &options.progress {
                Some(progress) if progress(EvaluateProgress { done, total: samples.len() }).is_break() => {
                    Err(EvaluateError::Stopped)
                }
                _ => Ok(ran),
            }
        };
        let ran = (0..samples.len()).into_par_iter().map(run).collect::<Result<Vec<_>, _>>()?;
        let outputs = self.predictor.outputs().iter().map(|output| output.name.as_str());
        let outputs = outputs.filter_map(|name| comparison(name, &ran, options)).collect();
        let layers = LayerSums::join(ran.iter().map(|ran| &ran.layers));
        let (layers, unmatched_layers) = layers.comparisons();
        let mut notes = self.predictor.notes();
        for note in predictors[1].notes() {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        Ok(OutputReport {
            samples: samples.len(),
            synthetic: samples.is_synthetic(),
            outputs,
            layers,
            unmatched_layers,
            notes,
        })
    }

    /// Both models on one sample.
    fn run(
        &self,
        [original, other]: [&Predictor; 2],
        sample: &Sample,
        options: &CompareOptions,
    ) -> Result<RanSample, EvaluateError> {
        let fail =
            |which| move |cause: PredictError| EvaluateError::Predict { which, sample: sample.name.clone(), cause };
        let (expected, found, layers) = if options.per_layer {
            let mut blobs = layers::Blobs::default();
            let expected = original.observe(&sample.features, &mut |ran| {
                blobs.remember(ran);
                Ok(())
            });
            let expected = expected.map_err(fail(Which::Original))?;
            let mut walk = layers::Walk::new(&blobs, other);
            let found = other.observe(&sample.features, &mut |ran| walk.compare(ran)).map_err(fail(Which::Other))?;
            (expected, found, walk.sums)
        } else {
            let expected = original.predict(&sample.features).map_err(fail(Which::Original))?;
            let found = other.predict(&sample.features).map_err(fail(Which::Other))?;
            (expected, found, LayerSums::default())
        };
        let mut outputs = BTreeMap::new();
        for (name, expected) in expected.iter() {
            outputs.insert(name.to_owned(), self.output(sample, name, expected, &found, options)?);
        }
        Ok(RanSample { name: sample.name.clone(), label: sample.label.clone(), outputs, layers })
    }

    fn output(
        &self,
        sample: &Sample,
        name: &str,
        expected: &Value,
        found: &Features,
        options: &CompareOptions,
    ) -> Result<RanOutput, EvaluateError> {
        let different = |original: String, other: String| EvaluateError::DifferentOutputs {
            sample: sample.name.clone(),
            name: name.to_owned(),
            original,
            other,
        };
        let describe = |value: &Value| match value {
            Value::Array(array) => format!("an array of the shape {:?}", array.shape()),
            other => other.kind().to_owned(),
        };
        let found = found.get(name).ok_or_else(|| different(describe(expected), "missing".to_owned()))?;
        let of_classes = |labels: Vec<String>, expected: Vec<f64>, found: Vec<f64>| RanOutput {
            sums: Some(Sums::of(expected.iter().copied(), found.iter().copied())),
            classes: Some(RanClasses::of_scores(&labels, &expected, &found, options.k)),
        };
        let values = |expected: f64, found: f64| RanOutput { sums: Some(Sums::of([expected], [found])), classes: None };
        let labels = |expected: String, found: String| RanOutput {
            sums: None,
            classes: Some(RanClasses { chosen: [expected, found], among_best: None, divergence: None }),
        };
        Ok(match (expected, found) {
            (Value::Array(expected), Value::Array(found)) if expected.shape() == found.shape() => {
                if self.softmaxes.iter().any(|softmax| softmax == name) && expected.len() > 1 {
                    let of = |array: &crate::predict::Tensor| array.iter().map(|&value| value.into()).collect();
                    of_classes((0..expected.len()).map(|index| index.to_string()).collect(), of(expected), of(found))
                } else {
                    RanOutput { sums: Some(Sums::of(expected.iter().copied(), found.iter().copied())), classes: None }
                }
            }
            (Value::StringDictionary(expected), Value::StringDictionary(found)) if expected.keys().eq(found.keys()) => {
                let of = |scores: &BTreeMap<String, f64>| scores.values().copied().collect();
                of_classes(expected.keys().cloned().collect(), of(expected), of(found))
            }
            (Value::Int64Dictionary(expected), Value::Int64Dictionary(found)) if expected.keys().eq(found.keys()) => {
                let of = |scores: &BTreeMap<i64, f64>| scores.values().copied().collect();
                of_classes(expected.keys().map(i64::to_string).collect(), of(expected), of(found))
            }
            (Value::String(expected), Value::String(found)) => labels(expected.clone(), found.clone()),
            (Value::Int64(expected), Value::Int64(found)) => labels(expected.to_string(), found.to_string()),
            (Value::Double(expected), Value::Double(found)) => values(*expected, *found),
            _ => return Err(different(describe(expected), describe(found))),
        })
    }
}

/// What both models say of one sample.
struct RanSample {
    name: String,
    label: Option<String>,
    outputs: BTreeMap<String, RanOutput>,
    layers: LayerSums,
}

struct RanOutput {
    sums: Option<Sums>,
    classes: Option<RanClasses>,
}

struct RanClasses {
    /// By the original and by the other model.
    chosen: [String; 2],
    among_best: Option<bool>,
    divergence: Option<f64>,
}

/// What probabilities count as at least.
const LEAST_PROBABILITY: f64 = 1e-12;

impl RanClasses {
    fn of_scores(labels: &[String], expected: &[f64], found: &[f64], k: usize) -> Self {
        let best = |scores: &[f64]| {
            (1..scores.len()).fold(0, |best, next| if scores[next] > scores[best] { next } else { best })
        };
        let (right, chosen) = (best(expected), best(found));
        // Equal scores count for the class: its place is the best that it can be given.
        let better = found.iter().filter(|score| found.get(right).is_some_and(|own| *score > own)).count();
        let label = |index: usize| labels.get(index).cloned().unwrap_or_default();
        Self {
            chosen: [label(right), label(chosen)],
            among_best: Some(better < k),
            divergence: (are_probabilities(expected) && are_probabilities(found)).then(|| {
                let term = |(p, q): (&f64, &f64)| {
                    p.max(LEAST_PROBABILITY) * (p.max(LEAST_PROBABILITY) / q.max(LEAST_PROBABILITY)).ln()
                };
                expected.iter().zip(found).map(term).sum()
            }),
        }
    }
}

fn are_probabilities(values: &[f64]) -> bool {
    values.iter().all(|value| *value >= 0.0) && (values.iter().sum::<f64>() - 1.0).abs() < 1e-3
}

/// One output over all samples; `None` if the model gives no such output.
fn comparison(name: &str, samples: &[RanSample], options: &CompareOptions) -> Option<OutputComparison> {
    let of = || samples.iter().filter_map(|sample| Some((sample, sample.outputs.get(name)?)));
    of().next()?;
    let mut total: Option<Sums> = None;
    let mut worst: Vec<(f64, WorstSample)> = Vec::new();
    for (sample, output) in of() {
        let Some(sums) = &output.sums else { continue };
        total.get_or_insert_default().add(sums);
        if sums.relative() > 0.0 {
            worst.push((sums.relative(), WorstSample { sample: sample.name.clone(), difference: sums.difference() }));
        }
    }
    worst.sort_by(|a, b| b.0.total_cmp(&a.0));
    worst.truncate(options.worst);
    Some(OutputComparison {
        name: name.to_owned(),
        difference: total.map(|total| total.difference()),
        classes: classes(of().filter_map(|(sample, output)| Some((sample, output.classes.as_ref()?))), options),
        worst: worst.into_iter().map(|(_, sample)| sample).collect(),
    })
}

fn classes<'r>(
    samples: impl Iterator<Item = (&'r RanSample, &'r RanClasses)>,
    options: &CompareOptions,
) -> Option<ClassComparison> {
    let (mut count, mut same, mut among_best) = (0, 0, Some(0));
    let (mut labels, mut right) = (0, [0, 0]);
    let mut divergence = Some(0.0);
    let mut flips = Vec::new();
    for (sample, RanClasses { chosen: [original, other], among_best: is_among, divergence: own }) in samples {
        count += 1;
        among_best = among_best.zip(*is_among).map(|(count, is_among)| count + u64::from(is_among));
        divergence = divergence.zip(*own).map(|(sum, own)| sum + own);
        if let Some(label) = &sample.label {
            labels += 1;
            right[0] += u64::from(original == label);
            right[1] += u64::from(other == label);
        }
        if original == other {
            same += 1;
        } else if flips.len() < options.worst {
            flips.push(Flip {
                sample: sample.name.clone(),
                label: sample.label.clone(),
                original: original.clone(),
                other: other.clone(),
            });
        }
    }
    Some(ClassComparison {
        agreement: Proportion::new(same, count)?,
        k: options.k,
        top_k_agreement: among_best.and_then(|among| Proportion::new(among, count)),
        kl_divergence: divergence.map(|sum: f64| sum / count as f64),
        original_accuracy: Proportion::new(right[0], labels),
        accuracy: Proportion::new(right[1], labels),
        flips,
    })
}
