//! Why two models cannot be compared on samples.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use super::search::Goal;
use crate::predict::PredictError;

/// One of the two models that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that tells what is right.
    Original,
    /// The one that is held against it.
    Other,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Original => "the original",
            Self::Other => "the other model",
        })
    }
}

/// Why models cannot be evaluated on samples. No sample is left out silently.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// A model cannot be run at all.
    #[error("{which}: {cause}")]
    Model {
        /// Which.
        which: Which,
        /// Why.
        cause: PredictError,
    },
    /// A model cannot be run on a sample.
    #[error("{which}, on the sample {sample}: {cause}")]
    Predict {
        /// Which.
        which: Which,
        /// The sample's name.
        sample: String,
        /// Why.
        cause: PredictError,
    },
    /// There are no samples.
    #[error("there are no samples{}", place.as_ref().map(|place| format!(" in {place}")).unwrap_or_default())]
    NoSamples {
        /// Where they were looked for.
        place: Option<String>,
    },
    /// There are more or fewer labels than samples.
    #[error("there are {labels} labels for {samples} samples")]
    Labels {
        /// The number of labels.
        labels: usize,
        /// The number of samples.
        samples: usize,
    },
    /// A file of samples cannot be opened.
    #[error("{path}: {cause}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A file of samples is not what it should be.
    #[error("{place}: {what}")]
    Samples {
        /// The file or folder, and the place in it.
        place: String,
        /// What is wrong, and what is expected.
        what: String,
    },
    /// Samples of this kind do not fit the model's inputs.
    #[error("{what}; the model's inputs are {inputs}")]
    Inputs {
        /// What does not fit.
        what: String,
        /// The inputs, in words.
        inputs: String,
    },
    /// The models do not compute the same.
    #[error(
        "on the sample {sample}, the output \"{name}\" is {original} in the original, and {other} in the other model"
    )]
    DifferentOutputs {
        /// The sample's name.
        sample: String,
        /// The output.
        name: String,
        /// What it is in the original.
        original: String,
        /// What it is in the other model.
        other: String,
    },
    /// No model reaches the goal.
    #[error("no model reaches {goal}: the best has {best:.4}")]
    Unreachable {
        /// The goal.
        goal: Goal,
        /// The best that was found, in the goal's unit.
        best: f64,
    },
    /// The goal is about something that these outputs or samples do not have.
    #[error("{goal} cannot be measured: it needs {needs}")]
    Unmeasurable {
        /// The goal.
        goal: Goal,
        /// What is missing.
        needs: &'static str,
    },
    /// A model cannot be quantized.
    #[error(transparent)]
    Quantize(#[from] crate::error::Error),
    /// The caller's function said so.
    #[error("stopped")]
    Stopped,
}
