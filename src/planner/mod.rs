//! A method for each weight of a model, so that a size is reached with the least error, or an error in the fewest bytes.
//!
//! | file | what is there |
//! |---|---|
//! | [`candidates`] | what each weight could be, and how far that is from its values |
//! | [`size`] | how many bytes that takes in the file |
//! | [`frontier`] | the ways to store the weights of a layer that are worth a thought |
//! | [`knapsack`] | the best way for each layer within a limit |
//! | [`menu`] | all of it put together for a model |

mod candidates;
mod frontier;
mod knapsack;
mod menu;
mod size;

use std::sync::Arc;

use rayon::prelude::*;

use self::candidates::{Unusable, candidates};
use self::menu::{Counting, Menu};
use crate::error::{Error, Place};
use crate::format::form::StoredForm;
use crate::model::Model;
use crate::quantize::config::{Biases, Mode, QuantConfig};
use crate::quantize::method::Method;
use crate::quantize::plan::{Plan, PlannedWeight};
use crate::quantize::report::Outcome;
use crate::quantize::selector::{DefaultSelector, LayerSelector, WeightInfo};
use crate::quantize::sites::{self, Site};
use crate::quantize::{Prepared, prepare};
use crate::quantizer::LinearRange;

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
/// The plan is at least as good as any of a single mode, in one number of bits or several, and within 0.1 % of the best
/// there is: as far as errors are known beforehand, which for the best tables of weights above 65,536 values is to parts
/// in a thousand. [`Target::SqnrDb`] is met by the errors that are measured in the end, and a size to the byte.
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
    fallback: Option<bool>,
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
            fallback: None,
            fold: true,
            biases: Biases::default(),
            #[cfg(feature = "predict")]
            calibration: None,
            mean_image_as_bias: false,
        }
    }

    /// The modes to choose from, besides keeping a weight. Default: all; those that a plan does not use
    /// ([`Mode::CustomLut`], [`Mode::Dequantize`], [`Mode::Int8Matmul`]) do not count.
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

    /// Whether a weight with values that no form can hold (NaN, the infinities) stays as it is, or is an error. Default, as
    /// in [`QuantConfig::with_fallback`]: a constant stays, a weight of another layer is an error. Numbers beyond float16
    /// only rule out float16.
    #[must_use]
    pub fn with_fallback(mut self, fallback: bool) -> Self {
        self.fallback = Some(fallback);
        self
    }

    /// Whether batchnorm, scale and bias layers are multiplied into the layer before them first. Default: yes, unless that
    /// makes the model larger, as it can with float16 weights.
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
    /// As [`quantize_weights`](crate::quantize_weights); [`Error::TargetTooSmall`] or [`Error::TooFewBits`] if even the
    /// smallest choice for every weight is larger than the target; [`Error::InvalidTarget`] and
    /// [`Error::InvalidWeighting`] for numbers that make no sense. An error that no choice keeps within cannot be asked
    /// for: keeping all weights is always one.
    pub fn plan(&self, model: &Model) -> Result<Plan, Error> {
        model.require_network()?;
        self.check_target()?;
        let (Prepared { model, unfolded, .. }, fold) = self.prepared(model)?;
        let keep = QuantConfig::dequantize().with_selector(|_: &WeightInfo<'_>| false);
        let sites = sites::plan(&model, &keep)?;
        let weighting = self.measured_weighting(&model, self.weightings(&sites)?)?;
        // What each method alone would do: Core ML's rules and ours are applied there.
        let mut allowed: Vec<Vec<(Method, StoredForm)>> = sites.iter().map(|_| Vec::new()).collect();
        let mut modes = Vec::new();
        for &mode in &self.modes {
            let mut uniform = Vec::new();
            for method in Method::of_mode(mode, self.range) {
                let Some(quantizer) = method.quantizer() else { continue };
                let mut becomes = vec![Method::Keep; sites.len()];
                let alone = sites::plan(&model, &self.config(QuantConfig::shared(Arc::clone(&quantizer))))?;
                for ((site, allowed), becomes) in alone.iter().zip(&mut allowed).zip(&mut becomes) {
                    let own_form = quantizer.stored_form(&site.spec()) == site.after;
                    *becomes = match site.outcome {
                        Outcome::Converted if own_form => method,
                        // Biases beside weights in few bits, and places that take no codes.
                        Outcome::Converted | Outcome::Float16Instead if site.after == StoredForm::Float16 => {
                            Method::Float16
                        }
                        _ => continue,
                    };
                    if !allowed.contains(&(*becomes, site.after)) {
                        allowed.push((*becomes, site.after));
                    }
                }
                uniform.push(becomes);
            }
            modes.push(uniform);
        }
        let found: Vec<_> = sites.par_iter().zip(&allowed).map(|(site, allowed)| candidates(site, allowed)).collect();
        let (mut candidates, mut unusable) = (Vec::new(), Vec::new());
        for found in found {
            match found {
                Ok(found) => candidates.push(found),
                Err(error) => unusable.push(error),
            }
        }
        if !unusable.is_empty() {
            return Err(Unusable::all(unusable));
        }
        let counting = if let Target::AverageBits(_) = self.target { Counting::Weights } else { Counting::File };
        let values: f64 = sites.iter().map(|site| site.shape.units as f64).sum();
        let mut menu = Menu::new(&model, sites, candidates, weighting, modes, counting);
        let picks = match self.target {
            Target::Bytes(target) => menu.for_file(target).map_err(|least| Error::TargetTooSmall { target, least })?,
            Target::AverageBits(target) => menu
                // A last place must not cost a byte.
                .for_weights((values * target / 8.0 + 1e-6) as u64)
                .map_err(|least| Error::TooFewBits { target, least: least as f64 * 8.0 / values })?,
            Target::SqnrDb(target) => menu.for_sqnr(target),
        };
        let planned = menu.chosen(&picks).map(|(site, candidate)| PlannedWeight {
            network: site.place.network.to_string(),
            layer: site.place.layer.to_string(),
            field: site.place.field.to_string(),
            values: site.shape.units as u64,
            method: candidate.method,
            bytes: candidate.form.byte_len(site.shape.units) as u64,
            relative_error: readable(candidate.relative_error),
        });
        Ok(Plan {
            mean_image_as_bias: self.mean_image_as_bias,
            fold,
            unfolded: unfolded.into_iter().collect(),
            weights: planned.collect(),
        })
    }

    /// The weighting by the samples, where there are any; `weighting` of what they do not reach is scaled to it.
    #[cfg(feature = "predict")]
    fn measured_weighting(&self, model: &crate::format::proto::Model, weighting: Vec<f64>) -> Result<Vec<f64>, Error> {
        let Some(calibration) = &self.calibration else { return Ok(weighting) };
        let sites = sites::plan(model, &self.config(QuantConfig::kmeans_lut(4)?))?;
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

    /// The model whose weights are planned, and whether it is folded. Folded weights are float32: where those that were
    /// float16 grow by more than folding saves, it has no place in a plan for few bytes.
    fn prepared<'m>(&self, model: &'m Model) -> Result<(Prepared<'m>, bool), Error> {
        let config = self.config(QuantConfig::float16());
        let folded = prepare(model, &config)?;
        if folded.folds.bytes_after <= folded.folds.bytes_before {
            return Ok((folded, self.fold));
        }
        Ok((prepare(model, &config.with_fold(false))?, false))
    }

    fn check_target(&self) -> Result<(), Error> {
        match self.target {
            Target::AverageBits(value) if value.is_nan() || value < 0.0 => {
                Err(Error::InvalidTarget { value, unit: "bits a value" })
            }
            Target::SqnrDb(value) if value.is_nan() => Err(Error::InvalidTarget { value, unit: "decibels" }),
            _ => Ok(()),
        }
    }

    /// What the error of each weight counts.
    fn weightings(&self, sites: &[Site<'_>]) -> Result<Vec<f64>, Error> {
        let of = |site: &Site<'_>| {
            let value = (self.weighting)(&site.place, site.shape.units as u64);
            let is_valid = value.is_finite() && value >= 0.0;
            let place = || Box::new(site.place.clone());
            if is_valid { Ok(value) } else { Err(Error::InvalidWeighting { place: place(), value }) }
        };
        sites.iter().map(of).collect()
    }

    fn config(&self, config: QuantConfig) -> QuantConfig {
        let selector = Arc::clone(&self.selector);
        let config = config
            .with_fold(self.fold)
            .with_biases(self.biases)
            .with_mean_image_as_bias(self.mean_image_as_bias)
            .with_requantize(self.requantize)
            .with_selector(move |weight: &WeightInfo<'_>| selector.selects(weight));
        match self.fallback {
            Some(fallback) => config.with_fallback(fallback),
            None => config,
        }
    }
}

/// A number in nine significant digits, and none beyond the 22nd decimal place: every reader of decimal numbers reads it
/// as it is, even one that is off in the last place with longer ones.
fn readable(number: f64) -> f64 {
    const PLACES: f64 = 1e22;
    let short = format!("{number:.8e}").parse().unwrap_or(number);
    if short < 1e-13 { (short * PLACES).round() / PLACES } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readable_numbers() {
        for (number, expected) in [(0.0, 0.0), (0.123_456_789_012, 0.123_456_789), (2.0, 2.0), (1.234e-20, 1.23e-20)] {
            assert_eq!(readable(number), expected);
        }
        assert_eq!(readable(f64::INFINITY), f64::INFINITY);
    }
}
