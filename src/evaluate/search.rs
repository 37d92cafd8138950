//! The smallest model that is good enough on samples, or the best one within a size.
//!
//! What each weight can bear is measured first. Plans for fewer and fewer bits a value are made by that, by the weights'
//! errors alone, and by the geometric mean of both; they are carried out and evaluated as whole models, and the last step
//! between enough and too few is halved. Uniform modes are evaluated beside them. From the smallest model that reaches the
//! goal on, one weight after the other, the largest first, gets one bit fewer as long as the goal is kept.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use prost::Message;

use super::error::EvaluateError;
use super::outputs::{CompareOptions, EvaluateProgress, Original, Progress};
use super::report::OutputReport;
use super::samples::Samples;
use super::sensitivity::{Sensitivity, SensitivityOptions, sensitivity};
use super::statistics::{Decibels, Proportion};
use crate::error::Place;
use crate::format::form::{Nbits, StoredForm};
use crate::model::Model;
use crate::planner::{Planner, Target};
use crate::quantize::config::{Mode, QuantConfig};
use crate::quantize::method::Method;
use crate::quantize::plan::{Plan, PlannedWeight};
use crate::quantize::quantize_weights;
use crate::quantize::report::{Outcome, Report, WeightReport};
use crate::quantizer::{LinearRange, SymmetricBits};

/// What a model must keep on the samples, or how large it may be.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Goal {
    /// The share of samples on which it chooses the original's class: 0.99 for 99 %.
    Agreement(f64),
    /// The share of samples with a label that it gets right.
    Accuracy(f64),
    /// The signal-to-noise ratio of its outputs in decibels, of the worst output.
    OutputSnr(f64),
    /// Bytes of its file at most; the signal-to-noise ratio of its outputs is to be as large as can be.
    MaxBytes(u64),
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agreement(share) => write!(f, "an agreement of {:.2} %", 100.0 * share),
            Self::Accuracy(share) => write!(f, "an accuracy of {:.2} %", 100.0 * share),
            Self::OutputSnr(snr) => write!(f, "an SNR of {snr} dB"),
            Self::MaxBytes(bytes) => write!(f, "at most {bytes} bytes"),
        }
    }
}

/// How a model is looked for.
#[derive(Clone)]
pub struct SearchOptions {
    modes: Vec<Mode>,
    halvings: u32,
    refinements: u32,
    compare: CompareOptions,
    sensitivity: SensitivityOptions,
    progress: Option<Arc<Progress>>,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self {
            modes: vec![Mode::Float16, Mode::Linear, Mode::KmeansLut],
            halvings: 4,
            refinements: 32,
            compare: CompareOptions::new().with_worst(0),
            sensitivity: SensitivityOptions::new(),
            progress: None,
        }
    }
}

impl fmt::Debug for SearchOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SearchOptions")
            .field("modes", &self.modes)
            .field("halvings", &self.halvings)
            .field("refinements", &self.refinements)
            .finish_non_exhaustive()
    }
}

impl SearchOptions {
    /// Plans of float16, linear and k-means weights, and these modes by themselves.
    pub fn new() -> Self {
        Self::default()
    }

    /// The modes that plans choose from, and that are evaluated by themselves. Default: float16, linear and kmeans_lut.
    #[must_use]
    pub fn with_modes(mut self, modes: impl IntoIterator<Item = Mode>) -> Self {
        self.modes = modes.into_iter().collect();
        self
    }

    /// How often the step between enough and too few bits is halved; each takes three models. Default: 4, which ends within
    /// 0.06 bits a value.
    #[must_use]
    pub fn with_halvings(mut self, halvings: u32) -> Self {
        self.halvings = halvings;
        self
    }

    /// How many models with one bit fewer for one weight are tried at the end. Default: 32.
    #[must_use]
    pub fn with_refinements(mut self, refinements: u32) -> Self {
        self.refinements = refinements;
        self
    }

    /// How models are compared with the original.
    #[must_use]
    pub fn with_compare(mut self, options: CompareOptions) -> Self {
        self.compare = options;
        self
    }

    /// How sensitivities are measured.
    #[must_use]
    pub fn with_sensitivity(mut self, options: SensitivityOptions) -> Self {
        self.sensitivity = options;
        self
    }

    /// Calls `progress` after each model; how many there will be is an estimate. [`ControlFlow::Break`] ends the job with
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

/// The model that was found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Found {
    /// The model.
    pub model: Model,
    /// How its weights are stored.
    pub plan: Plan,
    /// What was tried on the way.
    pub report: SearchReport,
}

/// All models that were tried.
///
/// `Display` writes a table by size; what no other model beats at its size or below is marked with `*`, the chosen one
/// with `>`.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SearchReport {
    /// What was asked for.
    pub goal: Goal,
    /// The number of samples.
    pub samples: usize,
    /// Whether the samples were drawn, not given.
    pub synthetic: bool,
    /// Bytes of the original's file.
    pub original_bytes: u64,
    /// The models, smallest first.
    pub candidates: Vec<Candidate>,
    /// The place of the chosen one among them.
    pub chosen: usize,
    /// What each weight can bear.
    pub sensitivity: Sensitivity,
}

/// One model that was tried.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Candidate {
    /// A mode and its bits, or a plan's bits a value.
    pub name: String,
    /// Whether it was planned.
    pub planned: bool,
    /// Bytes of its file.
    pub bytes: u64,
    /// The signal-to-noise ratio of its worst output, in decibels.
    pub snr_db: f64,
    /// See [`OutputReport::agreement`].
    pub agreement: Option<Proportion>,
    /// See [`OutputReport::accuracy`].
    pub accuracy: Option<Proportion>,
    /// Whether it reaches the goal.
    pub reaches: bool,
    /// Whether no other one is better in what the goal asks for at its size or below.
    pub on_frontier: bool,
}

impl fmt::Display for SearchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.candidates.iter().map(|candidate| candidate.name.chars().count()).max().unwrap_or_default();
        let share = |proportion: Option<Proportion>| {
            proportion.map_or_else(|| "-".to_owned(), |proportion| format!("{:.1} %", 100.0 * proportion.share))
        };
        writeln!(f, "  {:names$}  {:>10}  {:>9}  {:>9}  {:>9}", "model", "bytes", "SNR", "agreement", "accuracy")?;
        for (index, candidate) in self.candidates.iter().enumerate() {
            let mark = match (index == self.chosen, candidate.on_frontier) {
                (true, _) => '>',
                (_, true) => '*',
                _ => ' ',
            };
            let Candidate { name, bytes, snr_db, agreement, accuracy, .. } = candidate;
            let (agreement, accuracy) = (share(*agreement), share(*accuracy));
            writeln!(f, "{mark} {name:names$}  {bytes:>10}  {:>9}  {agreement:>9}  {accuracy:>9}", Decibels(*snr_db))?;
        }
        let drawn = if self.synthetic { " synthetic" } else { "" };
        write!(f, "chosen for {}, on {}{drawn} samples", self.goal, self.samples)
    }
}

/// The next method that takes fewer bytes; `None` if there is none.
fn fewer_bits(method: Method) -> Option<Method> {
    let less = |nbits: Nbits| Nbits::new(u32::from(nbits.get()).checked_sub(1)?);
    Some(match method {
        Method::Keep => Method::Float16,
        Method::Float16 => Method::KmeansLut { nbits: Nbits::EIGHT },
        Method::Linear { nbits, range } => Method::Linear { nbits: less(nbits)?, range },
        Method::LinearSymmetric { nbits, range } => {
            Method::LinearSymmetric { nbits: SymmetricBits::new(u32::from(nbits.get()) - 1)?, range }
        }
        Method::LinearLut { nbits } => Method::LinearLut { nbits: less(nbits)? },
        Method::KmeansLut { nbits } => Method::KmeansLut { nbits: less(nbits)? },
    })
}

/// What was done, as a plan.
fn carried_out(source: Source, report: &Report) -> Plan {
    let weight = |(index, weight): (usize, &WeightReport)| {
        let values = weight.shape.iter().product::<usize>();
        let method = match (&source, weight.outcome) {
            (Source::Planned(plan), _) => plan.weights.get(index).map_or(Method::Keep, |weight| weight.method),
            (Source::Uniform(method), Outcome::Converted) => *method,
            (Source::Uniform(_), Outcome::MovedAlong) if weight.after == StoredForm::Float16 => Method::Float16,
            (Source::Uniform(_), _) => Method::Keep,
        };
        PlannedWeight {
            network: weight.place.network.to_string(),
            layer: weight.place.layer.to_string(),
            field: weight.place.field.to_string(),
            values: values as u64,
            method,
            bytes: weight.after.byte_len(values) as u64,
            relative_error: weight.distortion.map_or(0.0, |distortion| distortion.relative_error()),
        }
    };
    let weights = report.weights.iter().enumerate().map(weight).collect();
    match &source {
        Source::Planned(plan) => Plan { weights, ..plan.clone() },
        // As `QuantConfig::shared` does it.
        Source::Uniform(_) => Plan { mean_image_as_bias: false, fold: true, unfolded: Vec::new(), weights },
    }
}

/// Bits a value that are planned for at first.
const BITS: [f64; 9] = [8.0, 6.0, 5.0, 4.0, 3.5, 3.0, 2.5, 2.0, 1.5];

/// Looks for the smallest model that reaches a goal, or the best one of a size. The result does not depend on the number
/// of threads. Samples that were planned on flatter the result a little: evaluate it on others.
///
/// # Errors
///
/// [`EvaluateError::Unreachable`] if no model reaches the goal; as [`sensitivity`] and
/// [`compare_outputs`](super::compare_outputs).
pub fn search(model: &Model, samples: &Samples, goal: Goal, options: &SearchOptions) -> Result<Found, EvaluateError> {
    let original = Original::new(model, samples, &options.compare)?;
    let sensitivity = sensitivity(model, samples, &options.sensitivity)?;
    let mut search = Search { model, samples, goal, options, original, tried: Vec::new() };
    for method in options.modes.iter().flat_map(|mode| Method::of_mode(*mode, LinearRange::MinMax)) {
        if let Some(quantizer) = method.quantizer() {
            search.try_config(method.to_string(), &QuantConfig::shared(quantizer), Source::Uniform(method))?;
        }
    }
    if let Goal::MaxBytes(bytes) = goal {
        search.try_plans(Target::Bytes(bytes), &format!("plan for {bytes} bytes"), &sensitivity)?;
    } else {
        let (mut enough, mut too_few) = (f64::INFINITY, 0.0);
        for bits in BITS {
            match search.try_bits(bits, &sensitivity)? {
                Some(true) => enough = bits,
                Some(false) => {
                    too_few = bits;
                    break;
                }
                None => break,
            }
        }
        for _ in 0..options.halvings {
            let middle = if enough.is_finite() { f64::midpoint(enough, too_few) } else { break };
            if search.try_bits(middle, &sensitivity)?.unwrap_or(false) {
                enough = middle;
            } else {
                too_few = middle;
            }
        }
        search.refine()?;
    }
    search.finish(sensitivity)
}

struct Search<'s> {
    model: &'s Model,
    samples: &'s Samples,
    goal: Goal,
    options: &'s SearchOptions,
    original: Original,
    /// Plans instead of models: those would take memory.
    tried: Vec<(Candidate, Plan)>,
}

/// Where a configuration comes from.
enum Source {
    Uniform(Method),
    Planned(Plan),
}

impl Search<'_> {
    /// Whether a plan of so many bits a value is enough; `None` if there is none.
    fn try_bits(&mut self, bits: f64, sensitivity: &Sensitivity) -> Result<Option<bool>, EvaluateError> {
        self.try_plans(Target::AverageBits(bits), &format!("plan of {bits:.2} bits"), sensitivity)
    }

    /// Whether one of the plans for a target is enough; `None` if there is none.
    fn try_plans(
        &mut self,
        target: Target,
        name: &str,
        sensitivity: &Sensitivity,
    ) -> Result<Option<bool>, EvaluateError> {
        let planner = || Planner::new(target).with_modes(self.options.modes.iter().copied());
        let weighting = sensitivity.weighting();
        let both = move |place: &Place, values: u64| (weighting(place, values) * values as f64).sqrt();
        let planners = [
            (planner().with_sensitivity(sensitivity), "sensitivity"),
            (planner().with_weighting(both), "both"),
            (planner(), "weight error"),
        ];
        let mut enough = None;
        for (planner, by) in planners {
            let plan = match planner.plan(self.model) {
                Ok(plan) => plan,
                // A size that cannot be reached is the caller's to know; of bits a value there are just no fewer.
                Err(crate::error::Error::TargetTooSmall { .. }) if matches!(target, Target::AverageBits(_)) => continue,
                Err(error) => return Err(error.into()),
            };
            let config = QuantConfig::planned(plan.clone());
            let reaches = self.try_config(format!("{name} by {by}"), &config, Source::Planned(plan))?;
            enough = Some(reaches || enough.unwrap_or(false));
        }
        Ok(enough)
    }

    /// Takes bits from single weights of the smallest model that reaches the goal.
    fn refine(&mut self) -> Result<(), EvaluateError> {
        let reaching = self.tried.iter().filter(|(candidate, ..)| candidate.reaches);
        let Some((start, plan)) = reaching.min_by_key(|(candidate, _)| candidate.bytes) else { return Ok(()) };
        let (mut bytes, mut plan) = (start.bytes, plan.clone());
        let mut order: Vec<usize> = (0..plan.weights.len()).collect();
        order.sort_by_key(|&weight| std::cmp::Reverse(plan.weights[weight].bytes));
        let mut left = self.options.refinements;
        for weight in order {
            while let Some(fewer) = fewer_bits(plan.weights[weight].method).filter(|_| left > 0) {
                left -= 1;
                let mut changed = plan.clone();
                changed.weights[weight].method = fewer;
                let name = format!("refined {}", self.options.refinements - left);
                let config = QuantConfig::planned(changed.clone());
                let reaches = self.try_config(name, &config, Source::Planned(changed))?;
                match self.tried.last() {
                    Some((candidate, found)) if reaches && candidate.bytes < bytes => {
                        (bytes, plan) = (candidate.bytes, found.clone());
                    }
                    _ => break,
                }
            }
        }
        Ok(())
    }

    /// Whether a model is enough.
    fn try_config(&mut self, name: String, config: &QuantConfig, source: Source) -> Result<bool, EvaluateError> {
        let quantized = quantize_weights(self.model, &config.clone().with_measure(true))?;
        let report = self.original.compare(&quantized.model, self.samples, &self.options.compare)?;
        let bytes = quantized.model.proto().encoded_len() as u64;
        let reaches = self.reaches(&report, bytes)?;
        let candidate = Candidate {
            name,
            planned: matches!(source, Source::Planned(_)),
            bytes,
            snr_db: report.snr_db(),
            agreement: report.agreement(),
            accuracy: report.accuracy(),
            reaches,
            on_frontier: false,
        };
        self.tried.push((candidate, carried_out(source, &quantized.report)));
        if let Some(progress) = &self.options.progress {
            let done = self.tried.len();
            let uniform: usize = self.options.modes.iter().map(|mode| mode.nbits().count().max(1)).sum();
            let planned = 3 * (BITS.len() + self.options.halvings as usize) + self.options.refinements as usize;
            if progress(EvaluateProgress { done, total: (uniform + planned).max(done) }).is_break() {
                return Err(EvaluateError::Stopped);
            }
        }
        Ok(reaches)
    }

    fn reaches(&self, report: &OutputReport, bytes: u64) -> Result<bool, EvaluateError> {
        let share = |proportion: Option<Proportion>, needs: &'static str| {
            proportion.map(|proportion| proportion.share).ok_or(EvaluateError::Unmeasurable { goal: self.goal, needs })
        };
        Ok(match self.goal {
            Goal::Agreement(least) => share(report.agreement(), "an output of classes")? >= least,
            Goal::Accuracy(least) => share(report.accuracy(), "an output of classes and samples with labels")? >= least,
            Goal::OutputSnr(least) => report.snr_db() >= least,
            Goal::MaxBytes(most) => bytes <= most,
        })
    }

    /// What the goal asks for, more is better.
    fn quality(&self, candidate: &Candidate) -> f64 {
        let share = |proportion: Option<Proportion>| proportion.map_or(0.0, |proportion| proportion.share);
        match self.goal {
            Goal::Agreement(_) => share(candidate.agreement),
            Goal::Accuracy(_) => share(candidate.accuracy),
            Goal::OutputSnr(_) | Goal::MaxBytes(_) => candidate.snr_db,
        }
    }

    fn finish(mut self, sensitivity: Sensitivity) -> Result<Found, EvaluateError> {
        let mut tried = std::mem::take(&mut self.tried);
        tried.sort_by(|(a, ..), (b, ..)| {
            a.bytes.cmp(&b.bytes).then(self.quality(b).total_cmp(&self.quality(a))).then_with(|| a.name.cmp(&b.name))
        });
        let mut best = f64::NEG_INFINITY;
        for (candidate, ..) in &mut tried {
            candidate.on_frontier = self.quality(candidate) > best;
            best = best.max(self.quality(candidate));
        }
        let reaching = || tried.iter().enumerate().filter(|(_, (candidate, ..))| candidate.reaches);
        let chosen = match self.goal {
            Goal::MaxBytes(_) => reaching().rfind(|(_, (candidate, ..))| candidate.on_frontier),
            _ => reaching().next(),
        };
        let Some((chosen, _)) = chosen else { return Err(EvaluateError::Unreachable { goal: self.goal, best }) };
        let plan = tried[chosen].1.clone();
        let model = quantize_weights(self.model, &QuantConfig::planned(plan.clone()))?.model;
        let report = SearchReport {
            goal: self.goal,
            samples: self.samples.len(),
            synthetic: self.samples.is_synthetic(),
            original_bytes: self.model.proto().encoded_len() as u64,
            candidates: tried.into_iter().map(|(candidate, ..)| candidate).collect(),
            chosen,
            sensitivity,
        };
        Ok(Found { model, plan, report })
    }
}
