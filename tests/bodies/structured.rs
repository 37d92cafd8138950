//! Models that are well formed as messages and lie about everything else. A body for property tests and fuzz targets:
//! include with `#[path]`, beside `bytes` and `model`.

use coreml_quant::Model;
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::quantization_params::QuantizationType;
use coreml_quant::proto::{
    self, BatchedMatMulLayerParams, BatchnormLayerParams, BiasLayerParams, BranchLayerParams, Convolution3DLayerParams,
    ConvolutionLayerParams, EmbeddingNdLayerParams, InnerProductLayerParams, LayerNormalizationLayerParams,
    LinearQuantizationParams, LoadConstantNdLayerParams, LookUpTableQuantizationParams, LstmParams, LstmWeightParams,
    NeuralNetwork, NeuralNetworkLayer, Pipeline, QuantizationParams, ScaleLayerParams, SimpleRecurrentLayerParams,
    UniDirectionalLstmLayerParams, WeightParams,
};

use super::bytes::Bytes;
use super::model::{configs, quantizes_with};

/// Builds a model from `data`, and quantizes it in every mode. Returns how many succeed.
///
/// # Panics
///
/// If a result is not as valid as the original.
pub fn quantizes_what_lies(data: &[u8]) -> usize {
    let mut data = Bytes(data);
    let configs = configs(data.byte());
    let model = Model::from_proto(model(&mut data, 3));
    let _ = model.layers();
    configs.iter().filter(|config| quantizes_with(&model, config)).count()
}

/// A model as `data` says.
pub fn model(data: &mut Bytes<'_>, depth: usize) -> proto::Model {
    let r#type = if depth > 0 && data.byte() > 240 {
        let models = (0..data.byte() % 3).map(|_| model(data, depth - 1)).collect();
        Type::Pipeline(Pipeline { models, ..Pipeline::default() })
    } else {
        Type::NeuralNetwork(network(data, depth))
    };
    proto::Model { specification_version: i32::from(data.byte() % 11), r#type: Some(r#type), ..proto::Model::default() }
}

fn network(data: &mut Bytes<'_>, depth: usize) -> NeuralNetwork {
    NeuralNetwork {
        layers: (0..=data.byte() % 4).map(|_| layer(data, depth)).collect(),
        array_input_shape_mapping: i32::from(data.byte() % 3),
        ..NeuralNetwork::default()
    }
}

/// A size that fits the values that `weight` makes, or any other.
fn sizes<const N: usize>(data: &mut Bytes<'_>) -> ([u64; N], u64) {
    let sizes = [(); N].map(|()| data.size());
    (sizes, sizes.iter().fold(1_u64, |product, &size| product.saturating_mul(size)))
}

fn layer(data: &mut Bytes<'_>, depth: usize) -> NeuralNetworkLayer {
    let has_bias = data.flag();
    let layer = match data.byte() % 14 {
        0 => {
            let ([outputs, kernel, height, width], units) = sizes(data);
            let n_groups = data.size();
            let is_deconvolution = data.flag();
            let units = if is_deconvolution { units / n_groups.max(1) } else { units };
            Layer::Convolution(ConvolutionLayerParams {
                output_channels: outputs,
                kernel_channels: kernel,
                kernel_size: if data.byte() > 230 { vec![height] } else { vec![height, width] },
                n_groups,
                is_deconvolution,
                has_bias,
                weights: weight(data, units),
                bias: weight(data, outputs),
                ..ConvolutionLayerParams::default()
            })
        }
        1 => {
            let ([outputs, inputs, depth, height, width], units) = sizes(data);
            Layer::Convolution3d(Convolution3DLayerParams {
                output_channels: outputs as i32,
                input_channels: inputs as i32,
                kernel_depth: depth as i32,
                kernel_height: height as i32,
                kernel_width: width as i32,
                n_groups: data.byte() as i8 as i32 % 3,
                is_deconvolution: data.flag(),
                has_bias,
                weights: weight(data, units),
                bias: weight(data, outputs),
                ..Convolution3DLayerParams::default()
            })
        }
        2 => {
            let ([outputs, inputs], units) = sizes(data);
            Layer::InnerProduct(InnerProductLayerParams {
                output_channels: outputs,
                input_channels: inputs,
                has_bias,
                weights: weight(data, units),
                bias: weight(data, outputs),
                int8_dynamic_quantize: data.flag(),
            })
        }
        3 => {
            let ([first, second], units) = sizes(data);
            Layer::BatchedMatmul(BatchedMatMulLayerParams {
                weight_matrix_first_dimension: first,
                weight_matrix_second_dimension: second,
                has_bias,
                weights: weight(data, units),
                bias: weight(data, second),
                int8_dynamic_quantize: data.flag(),
                ..BatchedMatMulLayerParams::default()
            })
        }
        4 => {
            let ([vocabulary, size], units) = sizes(data);
            Layer::EmbeddingNd(EmbeddingNdLayerParams {
                vocab_size: vocabulary,
                embedding_size: size,
                has_bias,
                weights: weight(data, units),
                bias: weight(data, size),
            })
        }
        5 => {
            let channels = data.size();
            Layer::Batchnorm(Box::new(BatchnormLayerParams {
                channels,
                compute_mean_var: data.flag(),
                instance_normalization: data.flag(),
                gamma: weight(data, channels),
                beta: weight(data, channels),
                mean: weight(data, channels),
                variance: weight(data, channels),
                ..BatchnormLayerParams::default()
            }))
        }
        6 => {
            let (shape, units) = sizes::<3>(data);
            Layer::Scale(ScaleLayerParams {
                shape_scale: shape.to_vec(),
                shape_bias: shape[..1].to_vec(),
                has_bias,
                scale: weight(data, units),
                bias: weight(data, shape[0]),
            })
        }
        7 => {
            let (shape, units) = sizes::<3>(data);
            Layer::Bias(BiasLayerParams { shape: shape.to_vec(), bias: weight(data, units) })
        }
        8 => {
            let (shape, units) = sizes::<5>(data);
            Layer::LoadConstantNd(LoadConstantNdLayerParams { shape: shape.to_vec(), data: weight(data, units) })
        }
        9 => {
            let ([inputs, outputs], units) = sizes(data);
            Layer::SimpleRecurrent(Box::new(SimpleRecurrentLayerParams {
                input_vector_size: inputs,
                output_vector_size: outputs,
                has_bias_vector: has_bias,
                weight_matrix: weight(data, units),
                recursion_matrix: weight(data, outputs.saturating_mul(outputs)),
                bias_vector: weight(data, outputs),
                ..SimpleRecurrentLayerParams::default()
            }))
        }
        10 => {
            let ([inputs, outputs], units) = sizes(data);
            let square = outputs.saturating_mul(outputs);
            Layer::UniDirectionalLstm(Box::new(UniDirectionalLstmLayerParams {
                input_vector_size: inputs,
                output_vector_size: outputs,
                params: Some(LstmParams { has_bias_vectors: has_bias, ..LstmParams::default() }),
                weight_params: data.flag().then(|| LstmWeightParams {
                    input_gate_weight_matrix: weight(data, units),
                    forget_gate_weight_matrix: weight(data, units),
                    block_input_weight_matrix: weight(data, units),
                    output_gate_weight_matrix: weight(data, units),
                    input_gate_recursion_matrix: weight(data, square),
                    forget_gate_recursion_matrix: weight(data, square),
                    block_input_recursion_matrix: weight(data, square),
                    output_gate_recursion_matrix: weight(data, square),
                    ..LstmWeightParams::default()
                }),
                ..UniDirectionalLstmLayerParams::default()
            }))
        }
        11 => {
            let (shape, units) = sizes::<2>(data);
            Layer::LayerNormalization(LayerNormalizationLayerParams {
                normalized_shape: shape.iter().map(|&size| size as i64).collect(),
                gamma: weight(data, units),
                beta: weight(data, units),
                ..LayerNormalizationLayerParams::default()
            })
        }
        12 if depth > 0 => Layer::Branch(BranchLayerParams {
            if_branch: Some(network(data, depth - 1)),
            else_branch: data.flag().then(|| network(data, depth - 1)),
        }),
        _ => Layer::Add(proto::AddLayerParams::default()),
    };
    let name = String::from_utf8_lossy(data.take(3)).into_owned();
    let ends = |what: &str, count: u8| (0..count).map(|index| format!("{what}{index}")).collect();
    NeuralNetworkLayer {
        name,
        input: ends("in", if data.byte() > 230 { 2 } else { 1 }),
        output: ends("out", 1),
        is_updatable: data.byte() > 240,
        layer: Some(layer),
        ..NeuralNetworkLayer::default()
    }
}

/// A weight of `units` values if they are few, in any form, and sometimes of another length.
fn weight(data: &mut Bytes<'_>, units: u64) -> Option<WeightParams> {
    let form = data.byte();
    let units = if units > 4096 || form > 250 { usize::from(data.byte() % 8) } else { units as usize };
    let quantization = |data: &mut Bytes<'_>, nbits: u64| {
        let floats = |data: &mut Bytes<'_>, len: usize| (0..len).map(|_| float(data)).collect();
        let kind = if data.flag() {
            let scales = if data.flag() { 1 } else { usize::from(data.byte() % 9) };
            let biases = if data.flag() { scales } else { 0 };
            QuantizationType::LinearQuantization(LinearQuantizationParams {
                scale: floats(data, scales),
                bias: floats(data, biases),
            })
        } else {
            let float_value = floats(data, 1 << (nbits % 9));
            QuantizationType::LookupTableQuantization(LookUpTableQuantizationParams { float_value })
        };
        Some(QuantizationParams { number_of_bits: nbits, quantization_type: Some(kind) })
    };
    let mut params = WeightParams { is_updatable: data.byte() > 250, ..WeightParams::default() };
    match form % 8 {
        0 => return None,
        1..=4 => params.float_value = (0..units).map(|_| float(data)).collect(),
        5 => params.float16_value = (0..2 * units).map(|_| data.byte()).collect(),
        6 => {
            let nbits = u64::from(data.byte() % 10);
            params.raw_value = (0..(units * nbits as usize).div_ceil(8)).map(|_| data.byte()).collect();
            params.quantization = quantization(data, nbits);
        }
        _ => {
            params.int8_raw_value = (0..units).map(|_| data.byte()).collect();
            params.quantization = quantization(data, 8);
        }
    }
    Some(params)
}

/// A float: mostly ordinary, sometimes any bits.
fn float(data: &mut Bytes<'_>) -> f32 {
    match data.byte() {
        special @ 250.. => f32::from_bits(u32::from_le_bytes([special, data.byte(), data.byte(), data.byte()])),
        byte => (f32::from(byte) - 125.0) / 16.0,
    }
}
