//! Which weights are quantized.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use crate::error::ConfigError;
use crate::format::proto::NeuralNetworkLayer;
use crate::format::proto::neural_network_layer::Layer;
use crate::network::weights::{LayerWeights, StoredWeight};

/// What a selector sees of a weight.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct WeightInfo<'a> {
    /// The network's path: `model`, `model/pipeline[1]`, `model/cond/ifBranch`.
    pub network: &'a str,
    /// The types of the layers that the network lies in (`branch`, `loop`), outermost first.
    pub inside: &'a [&'static str],
    /// The layer; `None` for a weight of an ML Program.
    pub layer: Option<&'a NeuralNetworkLayer>,
    /// The layer's name; in an ML Program, that of the constant.
    pub layer_name: &'a str,
    /// The layer's type under its name in the format, as `innerProduct`; in an ML Program, that of an operation that takes
    /// the constant, as `conv` and `linear`.
    pub layer_type: &'static str,
    /// The weight's field in the format: `weights`, `bias`, `weightParams[1].inputGateBiasVector`; in an ML Program, the
    /// operation's parameter, as `weight`.
    pub field: &'a str,
    /// The weight's dimensions, row-major.
    pub shape: &'a [usize],
}

impl<'a> WeightInfo<'a> {
    /// One of a layer's weights. Without a shape, if the layer's sizes make none.
    pub(crate) fn of(layer: &'a LayerWeights<'_, 'a>, weight: &'a StoredWeight<'a>) -> Self {
        Self {
            network: layer.at.network,
            inside: layer.at.inside,
            layer: Some(layer.layer),
            layer_name: &layer.layer.name,
            layer_type: layer.layer_type.unwrap_or_default(),
            field: &weight.field,
            shape: weight.shape.as_ref().map_or(&[], |shape| &shape.dims),
        }
    }
}

/// Chooses the weights that are quantized; the others stay as they are.
///
/// A layer of which no weight is selected stays as it is altogether: it is neither folded into another one nor is another
/// one folded into it.
///
/// A closure is a selector:
///
/// ```
/// use coreml_quant::{QuantConfig, WeightInfo};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = QuantConfig::linear(8)?.with_selector(|weight: &WeightInfo<'_>| weight.layer_name != "dense_2");
/// # Ok(())
/// # }
/// ```
///
/// What Core ML does not allow stays in any case: a selector narrows, it does not force. There is one exception: the
/// float weights of a layer have to agree in their type, so when some of them become float16 the others do too.
pub trait LayerSelector: Send + Sync {
    /// Whether this weight is to be quantized.
    fn selects(&self, weight: &WeightInfo<'_>) -> bool;

    /// This selector, narrowed by a second one: both have to agree.
    ///
    /// ```
    /// use coreml_quant::{AdvancedSelector, LayerSelector, WeightInfo};
    ///
    /// # fn main() -> Result<(), coreml_quant::ConfigError> {
    /// let selector = AdvancedSelector::new(["bias"])?.and(|weight: &WeightInfo<'_>| !weight.layer_name.starts_with("head/"));
    /// # Ok(())
    /// # }
    /// ```
    fn and<S: LayerSelector>(self, other: S) -> And<Self, S>
    where
        Self: Sized,
    {
        And(self, other)
    }

    /// The weights that this selector leaves out.
    ///
    /// ```
    /// use coreml_quant::{LayerSelector, Pattern, QuantConfig};
    ///
    /// # fn main() -> Result<(), coreml_quant::ConfigError> {
    /// let config = QuantConfig::linear(8)?.with_selector(Pattern::new("head/*").not());
    /// # Ok(())
    /// # }
    /// ```
    fn not(self) -> Not<Self>
    where
        Self: Sized,
    {
        Not(self)
    }
}

/// Passes on to what is pointed at.
macro_rules! forward {
    ($($pointer:ty),+) => {
        $(impl LayerSelector for $pointer {
            fn selects(&self, weight: &WeightInfo<'_>) -> bool {
                (**self).selects(weight)
            }
        })+
    };
}

forward!(Box<dyn LayerSelector>, Arc<dyn LayerSelector>, &dyn LayerSelector);

impl<F> LayerSelector for F
where
    F: Fn(&WeightInfo<'_>) -> bool + Send + Sync,
{
    fn selects(&self, weight: &WeightInfo<'_>) -> bool {
        self(weight)
    }
}

/// Two selectors that have to agree, see [`LayerSelector::and`].
#[derive(Clone, Copy, Debug)]
pub struct And<A, B>(A, B);

impl<A: LayerSelector, B: LayerSelector> LayerSelector for And<A, B> {
    fn selects(&self, weight: &WeightInfo<'_>) -> bool {
        self.0.selects(weight) && self.1.selects(weight)
    }
}

/// What a selector leaves out, see [`LayerSelector::not`].
#[derive(Clone, Copy, Debug)]
pub struct Not<S>(S);

impl<S: LayerSelector> LayerSelector for Not<S> {
    fn selects(&self, weight: &WeightInfo<'_>) -> bool {
        !self.0.selects(weight)
    }
}

/// Selects layers by their name, in which `*` stands for any characters, or with `type:` before it by their type.
///
/// ```
/// use coreml_quant::Pattern;
///
/// assert!(Pattern::new("encoder/*/dense").matches("encoder/3/dense", "innerProduct"));
/// assert!(Pattern::new("type:innerProduct").matches("encoder/3/dense", "innerProduct"));
/// assert!(!Pattern::new("dense").matches("encoder/3/dense", "innerProduct"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// What is compared is the type.
    is_type: bool,
    /// The text between the stars.
    parts: Vec<String>,
}

impl Pattern {
    /// A pattern for names, or for types if it starts with `type:`.
    pub fn new(pattern: &str) -> Self {
        let (is_type, text) = match pattern.strip_prefix("type:") {
            Some(text) => (true, text),
            None => (false, pattern),
        };
        Self { is_type, parts: text.split('*').map(str::to_owned).collect() }
    }

    /// Whether a layer of this name and type is meant.
    pub fn matches(&self, layer_name: &str, layer_type: &str) -> bool {
        let text = if self.is_type { layer_type } else { layer_name };
        let [first, rest @ ..] = &self.parts[..] else { return false };
        let Some(text) = text.strip_prefix(first.as_str()) else { return false };
        let [middle @ .., last] = rest else { return text.is_empty() };
        let mut text = text;
        for part in middle {
            // The first place will do: what follows can only lie behind it.
            let Some(at) = text.find(part.as_str()) else { return false };
            text = &text[at + part.len()..];
        }
        text.ends_with(last.as_str())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}{}", if self.is_type { "type:" } else { "" }, self.parts.join("*")))
    }
}

impl LayerSelector for Pattern {
    fn selects(&self, weight: &WeightInfo<'_>) -> bool {
        self.matches(weight.layer_name, weight.layer_type)
    }
}

/// Selects every weight that can be quantized.
#[derive(Clone, Copy, Debug, Default)]
pub struct DefaultSelector;

impl LayerSelector for DefaultSelector {
    fn selects(&self, _: &WeightInfo<'_>) -> bool {
        true
    }
}

/// The names that [`AdvancedSelector`] can skip: the quantizable layer types, `bias`, which also means the biases of
/// convolutions and matrix products, and `depthwiseConv`.
pub(crate) const SKIP_TYPES: &[&str] = &[
    "convolution",
    "convolution3d",
    "innerProduct",
    "embedding",
    "embeddingND",
    "batchnorm",
    "scale",
    "bias",
    "loadConstant",
    "loadConstantND",
    "simpleRecurrent",
    "gru",
    "uniDirectionalLSTM",
    "biDirectionalLSTM",
    "batchedMatmul",
    "depthwiseConv",
    "loop",
    "branch",
];

/// Skips layer types, and convolutions that are too small to be worth it.
///
/// The names, the defaults and their meaning are those of `AdvancedQuantizedLayerSelector` in coremltools.
#[derive(Clone, Debug)]
pub struct AdvancedSelector {
    skip: HashSet<&'static str>,
    minimum_conv_kernel_channels: u64,
    minimum_conv_weight_count: u64,
}

impl AdvancedSelector {
    /// Skips the given layer types, and convolutions with fewer than 4 kernel channels or 4096 weights.
    ///
    /// `bias` stands for `bias` layers and for the biases of `convolution`, `innerProduct` and `batchedMatmul`;
    /// `depthwiseConv` for convolutions with one kernel channel and more than one group; `branch` and `loop` for
    /// everything inside them.
    ///
    /// # Errors
    ///
    /// [`ConfigError::UnknownLayerType`] for a name that is no quantizable layer type.
    pub fn new<T: AsRef<str>>(skip_layer_types: impl IntoIterator<Item = T>) -> Result<Self, ConfigError> {
        let known = |name: T| {
            let name = name.as_ref();
            SKIP_TYPES
                .iter()
                .find(|known| **known == name)
                .copied()
                .ok_or_else(|| ConfigError::UnknownLayerType { found: name.to_owned(), known: SKIP_TYPES })
        };
        let skip = skip_layer_types.into_iter().map(known).collect::<Result<_, _>>()?;
        Ok(Self { skip, minimum_conv_kernel_channels: 4, minimum_conv_weight_count: 4096 })
    }

    /// Skips convolutions with fewer kernel channels (input channels of a group). Default 4; 0 for none.
    #[must_use]
    pub fn minimum_conv_kernel_channels(mut self, channels: u64) -> Self {
        self.minimum_conv_kernel_channels = channels;
        self
    }

    /// Skips convolutions with fewer weights. Default 4096; 0 for none.
    #[must_use]
    pub fn minimum_conv_weight_count(mut self, count: u64) -> Self {
        self.minimum_conv_weight_count = count;
        self
    }

    fn skips(&self, name: &str) -> bool {
        self.skip.contains(name)
    }

    /// The same for operations, by the layers that do what they do.
    fn selects_in_program(&self, weight: &WeightInfo<'_>) -> bool {
        let is_convolution = weight.layer_type.starts_with("conv") && weight.field == "weight";
        let names: &[&str] = match weight.layer_type {
            "conv" if weight.shape.len() == 5 => &["convolution3d"],
            "conv" | "conv_transpose" => &["convolution"],
            "linear" => &["innerProduct"],
            "matmul" => &["batchedMatmul"],
            "gather" => &["embedding", "embeddingND"],
            "batch_norm" => &["batchnorm"],
            "rnn" => &["simpleRecurrent"],
            "gru" => &["gru"],
            "lstm" => &["uniDirectionalLSTM", "biDirectionalLSTM"],
            _ => &[],
        };
        if names.iter().any(|name| self.skips(name)) || weight.field == "bias" && self.skips("bias") {
            return false;
        }
        let channels = weight.shape.get(1).map_or(0, |&channels| channels as u64);
        let count = weight.shape.iter().fold(1_u64, |count, &size| count.saturating_mul(size as u64));
        !is_convolution || channels >= self.minimum_conv_kernel_channels && count >= self.minimum_conv_weight_count
    }
}

impl LayerSelector for AdvancedSelector {
    fn selects(&self, weight: &WeightInfo<'_>) -> bool {
        if weight.layer.is_none() {
            return self.selects_in_program(weight);
        }
        if self.skips(weight.layer_type) || weight.inside.iter().any(|outer| self.skips(outer)) {
            return false;
        }
        let biased = matches!(weight.layer_type, "convolution" | "innerProduct" | "batchedMatmul");
        if biased && weight.field == "bias" && self.skips("bias") {
            return false;
        }
        // A convolution that is too small is skipped whole, with its bias.
        if let Some(Layer::Convolution(params)) = weight.layer.and_then(|layer| layer.layer.as_ref()) {
            let depthwise = params.kernel_channels == 1 && params.n_groups > 1;
            let kernel = if params.kernel_size.is_empty() { &[3, 3][..] } else { &params.kernel_size };
            let count = kernel
                .iter()
                .fold(params.output_channels.saturating_mul(params.kernel_channels), |n, &size| n.saturating_mul(size));
            return !(depthwise && self.skips("depthwiseConv"))
                && params.kernel_channels >= self.minimum_conv_kernel_channels
                && count >= self.minimum_conv_weight_count;
        }
        true
    }
}

/// Selects matrix products with a constant matrix, `innerProduct` and `batchedMatmul`, by their size and name, as
/// `MatrixMultiplyLayerSelector` in coremltools does.
///
/// ```
/// use coreml_quant::MatMulSelector;
///
/// let selector = MatMulSelector::new().minimum_weight_count(4096).maximum_output_channels(1000).layer_names(["fc6", "fc7"]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct MatMulSelector {
    minimum_weight_count: u64,
    minimum_input_channels: u64,
    minimum_output_channels: u64,
    maximum_input_channels: Option<u64>,
    maximum_output_channels: Option<u64>,
    layer_names: HashSet<String>,
}

impl MatMulSelector {
    /// Selects all matrix products.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only matrices with at least this many weights.
    #[must_use]
    pub fn minimum_weight_count(mut self, count: u64) -> Self {
        self.minimum_weight_count = count;
        self
    }

    /// Only matrices with at least this many input channels.
    #[must_use]
    pub fn minimum_input_channels(mut self, channels: u64) -> Self {
        self.minimum_input_channels = channels;
        self
    }

    /// Only matrices with at least this many output channels.
    #[must_use]
    pub fn minimum_output_channels(mut self, channels: u64) -> Self {
        self.minimum_output_channels = channels;
        self
    }

    /// Only matrices with at most this many input channels.
    #[must_use]
    pub fn maximum_input_channels(mut self, channels: u64) -> Self {
        self.maximum_input_channels = Some(channels);
        self
    }

    /// Only matrices with at most this many output channels.
    #[must_use]
    pub fn maximum_output_channels(mut self, channels: u64) -> Self {
        self.maximum_output_channels = Some(channels);
        self
    }

    /// Only layers with these names; none given means all.
    #[must_use]
    pub fn layer_names<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.layer_names = names.into_iter().map(Into::into).collect();
        self
    }
}

impl LayerSelector for MatMulSelector {
    fn selects(&self, weight: &WeightInfo<'_>) -> bool {
        let (inputs, outputs) = match weight.layer.and_then(|layer| layer.layer.as_ref()) {
            Some(Layer::InnerProduct(params)) => (params.input_channels, params.output_channels),
            Some(Layer::BatchedMatmul(params)) => {
                (params.weight_matrix_first_dimension, params.weight_matrix_second_dimension)
            }
            _ => match (weight.layer_type, weight.field, weight.shape) {
                ("linear", "weight", &[outputs, inputs]) => (inputs as u64, outputs as u64),
                ("matmul", _, &[.., inputs, outputs]) => (inputs as u64, outputs as u64),
                _ => return false,
            },
        };
        inputs.saturating_mul(outputs) >= self.minimum_weight_count
            && inputs >= self.minimum_input_channels
            && outputs >= self.minimum_output_channels
            && self.maximum_input_channels.is_none_or(|maximum| inputs <= maximum)
            && self.maximum_output_channels.is_none_or(|maximum| outputs <= maximum)
            && (self.layer_names.is_empty() || self.layer_names.contains(weight.layer_name))
    }
}
