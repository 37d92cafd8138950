//! The best grid for given codes: what is left is linear least squares in the metric.
//!
//! With S = (W* - Q) A at hand,
//! - evenly spaced levels, each row on its own: q = s c + b, and (s, b) move by the solution of
//!   \[c A c, c A 1; c A 1, 1 A 1\] (ds, db) = (c S, 1 S); with the bias tied to the scale, c counted from zero's code,
//!   by c S / c A c;
//! - a table t, shared by all rows: (sum Z^T A Z) dt = sum Z^T S, where Z tells the code of each column. By conjugate
//!   gradients from dt = 0, so no step raises the error (Hestenes and Stiefel, 1952): a product gathers p\[code\], multiplies
//!   by A and adds up by code. The preconditioner is the diagonal that A alone would give.
//!
//! Sums are float64, the order of rows fixed.

use super::dense::{dot, matrix, matrix_mut, multiply, multiply_add};
use super::descent::Rows;
use super::levels::{Levels, Listed, RowLevels, top_code};
use super::moments::{Group, Metric};
use rayon::prelude::*;

/// Steps of conjugate gradients at most.
const STEPS: usize = 24;
/// A step that lowers the error by less than this share is the last.
const GAIN: f64 = 1e-4;
/// Columns that are gathered and added up at a time in sample space.
const COLUMNS: usize = 1024;

/// Which of scale and bias are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spacing {
    /// Both.
    Free,
    /// The scale; zero has the code 2^(n-1).
    Symmetric,
}

impl Spacing {
    /// The code that is the value 0 whatever the scale.
    pub(super) fn zero(self, nbits: u8) -> Option<u8> {
        (self == Self::Symmetric).then(|| (top_code(nbits) / 2 + 1) as u8)
    }

    /// Scale and bias as they are stored, if they have a normal scale and fit.
    pub(super) fn stored(self, nbits: u8, scale: f64, bias: f64) -> Option<(f32, f32)> {
        let scale = scale as f32;
        let bias = match self.zero(nbits) {
            Some(zero) => -f32::from(zero) * scale,
            None => bias as f32,
        };
        (scale.is_normal() && scale > 0.0 && bias.is_finite()).then_some((scale, bias))
    }
}

/// What of the metric is the same for all rows of a group: 1 A, and 1 A 1.
#[derive(Debug)]
pub(super) struct Ones {
    product: Vec<f32>,
    total: f64,
}

impl Ones {
    pub(super) fn new(group: &Group) -> Self {
        let ones = vec![1.0; group.inputs];
        let mut state = vec![0.0; group.state_len()];
        group.add_to_state(&mut state, &ones, 0, group.inputs, 1.0);
        let product = through(group, &state, &ones);
        let total = product.iter().map(|&value| f64::from(value)).sum();
        Self { product, total }
    }
}

/// `rows` A, from `state`, which is `rows` in the metric's form.
fn through(group: &Group, state: &[f32], rows: &[f32]) -> Vec<f32> {
    match group.metric {
        Metric::Dense(_) => state.to_vec(),
        Metric::Samples => {
            let mut product: Vec<f32> = rows.iter().map(|value| value * group.damping).collect();
            let x = matrix(&group.quantized, group.inputs);
            multiply_add(matrix_mut(&mut product, group.inputs), matrix(state, group.positions), x, 1.0);
            product
        }
    }
}

impl Rows<'_> {
    /// The error (w* - q) A (w* - q)^T, summed over rows.
    pub(super) fn error(&self, levels: &[RowLevels<'_>]) -> f64 {
        let inputs = self.group.inputs;
        let rows = self.target.chunks(inputs).zip(self.codes.chunks(inputs)).zip(levels);
        let mut difference = vec![0.0; inputs];
        let mut error = 0.0;
        for (((target, codes), levels), state) in rows.zip(self.state.chunks(self.group.state_len())) {
            for ((difference, target), code) in difference.iter_mut().zip(target).zip(codes) {
                *difference = target - levels.value(*code);
            }
            error += match self.group.metric {
                Metric::Dense(_) => dot(&difference, state),
                Metric::Samples => dot(state, state) + f64::from(self.group.damping) * dot(&difference, &difference),
            };
        }
        error
    }

    /// The best scale and bias of each row for its codes.
    pub(super) fn refit_even(&mut self, ones: &Ones, spacing: Spacing, nbits: u8, scale: &mut [f32], bias: &mut [f32]) {
        let group = self.group;
        let (inputs, state_len) = (group.inputs, group.state_len());
        let zero = spacing.zero(nbits).map_or(0.0, f32::from);
        let centred: Vec<f32> = self.codes.iter().map(|&code| f32::from(code) - zero).collect();
        let mut products = vec![0.0; self.state.len()];
        group.add_to_state(&mut products, &centred, 0, inputs, 1.0);
        let mut ones_state = vec![0.0; state_len];
        group.add_to_state(&mut ones_state, &vec![1.0; inputs], 0, inputs, 1.0);
        let damping = f64::from(group.state_damping());
        let rows = centred.chunks(inputs).zip(self.target.chunks(inputs)).zip(products.chunks(state_len));
        let grids = scale.iter_mut().zip(bias.iter_mut());
        for (((codes, target), product), ((scale, bias), state)) in
            rows.zip(grids.zip(self.state.chunks_mut(state_len)))
        {
            let sum = |values: &[f32]| values.iter().map(|&value| f64::from(value)).sum::<f64>();
            let offset = zero * *scale + *bias;
            let (cac, cs, os) = match group.metric {
                Metric::Dense(_) => (dot(codes, product), dot(codes, state), sum(state)),
                Metric::Samples => {
                    let rest: Vec<f32> =
                        codes.iter().zip(target).map(|(code, target)| target - (code * *scale + offset)).collect();
                    (
                        dot(product, product) + damping * dot(codes, codes),
                        dot(product, state) + damping * dot(codes, &rest),
                        dot(&ones_state, state) + damping * sum(&rest),
                    )
                }
            };
            let cao = dot(codes, &ones.product);
            let (more_scale, more_bias) = match spacing {
                Spacing::Symmetric => (cs / cac, 0.0),
                Spacing::Free => {
                    let determinant = cac * ones.total - cao * cao;
                    if determinant > 1e-9 * cac * ones.total {
                        ((cs * ones.total - os * cao) / determinant, (os * cac - cs * cao) / determinant)
                    } else {
                        (0.0, os / ones.total)
                    }
                }
            };
            let wanted = (f64::from(*scale) + more_scale, f64::from(*bias) + more_bias);
            let Some((new_scale, new_bias)) = spacing.stored(nbits, wanted.0, wanted.1) else { continue };
            // The state follows what is stored.
            let by_code = new_scale - *scale;
            let by_one = (new_bias - *bias) + zero * by_code;
            for ((state, product), one) in state.iter_mut().zip(product).zip(&ones_state) {
                *state -= by_code * product + by_one * one;
            }
            (*scale, *bias) = (new_scale, new_bias);
        }
    }

    /// Sums by code of what a step in the table's entries changes: Z^T `rows` A, `rows` in the metric's form in
    /// `state`, `damped` for the rows themselves.
    fn add_up(&self, state: &[f32], damped: impl Fn(f32, u8) -> f32, entries: usize) -> Vec<f64> {
        let (inputs, state_len) = (self.group.inputs, self.group.state_len());
        let mut sums = vec![0.0; entries];
        let width = match self.group.metric {
            Metric::Dense(_) => inputs,
            Metric::Samples => COLUMNS.min(inputs),
        };
        let damping = self.group.state_damping();
        let mut part = Vec::new();
        for first in (0..inputs).step_by(width) {
            let width = width.min(inputs - first);
            let dense = matches!(self.group.metric, Metric::Dense(_));
            if !dense {
                part.resize(self.count() * width, 0.0);
                self.group.read_state(state, &mut part, first, width);
            }
            let read = if dense { state.chunks(state_len) } else { part.chunks(width) };
            for ((codes, target), read) in self.codes.chunks(inputs).zip(self.target.chunks(inputs)).zip(read) {
                let codes = &codes[first..first + width];
                for ((code, target), read) in codes.iter().zip(&target[first..]).zip(read) {
                    sums[usize::from(*code)] += f64::from(read + damping * damped(*target, *code));
                }
            }
        }
        sums
    }

    /// Z p in the metric's form.
    fn gathered(&self, entries: &[f32], product: &mut Vec<f32>) {
        let inputs = self.group.inputs;
        product.clear();
        product.resize(self.state.len(), 0.0);
        if let Metric::Dense(a) = &self.group.metric {
            let values: Vec<f32> = self.codes.iter().map(|&code| entries[usize::from(code)]).collect();
            multiply(matrix_mut(product, inputs), matrix(&values, inputs), matrix(a, inputs));
            return;
        }
        let mut values = Vec::new();
        for first in (0..inputs).step_by(COLUMNS) {
            let width = COLUMNS.min(inputs - first);
            values.clear();
            for codes in self.codes.chunks(inputs) {
                values.extend(codes[first..first + width].iter().map(|&code| entries[usize::from(code)]));
            }
            self.group.add_to_state(product, &values, first, width, 1.0);
        }
    }
}

/// The best table for the codes of all rows, ascending; codes are renumbered.
pub(super) fn refit_table(rows: &mut [Rows<'_>], table: &mut [f32]) {
    let entries = table.len();
    let fold = |parts: Vec<Vec<f64>>| {
        parts.into_iter().fold(vec![0.0; entries], |mut all: Vec<f64>, part| {
            all.iter_mut().zip(part).for_each(|(all, part)| *all += part);
            all
        })
    };
    let before = &*table;
    let first = rows.par_iter().map(|rows| {
        let mut diagonal = vec![0.0; entries];
        for codes in rows.codes.chunks(rows.group.inputs) {
            for (&code, &a) in codes.iter().zip(&rows.group.diagonal) {
                diagonal[usize::from(code)] += f64::from(a);
            }
        }
        let listed = Listed { table: before };
        let rest = rows.add_up(&rows.state, |target, code| target - listed.value(code), entries);
        let levels = vec![RowLevels::Listed(listed); rows.count()];
        (diagonal, (rest, rows.error(&levels)))
    });
    let (diagonals, rest): (Vec<_>, Vec<_>) = first.unzip();
    let (rest, errors): (Vec<_>, Vec<f64>) = rest.into_iter().unzip();
    let mut error: f64 = errors.iter().sum();
    let diagonal = fold(diagonals);
    let mut rest = fold(rest);
    let preconditioned = |rest: &[f64]| -> Vec<f64> {
        rest.iter().zip(&diagonal).map(|(rest, d)| if *d > 0.0 { rest / d } else { 0.0 }).collect()
    };
    let inner = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut solution = vec![0.0; entries];
    let mut z = preconditioned(&rest);
    let mut direction = z.clone();
    let mut size = inner(&rest, &z);
    let mut products: Vec<Vec<f32>> = vec![Vec::new(); rows.len()];
    for _ in 0..STEPS.min(2 * entries) {
        let step: Vec<f32> = direction.iter().map(|&value| value as f32).collect();
        let sums = rows.par_iter().zip(&mut products).map(|(rows, product)| {
            rows.gathered(&step, product);
            rows.add_up(product, |_, code| step[usize::from(code)], entries)
        });
        let image = fold(sums.collect());
        direction.iter_mut().zip(&step).for_each(|(direction, step)| *direction = f64::from(*step));
        let curvature = inner(&direction, &image);
        if !(curvature > 0.0 && size > 0.0) {
            break;
        }
        let length = inner(&direction, &rest) / curvature;
        solution.iter_mut().zip(&direction).for_each(|(solution, direction)| *solution += length * direction);
        rest.iter_mut().zip(&image).for_each(|(rest, image)| *rest -= length * image);
        rows.par_iter_mut().zip(&products).for_each(|(rows, product)| {
            rows.state.iter_mut().zip(product).for_each(|(state, product)| *state -= length as f32 * product);
        });
        let gain = length * length * curvature;
        error -= gain;
        if gain < GAIN * error {
            break;
        }
        z = preconditioned(&rest);
        let next = inner(&rest, &z);
        let ratio = next / size;
        direction.iter_mut().zip(&z).for_each(|(direction, z)| *direction = z + ratio * *direction);
        size = next;
    }
    let moved: Vec<f32> = table.iter().zip(&solution).map(|(t, change)| (f64::from(*t) + change) as f32).collect();
    let mut order: Vec<usize> = (0..entries).collect();
    order.sort_by(|&a, &b| moved[a].total_cmp(&moved[b]));
    let mut renumbered = vec![0_u8; entries];
    for (new, &old) in order.iter().enumerate() {
        table[new] = moved[old];
        renumbered[old] = new as u8;
    }
    if order.iter().enumerate().any(|(new, &old)| new != old) {
        rows.par_iter_mut().for_each(|rows| {
            rows.codes.iter_mut().for_each(|code| *code = renumbered[usize::from(*code)]);
        });
    }
}
