//! What was folded into what, and why not.

use std::fmt;
use std::sync::Arc;

/// The folds of a model, and the candidates that were left alone.
///
/// `Display` writes a line for each fold and a summary; the alternate form (`{:#}`) also says why a candidate was not
/// folded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FoldReport {
    /// The folds, in the order in which they were made.
    pub folds: Vec<Fold>,
    /// The layers that follow one they could be folded into, and why they stay.
    pub not_folded: Vec<NotFolded>,
    /// Bytes that the weights of the layers in `folds` took.
    pub bytes_before: u64,
    /// Bytes that the weights of the layers that are left take, in float32.
    pub bytes_after: u64,
}

/// A layer that follows another one closely enough to be folded into it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Fold {
    /// The network: `model`, `model/pipeline[1]`, `model/cond/ifBranch`.
    pub network: Arc<str>,
    /// The layer that is folded away.
    pub layer: Arc<str>,
    /// Its type, under its name in the format.
    pub layer_type: &'static str,
    /// The layer that it is folded into.
    pub into: Arc<str>,
    /// Its type, under its name in the format.
    pub into_type: &'static str,
}

/// A layer that was not folded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct NotFolded {
    /// What would have been folded into what.
    pub candidate: Fold,
    /// Why it was not.
    pub reason: FoldReason,
}

/// Why a layer was not folded into the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum FoldReason {
    /// One of the layers is to stay as it is: the selector leaves it out.
    Skipped,
    /// Another layer, perhaps inside a branch or a loop, reads what lies between the two.
    ReadElsewhere,
    /// What lies between the two is an output of the model, or what its training reads.
    Output,
    /// What lies between the two is written more than once.
    WrittenTwice,
    /// The input of the first layer is overwritten before the second one runs, or by it.
    InputOverwritten,
    /// One of the layers has several inputs or outputs.
    Connections,
    /// The weights of the first layer are computed at run time.
    DynamicWeights,
    /// The statistics of the batchnorm are computed at run time.
    RunTimeStatistics,
    /// On-device training changes one of the layers.
    Updatable,
    /// A weight of one of the layers is stored in 8 bits or fewer.
    Quantized,
    /// A weight of one of the layers is missing or has another length than the layer's sizes ask for.
    Weights,
    /// The second layer does not work along the output channels of the first, or nothing proves that it does.
    Shape,
    /// The first layer quantizes its activations to 8 bits at run time and would gain a bias.
    Int8Bias,
    /// A weight would not be finite in float32.
    NonFinite,
    /// As many layers as can be were folded into the first one before.
    TooMany,
}

impl fmt::Display for FoldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Skipped => "one of them is skipped",
            Self::ReadElsewhere => "another layer reads what lies between them",
            Self::Output => "what lies between them is an output",
            Self::WrittenTwice => "what lies between them is written more than once",
            Self::InputOverwritten => "the first one's input is overwritten before the second one runs",
            Self::Connections => "one of them has several inputs or outputs",
            Self::DynamicWeights => "its weights are computed at run time",
            Self::RunTimeStatistics => "its statistics are computed at run time",
            Self::Updatable => "updatable",
            Self::Quantized => "quantized already",
            Self::Weights => "a weight is missing or has another length than the layer's sizes ask for",
            Self::Shape => "it does not provably work along the output channels",
            Self::Int8Bias => "a layer with int8 activations would gain a bias",
            Self::NonFinite => "a weight would not be finite",
            Self::TooMany => "too many were folded into the layer before",
        })
    }
}

impl fmt::Display for Fold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, layer, layer_type, into, into_type } = self;
        write!(f, "{network}: {layer_type} layer \"{layer}\" into {into_type} layer \"{into}\"")
    }
}

impl fmt::Display for NotFolded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.candidate, self.reason)
    }
}

impl fmt::Display for FoldReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fold in &self.folds {
            writeln!(f, "folded {fold}")?;
        }
        if f.alternate() {
            for not_folded in &self.not_folded {
                writeln!(f, "not folded {not_folded}")?;
            }
        }
        let (folds, left) = (self.folds.len(), self.not_folded.len());
        write!(
            f,
            "{folds} of {} layers folded, {} -> {} bytes of weights",
            folds + left,
            self.bytes_before,
            self.bytes_after
        )
    }
}
