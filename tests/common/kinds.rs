//! A small layer of every kind that stores weights, with its sizes stated from Core ML's rules and not from the crate's
//! own table; and the forms a weight can be stored in.

use bytes::Bytes;
use coreml_quant::Model;
use coreml_quant::proto::activation_params::NonlinearityType;
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::quantization_params::QuantizationType;
use coreml_quant::proto::{self, *};

/// Output channels, hidden units, embedding sizes: everything that scales go along.
pub const C: usize = 6;
const C64: u64 = C as u64;
/// Inputs.
const I: usize = 5;
const I64: u64 = I as u64;

/// What a kind of layer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// float32, float16, 1 to 8 bits.
    Any,
    /// float32 or float16.
    Floats,
    /// float32.
    Float32,
    /// Two weights, stored alike.
    Alike,
    /// Whatever it likes.
    Unchecked,
}

/// Gives a layer its weights: field, number of values, and how many scales are allowed besides one.
pub type Give<'a> = dyn FnMut(&str, usize, usize) -> Option<WeightParams> + 'a;

/// A kind of layer.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Its name, for messages.
    pub name: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// Whether it can be trained on the device.
    pub updatable: bool,
    build: fn(&mut Give<'_>) -> Layer,
}

impl Kind {
    /// A layer with the given weights.
    pub fn layer(&self, give: &mut Give<'_>) -> NeuralNetworkLayer {
        NeuralNetworkLayer { name: self.name.into(), layer: Some((self.build)(give)), ..Default::default() }
    }

    /// The weights: field, number of values, number of scales allowed besides one.
    pub fn fields(&self) -> Vec<(String, usize, usize)> {
        let mut fields = Vec::new();
        (self.build)(&mut |field, units, channels| {
            fields.push((field.to_owned(), units, channels));
            None
        });
        fields
    }
}

fn convolution(params: ConvolutionLayerParams, units: usize, give: &mut Give<'_>) -> Layer {
    Layer::Convolution(ConvolutionLayerParams {
        output_channels: C64,
        has_bias: true,
        weights: give("weights", units, C),
        bias: give("bias", C, 1),
        ..params
    })
}

fn convolution3d(is_deconvolution: bool, n_groups: i32, units: usize, give: &mut Give<'_>) -> Layer {
    Layer::Convolution3d(Convolution3DLayerParams {
        output_channels: C as i32,
        input_channels: 4,
        n_groups,
        kernel_depth: 1,
        kernel_height: 2,
        kernel_width: 3,
        is_deconvolution,
        has_bias: true,
        // Never quantized, so there is no C.
        weights: give("weights", units, 1),
        bias: give("bias", C, 1),
        ..Default::default()
    })
}

fn lstm_set(name: &str, give: &mut Give<'_>) -> LstmWeightParams {
    let mut set = |field: &str, units, channels| give(&format!("{name}.{field}"), units, channels);
    LstmWeightParams {
        input_gate_weight_matrix: set("inputGateWeightMatrix", C * I, C),
        forget_gate_weight_matrix: set("forgetGateWeightMatrix", C * I, C),
        block_input_weight_matrix: set("blockInputWeightMatrix", C * I, C),
        output_gate_weight_matrix: set("outputGateWeightMatrix", C * I, C),
        input_gate_recursion_matrix: set("inputGateRecursionMatrix", C * C, C),
        forget_gate_recursion_matrix: set("forgetGateRecursionMatrix", C * C, C),
        block_input_recursion_matrix: set("blockInputRecursionMatrix", C * C, C),
        output_gate_recursion_matrix: set("outputGateRecursionMatrix", C * C, C),
        input_gate_bias_vector: set("inputGateBiasVector", C, 1),
        forget_gate_bias_vector: set("forgetGateBiasVector", C, 1),
        block_input_bias_vector: set("blockInputBiasVector", C, 1),
        output_gate_bias_vector: set("outputGateBiasVector", C, 1),
        input_gate_peephole_vector: set("inputGatePeepholeVector", C, 1),
        forget_gate_peephole_vector: set("forgetGatePeepholeVector", C, 1),
        output_gate_peephole_vector: set("outputGatePeepholeVector", C, 1),
    }
}

const LSTM_PARAMS: LstmParams = LstmParams {
    sequence_output: false,
    has_bias_vectors: true,
    forget_bias: false,
    has_peephole_vectors: true,
    coupled_input_and_forget_gate: false,
    cell_clip_threshold: 0.0,
};

fn scale(shape: &[u64], channels: usize, give: &mut Give<'_>) -> Layer {
    let units = shape.iter().product::<u64>() as usize;
    Layer::Scale(ScaleLayerParams {
        shape_scale: shape.to_vec(),
        has_bias: true,
        shape_bias: shape.to_vec(),
        scale: give("scale", units, channels),
        bias: give("bias", units, channels),
    })
}

/// Every kind of layer that stores weights.
pub fn kinds() -> Vec<Kind> {
    let kind = |name, takes, build| {
        // "Only convolution, innerProduct, uniDirectionalLSTM can be."
        let updatable = ["convolution", "deconvolution", "innerProduct", "uniDirectionalLSTM"];
        let updatable = updatable.iter().any(|start| str::starts_with(name, start)) && takes == Takes::Any;
        Kind { name, takes, updatable, build }
    };
    vec![
        kind("convolution", Takes::Any, |give| {
            let params = ConvolutionLayerParams {
                kernel_channels: 4,
                n_groups: 1,
                kernel_size: vec![2, 3],
                ..Default::default()
            };
            convolution(params, C * 4 * 2 * 3, give)
        }),
        kind("convolution, defaults", Takes::Any, |give| {
            convolution(ConvolutionLayerParams { kernel_channels: 2, ..Default::default() }, C * 2 * 3 * 3, give)
        }),
        kind("convolution, grouped", Takes::Any, |give| {
            let params = ConvolutionLayerParams {
                kernel_channels: 2,
                n_groups: 3,
                kernel_size: vec![1, 1],
                ..Default::default()
            };
            convolution(params, C * 2, give)
        }),
        kind("deconvolution", Takes::Any, |give| {
            let params = ConvolutionLayerParams {
                kernel_channels: 4,
                kernel_size: vec![2, 1],
                is_deconvolution: true,
                ..Default::default()
            };
            convolution(params, 4 * C * 2, give)
        }),
        kind("deconvolution, grouped", Takes::Any, |give| {
            let params = ConvolutionLayerParams {
                kernel_channels: 4,
                n_groups: 2,
                kernel_size: vec![3, 1],
                is_deconvolution: true,
                ..Default::default()
            };
            convolution(params, 4 * (C / 2) * 3, give)
        }),
        kind("convolution3d", Takes::Floats, |give| convolution3d(false, 2, C * (4 / 2) * 6, give)),
        kind("convolution3d, deconvolution", Takes::Floats, |give| convolution3d(true, 2, 4 * (C / 2) * 6, give)),
        kind("innerProduct", Takes::Any, |give| {
            Layer::InnerProduct(InnerProductLayerParams {
                input_channels: I64,
                output_channels: C64,
                has_bias: true,
                weights: give("weights", C * I, C),
                bias: give("bias", C, 1),
                ..Default::default()
            })
        }),
        kind("batchedMatmul", Takes::Any, |give| {
            Layer::BatchedMatmul(BatchedMatMulLayerParams {
                weight_matrix_first_dimension: I64,
                weight_matrix_second_dimension: C64,
                has_bias: true,
                weights: give("weights", C * I, C),
                bias: give("bias", C, 1),
                ..Default::default()
            })
        }),
        kind("embedding", Takes::Any, |give| {
            Layer::Embedding(EmbeddingLayerParams {
                input_dim: I64,
                output_channels: C64,
                has_bias: true,
                weights: give("weights", C * I, C),
                bias: give("bias", C, 1),
            })
        }),
        kind("embeddingND", Takes::Any, |give| {
            Layer::EmbeddingNd(EmbeddingNdLayerParams {
                vocab_size: I64,
                embedding_size: C64,
                has_bias: true,
                weights: give("weights", C * I, C),
                bias: give("bias", C, 1),
            })
        }),
        kind("batchnorm", Takes::Any, |give| {
            Layer::Batchnorm(Box::new(BatchnormLayerParams {
                channels: C64,
                gamma: give("gamma", C, 1),
                beta: give("beta", C, 1),
                mean: give("mean", C, 1),
                variance: give("variance", C, 1),
                ..Default::default()
            }))
        }),
        kind("scale, 3 dimensions", Takes::Any, |give| scale(&[C64, 2, 1], C, give)),
        kind("scale, 3 dimensions, one channel", Takes::Any, |give| scale(&[1, 2, C64], 1, give)),
        kind("scale, 1 dimension", Takes::Any, |give| scale(&[C64], 1, give)),
        kind("bias", Takes::Any, |give| {
            Layer::Bias(BiasLayerParams { shape: vec![C64, 1, 2], bias: give("bias", C * 2, C) })
        }),
        kind("loadConstant", Takes::Any, |give| {
            Layer::LoadConstant(LoadConstantLayerParams { shape: vec![C64, 3, 1], data: give("data", C * 3, C) })
        }),
        kind("loadConstantND", Takes::Any, |give| {
            let shape = vec![C64, 1, 3];
            Layer::LoadConstantNd(LoadConstantNdLayerParams { shape, data: give("data", C * 3, 1) })
        }),
        kind("simpleRecurrent", Takes::Any, |give| {
            Layer::SimpleRecurrent(Box::new(SimpleRecurrentLayerParams {
                input_vector_size: I64,
                output_vector_size: C64,
                has_bias_vector: true,
                weight_matrix: give("weightMatrix", C * I, C),
                recursion_matrix: give("recursionMatrix", C * C, C),
                bias_vector: give("biasVector", C, 1),
                ..Default::default()
            }))
        }),
        kind("gru", Takes::Any, |give| {
            Layer::Gru(Box::new(GruLayerParams {
                input_vector_size: I64,
                output_vector_size: C64,
                has_bias_vectors: true,
                update_gate_weight_matrix: give("updateGateWeightMatrix", C * I, C),
                reset_gate_weight_matrix: give("resetGateWeightMatrix", C * I, C),
                output_gate_weight_matrix: give("outputGateWeightMatrix", C * I, C),
                update_gate_recursion_matrix: give("updateGateRecursionMatrix", C * C, C),
                reset_gate_recursion_matrix: give("resetGateRecursionMatrix", C * C, C),
                output_gate_recursion_matrix: give("outputGateRecursionMatrix", C * C, C),
                update_gate_bias_vector: give("updateGateBiasVector", C, 1),
                reset_gate_bias_vector: give("resetGateBiasVector", C, 1),
                output_gate_bias_vector: give("outputGateBiasVector", C, 1),
                ..Default::default()
            }))
        }),
        kind("uniDirectionalLSTM", Takes::Any, |give| {
            Layer::UniDirectionalLstm(Box::new(UniDirectionalLstmLayerParams {
                input_vector_size: I64,
                output_vector_size: C64,
                params: Some(LSTM_PARAMS),
                weight_params: Some(lstm_set("weightParams", give)),
                ..Default::default()
            }))
        }),
        kind("biDirectionalLSTM", Takes::Any, |give| {
            Layer::BiDirectionalLstm(BiDirectionalLstmLayerParams {
                input_vector_size: I64,
                output_vector_size: C64,
                params: Some(LSTM_PARAMS),
                weight_params: vec![lstm_set("weightParams[0]", give), lstm_set("weightParams[1]", give)],
                ..Default::default()
            })
        }),
        kind("layerNormalization", Takes::Float32, |give| {
            Layer::LayerNormalization(LayerNormalizationLayerParams {
                normalized_shape: vec![C as i64, 2],
                gamma: give("gamma", C * 2, 1),
                beta: give("beta", C * 2, 1),
                ..Default::default()
            })
        }),
        kind("PReLU", Takes::Unchecked, |give| {
            let relu = ActivationPReLu { alpha: give("PReLU.alpha", C, 1) };
            Layer::Activation(ActivationParams { nonlinearity_type: Some(NonlinearityType::PReLu(relu)) })
        }),
        kind("parametricSoftplus", Takes::Alike, |give| {
            let softplus = ActivationParametricSoftplus {
                alpha: give("parametricSoftplus.alpha", C, 1),
                beta: give("parametricSoftplus.beta", C, 1),
            };
            Layer::Activation(ActivationParams {
                nonlinearity_type: Some(NonlinearityType::ParametricSoftplus(softplus)),
            })
        }),
        kind("custom", Takes::Unchecked, |give| {
            let weights =
                vec![give("weights[0]", C, 1).unwrap_or_default(), give("weights[1]", C, 1).unwrap_or_default()];
            Layer::Custom(CustomLayerParams { weights, ..Default::default() })
        }),
    ]
}

/// The kind of this name.
pub fn kind(name: &str) -> Kind {
    kinds().into_iter().find(|kind| kind.name == name).unwrap()
}

/// Values around zero, none alike nearby.
pub fn values(units: usize) -> Vec<f32> {
    (0..units).map(|index| ((index * 37 + 11) % 101) as f32 / 64.0 - 0.75).collect()
}

/// Makes a weight of a number of values.
pub type Make = fn(usize) -> WeightParams;

/// A float32 weight.
pub fn float32(units: usize) -> WeightParams {
    WeightParams::from_floats(&values(units))
}

/// A float16 weight.
pub fn float16(units: usize) -> WeightParams {
    let halves = values(units).into_iter().flat_map(|value| half::f16::from_f32(value).to_le_bytes());
    WeightParams { float16_value: halves.collect(), ..Default::default() }
}

/// Packed codes, all zero but the first.
pub fn codes(nbits: usize, units: usize) -> Bytes {
    let mut bytes = vec![0; (nbits * units).div_ceil(8)];
    bytes[0] = 1 << (8 - nbits);
    bytes.into()
}

fn quantization(number_of_bits: u64, kind: QuantizationType) -> Option<QuantizationParams> {
    Some(QuantizationParams { number_of_bits, quantization_type: Some(kind) })
}

/// Codes with scales and biases.
pub fn linear(nbits: usize, units: usize, scales: usize, biases: usize) -> WeightParams {
    let linear = LinearQuantizationParams { scale: vec![0.25; scales], bias: vec![-0.5; biases] };
    WeightParams {
        raw_value: codes(nbits, units),
        quantization: quantization(nbits as u64, QuantizationType::LinearQuantization(linear)),
        ..Default::default()
    }
}

/// Codes with a table.
pub fn table(nbits: usize, units: usize, entries: usize) -> WeightParams {
    let table = LookUpTableQuantizationParams { float_value: (0..entries).map(|entry| entry as f32).collect() };
    WeightParams {
        raw_value: codes(nbits, units),
        quantization: quantization(nbits as u64, QuantizationType::LookupTableQuantization(table)),
        ..Default::default()
    }
}

/// Signed bytes with scales and biases: one and none in a valid model.
pub fn int8(units: usize, scales: usize, biases: usize) -> WeightParams {
    let linear = LinearQuantizationParams { scale: vec![0.25; scales], bias: vec![0.5; biases] };
    WeightParams {
        int8_raw_value: vec![0xff; units].into(),
        quantization: quantization(8, QuantizationType::LinearQuantization(linear)),
        ..Default::default()
    }
}

/// A network with the exact array mapping.
pub fn network(layers: Vec<NeuralNetworkLayer>) -> NeuralNetwork {
    let mapping = NeuralNetworkMultiArrayShapeMapping::ExactArrayMapping;
    NeuralNetwork { layers, array_input_shape_mapping: mapping.into(), ..Default::default() }
}

/// A model of a type and a version.
pub fn model_of(kind: Type, specification_version: i32) -> proto::Model {
    proto::Model { specification_version, r#type: Some(kind), ..Default::default() }
}

/// A model with one network, of the newest version.
pub fn model(layers: Vec<NeuralNetworkLayer>) -> Model {
    Model::from_proto(model_of(Type::NeuralNetwork(network(layers)), 10))
}

/// A pipeline of models.
pub fn pipeline(models: Vec<proto::Model>) -> Pipeline {
    Pipeline { names: models.iter().map(|_| "member".into()).collect(), models }
}
