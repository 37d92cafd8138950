//! How the values of one weight become fewer bits: the [`Quantizer`] trait and one file for each mode.
//!
//! A quantizer sees values, a shape and an axis, never a layer, and returns plain data; writing that into a model is
//! done in one place, elsewhere.

mod custom_lut;
mod dequantize;
mod float16;
mod int8;
mod kmeans_lut;
mod linear;
mod linear_lut;

use std::fmt::Debug;

pub use custom_lut::CustomLut;
pub use dequantize::Dequantize;
pub use float16::Float16;
pub use int8::Int8;
pub use kmeans_lut::KmeansLut;
pub use linear::{Linear, LinearRange, LinearSymmetric};
pub use linear_lut::LinearLut;

use crate::error::QuantizeError;
use crate::format::form::{Nbits, StoredForm};
use crate::format::weight_params::{FloatValues, floats};
use crate::kernels::{self, Channels};
use crate::weight::distortion::Distortion;

/// Stores the values of a weight in another form.
///
/// Implement it for scales or tables of your own, trained ones for example, and pass it to
/// [`QuantConfig::custom`](crate::QuantConfig::custom). The same values must always give the same result.
///
/// ```
/// use coreml_quant::{Buffers, Codes, Nbits, QuantizeError, QuantizedWeight, Quantizer, StoredForm, WeightView};
///
/// /// One bit a weight: its sign, with the mean magnitude as scale.
/// #[derive(Debug)]
/// struct Sign;
///
/// impl Quantizer for Sign {
///     fn stored_form(&self, _: &[usize], _: Option<usize>) -> StoredForm {
///         StoredForm::Linear { nbits: Nbits::ONE, scales: 1, biases: 1 }
///     }
///
///     fn quantize(&self, weight: WeightView<'_>, _: &mut Buffers) -> Result<QuantizedWeight, QuantizeError> {
///         let mean = weight.iter().map(f32::abs).sum::<f32>() / weight.len() as f32;
///         let signs: Vec<u8> = weight.iter().map(|value| u8::from(value >= 0.0)).collect();
///         Ok(QuantizedWeight::Linear {
///             codes: Codes::pack(&signs, Nbits::ONE)?,
///             scale: vec![2.0 * mean],
///             bias: vec![-mean],
///         })
///     }
/// }
/// ```
pub trait Quantizer: Debug + Send + Sync {
    /// The form in which a weight of this shape (row-major) will be stored. `channel_axis` is the axis along which
    /// scales may differ; without it Core ML takes a single one.
    ///
    /// The form decides, before anything is computed, whether the weight would shrink at all and whether Core ML
    /// allows it in its place.
    fn stored_form(&self, shape: &[usize], channel_axis: Option<usize>) -> StoredForm;

    /// Stores the values in the form that [`stored_form`](Self::stored_form) announced.
    ///
    /// `buffers` has memory to use again; taking from it is faster than allocating, and optional.
    ///
    /// # Errors
    ///
    /// Whatever keeps the values from being stored. The caller adds the place to it.
    fn quantize(&self, weight: WeightView<'_>, buffers: &mut Buffers) -> Result<QuantizedWeight, QuantizeError>;

    /// Which scales and biases, or tables, the quantizer would take in its form: calibration then looks for those that
    /// are best for the outputs on samples, and falls back on [`quantize`](Self::quantize) where it finds no better.
    /// Default: `None`, which leaves the weight to the quantizer alone.
    fn levels(&self) -> Option<Levels> {
        None
    }

    /// As [`quantize`](Self::quantize), and measures how far the stored values are from the weight's, in the same pass.
    ///
    /// There is no need to implement it: with the `None` of the default, the caller measures in a second pass.
    ///
    /// # Errors
    ///
    /// As [`quantize`](Self::quantize).
    fn quantize_and_measure(
        &self,
        weight: WeightView<'_>,
        buffers: &mut Buffers,
    ) -> Result<(QuantizedWeight, Option<Distortion>), QuantizeError> {
        Ok((self.quantize(weight, buffers)?, None))
    }
}

/// Which values codes stand for, where calibration may choose them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Levels {
    /// Evenly spaced ones, a scale and a bias for each channel.
    Even,
    /// Evenly spaced ones around zero, which has the code 2^(bits - 1).
    EvenAroundZero,
    /// Any, in one table.
    Table,
}

/// The values of one weight as a quantizer sees them: float32, whatever they were stored in.
#[derive(Clone, Debug)]
pub struct WeightView<'a> {
    values: Values<'a>,
    shape: &'a [usize],
    channel_axis: Option<usize>,
}

/// Little-endian float32, at any alignment.
#[derive(Clone, Debug)]
enum Values<'a> {
    Shared(&'a [u8]),
    /// Decoded from another form.
    Decoded(Vec<u8>),
}

impl<'a> WeightView<'a> {
    /// A weight in float32: the values, row-major, the dimensions, and the axis along which scales may differ.
    ///
    /// `None` if there are not as many values as the shape says or the axis is not one of its dimensions.
    pub fn new(values: &'a FloatValues, shape: &'a [usize], channel_axis: Option<usize>) -> Option<Self> {
        let units = shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim))?;
        (units == values.len() && channel_axis.is_none_or(|axis| axis < shape.len()))
            .then(|| Self::shared(values.as_le_bytes(), shape, channel_axis))
    }

    pub(crate) fn shared(values: &'a [u8], shape: &'a [usize], channel_axis: Option<usize>) -> Self {
        Self { values: Values::Shared(values), shape, channel_axis }
    }

    pub(crate) fn decoded(values: Vec<u8>, shape: &'a [usize], channel_axis: Option<usize>) -> Self {
        Self { values: Values::Decoded(values), shape, channel_axis }
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

    /// The dimensions, row-major.
    pub fn shape(&self) -> &[usize] {
        self.shape
    }

    /// The axis along which scales may differ; without it a single scale is allowed.
    pub fn channel_axis(&self) -> Option<usize> {
        self.channel_axis
    }

    /// How the channels lie in memory.
    pub(crate) fn channels(&self) -> Channels {
        channels(self.shape, self.channel_axis)
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

/// How the channels along an axis lie in memory.
pub(crate) fn channels(shape: &[usize], channel_axis: Option<usize>) -> Channels {
    let product = |dims: &[usize]| dims.iter().product();
    match channel_axis {
        Some(axis) => {
            Channels { outer: product(&shape[..axis]), count: shape[axis], inner: product(&shape[axis + 1..]) }
        }
        None => Channels::per_tensor(product(shape)),
    }
}

/// One weight in the form a quantizer chose.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum QuantizedWeight {
    /// Little-endian float32, four bytes a value.
    Float32(Vec<u8>),
    /// Little-endian IEEE half precision, two bytes a value.
    Float16(Vec<u8>),
    /// `value = code * scale + bias`, with one scale, or one for each channel.
    Linear {
        /// One code a value.
        codes: Codes,
        /// One scale, or one for each channel.
        scale: Vec<f32>,
        /// As many biases as scales, or none.
        bias: Vec<f32>,
    },
    /// `value = table[code]`.
    LookupTable {
        /// One code a value.
        codes: Codes,
        /// 2^bits entries.
        table: Vec<f32>,
    },
    /// `value = int8 * scale`, in two's complement, one byte a value.
    Int8 {
        /// The values.
        values: Vec<u8>,
        /// The only scale.
        scale: f32,
    },
}

impl QuantizedWeight {
    /// Gives the memory of the values or codes back.
    pub fn recycle(self, buffers: &mut Buffers) {
        buffers.give_back(match self {
            Self::Float32(bytes) | Self::Float16(bytes) | Self::Int8 { values: bytes, .. } => bytes,
            Self::Linear { codes, .. } | Self::LookupTable { codes, .. } => codes.packed,
        });
    }

    /// The form this is, if its parts belong together for `units` values.
    pub(crate) fn stored_form(&self, units: usize) -> Result<StoredForm, QuantizeError> {
        let counted = |found: usize| {
            if found == units { Ok(()) } else { Err(QuantizeError::CodeCount { found, expected: units }) }
        };
        match self {
            Self::Float32(bytes) => counted(bytes.len() / 4).map(|()| StoredForm::Float32),
            Self::Float16(bytes) => counted(bytes.len() / 2).map(|()| StoredForm::Float16),
            Self::Linear { codes, scale, bias } => counted(codes.len()).map(|()| StoredForm::Linear {
                nbits: codes.nbits(),
                scales: scale.len(),
                biases: bias.len(),
            }),
            Self::LookupTable { codes, table } => {
                counted(codes.len())?;
                let (found, expected) = (table.len(), codes.nbits().levels());
                if found != expected {
                    return Err(QuantizeError::TableLength { found, expected });
                }
                if let Some(index) = table.iter().position(|entry| !entry.is_finite()) {
                    return Err(QuantizeError::TableEntry { index, value: table[index] });
                }
                Ok(StoredForm::LookupTable { nbits: codes.nbits() })
            }
            Self::Int8 { values, .. } => counted(values.len()).map(|()| StoredForm::Int8),
        }
    }
}

/// Codes of 1 to 8 bits, packed as Core ML reads them: most significant bit first, without gaps, the last byte padded
/// with zero bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codes {
    packed: Vec<u8>,
    len: usize,
    nbits: Nbits,
}

impl Codes {
    /// Packs codes.
    ///
    /// ```
    /// use coreml_quant::{Codes, Nbits};
    ///
    /// let codes = Codes::pack(&[1, 2, 3], Nbits::new(4).ok_or("bits")?)?;
    /// assert_eq!(codes.as_packed(), [0x12, 0x30]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`QuantizeError::CodeRange`] for a code that needs more bits.
    pub fn pack(codes: &[u8], nbits: Nbits) -> Result<Self, QuantizeError> {
        if let Some(index) = codes.iter().position(|&code| usize::from(code) >= nbits.levels()) {
            return Err(QuantizeError::CodeRange { index, code: codes[index], nbits: nbits.get() });
        }
        let mut packed = vec![0; nbits.packed_len(codes.len())];
        kernels::pack::pack(codes, nbits.get(), &mut packed);
        Ok(Self { packed, len: codes.len(), nbits })
    }

    /// Codes that are packed already.
    pub(crate) fn from_packed(packed: Vec<u8>, len: usize, nbits: Nbits) -> Self {
        debug_assert_eq!(packed.len(), nbits.packed_len(len));
        Self { packed, len, nbits }
    }

    /// The packed bytes.
    pub fn as_packed(&self) -> &[u8] {
        &self.packed
    }

    pub(crate) fn into_packed(self) -> Vec<u8> {
        self.packed
    }

    /// The codes, one a byte.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut codes = vec![0; self.len];
        kernels::pack::unpack(&self.packed, self.nbits.get(), &mut codes);
        codes
    }

    /// Number of codes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no codes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bits of a code.
    pub fn nbits(&self) -> Nbits {
        self.nbits
    }
}

/// Memory that is used again from weight to weight: fresh pages cost more than the quantizing.
#[derive(Debug, Default)]
pub struct Buffers {
    free: Vec<Vec<u8>>,
}

impl Buffers {
    /// No memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A buffer of `len` bytes with arbitrary content.
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        let mut buffer = self.free.pop().unwrap_or_default();
        buffer.resize(len, 0);
        buffer
    }

    /// Takes memory back.
    pub fn give_back(&mut self, buffer: Vec<u8>) {
        self.free.push(buffer);
    }
}
