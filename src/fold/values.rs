//! Reading the values of float weights, and multiplying those of each output channel.

use rayon::prelude::*;

use crate::format::proto::WeightParams;
use crate::format::weight_params::FloatValues;
use crate::kernels::Layout;
use crate::kernels::dequantize::{self, Stored};
use crate::network::layers::Weight;
use crate::network::params::payload;
use crate::network::shape::Shape;
use crate::weight::Payload;

use super::report::FoldReason;

/// Values that are worth a task of their own.
const TASK_VALUES: usize = 1 << 16;

/// The float32 values of a weight, shared with the model where they are stored as such, and its shape.
pub(super) fn float_values<'a>(weight: &'a Weight<&WeightParams>) -> Result<(FloatValues, &'a Shape), FoldReason> {
    let shape = weight.shape.as_ref().map_err(|_| FoldReason::Weights)?;
    let params = weight.params.ok_or(FoldReason::Weights)?;
    match payload(params, shape).map_err(|_| FoldReason::Weights)? {
        Payload::Float32(_) => Ok((params.float_value.clone(), shape)),
        Payload::Float16(halves) => Ok((widened(halves), shape)),
        _ => Err(FoldReason::Quantized),
    }
}

/// float32 values from float16.
pub(super) fn widened(halves: &[u8]) -> FloatValues {
    let mut values = vec![0; 2 * halves.len()];
    dequantize::decode(halves, Stored::Float16, &mut values);
    FloatValues::from_le_bytes(values.into()).unwrap_or_default()
}

pub(super) fn to_f64(values: &FloatValues) -> Vec<f64> {
    values.iter().map(f64::from).collect()
}

/// How the output channels lie in a weight: runs of equal length, each of one channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    layout: Layout,
    /// Values in a run.
    len: usize,
}

impl Rows {
    /// Runs of a weight whose output channels lie as its shape says; without channels, one value after the other.
    pub(super) fn of(shape: &Shape) -> Self {
        let layout = match &shape.channels {
            Some(channels) => channels.layout(),
            None => Layout { slabs: 1, outer: 1, count: shape.units, inner: 1 },
        };
        Self { layout, len: layout.inner }
    }

    /// The output channel of a run.
    fn channel(self, run: usize) -> usize {
        self.layout.group_of_run(run)
    }

    /// The largest magnitude of each of `count` output channels.
    pub(super) fn magnitudes(self, values: &FloatValues, count: usize) -> Vec<f64> {
        // Without the sign, floats are ordered as the integers of their bits, NaN above all.
        let mut largest = vec![0_u32; count];
        for (row, values) in words(values.as_le_bytes()).chunks_exact(self.len).enumerate() {
            let magnitude = |word: &[u8; 4]| u32::from_le_bytes(*word) & !(1 << 31);
            let of_row = values.iter().fold(0, |largest, word| magnitude(word).max(largest));
            let of_channel = &mut largest[self.channel(row)];
            *of_channel = of_row.max(*of_channel);
        }
        largest.into_iter().map(|bits| f32::from_bits(bits).into()).collect()
    }

    /// Multiplies the values of each output channel by its factor.
    pub(super) fn multiplied(self, values: &FloatValues, factors: &[f64]) -> FloatValues {
        let source = values.as_le_bytes();
        let mut products = vec![0; source.len()];
        let rows = (TASK_VALUES / self.len).max(1);
        let task = rows * self.len * size_of::<f32>();
        source.par_chunks(task).zip(products.par_chunks_mut(task)).enumerate().for_each(
            |(task, (source, products))| {
                let sources = words(source).chunks_exact(self.len);
                let products = products.as_chunks_mut::<4>().0.chunks_exact_mut(self.len);
                for (row, (source, products)) in sources.zip(products).enumerate() {
                    let factor = factors[self.channel(task * rows + row)];
                    for (value, product) in source.iter().zip(products) {
                        *product = ((f64::from(f32::from_le_bytes(*value)) * factor) as f32).to_le_bytes();
                    }
                }
            },
        );
        FloatValues::from_le_bytes(products.into()).unwrap_or_default()
    }
}

fn words(bytes: &[u8]) -> &[[u8; 4]] {
    bytes.as_chunks().0
}
