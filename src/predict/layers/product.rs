//! innerProduct and batchedMatmul.
//!
//! `y = W x + b`, `W` row-major `[outputs, inputs]`. Of inputs with four or five axes, the last three are one vector;
//! of others, the last one is. With `int8DynamicQuantize`, the input is rounded to multiples of its largest magnitude
//! divided by 127, one step for the whole input.

use crate::format::proto::{BatchedMatMulLayerParams, InnerProductLayerParams};
use crate::predict::engine::{self, Matrix};
use crate::predict::tensor::{LayerError, Tensor};
use crate::predict::weights::Weights;

use super::values::{result_len, row_major, single, size, tensor, wrong_shape};
use super::{Limits, PrepareError, Prepared, uncertain};

/// A stored matrix times the input.
#[derive(Debug)]
pub(super) struct InnerProduct {
    inputs: usize,
    outputs: usize,
    weights: Vec<f32>,
    bias: Option<Vec<f32>>,
    quantize_input: bool,
    /// Whether the last three axes of longer shapes are one vector.
    joins_axes: bool,
}

impl InnerProduct {
    pub(super) fn new(p: &InnerProductLayerParams, weights: &Weights<'_>) -> Result<Self, PrepareError> {
        Ok(Self {
            inputs: size("inputChannels", p.input_channels)?,
            outputs: size("outputChannels", p.output_channels)?,
            weights: weights.require("weights")?,
            bias: weights.get("bias")?,
            quantize_input: p.int8_dynamic_quantize,
            joins_axes: true,
        })
    }

    /// A batchedMatmul with a stored matrix. `transposeA` and `transposeB` are of products of two inputs; writers set them
    /// here too, after they have transposed what they store.
    pub(super) fn of_matrix(p: &BatchedMatMulLayerParams, weights: &Weights<'_>) -> Result<Self, PrepareError> {
        Ok(Self {
            inputs: size("weightMatrixFirstDimension", p.weight_matrix_first_dimension)?,
            outputs: size("weightMatrixSecondDimension", p.weight_matrix_second_dimension)?,
            weights: weights.require("weights")?,
            bias: weights.get("bias")?,
            quantize_input: p.int8_dynamic_quantize,
            joins_axes: false,
        })
    }
}

impl Prepared for InnerProduct {
    fn note(&self) -> Option<&'static str> {
        self.quantize_input.then_some(uncertain::INT8)
    }

    fn eval(&self, inputs: &[Tensor], limits: Limits) -> Result<Vec<Tensor>, LayerError> {
        let input = single(inputs)?;
        let joined = if self.joins_axes && input.ndim() >= 4 { 3 } else { 1 };
        let outer = input.ndim().checked_sub(joined).ok_or_else(|| wrong_shape(0, input, "at least one axis"))?;
        let (outer, inner) = input.shape().split_at(outer);
        if inner.iter().product::<usize>() != self.inputs {
            return Err(wrong_shape(0, input, format!("{} values a vector", self.inputs)));
        }
        let mut shape = [outer, &[self.outputs]].concat();
        shape.extend(vec![1; joined - 1]);
        let mut out = vec![0.0; result_len(&shape, limits.max_values)?];
        let mut values = row_major(input);
        if self.quantize_input {
            let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let step = largest / 127.0;
            if step > 0.0 {
                values.to_mut().iter_mut().for_each(|value| *value = (*value / step).round() * step);
            }
        }
        if let Some(bias) = self.bias.as_ref().filter(|_| self.outputs > 0) {
            out.chunks_mut(self.outputs).for_each(|row| row.copy_from_slice(bias));
        }
        engine::linear(&mut out, &values, &self.weights, self.inputs, self.outputs);
        Ok(vec![tensor(&shape, out)?])
    }
}

/// The product of two inputs.
#[derive(Debug)]
pub(super) struct MatrixProduct {
    transposes: [bool; 2],
}

impl MatrixProduct {
    pub(super) fn new(p: &BatchedMatMulLayerParams) -> Self {
        Self { transposes: [p.transpose_a, p.transpose_b] }
    }
}

/// Matrices along the last two axes of a tensor.
struct Stack<'t> {
    values: std::borrow::Cow<'t, [f32]>,
    batch: Vec<usize>,
    /// As they lie.
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'t> Stack<'t> {
    fn new(tensor: &'t Tensor, is_second: bool, transposed: bool) -> Result<Self, LayerError> {
        let (batch, rows, columns) = match *tensor.shape() {
            [] => return Err(wrong_shape(usize::from(is_second), tensor, "at least one axis")),
            [len] if is_second => (&[][..], len, 1),
            [len] => (&[][..], 1, len),
            [ref batch @ .., rows, columns] => (batch, rows, columns),
        };
        Ok(Self { values: row_major(tensor), batch: batch.to_vec(), rows, columns, transposed })
    }

    fn size(&self) -> (usize, usize) {
        if self.transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }

    fn matrix(&self, index: usize) -> Matrix<'_> {
        let len = self.rows * self.columns;
        let matrix = Matrix::new(&self.values[index * len..][..len], self.rows, self.columns);
        if self.transposed { matrix.transposed() } else { matrix }
    }

    /// The index of the matrix for a position in a batch that this one is broadcast to.
    fn at(&self, batch: &[usize], mut position: usize) -> usize {
        let surplus = batch.len() - self.batch.len();
        let (mut index, mut stride) = (0, 1);
        for (axis, &len) in batch.iter().enumerate().rev() {
            let at = position % len;
            position /= len;
            if let Some(&own) = axis.checked_sub(surplus).and_then(|axis| self.batch.get(axis)) {
                index += if own == 1 { 0 } else { at * stride };
                stride *= own;
            }
        }
        index
    }
}

impl Prepared for MatrixProduct {
    fn eval(&self, inputs: &[Tensor], limits: Limits) -> Result<Vec<Tensor>, LayerError> {
        let [a, b] = inputs else {
            return Err(LayerError::InputCount { found: inputs.len(), expected: "one, or two" });
        };
        let unfit = |hint: &str| LayerError::Shapes {
            shapes: vec![a.shape().to_vec(), b.shape().to_vec()],
            hint: format!(": {hint}"),
        };
        let (left, right) = (Stack::new(a, false, self.transposes[0])?, Stack::new(b, true, self.transposes[1])?);
        let ((rows, depth), (depth_too, columns)) = (left.size(), right.size());
        if depth != depth_too {
            return Err(unfit("the matrices cannot be multiplied"));
        }
        let axes = left.batch.len().max(right.batch.len());
        let mut shape = Vec::with_capacity(axes + 2);
        for axis in 0..axes {
            let len = |batch: &[usize]| (axis + batch.len()).checked_sub(axes).map_or(1, |axis| batch[axis]);
            shape.push(match (len(&left.batch), len(&right.batch)) {
                (a, b) if a == b => a,
                (1, other) | (other, 1) => other,
                _ => return Err(unfit("the batches cannot be broadcast")),
            });
        }
        let batch = shape.clone();
        shape.extend([rows, columns]);
        let mut out = vec![0.0; result_len(&shape, limits.max_values)?];
        if !out.is_empty() {
            let work: Vec<_> = out.chunks_mut(rows * columns).enumerate().collect();
            let multiplications = work.len().saturating_mul(rows * columns).saturating_mul(depth);
            engine::for_each(work, multiplications, |(position, out)| {
                let (a, b) = (left.at(&batch, position), right.at(&batch, position));
                engine::gemm(out, left.matrix(a), right.matrix(b), false);
            });
        }
        Ok(vec![tensor(&shape, out)?])
    }
}
