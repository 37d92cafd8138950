//! What the inputs of a weight are like: means, and the second moments that say which errors matter.
//!
//! Inputs are kept at some positions, each in the float network (x) and in the quantized one (x^). From them, for each
//! group: m = E\[x\], m^ = E\[x^\]; the centred inputs, over the square root of the number of positions, so that H = X^^T X^
//! and C - H = (X - X^)^T X^. Means are float64 sums; inputs and products float32, summed in float64 over blocks of
//! positions. Columns are ordered by falling second moment, as [`descent`](super::descent) visits them.
//!
//! All second moments are divided by their mean over the inputs of all groups: [`Stats::unit`].

use super::dense::{Cholesky, dot, matrix, matrix_mut, multiply, multiply_add};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;

/// Rows and columns of a piece of H that is summed at a time.
const TILE: usize = 256;
/// Positions whose products are summed in float32.
const POSITIONS: usize = 512;
/// l: the share of the mean second moment that is added to each in the metric.
pub(super) const DAMPING: f64 = 0.01;
/// The same for samples that were drawn: they tell less of the inputs to come.
pub(super) const DAMPING_OF_DRAWN: f64 = 0.05;
/// r: the same in the target, where it keeps weights that the inputs say nothing about.
const RIDGE: f64 = 0.1;
/// Mean second moment of a group below which it is taken for dead; the mean of all groups is 1.
const DEAD: f64 = 1e-6;

/// Some of `count` positions, ascending: all if they are at most `wanted`, else `wanted` of them, each as likely
/// (Knuth, The Art of Computer Programming, vol. 2, 3.4.2, algorithm S).
pub(crate) fn some_positions(count: usize, wanted: usize, rng: &mut Pcg64Mcg) -> Vec<usize> {
    let mut chosen = Vec::with_capacity(wanted.min(count));
    for position in 0..count {
        if rng.random_range(0..count - position) < wanted.saturating_sub(chosen.len()) {
            chosen.push(position);
        }
    }
    chosen
}

/// The generator for a seed.
pub(crate) fn generator(seed: u64) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(seed)
}

/// Inputs of a weight at some positions, in the float network and in the quantized one.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    groups: usize,
    /// Inputs of a group.
    inputs: usize,
    capacity: usize,
    positions: usize,
    damping: f64,
    /// `[groups][capacity][inputs]`.
    float: Vec<f32>,
    /// The same in the quantized network; empty if nothing before is quantized.
    quantized: Vec<f32>,
}

impl Inputs {
    /// Room for `capacity` positions; `paired` if the networks differ.
    pub(crate) fn new(groups: usize, inputs: usize, capacity: usize, paired: bool) -> Self {
        let len = groups * inputs * capacity;
        Self {
            groups,
            inputs,
            capacity,
            positions: 0,
            damping: DAMPING,
            float: vec![0.0; len],
            quantized: vec![0.0; if paired { len } else { 0 }],
        }
    }

    /// Another share of the mean second moment that is added to each in the metric.
    pub(super) fn with_damping(mut self, damping: f64) -> Self {
        self.damping = damping;
        self
    }

    /// Number of positions.
    #[cfg(test)]
    pub(crate) fn positions(&self) -> usize {
        self.positions
    }

    /// Adds a position: the inputs of all groups, one after the other. It is left out if there is no more room.
    pub(crate) fn push(&mut self, float: &[f32], quantized: &[f32]) {
        if self.positions == self.capacity || self.inputs == 0 {
            return;
        }
        for (all, added) in [(&mut self.float, float), (&mut self.quantized, quantized)] {
            let groups = all.chunks_mut(self.capacity * self.inputs).zip(added.chunks(self.inputs));
            for (group, inputs) in groups {
                for (to, from) in group.iter_mut().skip(self.positions * self.inputs).zip(inputs) {
                    *to = *from;
                }
            }
        }
        self.positions += 1;
    }

    /// The statistics. `None` if there are no positions, or an input is not finite.
    pub(crate) fn stats(self) -> Option<Stats> {
        let Self { groups, inputs, capacity, positions, damping, mut float, mut quantized } = self;
        let room = capacity * inputs;
        let finite = |values: &[f32]| values.par_iter().all(|value| value.is_finite());
        if positions == 0 || room == 0 || !finite(&float) || !finite(&quantized) {
            return None;
        }
        let len = positions * inputs;
        let paired = !quantized.is_empty();
        let quantized = if paired { &mut quantized } else { &mut Vec::new() };
        let pieces: Vec<(&mut [f32], &mut [f32])> = if paired {
            float.chunks_mut(room).zip(quantized.chunks_mut(room)).collect()
        } else {
            float.chunks_mut(room).map(|float| (float, [].as_mut_slice())).collect()
        };
        let centred: Vec<Centred> = pieces
            .into_par_iter()
            .map(|(float, quantized)| {
                let end = if paired { len } else { 0 };
                Centred::new(float.get_mut(..len)?, quantized.get_mut(..end)?, inputs)
            })
            .collect::<Option<_>>()?;
        let total: f64 = centred.iter().map(|group| group.mean_square).sum();
        let unit = if total > 0.0 { total / groups as f64 } else { 1.0 };
        let groups =
            centred.into_par_iter().map(|group| group.finish(unit, positions, damping)).collect::<Option<_>>()?;
        Some(Stats { inputs, positions, unit, groups })
    }
}

/// A group's inputs less their means.
struct Centred {
    mean: Vec<f64>,
    mean_quantized: Vec<f64>,
    /// Second moments of the quantized network's.
    squares: Vec<f64>,
    /// Mean of `squares`.
    mean_square: f64,
    quantized: Vec<f32>,
    /// Float less quantized; empty if they are the same.
    difference: Vec<f32>,
}

impl Centred {
    fn new(float: &[f32], quantized: &[f32], inputs: usize) -> Option<Self> {
        let positions = (float.len() / inputs) as f64;
        let means = |rows: &[f32]| {
            let mut means = vec![0.0; inputs];
            for row in rows.chunks(inputs) {
                means.iter_mut().zip(row).for_each(|(mean, value)| *mean += f64::from(*value));
            }
            means.iter_mut().for_each(|mean| *mean /= positions);
            means
        };
        let mean = means(float);
        let mean_quantized = if quantized.is_empty() { mean.clone() } else { means(quantized) };
        let mut difference = Vec::with_capacity(quantized.len());
        for (row, other) in quantized.chunks(inputs).zip(float.chunks(inputs)) {
            for (((value, other), mean_quantized), mean) in row.iter().zip(other).zip(&mean_quantized).zip(&mean) {
                difference.push(((f64::from(*other) - mean) - (f64::from(*value) - mean_quantized)) as f32);
            }
        }
        let mut squares = vec![0.0; inputs];
        let mut centred = Vec::with_capacity(float.len());
        for row in if quantized.is_empty() { float } else { quantized }.chunks(inputs) {
            for ((value, mean), square) in row.iter().zip(&mean_quantized).zip(&mut squares) {
                let value = f64::from(*value) - mean;
                *square += value * value / positions;
                centred.push(value as f32);
            }
        }
        let mean_square = squares.iter().sum::<f64>() / inputs as f64;
        Some(Self { mean, mean_quantized, squares, mean_square, quantized: centred, difference })
    }

    fn finish(self, unit: f64, positions: usize, damping: f64) -> Option<Group> {
        let Self { mean, mean_quantized, mut squares, mean_square, mut quantized, mut difference } = self;
        let inputs = squares.len();
        let mut order: Vec<u32> = (0..inputs as u32).collect();
        let square_of = |input: u32| squares.get(input as usize).copied().unwrap_or(0.0);
        order.sort_by(|a, b| square_of(*b).total_cmp(&square_of(*a)).then(a.cmp(b)));
        squares = order.iter().map(|&input| square_of(input) / unit).collect();
        let factor = (1.0 / (unit * positions as f64).sqrt()) as f32;
        for rows in [&mut quantized, &mut difference] {
            rows.par_chunks_mut(TILE * inputs).for_each(|rows| {
                let mut row_before = vec![0.0; inputs];
                for row in rows.chunks_mut(inputs) {
                    row_before.copy_from_slice(row);
                    for (value, &input) in row.iter_mut().zip(&order) {
                        *value = row_before.get(input as usize).copied().unwrap_or(0.0) * factor;
                    }
                }
            });
        }
        let size = (mean_square / unit).max(DEAD);
        let damping = damping * size;
        let ridge = RIDGE * size;
        let wide = inputs > positions;
        let correction = if difference.is_empty() {
            None
        } else {
            let (mut symmetric, len) =
                if wide { (gram_of_rows(&quantized, inputs), positions) } else { (gram(&quantized, inputs), inputs) };
            symmetric.iter_mut().step_by(len + 1).for_each(|value| *value += ridge as f32);
            Some(Correction { difference, factor: Cholesky::new(symmetric, len)? })
        };
        let metric = if wide {
            Metric::Samples
        } else {
            let mut gram = gram(&quantized, inputs);
            gram.iter_mut().step_by(inputs + 1).for_each(|value| *value += damping as f32);
            Metric::Dense(gram)
        };
        let diagonal = squares.iter().map(|square| (square + damping) as f32).collect();
        Some(Group {
            inputs,
            positions,
            order,
            mean,
            mean_quantized,
            diagonal,
            damping: damping as f32,
            quantized,
            correction,
            metric,
        })
    }
}

/// X^T X, where X has `columns` columns.
fn gram(rows: &[f32], columns: usize) -> Vec<f32> {
    let mut gram = vec![0.0; columns * columns];
    let x = matrix(rows, columns);
    let positions = x.nrows();
    gram.par_chunks_mut(TILE * columns).enumerate().for_each(|(band, out)| {
        let first = band * TILE;
        let height = out.len() / columns;
        let (mut product, mut sums) = (Vec::new(), Vec::new());
        for start in (0..first + height).step_by(TILE) {
            let width = TILE.min(columns - start);
            product.resize(height * width, 0.0_f32);
            sums.clear();
            sums.resize(height * width, 0.0_f64);
            for at in (0..positions).step_by(POSITIONS) {
                let block = x.subrows(at, POSITIONS.min(positions - at));
                let (own, other) = (block.subcols(first, height), block.subcols(start, width));
                multiply(matrix_mut(&mut product, width), own.transpose(), other);
                sums.iter_mut().zip(&product).for_each(|(sum, product)| *sum += f64::from(*product));
            }
            for (out, sums) in out.chunks_mut(columns).zip(sums.chunks(width)) {
                out.iter_mut().skip(start).zip(sums).for_each(|(out, sum)| *out = *sum as f32);
            }
        }
    });
    mirror(&mut gram, columns);
    gram
}

/// X X^T, where X has `columns` columns.
fn gram_of_rows(rows: &[f32], columns: usize) -> Vec<f32> {
    let x = matrix(rows, columns);
    let size = x.nrows();
    let mut gram = vec![0.0; size * size];
    gram.par_chunks_mut(TILE * size).enumerate().for_each(|(band, out)| {
        let first = band * TILE;
        let height = out.len() / size;
        let mut product = vec![0.0; height * (first + height)];
        let mut sums = vec![0.0_f64; product.len()];
        for at in (0..columns).step_by(POSITIONS) {
            let block = x.subcols(at, POSITIONS.min(columns - at));
            let (own, others) = (block.subrows(first, height), block.subrows(0, first + height));
            multiply(matrix_mut(&mut product, first + height), own, others.transpose());
            sums.iter_mut().zip(&product).for_each(|(sum, product)| *sum += f64::from(*product));
        }
        for (out, sums) in out.chunks_mut(size).zip(sums.chunks(first + height)) {
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = *sum as f32);
        }
    });
    mirror(&mut gram, size);
    gram
}

/// Copies what is below the diagonal to above it, tile by tile.
fn mirror(square: &mut [f32], size: usize) {
    const SIDE: usize = 64;
    for top in (0..size).step_by(SIDE) {
        for left in (0..=top).step_by(SIDE) {
            for row in top..(top + SIDE).min(size) {
                for column in left..(left + SIDE).min(row) {
                    square[column * size + row] = square[row * size + column];
                }
            }
        }
    }
}

/// What is known of the inputs of a weight.
#[derive(Debug)]
pub(crate) struct Stats {
    /// Inputs of a group.
    pub(super) inputs: usize,
    pub(super) positions: usize,
    /// What second moments are counted in.
    pub(super) unit: f64,
    pub(super) groups: Vec<Group>,
}

impl Stats {
    /// Number of positions that were seen.
    pub(crate) fn positions(&self) -> usize {
        self.positions
    }

    /// Inputs of a row.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }
}

/// The statistics of a group of inputs. Of everything but the means, columns are in `order`.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) inputs: usize,
    pub(super) positions: usize,
    /// The inputs by falling second moment.
    pub(super) order: Vec<u32>,
    pub(super) mean: Vec<f64>,
    pub(super) mean_quantized: Vec<f64>,
    /// The diagonal of the metric.
    pub(super) diagonal: Vec<f32>,
    /// l d: what the metric has on its diagonal beside the second moments.
    pub(super) damping: f32,
    /// X^, a row for each position: the quantized network's inputs, centred, over the square root of the positions.
    pub(super) quantized: Vec<f32>,
    pub(super) correction: Option<Correction>,
    pub(super) metric: Metric,
}

/// What the target needs where the networks differ.
#[derive(Debug)]
pub(super) struct Correction {
    /// X - X^.
    pub(super) difference: Vec<f32>,
    /// Of H + r d I; in sample space of K + r d I.
    pub(super) factor: Cholesky,
}

/// The metric A = H + l d I.
#[derive(Debug)]
pub(super) enum Metric {
    /// As a matrix.
    Dense(Vec<f32>),
    /// By the inputs themselves, where these are fewer than the matrix has columns.
    Samples,
}

impl Group {
    /// Values that a row's state has.
    pub(super) fn state_len(&self) -> usize {
        match self.metric {
            Metric::Dense(_) => self.inputs,
            Metric::Samples => self.positions,
        }
    }

    /// `state = state + factor x rows`, in the metric's form: times A, or times X^^T. `rows` are of the columns from
    /// `first` on.
    pub(super) fn add_to_state(&self, state: &mut [f32], rows: &[f32], first: usize, width: usize, factor: f32) {
        let rows = matrix(rows, width);
        let state = matrix_mut(state, self.state_len());
        match &self.metric {
            Metric::Dense(a) => {
                multiply_add(state, rows, matrix(a, self.inputs).subrows(first, width), factor);
            }
            Metric::Samples => {
                let x = matrix(&self.quantized, self.inputs).subcols(first, width);
                multiply_add(state, rows, x.transpose(), factor);
            }
        }
    }

    /// `out`, of the columns from `first` on, becomes what the state says of them: E A, but for l d E in sample space.
    pub(super) fn read_state(&self, state: &[f32], out: &mut [f32], first: usize, width: usize) {
        match self.metric {
            Metric::Dense(_) => {
                for (out, state) in out.chunks_mut(width).zip(state.chunks(self.inputs)) {
                    out.copy_from_slice(&state[first..first + width]);
                }
            }
            Metric::Samples => {
                let x = matrix(&self.quantized, self.inputs).subcols(first, width);
                multiply(matrix_mut(out, width), matrix(state, self.positions), x);
            }
        }
    }

    /// The square of the metric at columns `first` to `first + width`.
    pub(super) fn local(&self, out: &mut Vec<f32>, first: usize, width: usize) {
        out.clear();
        match &self.metric {
            Metric::Dense(a) => {
                let rows = a.chunks(self.inputs).skip(first).take(width);
                out.extend(rows.flat_map(|row| &row[first..first + width]));
            }
            Metric::Samples => {
                out.resize(width * width, 0.0);
                let x = matrix(&self.quantized, self.inputs).subcols(first, width);
                multiply(matrix_mut(out, width), x.transpose(), x);
                out.iter_mut().step_by(width + 1).for_each(|value| *value += self.damping);
            }
        }
    }

    /// The error e A e^T of some rows of differences, columns in the group's order.
    pub(super) fn error(&self, difference: &[f32]) -> f64 {
        let rows = difference.len() / self.inputs;
        let mut state = vec![0.0; rows * self.state_len()];
        self.add_to_state(&mut state, difference, 0, self.inputs, 1.0);
        match self.state_damping() {
            0.0 => dot(difference, &state),
            damping => dot(&state, &state) + f64::from(damping) * dot(difference, difference),
        }
    }

    /// What is to be added to `state`'s reading for each unit of error: l d in sample space.
    pub(super) fn state_damping(&self) -> f32 {
        match self.metric {
            Metric::Dense(_) => 0.0,
            Metric::Samples => self.damping,
        }
    }
}
