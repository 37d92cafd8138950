//! What to quantize, and how: [`QuantConfig`] and the modes.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{ConfigError, Error, Place, QuantizeError};
use crate::format::form::{Nbits, StoredForm};
use crate::format::proto::NeuralNetworkLayer;
use crate::format::proto::neural_network_layer::Layer;
use crate::program::{DeploymentTarget, Granularity, Pruning};
use crate::quantize::plan::Plan;
use crate::quantize::report::Reason;
use crate::quantize::selector::{DefaultSelector, LayerSelector, WeightInfo};
use crate::quantizer::{
    CustomLut, Dequantize, Float16, Int8, KmeansLut, Linear, LinearLut, LinearSymmetric, Prune, Quantizer,
};
use crate::weight::{Blocks, WeightSpec};

/// A way to store weights, under coremltools' own name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// IEEE half precision.
    Float16,
    /// A scale and a bias for each channel, between its smallest and its largest value; 1 to 8 bits.
    Linear,
    /// A scale for each channel, in a range symmetric around zero; 2 to 8 bits.
    LinearSymmetric,
    /// A table of evenly spaced values; 1 to 8 bits.
    LinearLut,
    /// The table with the least squared error; 1 to 8 bits.
    KmeansLut,
    /// A table from a function of the caller's; 1 to 8 bits.
    CustomLut,
    /// Back to float32.
    Dequantize,
    /// Signed 8-bit matrices for layers that quantize their activations at run time (`int8DynamicQuantize`).
    Int8Matmul,
}

impl Mode {
    /// Every mode.
    pub fn all() -> &'static [Self] {
        &[
            Self::Float16,
            Self::Linear,
            Self::LinearSymmetric,
            Self::LinearLut,
            Self::KmeansLut,
            Self::CustomLut,
            Self::Dequantize,
            Self::Int8Matmul,
        ]
    }

    /// The mode's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float16 => "float16",
            Self::Linear => "linear",
            Self::LinearSymmetric => "linear_symmetric",
            Self::LinearLut => "linear_lut",
            Self::KmeansLut => "kmeans_lut",
            Self::CustomLut => "custom_lut",
            Self::Dequantize => "dequantize",
            Self::Int8Matmul => "int8_matmul",
        }
    }

    /// The numbers of bits that can be asked for; empty if the mode has no choice.
    pub fn nbits(self) -> std::ops::RangeInclusive<u32> {
        match self {
            Self::Linear | Self::LinearLut | Self::KmeansLut | Self::CustomLut => 1..=8,
            // With one bit the two codes would be -2 and 0 times the scale's magnitude: nothing around zero.
            Self::LinearSymmetric => 2..=8,
            #[expect(clippy::reversed_empty_ranges, reason = "an empty range says that there is no choice")]
            Self::Float16 | Self::Dequantize | Self::Int8Matmul => 1..=0,
        }
    }

    fn allowed_bits(self) -> &'static str {
        match self {
            Self::LinearSymmetric => "2 to 8",
            _ if self.nbits().is_empty() => "no number of",
            _ => "1 to 8",
        }
    }

    fn check_bits(self, nbits: u32) -> Result<Nbits, ConfigError> {
        let refused = ConfigError::Bits { mode: self.name(), allowed: self.allowed_bits(), found: nbits };
        Nbits::new(nbits).filter(|_| self.nbits().contains(&nbits)).ok_or(refused)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mode {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        Self::all().iter().find(|mode| mode.name() == name).copied().ok_or_else(|| ConfigError::UnknownMode {
            found: name.to_owned(),
            known: Self::all().iter().map(|mode| mode.name()).collect(),
        })
    }
}

/// How vectors are stored that are added or multiplied once a channel: biases, peepholes, what normalization, `scale`
/// and `bias` layers have. In a mode of 8 bits or fewer; others treat them like any weight.
///
/// They are few, and their errors fall on every output: in the bits of the weights they cost more accuracy than all
/// weights together, in float16 next to nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Biases {
    /// In float16 where Core ML takes that beside the layer's other weights and the values fit; else as they are.
    #[default]
    Float16,
    /// In the same mode and bits as the weights, as coremltools does it.
    AsWeights,
    /// As they are.
    Keep,
}

impl Biases {
    const ALL: [Self; 3] = [Self::Float16, Self::AsWeights, Self::Keep];
}

impl fmt::Display for Biases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Float16 => "float16",
            Self::AsWeights => "as-weights",
            Self::Keep => "keep",
        })
    }
}

impl FromStr for Biases {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        let found = Self::ALL.into_iter().find(|biases| biases.to_string() == name);
        found.ok_or_else(|| ConfigError::UnknownBiases { found: name.to_owned() })
    }
}

/// How far a job is.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The weight that was finished last.
    pub place: &'a Place,
    /// Weights that are done.
    pub weights_done: usize,
    /// Weights there are to quantize.
    pub weights: usize,
    /// Values that are done.
    pub values_done: u64,
    /// Values there are to quantize.
    pub values: u64,
}

/// Which weights to quantize, and how. A configuration that makes no sense cannot be built.
///
/// ```
/// use coreml_quant::QuantConfig;
///
/// assert!(QuantConfig::kmeans_lut(4).is_ok());
/// assert!(QuantConfig::kmeans_lut(9).is_err());
/// assert!(QuantConfig::linear_symmetric(1).is_err());
/// ```
#[derive(Clone)]
pub struct QuantConfig {
    pub(crate) choice: Choice,
    /// The first rule that selects a weight decides, before `choice`.
    pub(crate) rules: Vec<Rule>,
    pub(crate) selector: Arc<dyn LayerSelector>,
    pub(crate) progress: Option<Arc<Observe>>,
    /// The next three: unless set, by what is done.
    requantize: Option<bool>,
    allow_growth: Option<bool>,
    fold: Option<bool>,
    pub(crate) float16_instead: bool,
    /// For all weights alike; constants alone unless set.
    fallback: Option<bool>,
    pub(crate) mean_image_as_bias: bool,
    pub(crate) measure: bool,
    pub(crate) granularity: Option<Granularity>,
    pub(crate) target: Option<DeploymentTarget>,
    pub(crate) weight_threshold: Option<usize>,
    pub(crate) biases: Biases,
    pub(crate) chooser: Option<Arc<dyn super::Chooser>>,
}

/// Weights of programs with so many values or fewer stay as they are, unless the configuration says otherwise.
const WEIGHT_THRESHOLD: usize = 2048;
/// The weights that are meant, and what converts them; nothing does if they are to stay.
type Rule = (Arc<dyn LayerSelector>, Option<Arc<dyn Quantizer>>);

/// What is called after each weight, and may end the job.
type Observe = dyn Fn(Progress<'_>) -> ControlFlow<()> + Send + Sync;

/// What converts a weight.
#[derive(Clone, Debug)]
pub(crate) enum Choice {
    /// One quantizer for all.
    One(Arc<dyn Quantizer>),
    /// A method for each weight of one model, by its index.
    Planned(Arc<Plan>),
}

impl QuantConfig {
    /// Half precision: half the size, see [`Float16`].
    pub fn float16() -> Self {
        Self::custom(Float16)
    }

    /// A scale and a bias for each channel, see [`Linear`].
    ///
    /// # Errors
    ///
    /// [`ConfigError::Bits`] unless `nbits` is 1 to 8.
    pub fn linear(nbits: u32) -> Result<Self, ConfigError> {
        Ok(Self::custom(Linear::new(Mode::Linear.check_bits(nbits)?)))
    }

    /// A range around zero for each channel, see [`LinearSymmetric`].
    ///
    /// # Errors
    ///
    /// [`ConfigError::Bits`] unless `nbits` is 2 to 8.
    pub fn linear_symmetric(nbits: u32) -> Result<Self, ConfigError> {
        Ok(Self::custom(LinearSymmetric::new(Mode::LinearSymmetric.check_bits(nbits)?.try_into()?)))
    }

    /// A table of evenly spaced values, see [`LinearLut`].
    ///
    /// # Errors
    ///
    /// [`ConfigError::Bits`] unless `nbits` is 1 to 8.
    pub fn linear_lut(nbits: u32) -> Result<Self, ConfigError> {
        Ok(Self::custom(LinearLut::new(Mode::LinearLut.check_bits(nbits)?)))
    }

    /// The table with the least squared error, see [`KmeansLut`].
    ///
    /// # Errors
    ///
    /// [`ConfigError::Bits`] unless `nbits` is 1 to 8.
    pub fn kmeans_lut(nbits: u32) -> Result<Self, ConfigError> {
        Ok(Self::custom(KmeansLut::new(Mode::KmeansLut.check_bits(nbits)?)))
    }

    /// A table from a function of the caller's, see [`CustomLut`]: it gets the number of bits and the values, and
    /// returns the table of 2^nbits entries and one code for each value.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Bits`] unless `nbits` is 1 to 8.
    pub fn custom_lut<F>(nbits: u32, function: F) -> Result<Self, ConfigError>
    where
        F: Fn(u32, &[f32]) -> Result<(Vec<f32>, Vec<u8>), QuantizeError> + Send + Sync + 'static,
    {
        Ok(Self::custom(CustomLut::new(Mode::CustomLut.check_bits(nbits)?, function)))
    }

    /// Back to float32, from every form.
    pub fn dequantize() -> Self {
        Self::custom(Dequantize)
    }

    /// Signed 8-bit matrices, and activations quantized at run time, for `innerProduct` and one-input `batchedMatmul`
    /// layers without bias.
    pub fn int8_matmul() -> Self {
        Self::custom(Int8)
    }

    /// A method for each weight, as a plan says: see [`Planner`](crate::Planner).
    ///
    /// What Core ML does not allow stays in any case, so that an edited plan makes no invalid model either. Weights that
    /// are quantized already and have another method than [`Method::Keep`](crate::Method::Keep) are quantized again.
    pub fn planned(plan: Plan) -> Self {
        let (fold, mean_image_as_bias) = (Some(plan.fold), plan.mean_image_as_bias);
        Self { fold, mean_image_as_bias, requantize: Some(true), ..Self::new(Choice::Planned(Arc::new(plan))) }
    }

    /// The smallest values of a weight become zero and are not stored, in ML Programs: see [`Prune`].
    ///
    /// ```
    /// use coreml_quant::{Pruning, QuantConfig};
    ///
    /// let config = QuantConfig::prune(Pruning::target_sparsity(0.75)?);
    /// # Ok::<(), coreml_quant::PruningError>(())
    /// ```
    pub fn prune(pruning: Pruning) -> Self {
        Self::custom(Prune::new(pruning))
    }

    /// A quantizer of the caller's.
    pub fn custom(quantizer: impl Quantizer + 'static) -> Self {
        Self::new(Choice::One(Arc::new(quantizer)))
    }

    /// A quantizer that several configurations share.
    pub(crate) fn shared(quantizer: Arc<dyn Quantizer>) -> Self {
        Self::new(Choice::One(quantizer))
    }

    fn new(choice: Choice) -> Self {
        Self {
            choice,
            rules: Vec::new(),
            selector: Arc::new(DefaultSelector),
            progress: None,
            requantize: None,
            allow_growth: None,
            fold: None,
            float16_instead: true,
            fallback: None,
            mean_image_as_bias: false,
            measure: true,
            granularity: None,
            target: None,
            weight_threshold: None,
            biases: Biases::default(),
            chooser: None,
        }
    }

    /// A mode by name, with its number of bits if it takes one: for command lines and configuration files.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Bits`] or [`ConfigError::NoBits`] if the bits do not fit the mode,
    /// [`ConfigError::NeedsFunction`] for [`Mode::CustomLut`].
    pub fn from_mode(mode: Mode, nbits: Option<u32>) -> Result<Self, ConfigError> {
        let needed = || nbits.ok_or(ConfigError::NoBits { mode: mode.name(), allowed: mode.allowed_bits() });
        match mode {
            Mode::Linear => Self::linear(needed()?),
            Mode::LinearSymmetric => Self::linear_symmetric(needed()?),
            Mode::LinearLut => Self::linear_lut(needed()?),
            Mode::KmeansLut => Self::kmeans_lut(needed()?),
            Mode::CustomLut => Err(ConfigError::NeedsFunction),
            Mode::Float16 | Mode::Dequantize | Mode::Int8Matmul => match (mode, nbits) {
                (Mode::Float16, None | Some(16)) => Ok(Self::float16()),
                (Mode::Dequantize, None) => Ok(Self::dequantize()),
                (Mode::Int8Matmul, None | Some(8)) => Ok(Self::int8_matmul()),
                (_, found) => Err(ConfigError::Bits {
                    mode: mode.name(),
                    allowed: mode.allowed_bits(),
                    found: found.unwrap_or_default(),
                }),
            },
        }
    }

    /// Narrows the weights that are quantized. Default: [`DefaultSelector`], all that can be.
    #[must_use]
    pub fn with_selector(mut self, selector: impl LayerSelector + 'static) -> Self {
        self.selector = Arc::new(selector);
        self
    }

    /// Another quantizer for the weights that `selector` selects: mixed precision by name, type or shape. The first rule
    /// that selects a weight decides; without one it is what the configuration was made for. What
    /// [`with_selector`](Self::with_selector) leaves out stays as it is, rules or not.
    ///
    /// ```
    /// use coreml_quant::{KmeansLut, Nbits, QuantConfig, WeightInfo};
    ///
    /// # fn main() -> Result<(), coreml_quant::ConfigError> {
    /// let config = QuantConfig::kmeans_lut(4)?
    ///     .with_rule(|weight: &WeightInfo<'_>| weight.layer_name == "head", KmeansLut::new(Nbits::EIGHT))
    ///     .with_rule(|weight: &WeightInfo<'_>| weight.layer_type == "embedding", KmeansLut::new(Nbits::TWO));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_rule(mut self, selector: impl LayerSelector + 'static, quantizer: impl Quantizer + 'static) -> Self {
        self.rules.push((Arc::new(selector), Some(Arc::new(quantizer))));
        self
    }

    /// Leaves the weights that `selector` selects as they are, unless an earlier [rule](Self::with_rule) selected them.
    #[must_use]
    pub fn with_keep(mut self, selector: impl LayerSelector + 'static) -> Self {
        self.rules.push((Arc::new(selector), None));
        self
    }

    /// Whether the error of each weight is measured for the report. Default: yes.
    #[must_use]
    pub fn with_measure(mut self, measure: bool) -> Self {
        self.measure = measure;
        self
    }

    /// Whether weights that are stored in 8 bits or fewer are decoded and quantized again. Default: they stay as they
    /// are, except where float32 or int8 is asked for ([`dequantize`](Self::dequantize),
    /// [`int8_matmul`](Self::int8_matmul), a rule with [`Dequantize`]).
    #[must_use]
    pub fn with_requantize(mut self, requantize: bool) -> Self {
        self.requantize = Some(requantize);
        self
    }

    /// Whether a weight is converted even if the file does not get smaller by it, as a bias of ten values with a table of
    /// 256 entries. Default: it stays as it is, except where float32
    /// or int8 is asked for.
    #[must_use]
    pub fn with_growth(mut self, allow_growth: bool) -> Self {
        self.allow_growth = Some(allow_growth);
        self
    }

    /// How biases and the like are stored in a mode of 8 bits or fewer. Default: [`Biases::Float16`]. A plan says it for
    /// each weight.
    #[must_use]
    pub fn with_biases(mut self, biases: Biases) -> Self {
        self.biases = biases;
        self
    }

    /// Whether batchnorm, scale and bias layers are multiplied into the layer before them first. Default: where the
    /// configuration's quantizer, or one of a rule, stores a matrix in codes with scales or a table: the modes below 16
    /// bits, as in coremltools. Layers of which the selector leaves out every weight stay as they are.
    #[must_use]
    pub fn with_fold(mut self, fold: bool) -> Self {
        self.fold = Some(fold);
        self
    }

    /// Which values of a weight share a scale or a table, in ML Programs. Default: for scales, those of an output channel;
    /// for tables, all.
    ///
    /// ```
    /// use coreml_quant::{Granularity, QuantConfig};
    ///
    /// # fn main() -> Result<(), coreml_quant::ConfigError> {
    /// let blocks = QuantConfig::linear_symmetric(4)?.with_granularity(Granularity::PerBlock(32));
    /// let groups = QuantConfig::kmeans_lut(4)?.with_granularity(Granularity::PerGroupedChannel(16));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_granularity(mut self, granularity: Granularity) -> Self {
        self.granularity = Some(granularity);
        self
    }

    /// The oldest system that an ML Program has to run on: forms that came later are not used, and weights that would need
    /// one stay as they are. Default: programs are raised as far as the forms ask for.
    #[must_use]
    pub fn with_target(mut self, target: DeploymentTarget) -> Self {
        self.target = Some(target);
        self
    }

    /// Weights of ML Programs with so many values or fewer stay as they are. Default: 2048, as for coremltools.
    #[must_use]
    pub fn with_weight_threshold(mut self, values: usize) -> Self {
        self.weight_threshold = Some(values);
        self
    }

    /// The number of values from which on weights of programs change.
    pub(crate) fn threshold(&self) -> usize {
        self.weight_threshold.unwrap_or(WEIGHT_THRESHOLD)
    }

    /// Fails if an option is set that only programs have.
    pub(crate) fn require_no_program_options(&self) -> Result<(), ConfigError> {
        let options = [
            ("granularity", self.granularity.is_some()),
            ("target", self.target.is_some()),
            ("weight_threshold", self.weight_threshold.is_some()),
        ];
        match options.into_iter().find(|(_, is_set)| *is_set) {
            Some((option, _)) => Err(ConfigError::ProgramsOnly { option }),
            None => Ok(()),
        }
    }

    /// Whether weights that Core ML takes in floats only (those of `convolution3d` layers) become float16 when fewer bits
    /// are asked for, where float16 holds them. Default: yes; else they stay as they are.
    #[must_use]
    pub fn with_float16_instead(mut self, float16_instead: bool) -> Self {
        self.float16_instead = float16_instead;
        self
    }

    /// Whether a weight with values that its new form cannot hold (NaN, the infinities, numbers beyond float16) stays as it
    /// is, with its [`Reason`] in the report, or is an error. Default: a constant (of a `loadConstant` or `loadConstantND`
    /// layer: the mask of an attention, for example) stays, a weight of another layer is an error.
    ///
    /// ```
    /// use coreml_quant::QuantConfig;
    ///
    /// // As much in half precision as can be.
    /// let config = QuantConfig::float16().with_fold(true).with_fallback(true);
    /// ```
    #[must_use]
    pub fn with_fallback(mut self, fallback: bool) -> Self {
        self.fallback = Some(fallback);
        self
    }

    /// Whether the mean image that a network subtracts from an image becomes the weight of a `bias` layer first: the same
    /// numbers, which are quantized like those of any layer, exactly where they are few. Only where that changes nothing
    /// else: [`MeanImageObstacle`](crate::MeanImageObstacle) lists what can be in the way, and the report tells what is.
    /// Default: mean images stay in the preprocessing, in float32.
    #[must_use]
    pub fn with_mean_image_as_bias(mut self, mean_image_as_bias: bool) -> Self {
        self.mean_image_as_bias = mean_image_as_bias;
        self
    }

    /// Calls `progress` after each weight, from whichever thread finished it. [`ControlFlow::Break`] ends the job with
    /// [`Error::Cancelled`], and nothing is written.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    ///
    /// use coreml_quant::QuantConfig;
    ///
    /// # fn main() -> Result<(), coreml_quant::ConfigError> {
    /// let config = QuantConfig::linear(8)?.with_progress(|progress| {
    ///     println!("{}: {} of {} values", progress.place, progress.values_done, progress.values);
    ///     ControlFlow::Continue(())
    /// });
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_progress(mut self, progress: impl Fn(Progress<'_>) -> ControlFlow<()> + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }

    /// The quantizers of all rules, and the one for all others unless there is a plan.
    pub(crate) fn quantizers(&self) -> impl Iterator<Item = &Arc<dyn Quantizer>> {
        let one = match &self.choice {
            Choice::One(quantizer) => Some(quantizer),
            Choice::Planned(_) => None,
        };
        self.rules.iter().filter_map(|(_, quantizer)| quantizer.as_ref()).chain(one)
    }

    /// Whether a plan says how each weight is stored.
    pub(crate) fn is_planned(&self) -> bool {
        matches!(self.choice, Choice::Planned(_))
    }

    /// Whether weights in 8 bits or fewer are converted to a form.
    pub(crate) fn requantize(&self, target: StoredForm) -> bool {
        self.requantize.unwrap_or(is_way_back(target))
    }

    /// Whether a weight is converted to a form even if it does not get smaller.
    pub(crate) fn allow_growth(&self, target: StoredForm) -> bool {
        self.allow_growth.unwrap_or(is_way_back(target))
    }

    /// Whether layers are folded first.
    pub(crate) fn fold(&self) -> bool {
        let stores_codes = |quantizer: &dyn Quantizer| {
            let rows = Blocks::along(&[2, 2], 0);
            let form = rows.as_ref().map(|rows| quantizer.stored_form(&WeightSpec::new(rows)));
            matches!(form, Some(StoredForm::Linear { .. } | StoredForm::LookupTable { .. }))
        };
        self.fold.unwrap_or_else(|| {
            let mut quantizers = self.rules.iter().filter_map(|(_, quantizer)| quantizer.as_deref());
            quantizers.any(stores_codes) || matches!(&self.choice, Choice::One(quantizer) if stores_codes(quantizer))
        })
    }

    /// Whether a weight stays as it is, whatever it could become.
    pub(crate) fn skips(&self, weight: &WeightInfo<'_>) -> bool {
        let keeps =
            || self.rules.iter().find(|(selector, _)| selector.selects(weight)).is_some_and(|rule| rule.1.is_none());
        !self.selector.selects(weight) || keeps()
    }

    /// The layers that the plan does not fold, by their index.
    pub(crate) fn planned_unfolded(&self) -> BTreeSet<usize> {
        match &self.choice {
            Choice::One(_) => BTreeSet::new(),
            Choice::Planned(plan) => plan.unfolded.iter().copied().collect(),
        }
    }

    /// Whether the weights of a layer stay as they are if their new form cannot hold them.
    pub(crate) fn fallback(&self, layer: &NeuralNetworkLayer) -> bool {
        let is_constant = matches!(layer.layer, Some(Layer::LoadConstant(_) | Layer::LoadConstantNd(_)));
        self.fallback.unwrap_or(is_constant)
    }

    /// Whether a weight of a program stays as it is if its new form cannot hold it; infinite ones are masks.
    pub(crate) fn program_fallback(&self, is_infinite: bool) -> bool {
        self.fallback.unwrap_or(is_infinite)
    }

    /// What converts the weight with an index, or why it stays.
    pub(crate) fn choose(&self, index: usize, weight: &WeightInfo<'_>) -> Result<Arc<dyn Quantizer>, Reason> {
        if self.skips(weight) {
            return Err(Reason::NotSelected);
        }
        if let Some((_, quantizer)) = self.rules.iter().find(|(selector, _)| selector.selects(weight)) {
            return quantizer.clone().ok_or(Reason::NotSelected);
        }
        match &self.choice {
            Choice::One(quantizer) => Ok(Arc::clone(quantizer)),
            Choice::Planned(plan) => {
                plan.weights.get(index).and_then(|weight| weight.method.quantizer()).ok_or(Reason::Planned)
            }
        }
    }

    /// Fails if there is a plan and the weight with an index is another one in it.
    pub(crate) fn check_planned(&self, index: usize, weight: &WeightInfo<'_>) -> Result<(), Error> {
        let Choice::Planned(plan) = &self.choice else { return Ok(()) };
        match plan.weights.get(index) {
            Some(planned) if planned.is(weight) => Ok(()),
            planned => Err(Error::PlanMismatch {
                index,
                found: format!("{} of \"{}\"", weight.field, weight.layer_name),
                planned: planned.map_or("not there".to_owned(), |w| format!("{} of \"{}\"", w.field, w.layer)),
            }),
        }
    }

    /// Fails if there is a plan for another number of weights.
    pub(crate) fn check_planned_count(&self, count: usize) -> Result<(), Error> {
        match &self.choice {
            Choice::Planned(plan) if plan.weights.len() != count => Err(Error::PlanMismatch {
                index: count,
                found: "not there".to_owned(),
                planned: format!("one of {}", plan.weights.len()),
            }),
            _ => Ok(()),
        }
    }
}

/// Whether a form is one that is asked for because of what it is, not because it is small.
fn is_way_back(target: StoredForm) -> bool {
    matches!(target, StoredForm::Float32 | StoredForm::Int8)
}

impl fmt::Debug for QuantConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuantConfig")
            .field("choice", &self.choice)
            .field("rules", &self.rules.iter().map(|(_, quantizer)| quantizer).collect::<Vec<_>>())
            .field("requantize", &self.requantize)
            .field("allow_growth", &self.allow_growth)
            .field("fold", &self.fold)
            .field("float16_instead", &self.float16_instead)
            .field("fallback", &self.fallback)
            .field("mean_image_as_bias", &self.mean_image_as_bias)
            .field("measure", &self.measure)
            .field("granularity", &self.granularity)
            .field("target", &self.target)
            .field("weight_threshold", &self.weight_threshold)
            .field("biases", &self.biases)
            .finish_non_exhaustive()
    }
}
