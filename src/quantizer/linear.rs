//! linear and linear_symmetric: codes for evenly spaced values, with a scale and a bias for each channel.
//!
//! The arithmetic, its rounding and its differences from coremltools are those of [`crate::kernels::linear`].

use std::fmt;
use std::str::FromStr;

use super::{Levels, Needs, QuantizeContext, Quantizer};
use crate::error::{ConfigError, QuantizeError};
use crate::format::form::{Nbits, StoredForm};
use crate::kernels::least_squares;
use crate::kernels::linear::{self, Scheme, Settings};
use crate::program::Recipe;
use crate::program::recipe::Kind;
use crate::weight::{Codes, Payload, WeightSpec, WeightView};

/// How the range of a channel, and with it the scale and bias, is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LinearRange {
    /// From the smallest to the largest value, as coremltools does it.
    #[default]
    MinMax,
    /// The scale and bias of least squared error, after rounding and clipping: outliers may be clipped so that all other
    /// values are finer. Never worse than min-max, and the better the fewer the bits; several times as slow. What is
    /// found is a local optimum.
    LeastSquares,
}

impl fmt::Display for LinearRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::MinMax => "min-max",
            Self::LeastSquares => "least-squares",
        })
    }
}

impl FromStr for LinearRange {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        [Self::MinMax, Self::LeastSquares]
            .into_iter()
            .find(|range| range.to_string() == name)
            .ok_or_else(|| ConfigError::UnknownRange { found: name.to_owned() })
    }
}

/// Stores values as codes between the smallest and the largest value of their channel.
///
/// With n bits, `scale = (max - min) / (2^n - 1)`, `bias = min` and `code = round((value - bias) / scale)`, half to
/// even, in float64 as coremltools computes it; scale and bias are stored in float32. A weight with a channel axis has
/// one scale and bias for each channel, others have one. The error of a value is at most half a scale.
///
/// # Errors
///
/// A value that is NaN or infinite, or a channel whose range does not fit float32.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    nbits: Nbits,
    range: LinearRange,
}

impl Linear {
    /// Codes of `nbits` bits.
    pub fn new(nbits: Nbits) -> Self {
        Self { nbits, range: LinearRange::MinMax }
    }

    /// How the range of a channel is found. Default: [`LinearRange::MinMax`].
    #[must_use]
    pub fn with_range(mut self, range: LinearRange) -> Self {
        self.range = range;
        self
    }
}

impl Quantizer for Linear {
    fn needs(&self) -> Needs {
        Needs::Levels(Levels::Even)
    }

    fn stored_form(&self, weight: &WeightSpec<'_>) -> StoredForm {
        form(self.nbits, weight)
    }

    fn quantize(&self, weight: WeightView<'_>, context: &mut QuantizeContext) -> Result<Payload, QuantizeError> {
        store(weight, self.nbits, self.range, Scheme::Linear, context)
    }

    fn recipe(&self) -> Option<Recipe> {
        Some(Recipe(Kind::linear(self.nbits.get(), false, self.range == LinearRange::LeastSquares)))
    }
}

/// How many bits a code has in a range around zero: 2 to 8. One bit has no code for zero between two others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SymmetricBits(Nbits);

impl SymmetricBits {
    /// Two bits.
    pub const TWO: Self = Self(Nbits::TWO);
    /// Four bits.
    pub const FOUR: Self = Self(Nbits::FOUR);
    /// Eight bits.
    pub const EIGHT: Self = Self(Nbits::EIGHT);

    /// Every number of bits, from 2 to 8.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> + Clone {
        Nbits::all().filter(|nbits| *nbits > Nbits::ONE).map(Self)
    }

    /// `None` outside 2 to 8.
    pub fn new(nbits: u32) -> Option<Self> {
        Nbits::new(nbits).filter(|nbits| *nbits > Nbits::ONE).map(Self)
    }

    /// The number of bits.
    pub fn get(self) -> u8 {
        self.0.get()
    }
}

impl From<SymmetricBits> for Nbits {
    fn from(nbits: SymmetricBits) -> Self {
        nbits.0
    }
}

impl From<SymmetricBits> for u32 {
    fn from(nbits: SymmetricBits) -> Self {
        nbits.0.into()
    }
}

impl TryFrom<Nbits> for SymmetricBits {
    type Error = ConfigError;

    fn try_from(nbits: Nbits) -> Result<Self, ConfigError> {
        let refused = ConfigError::Bits { mode: "linear_symmetric", allowed: "2 to 8", found: nbits.into() };
        Self::new(nbits.into()).ok_or(refused)
    }
}

impl fmt::Display for SymmetricBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Stores values as codes in a range around zero that holds the channel's largest magnitude.
///
/// With n bits and `r = max |value|`, `scale = r / (2^(n-1) - 1)`, `bias = -2^(n-1) scale` and
/// `code = round((value - bias) / scale)`, half to even, in float64 as coremltools computes it for 8 bits. Zero is stored
/// exactly, but for the rounding of the bias to float32.
///
/// # Errors
///
/// A value that is NaN or infinite, or a channel whose range does not fit float32.
#[derive(Clone, Copy, Debug)]
pub struct LinearSymmetric {
    nbits: SymmetricBits,
    range: LinearRange,
}

impl LinearSymmetric {
    /// Codes of `nbits` bits.
    pub fn new(nbits: SymmetricBits) -> Self {
        Self { nbits, range: LinearRange::MinMax }
    }

    /// How the range of a channel is found. Default: [`LinearRange::MinMax`].
    #[must_use]
    pub fn with_range(mut self, range: LinearRange) -> Self {
        self.range = range;
        self
    }
}

impl Quantizer for LinearSymmetric {
    fn needs(&self) -> Needs {
        Needs::Levels(Levels::EvenAroundZero)
    }

    fn stored_form(&self, weight: &WeightSpec<'_>) -> StoredForm {
        form(self.nbits.into(), weight)
    }

    fn quantize(&self, weight: WeightView<'_>, context: &mut QuantizeContext) -> Result<Payload, QuantizeError> {
        store(weight, self.nbits.into(), self.range, Scheme::Symmetric, context)
    }

    fn recipe(&self) -> Option<Recipe> {
        Some(Recipe(Kind::linear(self.nbits.get(), true, self.range == LinearRange::LeastSquares)))
    }
}

fn form(nbits: Nbits, weight: &WeightSpec<'_>) -> StoredForm {
    let blocks = weight.blocks.count();
    StoredForm::Linear { nbits, scales: blocks, biases: blocks }
}

fn store(
    weight: WeightView<'_>,
    nbits: Nbits,
    range: LinearRange,
    scheme: Scheme,
    context: &mut QuantizeContext,
) -> Result<Payload, QuantizeError> {
    let layout = weight.blocks().layout();
    let mut packed = context.take(nbits.packed_len(weight.len()));
    let (mut scale, mut bias) = (vec![0.0; layout.groups()], vec![0.0; layout.groups()]);
    let quantize = match range {
        LinearRange::MinMax => linear::quantize,
        LinearRange::LeastSquares => least_squares::quantize,
    };
    let settings = Settings { nbits: nbits.get(), scheme, measure: context.measures() };
    let sums = quantize(weight.as_le_bytes(), layout, settings, &mut packed, &mut scale, &mut bias)?;
    context.record_sums(sums);
    let codes = Codes::from_packed(packed, weight.len(), nbits);
    weight.recycle(&mut context.buffers);
    Ok(Payload::Linear { codes, scale, bias })
}
