//! What quantized weights should be near: the weights, changed to undo what is wrong with their inputs.
//!
//! W* = W (C + r d I)(H + r d I)^-1, computed as W + W (C - H)(H + r d I)^-1, so that rounding touches the difference
//! alone, and W* is W where the networks are the same. C - H = (X - X^)^T X^ is never formed: W (X - X^)^T comes first.
//! With more inputs than positions, (H + r d I)^-1 is moved past X^: W* = W + W (X - X^)^T (K + r d I)^-1 X^, K = X^ X^^T.

use super::dense::{matrix, matrix_mut, multiply, multiply_add};
use super::moments::{Group, Metric};

/// Turns rows of weights into their targets. Columns are in the group's order.
pub(super) fn correct(group: &Group, rows: &mut [f32]) {
    let Some(correction) = &group.correction else { return };
    let (inputs, positions) = (group.inputs, group.positions);
    let count = rows.len() / inputs;
    let x = matrix(&group.quantized, inputs);
    let mut outputs = vec![0.0; count * positions];
    let difference = matrix(&correction.difference, inputs);
    multiply(matrix_mut(&mut outputs, positions), matrix(rows, inputs), difference.transpose());
    match group.metric {
        Metric::Dense(_) => {
            let mut change = vec![0.0; rows.len()];
            multiply(matrix_mut(&mut change, inputs), matrix(&outputs, positions), x);
            correction.factor.solve_rows(&mut change);
            rows.iter_mut().zip(&change).for_each(|(weight, change)| *weight += change);
        }
        Metric::Samples => {
            correction.factor.solve_rows(&mut outputs);
            multiply_add(matrix_mut(rows, inputs), matrix(&outputs, positions), x, 1.0);
        }
    }
}
