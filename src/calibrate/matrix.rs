//! A weight's codes and grid from the statistics of its inputs: all steps together.
//!
//! Start, a first pass, then twice refit and pass, then a last refit. Rows are cut into pieces that run in parallel; with
//! evenly spaced levels a piece goes through all steps by itself, a table waits for all at each refit.

use super::descent::{From, Rows, Scratch};
use super::levels::{Grid, RowLevels};
use super::moments::{Group, Stats};
use super::refit::{Ones, Spacing, refit_table};
use super::{start, target};
use rayon::prelude::*;

/// Rows of a piece at most.
const PIECE: usize = 128;
/// Pieces that a group of many rows has at least.
const PIECES: usize = 4;
/// Refits and passes after the first pass.
const TURNS: usize = 2;

/// The levels that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// A scale and bias for each row.
    Linear,
    /// A scale for each row; from 2 bits on.
    LinearSymmetric,
    /// A table for all.
    Table,
}

/// A weight in codes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Coded {
    /// A code for each weight, in its place.
    pub(crate) codes: Vec<u8>,
    /// What they stand for.
    pub(crate) grid: Grid,
}

/// The error of a weight in its own metric: the mean squared error of the outputs, summed over rows, that it causes
/// beside the target, damping included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Errors {
    /// Without calibration; NaN if it was not given.
    pub(crate) before: f64,
    /// As returned.
    pub(crate) after: f64,
}

/// What calibration makes of a weight.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Calibrated {
    pub(crate) coded: Coded,
    /// What the biases of all rows grow by: W m - Q m^.
    pub(crate) bias: Vec<f64>,
    pub(crate) errors: Errors,
    /// Whether the data-free codes were as good, and are returned.
    pub(crate) data_free: bool,
}

/// Quantizes `weights`, rows of the inputs of a group, group after group, all finite.
///
/// `data_free`, if given, is returned if it is no worse.
pub(crate) fn calibrate_matrix(
    mut weights: Vec<f32>,
    stats: &Stats,
    method: Method,
    nbits: u8,
    data_free: Option<&Coded>,
) -> Calibrated {
    let inputs = stats.inputs;
    let count = weights.len() / inputs;
    let each = count / stats.groups.len();
    let mut codes = vec![0_u8; weights.len()];
    let float_means: Vec<f64> = by_group(stats, &weights, each)
        .flat_map(|(group, rows)| rows.chunks(inputs).map(|row| weighted_sum(row, &group.mean)))
        .collect();
    let mut rows = pieces(stats, &mut weights, &mut codes, each);
    rows.par_iter_mut().for_each(|rows| {
        reorder(rows.target, &rows.group.order);
        let before = rows.target.to_vec();
        target::correct(rows.group, rows.target);
        if !rows.target.iter().all(|value| value.is_finite()) {
            rows.target.copy_from_slice(&before);
        }
    });
    let grid = match method {
        Method::Linear => evenly(&mut rows, stats, Spacing::Free, nbits, count),
        Method::LinearSymmetric => evenly(&mut rows, stats, Spacing::Symmetric, nbits, count),
        Method::Table => listed(&mut rows, nbits),
    };
    let after: Vec<f64> = rows.par_iter().map(|rows| rows.error(&rows.levels(&grid, nbits))).collect();
    let before: Vec<f64> =
        rows.par_iter().map(|rows| data_free.map_or(f64::NAN, |data_free| error_of(rows, data_free, nbits))).collect();
    drop(rows);
    let errors =
        Errors { before: before.iter().sum::<f64>() * stats.unit, after: after.iter().sum::<f64>() * stats.unit };
    for (group, codes) in stats.groups.iter().zip(codes.chunks_mut((each * inputs).max(1))) {
        codes.par_chunks_mut(inputs).for_each(|codes| {
            let ordered = codes.to_vec();
            ordered.iter().zip(&group.order).for_each(|(code, &place)| codes[place as usize] = *code);
        });
    }
    let mut coded = Coded { codes, grid };
    let mut errors = errors;
    let mut kept = false;
    let better = errors.after < errors.before;
    if let Some(data_free) = data_free.filter(|_| !better) {
        coded = data_free.clone();
        errors.after = errors.before;
        kept = true;
    }
    let bias = by_group(stats, &coded.codes, each)
        .flat_map(|(group, rows)| rows.chunks(inputs).map(move |codes| (group, codes)))
        .zip(float_means)
        .enumerate()
        .map(|(row, ((group, codes), mean))| {
            let levels = coded.grid.levels(row, nbits);
            let values = codes.iter().map(|&code| f64::from(levels.value(code)));
            mean - values.zip(&group.mean_quantized).map(|(value, mean)| value * mean).sum::<f64>()
        })
        .collect();
    Calibrated { coded, bias, errors, data_free: kept }
}

/// What the values of a weight do to the outputs, for quantizers that choose them themselves. Rows as in
/// [`calibrate_matrix`], columns as they come.
pub(crate) struct Judge<'a> {
    stats: &'a Stats,
    /// What values should be near.
    pub(crate) target: Vec<f32>,
    float_means: Vec<f64>,
    each: usize,
}

impl<'a> Judge<'a> {
    /// For a weight whose values are all finite.
    pub(crate) fn new(weights: &[f32], stats: &'a Stats) -> Self {
        let inputs = stats.inputs;
        let each = weights.len() / inputs / stats.groups.len();
        let float_means = by_group(stats, weights, each)
            .flat_map(|(group, rows)| rows.chunks(inputs).map(|row| weighted_sum(row, &group.mean)))
            .collect();
        let mut target = weights.to_vec();
        let of_group = (each * inputs).max(1);
        stats.groups.par_iter().zip(target.par_chunks_mut(of_group)).for_each(|(group, rows)| {
            let before = rows.to_vec();
            reorder(rows, &group.order);
            target::correct(group, rows);
            restore(rows, &group.order);
            if !rows.iter().all(|value| value.is_finite()) {
                rows.copy_from_slice(&before);
            }
        });
        Self { stats, target, float_means, each }
    }

    /// The metric's diagonal for each value.
    pub(crate) fn importance(&self) -> Vec<f32> {
        let mut importance = vec![0.0; self.target.len()];
        for (group, rows) in self.stats.groups.iter().zip(importance.chunks_mut((self.each * self.stats.inputs).max(1)))
        {
            for row in rows.chunks_mut(self.stats.inputs) {
                for (&place, diagonal) in group.order.iter().zip(&group.diagonal) {
                    row[place as usize] = (f64::from(*diagonal) * self.stats.unit) as f32;
                }
            }
        }
        importance
    }

    /// The error of values, as in [`Errors`].
    pub(crate) fn error(&self, values: &[f32]) -> f64 {
        let of_group = (self.each * self.stats.inputs).max(1);
        let pieces =
            self.stats.groups.par_iter().zip(values.par_chunks(of_group)).zip(self.target.par_chunks(of_group));
        let errors: Vec<f64> = pieces
            .map(|((group, values), target)| {
                let mut difference: Vec<f32> =
                    target.iter().zip(values).map(|(target, value)| target - value).collect();
                reorder(&mut difference, &group.order);
                difference.chunks(PIECE * group.inputs).map(|rows| group.error(rows)).sum()
            })
            .collect();
        errors.iter().sum::<f64>() * self.stats.unit
    }

    /// What the biases of all rows grow by with values.
    pub(crate) fn bias(&self, values: &[f32]) -> Vec<f64> {
        by_group(self.stats, values, self.each)
            .flat_map(|(group, rows)| {
                rows.chunks(self.stats.inputs).map(move |row| weighted_sum(row, &group.mean_quantized))
            })
            .zip(&self.float_means)
            .map(|(quantized, float)| float - quantized)
            .collect()
    }
}

fn weighted_sum(row: &[f32], weights: &[f64]) -> f64 {
    row.iter().zip(weights).map(|(value, weight)| f64::from(*value) * weight).sum()
}

/// The groups with their rows of `values`.
fn by_group<'a, T>(stats: &'a Stats, values: &'a [T], each: usize) -> impl Iterator<Item = (&'a Group, &'a [T])> {
    stats.groups.iter().zip(values.chunks((each * stats.inputs).max(1)))
}

/// Cuts the rows of each group.
fn pieces<'a>(stats: &'a Stats, weights: &'a mut [f32], codes: &'a mut [u8], each: usize) -> Vec<Rows<'a>> {
    let piece = each.div_ceil(PIECES).next_multiple_of(16).clamp(1, PIECE).min(each.max(1));
    let of_group = (each * stats.inputs).max(1);
    let groups = stats.groups.iter().zip(weights.chunks_mut(of_group).zip(codes.chunks_mut(of_group)));
    let rows = groups.enumerate().flat_map(|(number, (group, (weights, codes)))| {
        let len = piece * stats.inputs;
        weights.chunks_mut(len).zip(codes.chunks_mut(len)).enumerate().map(move |(at, (target, codes))| Rows {
            group,
            first: number * each + at * piece,
            target,
            codes,
            state: Vec::new(),
        })
    });
    rows.collect()
}

/// Undoes [`reorder`].
fn restore(rows: &mut [f32], order: &[u32]) {
    let mut ordered = vec![0.0; order.len()];
    for row in rows.chunks_mut(order.len().max(1)) {
        ordered.copy_from_slice(row);
        ordered.iter().zip(order).for_each(|(value, &place)| row[place as usize] = *value);
    }
}

/// Puts the columns of all rows in an order.
fn reorder(rows: &mut [f32], order: &[u32]) {
    let mut before = vec![0.0; order.len()];
    for row in rows.chunks_mut(order.len().max(1)) {
        before.copy_from_slice(row);
        row.iter_mut().zip(order).for_each(|(value, &place)| *value = before[place as usize]);
    }
}

fn evenly(rows: &mut [Rows<'_>], stats: &Stats, spacing: Spacing, nbits: u8, count: usize) -> Grid {
    let parts: Vec<(Vec<f32>, Vec<f32>)> = rows
        .par_iter_mut()
        .map(|rows| {
            let target = rows.target.chunks(stats.inputs);
            let (mut scale, mut bias): (Vec<f32>, Vec<f32>) =
                target.map(|target| start::even(target, &rows.group.diagonal, spacing, nbits)).unzip();
            let ones = Ones::new(rows.group);
            let mut scratch = Scratch::default();
            for turn in 0..=TURNS {
                let from = if turn == 0 { From::Target } else { From::Codes };
                let levels: Vec<RowLevels<'_>> =
                    scale.iter().zip(&bias).map(|(&scale, &bias)| RowLevels::even(scale, bias, nbits)).collect();
                rows.pass(&levels, from, &mut scratch);
                rows.refit_even(&ones, spacing, nbits, &mut scale, &mut bias);
            }
            (scale, bias)
        })
        .collect();
    let (mut scale, mut bias) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for part in parts {
        scale.extend(part.0);
        bias.extend(part.1);
    }
    Grid::Linear { scale, bias }
}

fn listed(rows: &mut [Rows<'_>], nbits: u8) -> Grid {
    let mut table = start::table(rows, nbits);
    for turn in 0..=TURNS {
        let from = if turn == 0 { From::Target } else { From::Codes };
        let grid = Grid::Table(table.clone());
        rows.par_iter_mut().for_each_init(Scratch::default, |scratch, rows| {
            let levels = rows.levels(&grid, nbits);
            rows.pass(&levels, from, scratch);
        });
        refit_table(rows, &mut table);
    }
    Grid::Table(table)
}

/// The error of other codes.
fn error_of(rows: &Rows<'_>, coded: &Coded, nbits: u8) -> f64 {
    let group = rows.group;
    let inputs = group.inputs;
    let own = coded.codes.get(rows.first * inputs..).unwrap_or_default();
    let levels = rows.levels(&coded.grid, nbits);
    let mut difference = Vec::with_capacity(rows.target.len());
    for ((target, codes), levels) in rows.target.chunks(inputs).zip(own.chunks(inputs)).zip(&levels) {
        for (target, &place) in target.iter().zip(&group.order) {
            difference.push(target - levels.value(codes[place as usize]));
        }
    }
    group.error(&difference)
}
