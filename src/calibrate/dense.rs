//! Dense float32 matrices, row-major: products, the Cholesky factor, and solutions with it.
//!
//! A call runs on one thread. Whoever cuts work into pieces for rayon's pool cuts it by the matrices' sizes alone, so
//! the number of threads changes no result. The products are those of `faer`, which takes the widest instructions that
//! the processor has: on another kind of processor the last bits may differ.

use faer::linalg::cholesky::llt::factor::{LltRegularization, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::prelude::{IntoConst, ReborrowMut};
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Rows of the factor that are computed at a time: the unit of parallel work of [`Cholesky::new`].
const PANEL: usize = 256;
/// Rows that are solved for at a time.
const SOLVED: usize = 64;

/// A matrix as it lies: `data.len() / columns` rows.
pub(super) fn matrix(data: &[f32], columns: usize) -> MatRef<'_, f32> {
    let rows = data.len().checked_div(columns).unwrap_or(0);
    MatRef::from_row_major_slice(data, rows, columns)
}

/// As [`matrix`], to write.
pub(super) fn matrix_mut(data: &mut [f32], columns: usize) -> MatMut<'_, f32> {
    let rows = data.len().checked_div(columns).unwrap_or(0);
    MatMut::from_row_major_slice_mut(data, rows, columns)
}

/// `out = a b`.
pub(super) fn multiply(out: MatMut<'_, f32>, a: MatRef<'_, f32>, b: MatRef<'_, f32>) {
    matmul(out, Accum::Replace, a, b, 1.0, Par::Seq);
}

/// `out = out + factor a b`.
pub(super) fn multiply_add(out: MatMut<'_, f32>, a: MatRef<'_, f32>, b: MatRef<'_, f32>, factor: f32) {
    matmul(out, Accum::Add, a, b, factor, Par::Seq);
}

/// The sum of products of two vectors, in float64.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 8;
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0.0_f64; LANES];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f64::from(*a) * f64::from(*b);
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    lanes.iter().sum::<f64>() + rest
}

/// The factor L of a symmetric, positive definite matrix L L^T.
#[derive(Debug)]
pub(super) struct Cholesky {
    /// Row-major; above the diagonal is what was there.
    factor: Vec<f32>,
    size: usize,
}

impl Cholesky {
    /// Factorizes `symmetric`, of which the lower triangle is read. `None` if it is not positive definite.
    ///
    /// Panel by panel, the part to the right updated at once (Golub and Van Loan, Matrix Computations, 4.2.9): n^3 / 3
    /// multiplications, nearly all of them in products of blocks of rows, which run in parallel.
    pub(super) fn new(mut symmetric: Vec<f32>, size: usize) -> Option<Self> {
        for start in (0..size).step_by(PANEL) {
            let width = PANEL.min(size - start);
            let (_, below) = symmetric.split_at_mut(start * size);
            let (top, rest) = below.split_at_mut(width * size);
            let mut diagonal = matrix_mut(top, size).submatrix_mut(0, start, width, width);
            let mut memory =
                faer::dyn_stack::MemBuffer::new(cholesky_in_place_scratch::<f32>(width, Par::Seq, Default::default()));
            let stack = faer::dyn_stack::MemStack::new(&mut memory);
            let unchanged = LltRegularization::default();
            cholesky_in_place(diagonal.rb_mut(), unchanged, Par::Seq, stack, Default::default()).ok()?;
            let diagonal = diagonal.into_const();
            // Rows below: X L^T = B, as L X^T = B^T.
            rest.par_chunks_mut(PANEL * size).for_each(|rows| {
                let rows = matrix_mut(rows, size).subcols_mut(start, width);
                solve_lower_triangular_in_place(diagonal, rows.transpose_mut(), Par::Seq);
            });
            let panel: Vec<f32> =
                rest.chunks(size).flat_map(|row| row.get(start..start + width).unwrap_or_default()).copied().collect();
            let right = start + width;
            rest.par_chunks_mut(PANEL * size).enumerate().for_each(|(block, rows)| {
                let columns = block * PANEL + rows.len() / size;
                let own = matrix(&panel, width).subrows(block * PANEL, rows.len() / size);
                let others = matrix(&panel, width).subrows(0, columns);
                multiply_add(matrix_mut(rows, size).subcols_mut(right, columns), own, others.transpose(), -1.0);
            });
        }
        Some(Self { factor: symmetric, size })
    }

    /// Each row y of `rows` becomes y (L L^T)^-1.
    pub(super) fn solve_rows(&self, rows: &mut [f32]) {
        let factor = matrix(&self.factor, self.size);
        rows.par_chunks_mut(SOLVED * self.size.max(1)).for_each(|rows| {
            let mut columns = matrix_mut(rows, self.size).transpose_mut();
            solve_lower_triangular_in_place(factor, columns.rb_mut(), Par::Seq);
            solve_upper_triangular_in_place(factor.transpose(), columns, Par::Seq);
        });
    }
}
