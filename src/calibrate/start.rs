//! Where calibration starts: the grid that is best if only the metric's diagonal counted.
//!
//! Table: one-dimensional k-means over all targets, each with its A_jj as weight. Evenly spaced levels: from ranges that
//! are shrunk step by step around the middle of a row's, and from the best of them codes and a regression weighted with
//! A_jj in turn.

use super::descent::Rows;
use super::levels::{Even, Levels, top_code};
use super::refit::Spacing;
use crate::kernels::kmeans::weighted_table;
use multiversion::multiversion;

/// Targets that a table starts from at most; of more, every so many rows are taken.
const MOST_VALUES: usize = 1 << 22;
/// Shares of the full range that are tried.
const SHARES: [f32; 8] = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3];
/// How often codes and regression take turns.
const TURNS: usize = 3;

/// The table, 2^`nbits` ascending values.
pub(super) fn table(rows: &[Rows<'_>], nbits: u8) -> Vec<f32> {
    let values: usize = rows.iter().map(|rows| rows.target.len()).sum();
    let each = values.div_ceil(MOST_VALUES).max(1);
    let all = rows.iter().flat_map(|rows| {
        let weights = &rows.group.diagonal;
        let inputs = rows.group.inputs;
        rows.target
            .chunks(inputs)
            .enumerate()
            .filter(move |(row, _)| (rows.first + row).is_multiple_of(each))
            .flat_map(move |(_, target)| target.iter().copied().zip(weights.iter().copied()))
    });
    let entries = 1 << nbits;
    let mut table = weighted_table(all, entries);
    table.resize(entries, table.last().copied().unwrap_or(0.0));
    table
}

/// Scale and bias of a row with the weights of its columns.
pub(super) fn even(target: &[f32], weights: &[f32], spacing: Spacing, nbits: u8) -> (f32, f32) {
    let (min, max) = target.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(min, max), &w| (min.min(w), max.max(w)));
    let top = top_code(nbits) as f32;
    let candidate = |share: f32| match spacing.zero(nbits) {
        Some(zero) => {
            let radius = f64::from(min.abs().max(max.abs()));
            spacing.stored(nbits, radius * f64::from(share) / f64::from((top - f32::from(zero)).max(1.0)), 0.0)
        }
        None => {
            let middle = 0.5 * (f64::from(min) + f64::from(max));
            let scale = (f64::from(max) - f64::from(min)) * f64::from(share) / f64::from(top);
            spacing.stored(nbits, scale, middle - 0.5 * f64::from(top) * scale)
        }
    };
    let judged = |(scale, bias)| (sums(target, weights, Even::new(scale, bias, nbits)), (scale, bias));
    let mut best: Option<(Sums, (f32, f32))> = None;
    for grid in SHARES.iter().filter_map(|&share| candidate(share)) {
        let found = judged(grid);
        if best.as_ref().is_none_or(|(sums, _)| found.0.ee < sums.ee) {
            best = Some(found);
        }
    }
    let Some((mut found, (mut scale, mut bias))) = best else {
        // All the same, or nearly.
        return (0.0, if spacing == Spacing::Symmetric { 0.0 } else { min.midpoint(max) });
    };
    for _ in 0..TURNS {
        let Sums { w, q, qq, e, qe, .. } = found;
        let zero = spacing.zero(nbits).map_or(0.0, f64::from);
        let wanted = match spacing {
            Spacing::Free => {
                let variance = w * qq - q * q;
                let slope = if variance > 1e-12 * w * qq { (w * qe - q * e) / variance } else { 0.0 };
                (f64::from(scale) + slope, f64::from(bias) + (e - slope * q) / w)
            }
            Spacing::Symmetric => {
                let cc = qq - 2.0 * zero * q + zero * zero * w;
                (f64::from(scale) + if cc > 0.0 { (qe - zero * e) / cc } else { 0.0 }, 0.0)
            }
        };
        let Some(grid) = spacing.stored(nbits, wanted.0, wanted.1) else { break };
        let next = judged(grid);
        if next.0.ee.is_nan() || next.0.ee >= found.ee {
            break;
        }
        (found, (scale, bias)) = next;
    }
    (scale, bias)
}

/// Weighted sums over codes q and errors e.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    w: f64,
    q: f64,
    qq: f64,
    e: f64,
    qe: f64,
    ee: f64,
}

#[multiversion(targets = "simd")]
fn sums(target: &[f32], weights: &[f32], levels: Even) -> Sums {
    const LANES: usize = 8;
    let mut lanes = [Sums::default(); LANES];
    for (target, weights) in target.chunks(LANES).zip(weights.chunks(LANES)) {
        for ((lane, &target), &weight) in lanes.iter_mut().zip(target).zip(weights) {
            let (code, value) = levels.nearest(target);
            let (q, e, w) = (f64::from(code), f64::from(target - value), f64::from(weight));
            lane.w += w;
            lane.q += w * q;
            lane.qq += w * q * q;
            lane.e += w * e;
            lane.qe += w * q * e;
            lane.ee += w * e * e;
        }
    }
    lanes.iter().fold(Sums::default(), |a, b| Sums {
        w: a.w + b.w,
        q: a.q + b.q,
        qq: a.qq + b.qq,
        e: a.e + b.e,
        qe: a.qe + b.qe,
        ee: a.ee + b.ee,
    })
}
