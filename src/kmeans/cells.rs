//! A map from float32 to small ranges of values, as fine as needed where needed.
//!
//! The upper bits of a float, its sign, exponent and the first bits of the mantissa, select one of [`CELLS`] cells:
//! at any magnitude a cell is 1/32 of a binade. Each cell is divided evenly into a power of two of ranges, down to single
//! floats. So a value's range takes one look-up, a shift and an addition; whole numbers only, no rounding.

/// Upper bits of a float32 that select its cell: sign, exponent and five of the mantissa.
pub(super) const CELL_BITS: u32 = 14;
/// The other bits, within the cell.
pub(super) const LOW_BITS: u32 = 32 - CELL_BITS;
/// Number of cells.
pub(super) const CELLS: usize = 1 << CELL_BITS;

/// Bits for the shift in a packed cell.
const SHIFT_BITS: u32 = 5;

/// Where each cell's ranges are.
#[derive(Debug)]
pub(super) struct Cells {
    /// For each cell, its first range's number and how far the low bits are shifted to count from there.
    packed: Box<[u32; CELLS]>,
}

impl Cells {
    pub(super) fn new() -> Self {
        Self { packed: Box::new([0; CELLS]) }
    }

    /// Divides a cell into 2^(LOW_BITS - `shift`) ranges, numbered from `first` (below 2^27).
    #[inline(always)]
    pub(super) fn set(&mut self, cell: usize, first: usize, shift: u32) {
        self.packed[cell] = (first as u32) << SHIFT_BITS | shift;
    }

    /// For [`place`](Self::place).
    pub(super) fn as_array(&self) -> &[u32; CELLS] {
        &self.packed
    }

    /// The number of the range of the float with these bits.
    #[inline(always)]
    pub(super) fn place(cells: &[u32; CELLS], bits: u32) -> usize {
        let cell = cells[(bits >> LOW_BITS) as usize];
        let low = bits & ((1 << LOW_BITS) - 1);
        ((cell >> SHIFT_BITS) + (low >> (cell & 31))) as usize
    }
}

/// All cells, ascending by their values. Within the negative ones, the upper half, values fall as bits rise.
pub(super) fn by_value() -> impl Iterator<Item = usize> {
    (CELLS / 2..CELLS).rev().chain(0..CELLS / 2)
}
