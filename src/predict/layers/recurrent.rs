//! simpleRecurrent, gru, uniDirectionalLSTM and biDirectionalLSTM on inputs `[sequence, batch, channels, 1, 1]`.
//!
//! What activations get is clipped to ±50. Their parameters are never read: writers leave them empty. A layer that
//! reverses its input puts its outputs in the order of processing; only the backward half of a bidirectional LSTM is
//! aligned with the input. `y'` and `c'` are the states before a step:
//!
//! - simple: `y = f(W x + R y' + b)`
//! - GRU: `z, r = f(..)`, `o = g(W_o x + R_o (r y') + b_o)`, `y = (1 - z) o + z y'`
//! - LSTM: `i, f = f(W x + R y' + p c' + b)`, `z = g(W x + R y' + b)`, `c = f c' + i z`, clipped, `o = f(.. + p_o c)`,
//!   `y = h(c) o`

use crate::format::proto::activation_params::NonlinearityType;
use crate::format::proto::{
    ActivationParams, BiDirectionalLstmLayerParams, GruLayerParams, LstmParams, SimpleRecurrentLayerParams,
    UniDirectionalLstmLayerParams,
};
use crate::predict::engine;
use crate::predict::tensor::{LayerError, Tensor};
use crate::predict::weights::{UnreadableWeight, Weights};

use super::values::{result_len, row_major, size, tensor, wrong_shape};
use super::{Limits, PrepareError, Prepared, uncertain};

/// What activations get is clipped to this.
const CLIP: f32 = 50.0;

/// Steps whose products with the input are made at once.
const STEPS_AT_ONCE: usize = 64;

/// An activation inside a recurrent layer.
#[derive(Clone, Copy, Debug)]
enum Activation {
    Linear,
    Relu,
    Tanh,
    Sigmoid,
    HardSigmoid,
}

impl Activation {
    fn of(params: Option<&ActivationParams>, default: Self) -> Result<Self, LayerError> {
        Ok(match params.and_then(|params| params.nonlinearity_type.as_ref()) {
            None => default,
            Some(NonlinearityType::Linear(_)) => Self::Linear,
            Some(NonlinearityType::ReLu(_)) => Self::Relu,
            Some(NonlinearityType::Tanh(_) | NonlinearityType::ScaledTanh(_)) => Self::Tanh,
            Some(NonlinearityType::Sigmoid(_)) => Self::Sigmoid,
            Some(NonlinearityType::SigmoidHard(_)) => Self::HardSigmoid,
            Some(_) => {
                return Err(LayerError::Unsupported {
                    what: "an activation other than linear, ReLU, tanh, scaledTanh, sigmoid and sigmoidHard in a \
                           recurrent layer"
                        .to_owned(),
                });
            }
        })
    }

    fn apply(self, value: f32) -> f32 {
        let value = value.clamp(-CLIP, CLIP);
        match self {
            Self::Linear => value,
            Self::Relu => value.max(0.0),
            Self::Tanh => value.tanh(),
            Self::Sigmoid => 1.0 / (1.0 + (-value).exp()),
            Self::HardSigmoid => (0.2 * value + 0.5).clamp(0.0, 1.0),
        }
    }
}

/// The first activations of a list, defaults where it ends.
fn activations<const N: usize>(
    params: &[ActivationParams],
    defaults: [Activation; N],
) -> Result<[Activation; N], LayerError> {
    let mut found = defaults;
    for (index, activation) in found.iter_mut().enumerate() {
        *activation = Activation::of(params.get(index), *activation)?;
    }
    Ok(found)
}

/// What happens in a step.
#[derive(Debug)]
enum Cell {
    Simple { activation: Activation },
    Gru { gate: Activation, output: Activation, output_recursion: Vec<f32> },
    Lstm { activations: [Activation; 3], peepholes: Option<[Vec<f32>; 3]>, coupled: bool, cell_clip: f32 },
}

/// One direction. The matrices of several gates lie below each other.
#[derive(Debug)]
struct Direction {
    cell: Cell,
    /// `[gates * outputs, inputs]`
    weights: Vec<f32>,
    /// `[gates * outputs, outputs]`; those of a GRU's output gate are in the cell.
    recursion: Vec<f32>,
    /// `[gates * outputs]`
    bias: Vec<f32>,
    backward: bool,
}

/// A recurrent layer of any kind.
#[derive(Debug)]
pub(super) struct Recurrent {
    inputs: usize,
    outputs: usize,
    sequence_output: bool,
    /// Whether a bias of the forget gate is added that is not stored.
    assumes_forget_bias: bool,
    /// One, or forward and backward.
    directions: Vec<Direction>,
}

/// Several weights below each other; nothing where the layer does not have them.
fn stacked(weights: &Weights<'_>, fields: &[String]) -> Result<Vec<f32>, UnreadableWeight> {
    let mut all = Vec::new();
    for field in fields {
        all.extend(weights.require(field)?);
    }
    Ok(all)
}

impl Recurrent {
    pub(super) fn simple(p: &SimpleRecurrentLayerParams, weights: &Weights<'_>) -> Result<Self, PrepareError> {
        let direction = Direction {
            cell: Cell::Simple { activation: Activation::of(p.activation.as_ref(), Activation::Tanh)? },
            weights: weights.require("weightMatrix")?,
            recursion: weights.require("recursionMatrix")?,
            bias: weights.require("biasVector")?,
            backward: p.reverse_input,
        };
        Self::new(p.input_vector_size, p.output_vector_size, p.sequence_output, vec![direction])
    }

    pub(super) fn gru(p: &GruLayerParams, weights: &Weights<'_>) -> Result<Self, PrepareError> {
        let [gate, output] = activations(&p.activations, [Activation::Sigmoid, Activation::Tanh])?;
        let gates = |what: &str| ["update", "reset", "output"].map(|gate| format!("{gate}Gate{what}"));
        let recursions = gates("RecursionMatrix");
        let direction = Direction {
            cell: Cell::Gru { gate, output, output_recursion: weights.require(&recursions[2])? },
            weights: stacked(weights, &gates("WeightMatrix"))?,
            recursion: stacked(weights, &recursions[..2])?,
            bias: stacked(weights, &gates("BiasVector"))?,
            backward: p.reverse_input,
        };
        Self::new(p.input_vector_size, p.output_vector_size, p.sequence_output, vec![direction])
    }

    pub(super) fn lstm(p: &UniDirectionalLstmLayerParams, weights: &Weights<'_>) -> Result<Self, PrepareError> {
        let params = p.params.unwrap_or_default();
        let h = size("outputVectorSize", p.output_vector_size)?;
        let direction = Direction::lstm(weights, "weightParams", &params, &p.activations, h, p.reverse_input)?;
        let layer = Self::new(p.input_vector_size, p.output_vector_size, params.sequence_output, vec![direction])?;
        Ok(Self { assumes_forget_bias: params.forget_bias && !params.has_bias_vectors, ..layer })
    }

    pub(super) fn both_ways(p: &BiDirectionalLstmLayerParams, weights: &Weights<'_>) -> Result<Self, PrepareError> {
        let params = p.params.unwrap_or_default();
        let h = size("outputVectorSize", p.output_vector_size)?;
        let directions = vec![
            Direction::lstm(weights, "weightParams[0]", &params, &p.activations_forward_lstm, h, false)?,
            Direction::lstm(weights, "weightParams[1]", &params, &p.activations_backward_lstm, h, true)?,
        ];
        let layer = Self::new(p.input_vector_size, p.output_vector_size, params.sequence_output, directions)?;
        Ok(Self { assumes_forget_bias: params.forget_bias && !params.has_bias_vectors, ..layer })
    }

    fn new(inputs: u64, outputs: u64, sequence_output: bool, directions: Vec<Direction>) -> Result<Self, PrepareError> {
        let (inputs, outputs) = (size("inputVectorSize", inputs)?, size("outputVectorSize", outputs)?);
        if outputs == 0 {
            let (name, found) = ("outputVectorSize", "0".to_owned());
            return Err(LayerError::Parameter { name, found, expected: "at least 1".to_owned() }.into());
        }
        Ok(Self { inputs, outputs, sequence_output, assumes_forget_bias: false, directions })
    }

    /// The states before the first step: those of the inputs from the second on, or zeros.
    fn states(&self, inputs: &[Tensor], batch: usize) -> Result<Vec<Vec<f32>>, LayerError> {
        let count: usize = self.directions.iter().map(|direction| direction.cell.state_count()).sum();
        let (len, given) = (batch * self.outputs, inputs.get(1..).unwrap_or_default());
        if given.len() > count {
            return Err(LayerError::InputCount { found: inputs.len(), expected: "the sequence and its states" });
        }
        let mut states = vec![vec![0.0; len]; count];
        for (index, (state, input)) in states.iter_mut().zip(given).enumerate() {
            let values = row_major(input);
            if values.len() == len {
                state.copy_from_slice(&values);
            } else if values.len() == self.outputs {
                state.chunks_mut(self.outputs).for_each(|state| state.copy_from_slice(&values));
            } else {
                let expected = format!("[1, {batch}, {}, 1, 1]", self.outputs);
                return Err(wrong_shape(index + 1, input, expected));
            }
        }
        Ok(states)
    }
}

impl Direction {
    fn lstm(
        weights: &Weights<'_>,
        set: &str,
        params: &LstmParams,
        activation_params: &[ActivationParams],
        outputs: usize,
        backward: bool,
    ) -> Result<Self, PrepareError> {
        let gates = |what: &str| {
            ["inputGate", "forgetGate", "blockInput", "outputGate"].map(|gate| format!("{set}.{gate}{what}"))
        };
        let peepholes = if params.has_peephole_vectors {
            let peephole = |gate: &str| weights.require(&format!("{set}.{gate}PeepholeVector"));
            Some([peephole("inputGate")?, peephole("forgetGate")?, peephole("outputGate")?])
        } else {
            None
        };
        let mut bias = stacked(weights, &gates("BiasVector"))?;
        if bias.is_empty() && params.forget_bias {
            bias = vec![0.0; 4 * outputs];
            bias[outputs..2 * outputs].fill(1.0);
        }
        let activations = activations(activation_params, [Activation::Sigmoid, Activation::Tanh, Activation::Tanh])?;
        let cell_clip = if params.cell_clip_threshold == 0.0 { CLIP } else { params.cell_clip_threshold.abs() };
        Ok(Self {
            cell: Cell::Lstm { activations, peepholes, coupled: params.coupled_input_and_forget_gate, cell_clip },
            weights: stacked(weights, &gates("WeightMatrix"))?,
            recursion: stacked(weights, &gates("RecursionMatrix"))?,
            bias,
            backward,
        })
    }

    /// Runs all steps. `emit` gets the number of the step, in the order of processing, and the output.
    fn run(&self, input: &[f32], sizes: Sizes, states: &mut [Vec<f32>], mut emit: impl FnMut(usize, &[f32])) {
        let Sizes { steps, batch, inputs, outputs } = sizes;
        let gates = self.cell.gate_count() * outputs;
        let mut products = Vec::new();
        for first in (0..steps).step_by(STEPS_AT_ONCE) {
            let count = STEPS_AT_ONCE.min(steps - first);
            // The input's steps that these are, in the input's order.
            let start = if self.backward { steps - first - count } else { first };
            products.clear();
            products.resize(count * batch * gates, 0.0);
            if !self.bias.is_empty() {
                products.chunks_mut(gates).for_each(|row| row.copy_from_slice(&self.bias));
            }
            let input = &input[start * batch * inputs..][..count * batch * inputs];
            engine::linear(&mut products, input, &self.weights, inputs, gates);
            for step in 0..count {
                let at = if self.backward { count - 1 - step } else { step };
                let products = &mut products[at * batch * gates..][..batch * gates];
                self.step(products, states, outputs);
                emit(first + step, &states[0]);
            }
        }
    }

    /// Makes the states after a step of those before it; `products` is `W x + b`, a row a sample.
    fn step(&self, products: &mut [f32], states: &mut [Vec<f32>], h: usize) {
        let gates = self.cell.gate_count() * h;
        match (&self.cell, states) {
            (Cell::Simple { activation }, [state]) => {
                engine::linear(products, state, &self.recursion, h, gates);
                state.iter_mut().zip(products).for_each(|(state, value)| *state = activation.apply(*value));
            }
            (Cell::Gru { gate, output, output_recursion }, [state]) => {
                let batch = state.len() / h;
                let mut gated = vec![0.0; batch * 2 * h];
                engine::linear(&mut gated, state, &self.recursion, h, 2 * h);
                let mut reset = vec![0.0; state.len()];
                for ((row, gated), (state, reset)) in
                    products.chunks_mut(gates).zip(gated.chunks(2 * h)).zip(state.chunks(h).zip(reset.chunks_mut(h)))
                {
                    row.iter_mut().zip(gated).for_each(|(value, more)| *value = gate.apply(*value + more));
                    for ((reset, state), r) in reset.iter_mut().zip(state).zip(&row[h..2 * h]) {
                        *reset = (state * r).clamp(-CLIP, CLIP);
                    }
                }
                let mut candidates = vec![0.0; state.len()];
                engine::linear(&mut candidates, &reset, output_recursion, h, h);
                let rows = products.chunks(gates).zip(candidates.chunks(h));
                for ((row, candidates), state) in rows.zip(state.chunks_mut(h)) {
                    for (index, state) in state.iter_mut().enumerate() {
                        let (z, o) = (row[index], output.apply(row[2 * h + index] + candidates[index]));
                        *state = (1.0 - z) * o + z * *state;
                    }
                }
            }
            (Cell::Lstm { activations: [gate, block, out], peepholes, coupled, cell_clip }, [state, cells]) => {
                engine::linear(products, state, &self.recursion, h, gates);
                let rows = products.chunks(gates).zip(state.chunks_mut(h).zip(cells.chunks_mut(h)));
                for (row, (state, cells)) in rows {
                    for (index, (state, cell)) in state.iter_mut().zip(cells).enumerate() {
                        let peephole =
                            |which: usize| peepholes.as_ref().map_or(0.0, |peepholes| peepholes[which][index]);
                        let i = gate.apply(row[index] + peephole(0) * *cell);
                        let f = if *coupled { 1.0 - i } else { gate.apply(row[h + index] + peephole(1) * *cell) };
                        let z = block.apply(row[2 * h + index]);
                        *cell = (*cell * f + i * z).clamp(-cell_clip, *cell_clip);
                        let o = gate.apply(row[3 * h + index] + peephole(2) * *cell);
                        *state = out.apply(*cell) * o;
                    }
                }
            }
            // The states were made for the cell.
            (Cell::Simple { .. } | Cell::Gru { .. } | Cell::Lstm { .. }, _) => {}
        }
    }
}

impl Cell {
    fn state_count(&self) -> usize {
        if matches!(self, Self::Lstm { .. }) { 2 } else { 1 }
    }

    fn gate_count(&self) -> usize {
        match self {
            Self::Simple { .. } => 1,
            Self::Gru { .. } => 3,
            Self::Lstm { .. } => 4,
        }
    }
}

#[derive(Clone, Copy)]
struct Sizes {
    steps: usize,
    batch: usize,
    inputs: usize,
    outputs: usize,
}

impl Prepared for Recurrent {
    fn eval(&self, inputs: &[Tensor], limits: Limits) -> Result<Vec<Tensor>, LayerError> {
        let Some(input) = inputs.first() else {
            return Err(LayerError::InputCount { found: 0, expected: "the sequence and its states" });
        };
        let &[steps, batch, ref vector @ ..] = input.shape() else {
            return Err(wrong_shape(0, input, "[sequence, batch, channels, 1, 1]"));
        };
        if vector.iter().product::<usize>() != self.inputs || input.ndim() != 5 || steps == 0 {
            return Err(wrong_shape(0, input, format!("[sequence, batch, {}, 1, 1]", self.inputs)));
        }
        let sizes = Sizes { steps, batch, inputs: self.inputs, outputs: self.outputs };
        let (h, width) = (self.outputs, self.outputs * self.directions.len());
        let shape = [if self.sequence_output { steps } else { 1 }, batch, width, 1, 1];
        let mut out = vec![0.0; result_len(&shape, limits.max_values)?];
        result_len(&[STEPS_AT_ONCE.min(steps), batch, 4 * h], limits.max_values)?;
        let mut states = self.states(inputs, batch)?;
        let values = row_major(input);
        let mut rest = &mut states[..];
        for (index, direction) in self.directions.iter().enumerate() {
            let (own, others) = rest.split_at_mut(direction.cell.state_count());
            rest = others;
            // Of both directions, the backward one is aligned with the input.
            let aligned = direction.backward && self.directions.len() > 1;
            direction.run(&values, sizes, own, |step, state| {
                let step = match (self.sequence_output, aligned) {
                    (true, true) => steps - 1 - step,
                    (true, false) => step,
                    (false, _) if step + 1 == steps => 0,
                    (false, _) => return,
                };
                let rows = out[step * batch * width..][..batch * width].chunks_mut(width);
                for (row, state) in rows.zip(state.chunks(h)) {
                    row[index * h..][..h].copy_from_slice(state);
                }
            });
        }
        let mut results = vec![tensor(&shape, out)?];
        if limits.output_count > 1 {
            for state in states {
                results.push(tensor(&[1, batch, h, 1, 1], state)?);
            }
        }
        Ok(results)
    }

    fn state_len(&self) -> Option<usize> {
        Some(self.outputs)
    }

    fn note(&self) -> Option<&'static str> {
        self.assumes_forget_bias.then_some(uncertain::FORGET_BIAS)
    }
}
