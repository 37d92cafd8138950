//! Matrix products.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use multiversion::multiversion;

use super::for_each;

/// Rows of a product that one piece of work computes.
const ROWS: usize = 64;

/// A matrix in a slice, row-major unless transposed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a>(MatRef<'a, f32>);

impl<'a> Matrix<'a> {
    /// `rows` x `columns` values, row-major.
    pub(crate) fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self(MatRef::from_row_major_slice(values, rows, columns))
    }

    /// Rows that start every `stride` values.
    pub(crate) fn strided(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        Self(MatRef::from_row_major_slice_with_stride(values, rows, columns, stride))
    }

    /// Rows as columns.
    pub(crate) fn transposed(self) -> Self {
        Self(self.0.transpose())
    }

    pub(crate) fn rows(self) -> usize {
        self.0.nrows()
    }

    pub(crate) fn columns(self) -> usize {
        self.0.ncols()
    }

    /// `len` of the rows.
    pub(crate) fn some_rows(self, start: usize, len: usize) -> Self {
        Self(self.0.subrows(start, len))
    }
}

/// `out = a * b`, or `out += a * b`; `out` is row-major.
pub(crate) fn gemm(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, add: bool) {
    let (rows, columns) = (a.rows(), b.columns());
    debug_assert_eq!(out.len(), rows * columns);
    if out.is_empty() {
        return;
    }
    let blocks: Vec<(usize, &mut [f32])> = out.chunks_mut(ROWS * columns).enumerate().collect();
    for_each(blocks, rows.saturating_mul(columns).saturating_mul(a.columns()), |(block, out)| {
        let rows = out.len() / columns;
        product(out, a.some_rows(block * ROWS, rows), b, add);
    });
}

/// As [`gemm`], on this thread.
pub(crate) fn product(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, add: bool) {
    if a.columns() == 0 {
        // An empty sum.
        if !add {
            out.fill(0.0);
        }
        return;
    }
    let columns = b.columns();
    let out = MatMut::from_row_major_slice_mut(out, a.rows(), columns);
    matmul(out, if add { Accum::Add } else { Accum::Replace }, a.0, b.0, 1.0, Par::Seq);
}

/// `out = matrix * vector + out`, where `matrix` is row-major with as many rows as `out` has values.
pub(crate) fn matrix_vector(out: &mut [f32], matrix: &[f32], vector: &[f32]) {
    if vector.is_empty() {
        return;
    }
    let columns = vector.len();
    let blocks: Vec<_> = out.chunks_mut(ROWS).zip(matrix.chunks(ROWS * columns)).collect();
    for_each(blocks, matrix.len(), |(out, rows)| {
        for (out, row) in out.iter_mut().zip(rows.chunks(columns)) {
            *out += dot(row, vector);
        }
    });
}

/// `out += W x` for every vector `x` of `inputs` values; `weights` is `W`, row-major `outputs` x `inputs`.
pub(crate) fn linear(out: &mut [f32], vectors: &[f32], weights: &[f32], inputs: usize, outputs: usize) {
    if out.is_empty() || inputs == 0 {
        return;
    }
    let count = out.len() / outputs;
    let weights_matrix = Matrix::new(weights, outputs, inputs);
    let vectors_matrix = Matrix::new(vectors, count, inputs);
    if count == 1 {
        matrix_vector(out, weights, vectors);
    } else if count >= 2 * ROWS {
        gemm(out, vectors_matrix, weights_matrix.transposed(), true);
    } else {
        // Few vectors: the rows of the matrix are what can be cut into pieces.
        let mut products = vec![0.0; out.len()];
        gemm(&mut products, weights_matrix, vectors_matrix.transposed(), false);
        for (output, products) in products.chunks(count).enumerate() {
            for (out, product) in out.chunks_mut(outputs).zip(products) {
                out[output] += product;
            }
        }
    }
}

/// Sums that run side by side.
const LANES: usize = 32;

/// The inner product of two vectors of the same length.
#[multiversion(targets = "simd")]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    a_rest.iter().zip(b_rest).fold(sums[0], |sum, (a, b)| sum + a * b)
}
