//! Seeded weights and models for benches and the `synthesize` example: the same seed gives the same bytes everywhere.

use coreml_quant::Model;
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::{
    self, ConvolutionLayerParams, InnerProductLayerParams, NeuralNetwork, NeuralNetworkLayer, WeightParams,
};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

/// How weights are distributed around zero.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Distribution {
    /// Bell-shaped, as trained weights mostly are.
    Normal,
    /// Two-sided exponential.
    Laplace,
    /// Evenly between -0.1 and 0.1.
    Uniform,
    /// Two narrow bells.
    Bimodal,
    /// So heavy tails that there is no variance.
    Cauchy,
}

/// What the layers are.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Architecture {
    /// Square matrices.
    InnerProduct,
    /// 3 x 3 convolutions with as many inputs as outputs.
    Convolution,
    /// 3 x 3 convolutions of each channel by itself: 9 weights a channel.
    Depthwise,
}

/// Weights with a standard deviation of about 0.05 where there is one.
pub fn weights(distribution: Distribution, count: usize, seed: u64) -> Vec<f32> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    // Uniform in (0, 1): never an end, so that logarithms and tangents are finite.
    let mut unit = move || (f64::from(random.random::<u32>()) + 0.5) / 4_294_967_296.0;
    let mut value = move || {
        let mut normal = || (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos();
        match distribution {
            Distribution::Normal => 0.05 * normal(),
            Distribution::Bimodal => {
                let bell = 0.01 * normal();
                if unit() < 0.5 { bell - 0.05 } else { bell + 0.05 }
            }
            Distribution::Laplace => {
                let centered = unit() - 0.5;
                -0.035 * centered.signum() * (1.0 - 2.0 * centered.abs()).ln()
            }
            Distribution::Uniform => 0.2 * (unit() - 0.5),
            Distribution::Cauchy => 0.01 * (std::f64::consts::PI * (unit() - 0.5)).tan(),
        }
    };
    (0..count).map(|_| value() as f32).collect()
}

/// A chain of equal layers with about `count` weights in all.
pub fn model(architecture: Architecture, layers: usize, count: usize, distribution: Distribution, seed: u64) -> Model {
    let each = count as f64 / layers as f64;
    let layer = |index: usize| {
        let weights = |count: u64| {
            let values = weights(distribution, count as usize, seed.wrapping_add(index as u64));
            Some(WeightParams::from_floats(&values))
        };
        let layer = match architecture {
            Architecture::InnerProduct => {
                let size = (each.sqrt().round() as u64).max(1);
                Layer::InnerProduct(InnerProductLayerParams {
                    input_channels: size,
                    output_channels: size,
                    weights: weights(size * size),
                    ..Default::default()
                })
            }
            Architecture::Convolution | Architecture::Depthwise => {
                let depthwise = matches!(architecture, Architecture::Depthwise);
                let channels = if depthwise { each / 9.0 } else { (each / 9.0).sqrt() };
                let channels = (channels.round() as u64).max(1);
                let kernel_channels = if depthwise { 1 } else { channels };
                Layer::Convolution(ConvolutionLayerParams {
                    output_channels: channels,
                    kernel_channels,
                    n_groups: channels / kernel_channels,
                    kernel_size: vec![3, 3],
                    weights: weights(channels * kernel_channels * 9),
                    ..Default::default()
                })
            }
        };
        NeuralNetworkLayer {
            name: format!("layer_{index}"),
            input: vec![format!("blob_{index}")],
            output: vec![format!("blob_{}", index + 1)],
            layer: Some(layer),
            ..Default::default()
        }
    };
    let network = NeuralNetwork { layers: (0..layers).into_par_iter().map(layer).collect(), ..Default::default() };
    Model::from_proto(proto::Model {
        specification_version: 1,
        r#type: Some(Type::NeuralNetwork(network)),
        ..Default::default()
    })
}

/// A number with an optional suffix: `34M`, `1000`, `250k`.
pub fn parse_count(text: &str) -> Result<usize, String> {
    let (digits, factor) = match text.trim_end_matches(['k', 'M']) {
        digits if text.ends_with('k') => (digits, 1_000),
        digits if text.ends_with('M') => (digits, 1_000_000),
        digits => (digits, 1),
    };
    digits.parse::<usize>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(|| format!("{text} is not a count"))
}
