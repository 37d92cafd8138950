//! A small evaluator of networks, to hold two of them against each other: float64 throughout, as simple as the format's
//! documentation of each layer, with no thought for speed.
//!
//! It knows the layers that folding touches and those that real convolutional networks have between them; anything
//! else panics.
#![allow(dead_code, reason = "each test uses some of it")]

mod convolution;
mod elementwise;
mod spatial;

use std::collections::BTreeMap;

use coreml_quant::Model;
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::{BatchedMatMulLayerParams, InnerProductLayerParams, NeuralNetworkLayer, WeightParams};

/// Values in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Tensor {
    pub fn new(shape: &[usize], values: Vec<f64>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{shape:?}");
        Self { shape: shape.to_vec(), values }
    }

    /// Irregular values between -1 and 1, the same for the same seed.
    pub fn noise(shape: &[usize], seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
        let value = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / f64::from(1 << 23) - 1.0
        };
        Self::new(shape, (0..shape.iter().product::<usize>()).map(value).collect())
    }

    /// The lengths before, at and after the axis `from_end` places from the end (1 is the last).
    fn around(&self, from_end: usize) -> (usize, usize, usize) {
        let axis = self.shape.len().checked_sub(from_end).expect("the array has too few dimensions");
        (self.shape[..axis].iter().product(), self.shape[axis], self.shape[axis + 1..].iter().product())
    }

    fn map(&self, function: impl Fn(f64) -> f64) -> Self {
        Self { shape: self.shape.clone(), values: self.values.iter().map(|&value| function(value)).collect() }
    }

    /// The largest magnitude.
    pub fn magnitude(&self) -> f64 {
        self.values.iter().fold(0.0, |largest, value| value.abs().max(largest))
    }
}

/// What a network computed.
#[derive(Debug)]
pub struct Evaluated {
    /// The model's outputs by name.
    pub outputs: BTreeMap<String, Tensor>,
    /// Every array of the network by name, as it was last written.
    pub blobs: BTreeMap<String, Tensor>,
    /// The largest magnitude of any array on the way: rounding errors are in proportion to it.
    pub magnitude: f64,
}

/// Runs the network of a model (not a pipeline).
pub fn evaluate(model: &Model, inputs: &BTreeMap<String, Tensor>) -> Evaluated {
    let proto = model.proto();
    let layers = match proto.r#type.as_ref() {
        Some(Type::NeuralNetwork(network)) => &network.layers,
        Some(Type::NeuralNetworkClassifier(network)) => &network.layers,
        Some(Type::NeuralNetworkRegressor(network)) => &network.layers,
        other => panic!("no network: {other:?}"),
    };
    let mut blobs = Blobs { arrays: inputs.clone(), magnitude: 0.0 };
    let flow = blobs.run(layers);
    assert_eq!(flow, Flow::On, "a network ends in the middle of a loop");
    let outputs = proto.description.iter().flat_map(|description| &description.output);
    // A branch that was not taken leaves its outputs unwritten.
    let outputs = outputs.filter_map(|output| Some((output.name.clone(), blobs.arrays.get(&output.name)?.clone())));
    Evaluated { outputs: outputs.collect(), magnitude: blobs.magnitude, blobs: blobs.arrays }
}

/// Holds two networks against each other on the same inputs, to the rounding of weights to float32.
pub fn assert_same(original: &Model, folded: &Model, inputs: &BTreeMap<String, Tensor>) {
    let (original, folded) = (evaluate(original, inputs), evaluate(folded, inputs));
    // A rounded weight is off by 2^-24 of itself; a few dozen of them follow each other in the largest networks here.
    let tolerance = original.magnitude * 64.0 * f64::from(f32::EPSILON);
    assert_eq!(original.outputs.keys().collect::<Vec<_>>(), folded.outputs.keys().collect::<Vec<_>>());
    for (name, expected) in &original.outputs {
        let found = &folded.outputs[name];
        assert_eq!(found.shape, expected.shape, "{name}");
        for (index, (found, expected)) in found.values.iter().zip(&expected.values).enumerate() {
            let error = (found - expected).abs();
            assert!(error <= tolerance, "{name}[{index}] is {found}, not {expected}: off by {error} > {tolerance}");
        }
    }
}

/// Where to go on after a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

/// The arrays that were written so far; networks inside others share them.
struct Blobs {
    arrays: BTreeMap<String, Tensor>,
    magnitude: f64,
}

impl Blobs {
    fn run(&mut self, layers: &[NeuralNetworkLayer]) -> Flow {
        for layer in layers {
            let flow = self.step(layer);
            if flow != Flow::On {
                return flow;
            }
        }
        Flow::On
    }

    fn get(&self, name: &str) -> &Tensor {
        self.arrays.get(name).unwrap_or_else(|| panic!("\"{name}\" is read before it is written"))
    }

    fn is_true(&self, name: &str) -> bool {
        self.get(name).values[0] != 0.0
    }

    fn step(&mut self, layer: &NeuralNetworkLayer) -> Flow {
        let kind = layer.layer.as_ref().expect("a layer has a type");
        match kind {
            Layer::Branch(branch) => {
                let taken = if self.is_true(&layer.input[0]) { &branch.if_branch } else { &branch.else_branch };
                return taken.as_ref().map_or(Flow::On, |network| self.run(&network.layers));
            }
            Layer::Loop(params) => {
                let body = &params.body_network.as_ref().expect("a loop has a body").layers;
                for _ in 0..params.max_loop_iterations {
                    if let Some(condition) = &params.condition_network {
                        assert_eq!(self.run(&condition.layers), Flow::On);
                        if !self.is_true(&params.condition_var) {
                            break;
                        }
                    }
                    if self.run(body) == Flow::Break {
                        break;
                    }
                }
                return Flow::On;
            }
            Layer::LoopBreak(_) => return Flow::Break,
            Layer::LoopContinue(_) => return Flow::Continue,
            _ => {}
        }
        let inputs: Vec<&Tensor> = layer.input.iter().map(|name| self.get(name)).collect();
        let output = compute(kind, &inputs);
        self.magnitude = self.magnitude.max(output.magnitude());
        self.arrays.insert(layer.output[0].clone(), output);
        Flow::On
    }
}

fn compute(kind: &Layer, inputs: &[&Tensor]) -> Tensor {
    match (kind, inputs) {
        (Layer::Convolution(params), [input]) => convolution::planar(params, input, &values(params.weights.as_ref())),
        (Layer::Convolution(params), [input, weights]) => convolution::planar(params, input, &weights.values),
        (Layer::Convolution3d(params), [input]) => convolution::solid(params, input),
        (Layer::InnerProduct(params), [input]) => inner_product(params, input),
        (Layer::BatchedMatmul(params), [input]) => batched_matmul(params, input),
        (Layer::Batchnorm(params), [input]) => elementwise::batchnorm(params, input),
        (Layer::Scale(params), [input]) => elementwise::scale(params, input),
        (Layer::Bias(params), [input]) => elementwise::bias(params, input),
        (Layer::Activation(params), [input]) => elementwise::activation(params, input),
        (Layer::Unary(params), [input]) => elementwise::unary(params, input),
        (Layer::Add(_), [first, second]) => elementwise::add(first, second),
        (Layer::Copy(_), [input]) => (*input).clone(),
        (Layer::Concat(_), inputs) => spatial::concat(inputs),
        (Layer::Pooling(params), [input]) => spatial::average_or_max(params, input),
        (Layer::Flatten(params), [input]) => spatial::flatten(*params, input),
        (Layer::Softmax(_), [input]) => spatial::softmax(input),
        (Layer::Upsample(params), [input]) => spatial::upsample(params, input),
        _ => panic!("not evaluated: {} inputs to {kind:?}", inputs.len()),
    }
}

/// The values of a weight that is stored in floats.
fn values(params: Option<&WeightParams>) -> Vec<f64> {
    let params = params.expect("a weight is stored");
    let halves = params.float16_value.chunks_exact(2).map(|half| half::f16::from_le_bytes([half[0], half[1]]).to_f64());
    let values: Vec<f64> = params.float_value.iter().map(f64::from).chain(halves).collect();
    assert!(!values.is_empty(), "a weight is empty");
    values
}

/// The bias, if there is one.
fn bias(has_bias: bool, params: Option<&WeightParams>, channels: usize) -> Vec<f64> {
    if has_bias { values(params) } else { vec![0.0; channels] }
}

/// `rows` vectors times the transposed weights.
fn product(rows: &[f64], weights: &[f64], bias: &[f64]) -> Vec<f64> {
    let inputs = weights.len() / bias.len();
    let dot = |row: &[f64], weights: &[f64]| row.iter().zip(weights).map(|(x, w)| x * w).sum::<f64>();
    rows.chunks_exact(inputs)
        .flat_map(|row| weights.chunks_exact(inputs).zip(bias).map(move |(weights, bias)| dot(row, weights) + bias))
        .collect()
}

fn inner_product(params: &InnerProductLayerParams, input: &Tensor) -> Tensor {
    let outputs = params.output_channels as usize;
    let bias = bias(params.has_bias, params.bias.as_ref(), outputs);
    let values = product(&input.values, &values(params.weights.as_ref()), &bias);
    let shape = match input.shape[..] {
        [_] => vec![outputs],
        [a, _] => vec![a, outputs],
        [a, b, _] => vec![a, b, outputs],
        [a, _, _, _] => vec![a, outputs, 1, 1],
        [a, b, _, _, _] => vec![a, b, outputs, 1, 1],
        _ => panic!("rank {}", input.shape.len()),
    };
    Tensor::new(&shape, values)
}

fn batched_matmul(params: &BatchedMatMulLayerParams, input: &Tensor) -> Tensor {
    let outputs = params.weight_matrix_second_dimension as usize;
    let bias = bias(params.has_bias, params.bias.as_ref(), outputs);
    let values = product(&input.values, &values(params.weights.as_ref()), &bias);
    let mut shape = input.shape.clone();
    *shape.last_mut().expect("a matrix product has an axis to sum over") = outputs;
    Tensor::new(&shape, values)
}
