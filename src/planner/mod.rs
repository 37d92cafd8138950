//! What each weight could be, what that takes and costs, and a plan made of it.

mod hull;

use std::sync::Arc;

use prost::Message;
use rayon::prelude::*;

use self::hull::{Bound, Choice, Float, Group};
use crate::error::{Error, Place};
use crate::format::form::StoredForm;
use crate::kernels::kmeans::{Clusters, Strategy};
use crate::model::Model;
use crate::network::params;
use crate::quantize::config::{Biases, Mode, QuantConfig};
use crate::quantize::method::Method;
use crate::quantize::plan::{Plan, PlannedWeight};
use crate::quantize::report::{Outcome, Reason};
use crate::quantize::selector::{DefaultSelector, LayerSelector, WeightInfo};
use crate::quantize::sites::{Site, plan};
use crate::quantize::{Prepared, prepare};
use crate::quantizer::{self, LinearRange, QuantizeContext};
use crate::weight::distortion;
use crate::weight::{Buffers, WeightView};

/// What a plan is to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Target {
    /// A model file of at most this many bytes, with as little error as possible.
    Bytes(u64),
    /// At most this many bits a value on average over all weights, tables, scales and biases included, with as little
    /// error as possible.
    AverageBits(f64),
    /// At least this signal-to-quantization-noise ratio in decibels, in as few bytes as possible.
    SqnrDb(f64),
}

/// The weight that a weight's relative error gets in the sum that a plan minimizes.
type Weighting = dyn Fn(&Place, u64) -> f64 + Send + Sync;

/// Chooses for each weight of a model how to store it, so that a size is reached with the least error, or an error with
/// the least size.
///
/// The sum of `N x |w - w'|^2 / |w|^2` over the weights of N values is minimized, the figure of
/// [`Report::sqnr_db`](crate::Report::sqnr_db); [`with_weighting`](Self::with_weighting) puts something else in the
/// place of N. Choices are float32, float16 and all numbers of bits of the allowed modes, as Core ML's rules leave them.
/// The plan is optimal up to one step of one weight.
///
/// ```no_run
/// use coreml_quant::{Model, Planner, QuantConfig, Target, quantize_weights};
///
/// # fn main() -> Result<(), coreml_quant::Error> {
/// let model = Model::open("MobileNet.mlmodel")?;
/// let plan = Planner::new(Target::AverageBits(4.5)).plan(&model)?;
/// println!("{plan}");
/// let quantized = quantize_weights(&model, &QuantConfig::planned(plan))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Planner {
    target: Target,
    modes: Vec<Mode>,
    range: LinearRange,
    weighting: Arc<Weighting>,
    selector: Arc<dyn LayerSelector>,
    requantize: bool,
    fold: bool,
    biases: Biases,
    #[cfg(feature = "predict")]
    calibration: Option<Arc<crate::calibrate::Calibration>>,
    mean_image_as_bias: bool,
}

impl Planner {
    /// A planner for a target: all modes are allowed.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            modes: Mode::all().to_vec(),
            range: LinearRange::MinMax,
            weighting: Arc::new(|_, values| values as f64),
            selector: Arc::new(DefaultSelector),
            requantize: false,
            fold: true,
            biases: Biases::default(),
            #[cfg(feature = "predict")]
            calibration: None,
            mean_image_as_bias: false,
        }
    }

    /// The modes to choose from, besides keeping a weight. Default: all; those that a plan does not use
    /// ([`Mode::CustomLut`], [`Mode::Dequantize`], [`Mode::Int8Matmul`]) do not count, nor do those that another one beats
    /// at the same size: [`Mode::LinearLut`] beside [`Mode::KmeansLut`], [`Mode::LinearSymmetric`] beside
    /// [`Mode::Linear`].
    #[must_use]
    pub fn with_modes(mut self, modes: impl IntoIterator<Item = Mode>) -> Self {
        self.modes = modes.into_iter().collect();
        self
    }

    /// How the ranges of the linear modes are found. Default: [`LinearRange::MinMax`].
    #[must_use]
    pub fn with_range(mut self, range: LinearRange) -> Self {
        self.range = range;
        self
    }

    /// How much the relative error of a weight counts, by its place and its number of values: measured sensitivities,
    /// for example. Not negative and finite. Default: the number of values.
    ///
    /// The total that [`Target::SqnrDb`] speaks of is then `-10 log10(cost / sum)` with the sum of these.
    #[must_use]
    pub fn with_weighting(mut self, weighting: impl Fn(&Place, u64) -> f64 + Send + Sync + 'static) -> Self {
        self.weighting = Arc::new(weighting);
        self
    }

    /// Narrows the weights that may change. Default: all that can be.
    #[must_use]
    pub fn with_selector(mut self, selector: impl LayerSelector + 'static) -> Self {
        self.selector = Arc::new(selector);
        self
    }

    /// Whether weights that are stored in 8 bits or fewer may be quantized again. Default: no.
    #[must_use]
    pub fn with_requantize(mut self, requantize: bool) -> Self {
        self.requantize = requantize;
        self
    }

    /// Whether batchnorm, scale and bias layers are multiplied into the layer before them first. Default: yes.
    #[must_use]
    pub fn with_fold(mut self, fold: bool) -> Self {
        self.fold = fold;
        self
    }

    /// Which forms biases may take. Default: [`Biases::Float16`]: what they have, or float16; with
    /// [`Biases::AsWeights`] those of any weight.
    #[must_use]
    pub fn with_biases(mut self, biases: Biases) -> Self {
        self.biases = biases;
        self
    }

    /// Weighs the relative error of each weight by what it does to the network's outputs on samples, measured: each
    /// weight alone in 4 bits. Takes the place of [`with_weighting`](Self::with_weighting), but for weights that the
    /// samples do not reach.
    #[cfg(feature = "predict")]
    #[must_use]
    pub fn with_calibration(mut self, calibration: crate::calibrate::Calibration) -> Self {
        self.calibration = Some(Arc::new(calibration));
        self
    }

    /// Whether mean images become the weights of bias layers first, see
    /// [`QuantConfig::with_mean_image_as_bias`]. Default: no.
    #[must_use]
    pub fn with_mean_image_as_bias(mut self, mean_image_as_bias: bool) -> Self {
        self.mean_image_as_bias = mean_image_as_bias;
        self
    }

    /// Makes the plan.
    ///
    /// # Errors
    ///
    /// As [`quantize_weights`](crate::quantize_weights), and [`Error::TargetTooSmall`] if even the smallest choice for
    /// every weight is larger than the target. An error that no choice keeps within cannot be asked for: keeping all
    /// weights is always one.
    pub fn plan(&self, model: &Model) -> Result<Plan, Error> {
        let config = self.config(QuantConfig::float16());
        let Prepared { model, unfolded, .. } = prepare(model, &config)?;
        let keep = QuantConfig::dequantize().with_selector(|_: &WeightInfo<'_>| false);
        let sites = plan(&model, &keep)?;
        let methods = self.methods();
        // What each method alone would do: Core ML's rules and ours are applied there.
        let mut allowed: Vec<Vec<(Method, StoredForm)>> = sites.iter().map(|_| Vec::new()).collect();
        for method in methods {
            let Some(quantizer) = method.quantizer() else { continue };
            let config = self.config(QuantConfig::shared(Arc::clone(&quantizer)));
            for (site, allowed) in plan(&model, &config)?.iter().zip(&mut allowed) {
                // Biases in float16 beside weights in few bits are float16's choice.
                let own_form = quantizer.stored_form(&site.spec()) == site.after;
                let method = match site.outcome {
                    Outcome::Converted if own_form => method,
                    // A place that takes no codes.
                    Outcome::Float16Instead => Method::Float16,
                    _ => continue,
                };
                if !allowed.contains(&(method, site.after)) {
                    allowed.push((method, site.after));
                }
            }
        }
        let candidates: Vec<Vec<Candidate>> =
            sites.par_iter().zip(&allowed).map(|(site, allowed)| candidates(site, allowed)).collect();

        let weighting: Vec<f64> =
            sites.iter().map(|site| (self.weighting)(&site.place, site.shape.units as u64)).collect();
        let weighting = self.measured_weighting(&model, weighting)?;
        let mut groups: Vec<Group> = Vec::new();
        let mut layer = None;
        for ((site, candidates), weighting) in sites.iter().zip(&candidates).zip(&weighting) {
            let of = (&site.place.network, &site.place.layer, site.place.layer_type);
            if layer.replace(of) != Some(of) {
                groups.push(Group { weights: Vec::new() });
            }
            let choices = candidates.iter().map(|candidate| self.choice(site, candidate, *weighting)).collect();
            if let Some(group) = groups.last_mut() {
                group.weights.push(choices);
            }
        }
        let bound = match self.target {
            Target::Bytes(bytes) => Bound::Bytes(bytes.saturating_sub(overhead(&model, &sites))),
            Target::AverageBits(bits) => {
                let values: f64 = sites.iter().map(|site| site.shape.units as f64).sum();
                Bound::Bytes((values * bits / 8.0) as u64)
            }
            Target::SqnrDb(sqnr) => Bound::Cost(weighting.iter().sum::<f64>() * 10_f64.powf(-sqnr / 10.0)),
        };
        let picks = hull::solve(&groups, bound).map_err(|least| match (self.target, bound) {
            (Target::Bytes(target), _) => Error::TargetTooSmall { target, least: least + overhead(&model, &sites) },
            (_, Bound::Bytes(target)) => Error::TargetTooSmall { target, least },
            (_, Bound::Cost(_)) => Error::TargetTooSmall { target: 0, least },
        })?;
        let chosen = candidates.iter().zip(picks.iter().flatten()).map(|(candidates, &pick)| candidates[pick]);
        let weights =
            sites.iter().zip(chosen).map(|(site, Candidate { method, form, relative_error })| PlannedWeight {
                network: site.place.network.to_string(),
                layer: site.place.layer.to_string(),
                field: site.place.field.to_string(),
                values: site.shape.units as u64,
                method,
                bytes: form.byte_len(site.shape.units) as u64,
                relative_error,
            });
        Ok(Plan {
            mean_image_as_bias: self.mean_image_as_bias,
            fold: self.fold,
            unfolded: unfolded.into_iter().collect(),
            weights: weights.collect(),
        })
    }

    /// The weighting by the samples, where there are any; `weighting` of what they do not reach is scaled to it.
    #[cfg(feature = "predict")]
    fn measured_weighting(&self, model: &crate::format::proto::Model, weighting: Vec<f64>) -> Result<Vec<f64>, Error> {
        let Some(calibration) = &self.calibration else { return Ok(weighting) };
        let sites = plan(model, &self.config(QuantConfig::kmeans_lut(4)?))?;
        let measured = crate::calibrate::sensitivities(model, &sites, calibration)?;
        let reached =
            measured.iter().zip(&weighting).filter_map(|(measured, weighting)| Some(((*measured)?, weighting)));
        let (sum, other) =
            reached.fold((0.0, 0.0), |(sum, other), (measured, weighting)| (sum + measured, other + weighting));
        let unit = if sum > 0.0 && other > 0.0 { other / sum } else { 1.0 };
        Ok(measured
            .into_iter()
            .zip(weighting)
            .map(|(measured, other)| measured.map_or(other, |measured| measured * unit))
            .collect())
    }

    #[cfg(not(feature = "predict"))]
    #[expect(clippy::unnecessary_wraps, reason = "fails where samples are run")]
    fn measured_weighting(&self, _: &crate::format::proto::Model, weighting: Vec<f64>) -> Result<Vec<f64>, Error> {
        Ok(weighting)
    }

    /// The methods to choose from.
    fn methods(&self) -> Vec<Method> {
        let better = |mode| match mode {
            // Evenly spaced tables take the bytes of the best tables, and never have less error.
            Mode::LinearLut => Some(Mode::KmeansLut),
            // The same bytes, and a larger step: max |w| / (2^(n-1) - 1) is at least (max - min) / (2^n - 2).
            Mode::LinearSymmetric => Some(Mode::Linear),
            _ => None,
        };
        let worth = |mode: &&Mode| better(**mode).is_none_or(|better| !self.modes.contains(&better));
        self.modes.iter().filter(worth).copied().flat_map(|mode| Method::of_mode(mode, self.range)).collect()
    }

    fn config(&self, config: QuantConfig) -> QuantConfig {
        let selector = Arc::clone(&self.selector);
        config
            .with_fold(self.fold)
            .with_biases(self.biases)
            .with_mean_image_as_bias(self.mean_image_as_bias)
            .with_requantize(self.requantize)
            .with_selector(move |weight: &WeightInfo<'_>| selector.selects(weight))
    }

    fn choice(&self, site: &Site<'_>, candidate: &Candidate, weighting: f64) -> Choice {
        let Candidate { method, form, relative_error } = *candidate;
        let units = site.shape.units;
        let bytes = match (self.target, method) {
            (Target::Bytes(_), Method::Keep) => site.params.encoded_len(),
            (Target::Bytes(_), _) => params::encoded_len(form, units, site.params.is_updatable),
            _ => form.byte_len(units),
        };
        let float = match form {
            _ if site.outcome == Outcome::Kept(Reason::LeftAlone) => Float::Free,
            StoredForm::Float16 => Float::Half,
            StoredForm::Float32 => Float::Single,
            _ => Float::Free,
        };
        let cost = if relative_error == 0.0 { 0.0 } else { weighting * relative_error };
        Choice { bytes: bytes as u64, cost, float }
    }
}

/// A form that a weight may take.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    method: Method,
    form: StoredForm,
    relative_error: f64,
}

/// The bytes of a model without its weights.
fn overhead(model: &crate::format::proto::Model, sites: &[Site<'_>]) -> u64 {
    let weights: usize = sites.iter().map(|site| site.params.encoded_len()).sum();
    model.encoded_len().saturating_sub(weights) as u64
}

/// What a weight can be, and the error of each; keeping it comes first. What fails is left out.
fn candidates(site: &Site<'_>, allowed: &[(Method, StoredForm)]) -> Vec<Candidate> {
    let mut found = vec![Candidate { method: Method::Keep, form: site.before, relative_error: 0.0 }];
    if allowed.is_empty() {
        return found;
    }
    let mut context = QuantizeContext::new();
    let Ok(weight) = site.view(&mut context.buffers) else { return found };
    let mut kmeans = None;
    // From many bits to few: the solutions for more clusters help to find those for fewer.
    for &(method, form) in allowed.iter().rev() {
        let relative_error = match method {
            Method::KmeansLut { nbits } => {
                let curve = kmeans.get_or_insert_with(|| KmeansCurve::new(&weight));
                curve.as_mut().map(|curve| curve.relative_error(nbits.levels()))
            }
            _ => measured(&weight, method, form, &mut context),
        };
        if let Some(relative_error) = relative_error.filter(|error| error.is_finite()) {
            found.push(Candidate { method, form, relative_error });
        }
    }
    found
}

/// The error of a method, from doing it.
fn measured(weight: &WeightView<'_>, method: Method, form: StoredForm, context: &mut QuantizeContext) -> Option<f64> {
    let view = |_: &mut Buffers| Ok(weight.clone());
    let (payload, measured) = quantizer::run(&method.quantizer()?, view, form, true, context).ok()?;
    payload.recycle(&mut context.buffers);
    measured.map(|distortion| distortion.relative_error())
}

/// The errors of the best tables of a weight: it is sorted once.
struct KmeansCurve {
    clusters: Clusters,
    squared: f64,
}

impl KmeansCurve {
    fn new(weight: &WeightView<'_>) -> Option<Self> {
        let values = weight.as_le_bytes();
        let clusters = Clusters::new(values, 256, Strategy::Auto).ok()?;
        Some(Self { clusters, squared: distortion::squared(values) })
    }

    fn relative_error(&mut self, levels: usize) -> f64 {
        distortion::relative(self.clusters.solve(levels).sse, self.squared)
    }
}
