//! Building small networks, layer by layer. Weights are noise that depends on the layer's name.
#![allow(dead_code, reason = "each test uses some of it")]

use coreml_quant::Model;
use coreml_quant::proto::activation_params::NonlinearityType;
use coreml_quant::proto::convolution_layer_params::ConvolutionPaddingType;
use coreml_quant::proto::convolution3_d_layer_params::PaddingType;
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::{
    self, ActivationParams, ActivationReLu, AddLayerParams, BatchedMatMulLayerParams, BatchnormLayerParams,
    BiasLayerParams, BranchLayerParams, Convolution3DLayerParams, ConvolutionLayerParams, CopyLayerParams,
    FeatureDescription, InnerProductLayerParams, ModelDescription, NeuralNetwork, NeuralNetworkLayer, SamePadding,
    ScaleLayerParams, WeightParams,
};
use half::f16;

use crate::evaluate::Tensor;

/// What a layer reads and what it writes.
pub type Io<'a> = (&'a str, &'a str);

pub fn layer(name: &str, (input, output): Io<'_>, kind: Layer) -> NeuralNetworkLayer {
    NeuralNetworkLayer {
        name: name.to_owned(),
        input: input.split_whitespace().map(str::to_owned).collect(),
        output: output.split_whitespace().map(str::to_owned).collect(),
        layer: Some(kind),
        ..Default::default()
    }
}

fn seed(name: &str) -> u64 {
    name.bytes().fold(7, |seed, byte| seed.wrapping_mul(131) + u64::from(byte))
}

/// Noise around a value.
pub fn around(name: &str, len: u64, centre: f64, width: f64) -> WeightParams {
    let noise = Tensor::noise(&[len as usize], seed(name)).values;
    WeightParams::from_floats(&noise.iter().map(|value| (centre + width * value) as f32).collect::<Vec<_>>())
}

fn noise(name: &str, field: &str, len: u64) -> Option<WeightParams> {
    Some(around(&format!("{name}.{field}"), len, 0.0, 1.0))
}

/// The same weight in half precision.
pub fn halved(params: &mut Option<WeightParams>) {
    if let Some(params) = params.as_mut().filter(|params| !params.float_value.is_empty()) {
        let halves: Vec<u8> = params.float_value.iter().flat_map(|value| f16::from_f32(value).to_le_bytes()).collect();
        *params = WeightParams::default();
        params.float16_value = halves.into();
    }
}

/// Every weight of a layer in half precision.
pub fn all_halved(mut layer: NeuralNetworkLayer) -> NeuralNetworkLayer {
    match layer.layer.as_mut().unwrap() {
        Layer::Convolution(p) => [&mut p.weights, &mut p.bias].into_iter().for_each(halved),
        Layer::InnerProduct(p) => [&mut p.weights, &mut p.bias].into_iter().for_each(halved),
        Layer::Batchnorm(p) => {
            [&mut p.gamma, &mut p.beta, &mut p.mean, &mut p.variance].into_iter().for_each(halved);
        }
        Layer::Scale(p) => [&mut p.scale, &mut p.bias].into_iter().for_each(halved),
        Layer::Bias(p) => halved(&mut p.bias),
        other => panic!("no weights: {other:?}"),
    }
    layer
}

/// A 3 x 3 convolution with `same` padding from `inputs` to `outputs` channels, changed before its weights are made.
pub fn convolution(
    name: &str,
    io: Io<'_>,
    [inputs, outputs]: [u64; 2],
    change: impl FnOnce(&mut ConvolutionLayerParams),
) -> NeuralNetworkLayer {
    let mut p = ConvolutionLayerParams {
        output_channels: outputs,
        kernel_size: vec![3, 3],
        convolution_padding_type: Some(ConvolutionPaddingType::Same(SamePadding::default())),
        ..Default::default()
    };
    change(&mut p);
    let groups = p.n_groups.max(1);
    let taps: u64 = p.kernel_size.iter().product();
    p.kernel_channels = if p.is_deconvolution { inputs } else { inputs / groups };
    let columns = if p.is_deconvolution { outputs / groups * inputs } else { outputs * inputs / groups };
    p.weights = noise(name, "weights", columns * taps);
    p.bias = if p.has_bias { noise(name, "bias", outputs) } else { None };
    layer(name, io, Layer::Convolution(p))
}

/// A 2 x 2 x 2 convolution in three dimensions with `valid` padding.
pub fn convolution3d(
    name: &str,
    io: Io<'_>,
    [inputs, outputs]: [i32; 2],
    change: impl FnOnce(&mut Convolution3DLayerParams),
) -> NeuralNetworkLayer {
    let mut p = Convolution3DLayerParams {
        input_channels: inputs,
        output_channels: outputs,
        kernel_depth: 2,
        kernel_height: 2,
        kernel_width: 2,
        padding_type: PaddingType::Valid as i32,
        ..Default::default()
    };
    change(&mut p);
    p.weights = noise(name, "weights", (inputs * outputs / p.n_groups.max(1) * 8) as u64);
    p.bias = if p.has_bias { noise(name, "bias", outputs as u64) } else { None };
    layer(name, io, Layer::Convolution3d(p))
}

pub fn inner_product(name: &str, io: Io<'_>, [inputs, outputs]: [u64; 2], has_bias: bool) -> NeuralNetworkLayer {
    let p = InnerProductLayerParams {
        input_channels: inputs,
        output_channels: outputs,
        has_bias,
        weights: noise(name, "weights", inputs * outputs),
        bias: if has_bias { noise(name, "bias", outputs) } else { None },
        ..Default::default()
    };
    layer(name, io, Layer::InnerProduct(p))
}

pub fn batched_matmul(name: &str, io: Io<'_>, [inputs, outputs]: [u64; 2], has_bias: bool) -> NeuralNetworkLayer {
    let p = BatchedMatMulLayerParams {
        weight_matrix_first_dimension: inputs,
        weight_matrix_second_dimension: outputs,
        has_bias,
        weights: noise(name, "weights", inputs * outputs),
        bias: if has_bias { noise(name, "bias", outputs) } else { None },
        ..Default::default()
    };
    layer(name, io, Layer::BatchedMatmul(p))
}

pub fn batchnorm(name: &str, io: Io<'_>, channels: u64) -> NeuralNetworkLayer {
    let p = BatchnormLayerParams {
        channels,
        epsilon: 0.125,
        gamma: noise(name, "gamma", channels),
        beta: noise(name, "beta", channels),
        mean: noise(name, "mean", channels),
        variance: Some(around(&format!("{name}.variance"), channels, 1.0, 0.75)),
        ..Default::default()
    };
    layer(name, io, Layer::Batchnorm(Box::new(p)))
}

/// Without a bias if its shape is empty.
pub fn scale(name: &str, io: Io<'_>, shape_scale: &[u64], shape_bias: &[u64]) -> NeuralNetworkLayer {
    let has_bias = !shape_bias.is_empty();
    let p = ScaleLayerParams {
        shape_scale: shape_scale.to_vec(),
        scale: Some(around(&format!("{name}.scale"), shape_scale.iter().product(), 1.0, 0.5)),
        has_bias,
        shape_bias: shape_bias.to_vec(),
        bias: if has_bias { noise(name, "bias", shape_bias.iter().product()) } else { None },
    };
    layer(name, io, Layer::Scale(p))
}

pub fn bias(name: &str, io: Io<'_>, shape: &[u64]) -> NeuralNetworkLayer {
    let p = BiasLayerParams { shape: shape.to_vec(), bias: noise(name, "bias", shape.iter().product()) };
    layer(name, io, Layer::Bias(p))
}

pub fn relu(name: &str, io: Io<'_>) -> NeuralNetworkLayer {
    let function = Some(NonlinearityType::ReLu(ActivationReLu {}));
    layer(name, io, Layer::Activation(ActivationParams { nonlinearity_type: function }))
}

pub fn copy(name: &str, io: Io<'_>) -> NeuralNetworkLayer {
    layer(name, io, Layer::Copy(CopyLayerParams {}))
}

/// Adds the two blobs of `io.0`.
pub fn add(name: &str, io: Io<'_>) -> NeuralNetworkLayer {
    layer(name, io, Layer::Add(AddLayerParams::default()))
}

pub fn network(layers: Vec<NeuralNetworkLayer>) -> NeuralNetwork {
    NeuralNetwork { layers, ..Default::default() }
}

pub fn branch(
    name: &str,
    condition: &str,
    if_layers: Vec<NeuralNetworkLayer>,
    else_layers: Vec<NeuralNetworkLayer>,
) -> NeuralNetworkLayer {
    let p = BranchLayerParams { if_branch: Some(network(if_layers)), else_branch: Some(network(else_layers)) };
    layer(name, (condition, ""), Layer::Branch(p))
}

pub fn described(network: Type, inputs: &[&str], outputs: &[&str]) -> proto::Model {
    let features = |names: &[&str]| {
        names.iter().map(|name| FeatureDescription { name: (*name).to_owned(), ..Default::default() }).collect()
    };
    proto::Model {
        specification_version: 1,
        description: Some(ModelDescription {
            input: features(inputs),
            output: features(outputs),
            ..Default::default()
        }),
        r#type: Some(network),
        ..Default::default()
    }
}

/// A model with one network.
pub fn model(layers: Vec<NeuralNetworkLayer>, inputs: &[&str], outputs: &[&str]) -> Model {
    Model::from_proto(described(Type::NeuralNetwork(network(layers)), inputs, outputs))
}

/// The layers of a model's own network.
pub fn layers_of(model: &Model) -> &[NeuralNetworkLayer] {
    match &model.proto().r#type {
        Some(Type::NeuralNetwork(network)) => &network.layers,
        other => panic!("{other:?}"),
    }
}
