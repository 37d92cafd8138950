//! What a quantizer sees of a weight: before its values are read, and with them.

use crate::error::Place;
use crate::format::weight_params::{FloatValues, floats};

use super::blocks::Blocks;
use super::buffers::Buffers;

/// What is known of a weight before its values are read.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct WeightSpec<'a> {
    /// The finest blocks that may have parameters of their own; a single block where only one set is read or wanted.
    pub blocks: &'a Blocks,
    /// Where the weight is; `None` for values that belong to no model.
    pub place: Option<&'a Place>,
}

impl<'a> WeightSpec<'a> {
    /// A weight that belongs to no model.
    pub fn new(blocks: &'a Blocks) -> Self {
        Self { blocks, place: None }
    }

    /// A weight of a model.
    pub(crate) fn at(blocks: &'a Blocks, place: &'a Place) -> Self {
        Self { blocks, place: Some(place) }
    }

    /// The dimensions, row-major.
    pub fn shape(&self) -> &'a [usize] {
        self.blocks.shape()
    }
}

/// The values of one weight as a quantizer sees them: float32, whatever they were stored in.
#[derive(Clone, Debug)]
pub struct WeightView<'a> {
    values: Values<'a>,
    spec: WeightSpec<'a>,
}

/// Little-endian float32, at any alignment.
#[derive(Clone, Debug)]
enum Values<'a> {
    Shared(&'a [u8]),
    /// Decoded from another form.
    Decoded(Vec<u8>),
}

impl<'a> WeightView<'a> {
    /// The values of a weight, row-major; `None` if there are not as many as the shape says.
    ///
    /// ```
    /// use coreml_quant::weight_params::FloatValues;
    /// use coreml_quant::{Blocks, WeightSpec, WeightView};
    ///
    /// let values = FloatValues::from(vec![0.5, -1.0, 2.0, 4.0]);
    /// let rows = Blocks::along(&[2, 2], 0).ok_or("axis")?;
    /// let weight = WeightView::new(&values, WeightSpec::new(&rows)).ok_or("length")?;
    /// assert_eq!(weight.block_values(1).collect::<Vec<_>>(), [2.0, 4.0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(values: &'a FloatValues, spec: WeightSpec<'a>) -> Option<Self> {
        let units = spec.shape().iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim))?;
        (units == values.len()).then(|| Self::shared(values.as_le_bytes(), spec))
    }

    pub(crate) fn shared(values: &'a [u8], spec: WeightSpec<'a>) -> Self {
        Self { values: Values::Shared(values), spec }
    }

    pub(crate) fn decoded(values: Vec<u8>, spec: WeightSpec<'a>) -> Self {
        Self { values: Values::Decoded(values), spec }
    }

    /// The values as little-endian float32, four bytes each, at any alignment.
    pub fn as_le_bytes(&self) -> &[u8] {
        match &self.values {
            Values::Shared(bytes) => bytes,
            Values::Decoded(bytes) => bytes,
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.as_le_bytes().len() / size_of::<f32>()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.as_le_bytes().is_empty()
    }

    /// The values, row-major.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = f32> + Clone + '_ {
        floats(self.as_le_bytes())
    }

    /// The values, row-major, in a vector.
    pub fn to_vec(&self) -> Vec<f32> {
        self.iter().collect()
    }

    /// The values of one block, row-major; none if there is no such block.
    pub fn block_values(&self, block: usize) -> impl Iterator<Item = f32> + '_ {
        let layout = self.spec.blocks.layout();
        let (inner, count) = (layout.inner, layout.count.max(1));
        let first = block / count * layout.outer * count + block % count;
        let runs = if block < layout.groups() { layout.outer } else { 0 };
        let bytes = self.as_le_bytes();
        (0..runs).flat_map(move |run| floats(&bytes[4 * (first + run * count) * inner..][..4 * inner]))
    }

    /// What was known before the values were read.
    pub fn spec(&self) -> WeightSpec<'a> {
        self.spec
    }

    /// The dimensions, row-major.
    pub fn shape(&self) -> &'a [usize] {
        self.spec.shape()
    }

    /// The finest blocks that may have parameters of their own.
    pub fn blocks(&self) -> &'a Blocks {
        self.spec.blocks
    }

    /// The values as bytes of their own, copied only if they are shared.
    pub(crate) fn into_le_bytes(self, buffers: &mut Buffers) -> Vec<u8> {
        match self.values {
            Values::Decoded(bytes) => bytes,
            Values::Shared(bytes) => {
                let mut copy = buffers.take(bytes.len());
                copy.copy_from_slice(bytes);
                copy
            }
        }
    }

    /// Gives the memory back, if it is the view's own.
    pub(crate) fn recycle(self, buffers: &mut Buffers) {
        if let Values::Decoded(bytes) = self.values {
            buffers.give_back(bytes);
        }
    }
}
