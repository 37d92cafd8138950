//! One column after the other: each weight takes the level that is best as all others stand.
//!
//! The error of a row is (w* - q) A (w* - q)^T; its slope in q_j is -2 S_j with S = (w* - q) A. So the best value of q_j is
//! the level nearest to q_j + S_j / A_jj, and then S = S - (change of q_j) A_j. In a first pass, from q = w*, each weight
//! is rounded where the later ones can make up for it; passes from given codes never raise the error.
//!
//! Arithmetic in float32. Columns go in blocks: within [`INNER`] columns S is kept up to date one column at a time,
//! then the rest of [`OUTER`] by a product, then all of S by another.

use super::dense::{matrix, matrix_mut, multiply_add};
use super::levels::{Even, Grid, Levels, Listed, RowLevels};
use super::moments::Group;
use multiversion::multiversion;

/// Columns whose codes are chosen before the state is brought up to date.
const OUTER: usize = 256;
/// Columns within these that are updated one by one.
const INNER: usize = 64;

/// Rows of a weight, columns in their group's order.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    pub(super) group: &'a Group,
    /// The first row's number in the whole weight.
    pub(super) first: usize,
    /// w*.
    pub(super) target: &'a mut [f32],
    pub(super) codes: &'a mut [u8],
    /// (w* - q) A, or in sample space (w* - q) X^^T.
    pub(super) state: Vec<f32>,
}

/// Memory for passes, for use again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    local: Vec<f32>,
    values: Vec<f32>,
    slopes: Vec<f32>,
    changes: Vec<f32>,
    part: Vec<f32>,
}

/// Where a pass starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// q = w*, with a state of zero.
    Target,
    /// The codes.
    Codes,
}

impl Rows<'_> {
    /// Number of rows.
    pub(super) fn count(&self) -> usize {
        self.target.len() / self.group.inputs.max(1)
    }

    /// The levels of each row.
    pub(super) fn levels<'g>(&self, grid: &'g Grid, nbits: u8) -> Vec<RowLevels<'g>> {
        (0..self.count()).map(|row| grid.levels(self.first + row, nbits)).collect()
    }

    /// A pass over all columns. Returns how many codes it changed.
    pub(super) fn pass(&mut self, levels: &[RowLevels<'_>], from: From, scratch: &mut Scratch) -> usize {
        let inputs = self.group.inputs;
        if from == From::Target {
            self.state.clear();
            self.state.resize(self.count() * self.group.state_len(), 0.0);
        }
        (0..inputs)
            .step_by(OUTER)
            .map(|first| self.block(levels, from, first, OUTER.min(inputs - first), scratch))
            .sum()
    }

    fn block(
        &mut self,
        levels: &[RowLevels<'_>],
        from: From,
        first: usize,
        width: usize,
        scratch: &mut Scratch,
    ) -> usize {
        let Self { group, target, codes, state, .. } = self;
        let inputs = group.inputs;
        let Scratch { local, values, slopes, changes, part } = scratch;
        group.local(local, first, width);
        let len = levels.len() * width;
        for buffer in [&mut *values, slopes, changes] {
            buffer.clear();
            buffer.resize(len, 0.0);
        }
        group.read_state(state, slopes, first, width);
        let damping = group.state_damping();
        let rows = target.chunks(inputs).zip(codes.chunks(inputs)).zip(levels);
        let buffers = values.chunks_mut(width).zip(slopes.chunks_mut(width));
        for (((target, codes), levels), (values, slopes)) in rows.zip(buffers) {
            let target = &target[first..first + width];
            match from {
                From::Target => values.copy_from_slice(target),
                From::Codes => {
                    let codes = &codes[first..first + width];
                    for (((value, code), slope), target) in values.iter_mut().zip(codes).zip(slopes).zip(target) {
                        *value = levels.value(*code);
                        *slope += damping * (target - *value);
                    }
                }
            }
        }
        let mut changed = 0;
        for start in (0..width).step_by(INNER) {
            let inner = INNER.min(width - start);
            let place = Place { inputs, first, width, start, inner };
            changed += columns(place, levels, local, codes, values, slopes, changes);
            let next = start + inner;
            if next < width {
                part.clear();
                part.extend(changes.chunks(width).flat_map(|row| &row[start..next]));
                let a = matrix(local, width).submatrix(start, next, inner, width - next);
                let rest = matrix_mut(slopes, width).subcols_mut(next, width - next);
                multiply_add(rest, matrix(part, inner), a, 1.0);
            }
        }
        group.add_to_state(state, changes, first, width, 1.0);
        changed
    }
}

/// Where an inner block lies.
#[derive(Clone, Copy)]
struct Place {
    inputs: usize,
    /// The outer block's first column.
    first: usize,
    width: usize,
    /// The inner block's, in the outer one.
    start: usize,
    inner: usize,
}

/// Chooses the codes of all rows in an inner block. Returns how many changed.
#[multiversion(targets = "simd")]
fn columns(
    place: Place,
    levels: &[RowLevels<'_>],
    local: &[f32],
    codes: &mut [u8],
    values: &[f32],
    slopes: &mut [f32],
    changes: &mut [f32],
) -> usize {
    let Place { inputs, first, width, start, inner } = place;
    let mut changed = 0;
    let rows = codes.chunks_mut(inputs).zip(levels);
    let buffers = values.chunks(width).zip(slopes.chunks_mut(width)).zip(changes.chunks_mut(width));
    for ((codes, levels), ((values, slopes), changes)) in rows.zip(buffers) {
        let row = Row {
            square: &local[start * width + start..],
            width,
            values: &values[start..start + inner],
            slopes: &mut slopes[start..start + inner],
            changes: &mut changes[start..start + inner],
            codes: &mut codes[first + start..first + start + inner],
        };
        changed += match levels {
            RowLevels::Even(levels) => row.descend::<Even>(levels),
            RowLevels::Listed(levels) => row.descend::<Listed<'_>>(levels),
        };
    }
    changed
}

/// A row at the columns of an inner block.
struct Row<'a> {
    /// The metric from the block's corner on, in rows of `width`.
    square: &'a [f32],
    width: usize,
    values: &'a [f32],
    slopes: &'a mut [f32],
    /// Of w* - q.
    changes: &'a mut [f32],
    codes: &'a mut [u8],
}

impl Row<'_> {
    #[inline(always)]
    fn descend<L: Levels>(self, levels: &L) -> usize {
        let Self { square, width, values, slopes, changes, codes } = self;
        let len = values.len();
        let (slopes, changes, codes) = (&mut slopes[..len], &mut changes[..len], &mut codes[..len]);
        let mut changed = 0;
        for column in 0..len {
            let a = &square[column * width..][..len];
            let value = values[column];
            let (code, level) = levels.nearest(value + slopes[column] / a[column]);
            changed += usize::from(code != codes[column]);
            codes[column] = code;
            let change = value - level;
            changes[column] = change;
            if change != 0.0 {
                for (slope, a) in slopes[column + 1..].iter_mut().zip(&a[column + 1..]) {
                    *slope += change * a;
                }
            }
        }
        changed
    }
}
