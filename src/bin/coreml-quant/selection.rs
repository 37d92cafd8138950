//! Which weights are quantized, and rules for some of them.

use std::convert::Infallible;
use std::str::FromStr;

use clap::Args;
use coreml_quant::{AdvancedSelector, LayerSelector, Method, Model, Pattern, QuantConfig, WeightInfo, preview};

use crate::failure::Failure;
use crate::names;

/// Which weights are left as they are.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Which weights")]
pub struct Selection {
    /// Quantize only the layers with this name; `*` stands for any text. May be given several times.
    #[arg(long, value_name = "NAME")]
    only_layer: Vec<Name>,
    /// Quantize only layers of these types: a type's name, `bias` or `depthwiseConv`.
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    only_layer_type: Vec<LayerType>,
    /// Leave the layers with this name as they are; `*` stands for any text. May be given several times.
    #[arg(long, value_name = "NAME")]
    skip_layer: Vec<Name>,
    /// Leave layers of these types as they are: a type's name, `bias` or `depthwiseConv`.
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    skip_layer_type: Vec<LayerType>,
    /// Leave weights of fewer values as they are.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    min_weight_count: usize,
    /// Leave convolutions with fewer kernel channels as they are.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    min_conv_kernel_channels: u64,
    /// Leave convolutions with fewer weights as they are.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    min_conv_weight_count: u64,
}

/// The name of a layer, in which `*` stands for any text.
#[derive(Clone, Debug)]
pub struct Name {
    text: String,
    pattern: Pattern,
}

impl FromStr for Name {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self { text: text.to_owned(), pattern: Pattern::new(text) })
    }
}

impl Name {
    fn matches(&self, layer_name: &str) -> bool {
        self.pattern.matches(layer_name, "")
    }
}

/// A layer type, by what selects all but it.
#[derive(Clone, Debug)]
pub struct LayerType(AdvancedSelector);

impl FromStr for LayerType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        names::layer_type(name).map(Self)
    }
}

impl LayerType {
    fn is_of(&self, weight: &WeightInfo<'_>) -> bool {
        !self.0.selects(weight)
    }
}

/// A method for the layers of a name or type: `NAME=METHOD` or `type:TYPE=METHOD`.
#[derive(Clone, Debug)]
pub struct Rule {
    layers: Layers,
    /// What is done with them.
    pub method: Method,
}

#[derive(Clone, Debug)]
enum Layers {
    Named(Name),
    OfType(LayerType),
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (layers, method) = text
            .rsplit_once('=')
            .ok_or_else(|| format!("\"{text}\" is no rule; rules are NAME=METHOD or type:TYPE=METHOD"))?;
        let layers = match layers.strip_prefix("type:") {
            Some(name) => Layers::OfType(name.parse()?),
            None => Layers::Named(layers.parse().unwrap_or_else(|never: Infallible| match never {})),
        };
        Ok(Self { layers, method: names::method(method)? })
    }
}

impl Rule {
    fn matches(&self, weight: &WeightInfo<'_>) -> bool {
        match &self.layers {
            Layers::Named(name) => name.matches(weight.layer_name),
            Layers::OfType(layer_type) => layer_type.is_of(weight),
        }
    }

    /// What selects the layers.
    pub fn selector(&self) -> impl LayerSelector + 'static {
        let rule = self.clone();
        move |weight: &WeightInfo<'_>| rule.matches(weight)
    }

    /// The method of the first rule for a weight.
    pub fn first(rules: &[Self], weight: &WeightInfo<'_>) -> Option<Method> {
        rules.iter().find(|rule| rule.matches(weight)).map(|rule| rule.method)
    }
}

impl Selection {
    /// Whether anything is asked for.
    pub fn given(&self) -> bool {
        let Self { only_layer, only_layer_type, skip_layer, skip_layer_type, .. } = self;
        let names = only_layer.len() + only_layer_type.len() + skip_layer.len() + skip_layer_type.len();
        names > 0 || self.min_weight_count > 0 || self.min_conv_kernel_channels > 0 || self.min_conv_weight_count > 0
    }

    /// What selects the weights.
    pub fn selector(&self) -> impl LayerSelector + Clone + 'static {
        let selection = self.clone();
        let no_types: [&str; 0] = [];
        // No names are given, so none can be unknown.
        let sizes = AdvancedSelector::new(no_types).ok().map(|selector| {
            selector
                .minimum_conv_kernel_channels(self.min_conv_kernel_channels)
                .minimum_conv_weight_count(self.min_conv_weight_count)
        });
        move |weight: &WeightInfo<'_>| {
            let named = |names: &[Name]| names.iter().any(|name| name.matches(weight.layer_name));
            let of_type = |types: &[LayerType]| types.iter().any(|layer_type| layer_type.is_of(weight));
            let only = !selection.only_layer.is_empty() || !selection.only_layer_type.is_empty();
            (!only || named(&selection.only_layer) || of_type(&selection.only_layer_type))
                && !named(&selection.skip_layer)
                && !of_type(&selection.skip_layer_type)
                && weight.shape.iter().product::<usize>() >= selection.min_weight_count
                && sizes.as_ref().is_none_or(|sizes| sizes.selects(weight))
        }
    }

    /// Fails if a name, here or in a rule, is that of no layer.
    pub fn check(&self, rules: &[Rule], model: &Model) -> Result<(), Failure> {
        let in_rules = rules.iter().filter_map(|rule| match &rule.layers {
            Layers::Named(pattern) => Some(("--rule", pattern)),
            Layers::OfType(_) => None,
        });
        let only = self.only_layer.iter().map(|pattern| ("--only-layer", pattern));
        let skip = self.skip_layer.iter().map(|pattern| ("--skip-layer", pattern));
        let mut patterns = only.chain(skip).chain(in_rules).peekable();
        if patterns.peek().is_none() {
            return Ok(());
        }
        let layers = model.layers();
        // An ML Program has no layers: its weights have names.
        let weights = if layers.is_empty() { preview(model, &QuantConfig::float16())?.weights } else { Vec::new() };
        let of_weights = weights.iter().map(|weight| &*weight.place.layer);
        let names: Vec<&str> = layers.iter().map(|layer| layer.layer.name.as_str()).chain(of_weights).collect();
        for (option, pattern) in patterns {
            if !names.iter().any(|name| pattern.matches(name)) {
                let hint = names::suggestion(&pattern.text, &names);
                return Err(Failure::Usage(format!("{option}: no layer is called \"{}\"{hint}", pattern.text)));
            }
        }
        Ok(())
    }
}
