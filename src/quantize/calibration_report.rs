//! What calibration found: for each weight what it gained, for the network as a whole, and what to look out for.

use std::fmt;

use crate::error::Place;

/// What calibration did, in the [`Report`](super::report::Report) of a job with samples.
///
/// `Display` writes a table of the weights, what was not calibrated and why, the network as a whole, and the warnings.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CalibrationReport {
    /// Samples that weights were chosen on.
    pub samples: usize,
    /// How many samples were held back to measure [`outputs`](Self::outputs) on; drawn ones come to the others.
    pub held_back: usize,
    /// Whether the samples were drawn because there were none.
    pub synthetic: bool,
    /// Weights whose quantizers asked for statistics, in the order of the model.
    pub weights: Vec<CalibratedWeight>,
    /// The network's outputs on the samples that were held back, its weights chosen on the others alone; `None`
    /// if there are too few samples to hold some back, or the outputs cannot be computed.
    pub outputs: Option<Agreement>,
    /// What to look out for.
    pub warnings: Vec<CalibrationWarning>,
}

/// What calibration did for one weight.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CalibratedWeight {
    /// Which weight.
    pub place: Place,
    /// Why it is stored as without samples; `None` if it was calibrated.
    pub not_calibrated: Option<NotCalibrated>,
    /// Inputs of an output of its layer.
    pub inputs: usize,
    /// Positions at which these were looked at; 0 if they were not.
    pub positions: usize,
    /// The signal-to-noise ratio in decibels of its layer's outputs on the samples, in the quantized network against the
    /// float network, with the layer's weights as they are without samples; `None` if it was not measured.
    pub data_free_db: Option<f64>,
    /// The same as the weights are now.
    pub snr_db: Option<f64>,
}

/// Why a weight is stored as without samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum NotCalibrated {
    /// It lies in a branch, a loop or a member of a pipeline.
    InsideOther,
    /// The inputs of its layer could not be computed.
    NoInputs,
    /// Its layer cannot be run.
    NotRun,
    /// A kind of layer or weight that calibration does not know how to look at.
    UnknownUse,
    /// Its scales are not one for each output, so no row has its own.
    SharedScales,
    /// An input of its layer, or a value of it, is not finite.
    NotFinite,
    /// What calibration found is not better on the samples.
    NoBetter,
}

impl fmt::Display for NotCalibrated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InsideOther => "inside a branch, a loop or a pipeline",
            Self::NoInputs => "its inputs could not be computed",
            Self::NotRun => "its layer cannot be run",
            Self::UnknownUse => "not a weight that calibration knows the inputs of",
            Self::SharedScales => "not one scale an output",
            Self::NotFinite => "inputs or values that are not finite",
            Self::NoBetter => "no better on the samples",
        })
    }
}

/// How close the outputs of the quantized network are to the float network's, on samples that no weight was chosen on.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Agreement {
    /// The signal-to-noise ratio in decibels of the outputs (of what goes into a last softmax) without samples.
    pub data_free_db: f64,
    /// The same as the weights are now.
    pub snr_db: f64,
    /// Where the last layer is a softmax: on what share of the samples the largest output is the float network's, without
    /// samples.
    pub data_free_agreement: Option<f64>,
    /// The same as the weights are now.
    pub agreement: Option<f64>,
}

/// What to look out for after a calibration.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum CalibrationWarning {
    /// Fewer positions than inputs: the weights were fitted to less than they have freedom for. More samples help.
    FewPositions {
        /// The weight.
        place: Place,
        /// Positions that were looked at.
        positions: usize,
        /// Inputs of an output.
        inputs: usize,
    },
    /// An output is beyond float16, in which the GPU and the Neural Engine compute.
    BeyondFloat16 {
        /// The layer's name.
        layer: String,
        /// The largest magnitude.
        largest: f32,
    },
    /// Not all samples fit into the memory that calibration may take.
    SamplesLeftOut {
        /// Samples that were used.
        used: usize,
        /// Samples that there are.
        given: usize,
    },
    /// On samples that were held back, the calibrated network agrees less often with the float network than without
    /// calibration. More samples help.
    LessAgreement {
        /// The share of samples without calibration.
        data_free: f64,
        /// With it.
        calibrated: f64,
    },
}

impl fmt::Display for CalibrationWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FewPositions { place, positions, inputs } => {
                write!(f, "{place}: {positions} positions for {inputs} inputs; more samples help")
            }
            Self::BeyondFloat16 { layer, largest } => {
                write!(f, "layer \"{layer}\": outputs up to {largest:e}, beyond float16")
            }
            Self::SamplesLeftOut { used, given } => {
                write!(f, "{used} of {given} samples fit into the memory that calibration may take")
            }
            Self::LessAgreement { data_free, calibrated } => write!(
                f,
                "agrees with the float network on {:.1} % of the samples held back, {:.1} % without calibration; more \
                 samples help",
                100.0 * calibrated,
                100.0 * data_free
            ),
        }
    }
}

impl fmt::Display for CalibrationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.synthetic { "synthetic samples" } else { "samples" };
        write!(f, "calibrated on {} {kind}, {} held back", self.samples, self.held_back)?;
        for weight in &self.weights {
            let db = |db: Option<f64>| db.map_or_else(|| "-".to_owned(), |db| format!("{db:.1} dB"));
            write!(f, "\n  {}: outputs {} -> {}", weight.place, db(weight.data_free_db), db(weight.snr_db))?;
            if let Some(reason) = weight.not_calibrated {
                write!(f, ", data-free: {reason}")?;
            }
        }
        if let Some(outputs) = &self.outputs {
            write!(f, "\nthe network's outputs: {:.1} dB -> {:.1} dB", outputs.data_free_db, outputs.snr_db)?;
            if let (Some(before), Some(after)) = (outputs.data_free_agreement, outputs.agreement) {
                write!(f, ", agreement {:.1} % -> {:.1} %", 100.0 * before, 100.0 * after)?;
            }
        }
        for warning in &self.warnings {
            write!(f, "\nwarning: {warning}")?;
        }
        Ok(())
    }
}
