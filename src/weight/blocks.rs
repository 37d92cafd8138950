//! Which values of a weight share parameters: equal boxes.

use crate::kernels::Layout;

/// Equal boxes of values that share a scale, a bias or a table.
///
/// A block of the whole shape is one set of parameters for the tensor; `[1, inputs, height, width]` is one for each output
/// channel of a convolution, `[inputs / groups, 1, height, width]` one for each of a deconvolution in groups. Blocks are
/// numbered row-major, as parameters are stored.
///
/// ```
/// use coreml_quant::Blocks;
///
/// let rows = Blocks::along(&[4, 3], 0).ok_or("axis")?;
/// assert_eq!((rows.block(), rows.count()), (&[1, 3][..], 4));
/// assert_eq!(rows.index_of(7), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Blocks {
    shape: Vec<usize>,
    block: Vec<usize>,
}

impl Blocks {
    /// One block: all values share their parameters.
    pub fn per_tensor(shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), block: shape.to_vec() }
    }

    /// A block for each index along an axis; `None` if there is no such axis.
    pub fn along(shape: &[usize], axis: usize) -> Option<Self> {
        let mut blocks = Self::per_tensor(shape);
        *blocks.block.get_mut(axis)? = 1;
        Some(blocks)
    }

    /// A block for each index along the second axis in each of `slabs` equal parts of the first; `None` if it has no such
    /// parts.
    pub(crate) fn in_slabs(shape: &[usize], slabs: usize) -> Option<Self> {
        let mut blocks = Self::along(shape, 1)?;
        if slabs == 0 || !shape[0].is_multiple_of(slabs) {
            return None;
        }
        blocks.block[0] = shape[0] / slabs;
        Some(blocks)
    }

    /// The dimensions of the weight, row-major.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The dimensions of a block.
    pub fn block(&self) -> &[usize] {
        &self.block
    }

    /// Number of blocks: the number of scales there may be.
    pub fn count(&self) -> usize {
        self.layout().groups()
    }

    /// The block of a value, by its index row-major.
    pub fn index_of(&self, index: usize) -> usize {
        let layout = self.layout();
        layout.group_of_run(index / layout.inner.max(1))
    }

    /// How the blocks lie in memory.
    pub(crate) fn layout(&self) -> Layout {
        let product = |dims: &[usize]| dims.iter().product::<usize>();
        let is_cut = |axis: &usize| self.block[*axis] != self.shape[*axis];
        let Some(last) = (0..self.shape.len()).rfind(is_cut) else {
            return Layout::per_tensor(product(&self.shape));
        };
        let slabs = match (last, self.block.first(), self.shape.first()) {
            (1.., Some(&block), Some(&len)) if block > 0 => len / block,
            _ => 1,
        };
        Layout {
            slabs,
            outer: product(&self.block[..last]),
            count: self.shape[last] / self.block[last].max(1),
            inner: product(&self.block[last..]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Blocks;

    /// The block of a value from its coordinates, block by block.
    fn by_coordinates(blocks: &Blocks, mut index: usize) -> usize {
        let mut coordinates = vec![0; blocks.shape.len()];
        for (at, &len) in coordinates.iter_mut().zip(&blocks.shape).rev() {
            (*at, index) = (index % len, index / len);
        }
        let axes = coordinates.iter().zip(&blocks.shape).zip(&blocks.block);
        axes.fold(0, |number, ((&at, &len), &block)| number * (len / block) + at / block)
    }

    #[test]
    fn values_belong_to_the_box_they_lie_in() {
        let shape = [6, 4, 3, 2];
        let all = [
            Blocks::per_tensor(&shape),
            Blocks::along(&shape, 0).unwrap(),
            Blocks::along(&shape, 1).unwrap(),
            Blocks::along(&shape, 3).unwrap(),
            Blocks::in_slabs(&shape, 1).unwrap(),
            Blocks::in_slabs(&shape, 3).unwrap(),
            Blocks::in_slabs(&shape, 6).unwrap(),
            Blocks::along(&[5], 0).unwrap(),
            Blocks::in_slabs(&[4, 1, 3], 2).unwrap(),
        ];
        for blocks in all {
            let values = blocks.shape.iter().product();
            assert_eq!(blocks.layout().len(), values);
            for index in 0..values {
                assert_eq!(blocks.index_of(index), by_coordinates(&blocks, index), "{index} of {blocks:?}");
            }
            assert_eq!(blocks.count(), (0..values).map(|index| blocks.index_of(index)).max().unwrap() + 1);
        }
        assert_eq!(Blocks::along(&shape, 4), None);
        assert_eq!(Blocks::in_slabs(&shape, 4), None);
    }
}
