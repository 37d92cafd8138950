//! How one weight is stored, as a plain value: what plans are made of.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::ConfigError;
use crate::format::form::Nbits;
use crate::quantize::config::Mode;
use crate::quantizer::{Float16, KmeansLut, Linear, LinearLut, LinearRange, LinearSymmetric, Quantizer, SymmetricBits};

/// How a weight is to be stored.
///
/// As text: `keep`, `float16`, or a mode with its bits, `kmeans_lut:4`, and a range other than min-max,
/// `linear:4:least-squares`.
///
/// ```
/// use coreml_quant::{LinearRange, Method, Nbits};
///
/// let method: Method = "linear:4:least-squares".parse()?;
/// assert_eq!(method, Method::Linear { nbits: Nbits::FOUR, range: LinearRange::LeastSquares });
/// assert!("linear:9".parse::<Method>().is_err());
/// assert!("linear_symmetric:1".parse::<Method>().is_err());
/// # Ok::<(), coreml_quant::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "String", into = "String")
)]
#[non_exhaustive]
pub enum Method {
    /// As it is: float32, or whatever form it has.
    Keep,
    /// See [`Float16`].
    Float16,
    /// See [`Linear`].
    Linear {
        /// Bits of a code.
        nbits: Nbits,
        /// How the range of a channel is found.
        range: LinearRange,
    },
    /// See [`LinearSymmetric`].
    LinearSymmetric {
        /// Bits of a code.
        nbits: SymmetricBits,
        /// How the range of a channel is found.
        range: LinearRange,
    },
    /// See [`LinearLut`].
    LinearLut {
        /// Bits of a code.
        nbits: Nbits,
    },
    /// See [`KmeansLut`].
    KmeansLut {
        /// Bits of a code.
        nbits: Nbits,
    },
}

impl Method {
    /// The methods of a mode with all its numbers of bits; none for modes that a plan does not use: `custom_lut`,
    /// `dequantize` and `int8_matmul`.
    pub fn of_mode(mode: Mode, range: LinearRange) -> Vec<Self> {
        let with_bits = |method: &dyn Fn(Nbits) -> Self| mode.nbits().filter_map(Nbits::new).map(method).collect();
        match mode {
            Mode::Float16 => vec![Self::Float16],
            Mode::Linear => with_bits(&|nbits| Self::Linear { nbits, range }),
            Mode::LinearSymmetric => SymmetricBits::all().map(|nbits| Self::LinearSymmetric { nbits, range }).collect(),
            Mode::LinearLut => with_bits(&|nbits| Self::LinearLut { nbits }),
            Mode::KmeansLut => with_bits(&|nbits| Self::KmeansLut { nbits }),
            Mode::CustomLut | Mode::Dequantize | Mode::Int8Matmul => Vec::new(),
        }
    }

    /// The quantizer that does it; `None` for [`Keep`](Self::Keep).
    pub fn quantizer(self) -> Option<Arc<dyn Quantizer>> {
        Some(match self {
            Self::Keep => return None,
            Self::Float16 => Arc::new(Float16),
            Self::Linear { nbits, range } => Arc::new(Linear::new(nbits).with_range(range)),
            Self::LinearSymmetric { nbits, range } => Arc::new(LinearSymmetric::new(nbits).with_range(range)),
            Self::LinearLut { nbits } => Arc::new(LinearLut::new(nbits)),
            Self::KmeansLut { nbits } => Arc::new(KmeansLut::new(nbits)),
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mode, nbits, range) = match *self {
            Self::Keep => return f.pad("keep"),
            Self::Float16 => return f.pad(Mode::Float16.name()),
            Self::Linear { nbits, range } => (Mode::Linear, nbits, range),
            Self::LinearSymmetric { nbits, range } => (Mode::LinearSymmetric, nbits.into(), range),
            Self::LinearLut { nbits } => (Mode::LinearLut, nbits, LinearRange::MinMax),
            Self::KmeansLut { nbits } => (Mode::KmeansLut, nbits, LinearRange::MinMax),
        };
        match range {
            LinearRange::MinMax => f.pad(&format!("{mode}:{nbits}")),
            LinearRange::LeastSquares => f.pad(&format!("{mode}:{nbits}:{range}")),
        }
    }
}

impl FromStr for Method {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let ranges = [LinearRange::MinMax, LinearRange::LeastSquares];
        let modes = Mode::all().iter().flat_map(|&mode| ranges.map(|range| Self::of_mode(mode, range)).concat());
        std::iter::once(Self::Keep)
            .chain(modes)
            .find(|method| method.to_string() == text)
            .ok_or_else(|| ConfigError::UnknownMethod { found: text.to_owned() })
    }
}

impl TryFrom<String> for Method {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<Method> for String {
    fn from(method: Method) -> Self {
        method.to_string()
    }
}
