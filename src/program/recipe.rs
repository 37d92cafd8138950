//! What is to become of weights, in the words of programs: the modes, the values that share parameters, pruning.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::axes::Axes;
use crate::kernels::shift_scale::Grid;

/// What a quantizer of this crate does in ML Programs, whose forms are not those of networks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe(pub(crate) Kind);

/// How values are converted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Half precision.
    Float16,
    /// Codes on a grid.
    Linear { grid: Grid, least_squares: bool },
    /// A table of 2^nbits values.
    Table { nbits: u8, table: Table },
    /// The smallest become zero.
    Prune(Pruning),
    /// Back to float16 or float32.
    Dequantize,
    /// Nothing that programs have.
    None,
}

/// How a table is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    /// The one with the least squared error: the optimum, or within 0.1 % of it for large weights.
    Kmeans { exact: bool },
    /// Evenly spaced values.
    Uniform,
    /// From the caller.
    Custom,
}

impl Kind {
    /// Linear codes, signed as coremltools' are.
    pub(crate) fn linear(nbits: u8, symmetric: bool, least_squares: bool) -> Self {
        Self::Linear { grid: Grid { nbits, signed: true, symmetric }, least_squares }
    }

    /// Whether programs have forms of so many bits.
    pub(crate) fn is_possible(self) -> bool {
        match self {
            Self::Linear { grid, .. } => matches!(grid.nbits, 4 | 8),
            Self::Table { nbits, .. } => matches!(nbits, 1 | 2 | 3 | 4 | 6 | 8),
            Self::None => false,
            Self::Float16 | Self::Prune(_) | Self::Dequantize => true,
        }
    }

    /// The granularity without a choice: coremltools' own.
    pub(crate) fn granularity(self) -> Granularity {
        match self {
            Self::Linear { .. } => Granularity::PerChannel,
            _ => Granularity::PerTensor,
        }
    }
}

/// Which values of a weight share a scale or a table, in an ML Program.
///
/// As text: `per_tensor`, `per_channel`, `per_block:32`, `per_grouped_channel:16`.
///
/// ```
/// use coreml_quant::Granularity;
///
/// assert_eq!("per_block:32".parse(), Ok(Granularity::PerBlock(32)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Granularity {
    /// All of them.
    PerTensor,
    /// Those of an output channel.
    PerChannel,
    /// Those of an output channel that follow each other along the input axis, in blocks of so many.
    PerBlock(usize),
    /// Those of so many output channels.
    PerGroupedChannel(usize),
}

impl Granularity {
    /// The box of values in a weight of a shape; without axes, everything is one box.
    ///
    /// # Errors
    ///
    /// The axis, its size and the size that does not divide it.
    pub(crate) fn block(self, shape: &[usize], axes: Option<Axes>) -> Result<Vec<usize>, Indivisible> {
        let mut block = shape.to_vec();
        let Some(axes) = axes else { return Ok(block) };
        let mut cut = |axis: usize, size: usize| match shape.get(axis) {
            Some(&len) if size > 0 && len % size == 0 => {
                block[axis] = size;
                Ok(())
            }
            len => Err(Indivisible { axis, len: len.copied().unwrap_or_default(), size }),
        };
        match self {
            Self::PerTensor => {}
            Self::PerChannel => cut(axes.output, 1)?,
            Self::PerBlock(size) => {
                cut(axes.output, 1)?;
                cut(axes.input, size)?;
            }
            Self::PerGroupedChannel(size) => cut(axes.output, size)?,
        }
        Ok(block)
    }
}

/// An axis that cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Indivisible {
    pub(crate) axis: usize,
    pub(crate) len: usize,
    pub(crate) size: usize,
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerTensor => f.write_str("per_tensor"),
            Self::PerChannel => f.write_str("per_channel"),
            Self::PerBlock(size) => write!(f, "per_block:{size}"),
            Self::PerGroupedChannel(size) => write!(f, "per_grouped_channel:{size}"),
        }
    }
}

/// There is no granularity of this name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "there is no granularity \"{found}\"; there are per_tensor, per_channel, per_block:32 and per_grouped_channel:16, \
     with numbers above 0"
)]
pub struct UnknownGranularity {
    /// What was asked for.
    pub found: String,
}

impl FromStr for Granularity {
    type Err = UnknownGranularity;

    fn from_str(text: &str) -> Result<Self, UnknownGranularity> {
        let unknown = || UnknownGranularity { found: text.to_owned() };
        let (name, size) = text.split_once(':').map_or((text, None), |(name, size)| (name, Some(size)));
        let size = size.map(|size| size.parse().ok().filter(|&size| size > 0).ok_or_else(unknown)).transpose()?;
        match (name, size) {
            ("per_tensor", None) => Ok(Self::PerTensor),
            ("per_channel", None) => Ok(Self::PerChannel),
            ("per_block", size) => Ok(Self::PerBlock(size.unwrap_or(32))),
            ("per_grouped_channel", size) => Ok(Self::PerGroupedChannel(size.unwrap_or(32))),
            _ => Err(unknown()),
        }
    }
}

/// Which values of a weight become zero.
///
/// ```
/// use coreml_quant::Pruning;
///
/// assert!(Pruning::target_sparsity(0.75).is_ok());
/// assert!(Pruning::target_sparsity(1.5).is_err());
/// assert!(Pruning::n_of_m(2, 4).is_ok());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pruning {
    pub(crate) rule: PruningRule,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum PruningRule {
    Sparsity { share: f64, block: Option<(usize, usize)> },
    Threshold { threshold: f64, minimum_share: f64 },
    SmallestOf { n: usize, m: usize, axis: usize },
}

/// Numbers that make no pruning.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum PruningError {
    /// A share is not between 0 and 1.
    #[error("a sparsity of {found} is not between 0 and 1")]
    Share {
        /// What was asked for.
        found: f64,
    },
    /// A threshold is negative or not a number.
    #[error("a threshold of {found} is negative or no number")]
    Threshold {
        /// What was asked for.
        found: f64,
    },
    /// A block of one value or of none.
    #[error("blocks of {found} are none; at least 2 are expected")]
    Block {
        /// What was asked for.
        found: usize,
    },
    /// More zeros than values, or none of them.
    #[error("{n} of {m} cannot become zero")]
    Ratio {
        /// The zeros.
        n: usize,
        /// The values.
        m: usize,
    },
    /// An axis that is neither 0 nor 1.
    #[error("weights are pruned along axis 0 or 1, not {found}")]
    Axis {
        /// What was asked for.
        found: usize,
    },
}

impl Pruning {
    /// The smallest magnitudes become zero, a share of 0 to 1 of all values.
    ///
    /// # Errors
    ///
    /// [`PruningError::Share`].
    pub fn target_sparsity(share: f64) -> Result<Self, PruningError> {
        if !(0.0..=1.0).contains(&share) {
            return Err(PruningError::Share { found: share });
        }
        Ok(Self { rule: PruningRule::Sparsity { share, block: None } })
    }

    /// As [`target_sparsity`](Self::target_sparsity), of whole blocks of values that follow each other along an axis, 0
    /// or 1: the output or the input channels of most weights. Only the weights of convolutions and linear layers have
    /// blocks.
    ///
    /// # Errors
    ///
    /// [`PruningError`].
    pub fn block_sparsity(share: f64, block_size: usize, axis: usize) -> Result<Self, PruningError> {
        if !(0.0..=1.0).contains(&share) {
            return Err(PruningError::Share { found: share });
        }
        if block_size < 2 {
            return Err(PruningError::Block { found: block_size });
        }
        if axis > 1 {
            return Err(PruningError::Axis { found: axis });
        }
        Ok(Self { rule: PruningRule::Sparsity { share, block: Some((block_size, axis)) } })
    }

    /// Magnitudes up to a threshold become zero; weights of which less than half would become zero stay as they are.
    ///
    /// # Errors
    ///
    /// [`PruningError::Threshold`].
    pub fn threshold(threshold: f64) -> Result<Self, PruningError> {
        if threshold.is_nan() || threshold < 0.0 {
            return Err(PruningError::Threshold { found: threshold });
        }
        Ok(Self { rule: PruningRule::Threshold { threshold, minimum_share: 0.5 } })
    }

    /// The least share of zeros with which a weight is stored sparse, for [`threshold`](Self::threshold). Default: 0.5.
    ///
    /// # Errors
    ///
    /// [`PruningError::Share`].
    pub fn minimum_sparsity(mut self, share: f64) -> Result<Self, PruningError> {
        if !(0.0..=1.0).contains(&share) {
            return Err(PruningError::Share { found: share });
        }
        if let PruningRule::Threshold { minimum_share, .. } = &mut self.rule {
            *minimum_share = share;
        }
        Ok(self)
    }

    /// Of each `m` values along the input channels (axis 1), the `n` smallest magnitudes become zero. Only the weights of
    /// convolutions and linear layers.
    ///
    /// # Errors
    ///
    /// [`PruningError::Ratio`].
    pub fn n_of_m(n: usize, m: usize) -> Result<Self, PruningError> {
        if n == 0 || n > m {
            return Err(PruningError::Ratio { n, m });
        }
        Ok(Self { rule: PruningRule::SmallestOf { n, m, axis: 1 } })
    }

    /// The axis of [`n_of_m`](Self::n_of_m): 0 or 1.
    ///
    /// # Errors
    ///
    /// [`PruningError::Axis`].
    pub fn along(mut self, new: usize) -> Result<Self, PruningError> {
        if new > 1 {
            return Err(PruningError::Axis { found: new });
        }
        if let PruningRule::SmallestOf { axis, .. } = &mut self.rule {
            *axis = new;
        }
        Ok(self)
    }

    /// Whether only weights of convolutions and linear layers can be pruned like this.
    pub(crate) fn is_structured(&self) -> bool {
        matches!(self.rule, PruningRule::Sparsity { block: Some(_), .. } | PruningRule::SmallestOf { .. })
    }
}
