//! What was done with each weight, and why not.

use std::collections::BTreeMap;
use std::fmt;

use super::calibration_report::CalibrationReport;
use crate::error::Place;
use crate::fold::FoldReport;
use crate::format::form::StoredForm;
use crate::network::mean_image::MeanImage;
use crate::network::uses::ValueUse;
use crate::program::DeploymentTarget;
use crate::weight::distortion::{self, Distortion};

/// Every weight of a model (the folded model, if it was folded), what became of it, and the totals.
///
/// `Display` writes what was folded, an aligned table and a summary line; the alternate form (`{:#}`) also says why other
/// layers were not folded.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Report {
    /// The mean images that stay in the preprocessing of the networks, in float32: see
    /// [`QuantConfig::with_mean_image_as_bias`](crate::QuantConfig::with_mean_image_as_bias).
    pub mean_images: Vec<MeanImage>,
    /// What was folded before anything was quantized.
    pub folds: FoldReport,
    /// The weights, in the order of the model.
    pub weights: Vec<WeightReport>,
    /// What calibration found; `None` if there was none.
    pub calibration: Option<CalibrationReport>,
}

/// What became of one weight.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WeightReport {
    /// Which weight.
    pub place: Place,
    /// Its dimensions, row-major.
    pub shape: Vec<usize>,
    /// The form it was stored in.
    pub before: StoredForm,
    /// The form it is stored in now.
    pub after: StoredForm,
    /// Why it is stored like that.
    pub outcome: Outcome,
    /// How far the values are from those before; `None` if that was not measured, see
    /// [`QuantConfig::with_measure`](crate::QuantConfig::with_measure).
    pub distortion: Option<Distortion>,
}

/// Why a weight is stored as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Outcome {
    /// It was quantized, or dequantized, as asked.
    Converted,
    /// Codes were asked for where Core ML takes none: it became float16 instead, see
    /// [`QuantConfig::with_float16_instead`](crate::QuantConfig::with_float16_instead).
    Float16Instead,
    /// It was not selected, but the float weights of a layer must agree in their type, and others became float16.
    MovedAlong,
    /// It stays as it was.
    Kept(Reason),
}

/// Why a weight stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Reason {
    /// The selector left it out.
    NotSelected,
    /// The plan keeps it.
    Planned,
    /// It is stored alike in both of two models that are compared.
    Identical,
    /// It is stored in the form that was asked for.
    AlreadyStored,
    /// It is stored in 8 bits or fewer already, and quantizing again was not asked for.
    AlreadyQuantized,
    /// The file would not get smaller: codes, scales, biases, table and what is around them take no fewer bytes.
    WouldNotShrink {
        /// The bytes that the weight would take in the file.
        bytes: usize,
    },
    /// Nothing of an ML Program uses it.
    Unused,
    /// A block of an ML Program returns it as it is, which Core ML does not take in a compressed form.
    BlockOutput,
    /// A weight of an ML Program with fewer than two dimensions, which Core ML does not take in a compressed form.
    FewDimensions,
    /// It has no more values than [`QuantConfig::with_weight_threshold`](crate::QuantConfig::with_weight_threshold) asks
    /// for.
    Small {
        /// The values that it would need more than.
        threshold: usize,
    },
    /// An operation takes its values as positions, sizes or whole numbers.
    Positions {
        /// The operation's type.
        operation: &'static str,
    },
    /// Blocks or groups do not divide its axis.
    Indivisible {
        /// The axis.
        axis: usize,
        /// Its length.
        len: usize,
        /// The size of a block or group.
        size: usize,
    },
    /// ML Programs have no such form.
    NotInPrograms,
    /// Only weights of convolutions and linear layers are pruned like that.
    NotStructured,
    /// The form came with a later system than the target.
    Target {
        /// The oldest system that has it.
        needed: DeploymentTarget,
    },
    /// The form needs a newer opset, which has another operation of the type of one in the program.
    CannotBeRaised {
        /// The operation's type.
        operation: &'static str,
    },
    /// Its scales are too large or too small for its own type.
    ScaleRange,
    /// Too few of its values would become zero.
    NotSparse,
    /// Blocks are longer than half of its axis.
    LongBlocks,
    /// Its values are used as indices, shapes, counts or conditions, and in the form asked for some would not be exactly
    /// what they are.
    MustBeExact {
        /// What a layer takes them for.
        used_as: ValueUse,
    },
    /// On-device training changes it, so it must stay in floats.
    Updatable,
    /// Core ML takes only float32 here.
    Float32Only,
    /// Core ML takes only float32 or float16 here.
    FloatOnly,
    /// The weight of a custom layer or an activation, which nobody but the layer understands.
    LeftAlone,
    /// A bias or the like, and biases stay as they are ([`Biases::Keep`](crate::Biases::Keep)).
    BiasKept,
    /// A bias or the like that would become float16 in a layer whose weights stay float32, which Core ML refuses.
    Float32Beside,
    /// A value is NaN or infinite, see [`QuantConfig::with_fallback`](crate::QuantConfig::with_fallback).
    NonFinite {
        /// The index of the first one, row-major.
        index: usize,
    },
    /// A value is beyond the range of float16, 65504, see
    /// [`QuantConfig::with_fallback`](crate::QuantConfig::with_fallback).
    BeyondFloat16 {
        /// The index of the first one, row-major.
        index: usize,
    },
    /// The values of a channel are too far apart for a float32 scale and bias, see
    /// [`QuantConfig::with_fallback`](crate::QuantConfig::with_fallback).
    BeyondScale {
        /// The index of the first such channel.
        channel: usize,
    },
    /// The float weights of a layer must agree in their type, and another one of the layer cannot be float16.
    OthersBeyondFloat16,
    /// int8 activations: the weight is no matrix of an `innerProduct` or one-input `batchedMatmul` layer.
    NotAMatrix,
    /// int8 activations: the layer has a bias, which Core ML does not add to them.
    LayerHasBias,
    /// int8 activations: the network maps arrays to five dimensions, where Core ML does not take them.
    Rank5Mapping,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSelected => f.write_str("not selected"),
            Self::Planned => f.write_str("kept by the plan"),
            Self::Identical => f.write_str("the same in both"),
            Self::AlreadyStored => f.write_str("already in this form"),
            Self::AlreadyQuantized => f.write_str("already quantized"),
            Self::WouldNotShrink { bytes } => write!(f, "would not shrink: {bytes} bytes"),
            Self::Unused => f.write_str("not used"),
            Self::BlockOutput => f.write_str("an output of a block"),
            Self::FewDimensions => f.write_str("fewer than 2 dimensions"),
            Self::Small { threshold } => write!(f, "no more than {threshold} values"),
            Self::Positions { operation } => write!(f, "must be exact for {operation}"),
            Self::Indivisible { axis, len, size } => write!(f, "axis {axis} of {len} is no multiple of {size}"),
            Self::NotInPrograms => f.write_str("no form of programs"),
            Self::NotStructured => f.write_str("neither conv nor linear"),
            Self::Target { needed } => write!(f, "needs {needed}"),
            Self::CannotBeRaised { operation } => write!(f, "needs a newer opset, which has another {operation}"),
            Self::ScaleRange => f.write_str("its type cannot hold the scales"),
            Self::NotSparse => f.write_str("too few zeros"),
            Self::LongBlocks => f.write_str("blocks longer than half of the axis"),
            Self::MustBeExact { used_as } => write!(f, "must be exact: used as {used_as}"),
            Self::Updatable => f.write_str("updatable"),
            Self::Float32Only => f.write_str("must be float32"),
            Self::FloatOnly => f.write_str("must be float32 or float16"),
            Self::LeftAlone => f.write_str("the layer's own business"),
            Self::BiasKept => f.write_str("biases are kept"),
            Self::Float32Beside => f.write_str("beside float32 weights"),
            Self::NonFinite { index } => write!(f, "value {index} is not finite"),
            Self::BeyondFloat16 { index } => write!(f, "value {index} is beyond float16"),
            Self::BeyondScale { channel } => write!(f, "the range of channel {channel} is beyond a float32 scale"),
            Self::OthersBeyondFloat16 => f.write_str("another weight of the layer is beyond float16"),
            Self::NotAMatrix => f.write_str("not the matrix of a product"),
            Self::LayerHasBias => f.write_str("the layer has a bias"),
            Self::Rank5Mapping => f.write_str("the network maps arrays to rank 5"),
        }
    }
}

impl WeightReport {
    /// Number of values.
    pub fn units(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes it took: codes, scales, biases and table.
    pub fn bytes_before(&self) -> usize {
        self.before.byte_len(self.units())
    }

    /// Bytes it takes now.
    pub fn bytes_after(&self) -> usize {
        self.after.byte_len(self.units())
    }
}

/// Sums over the weights of a [`Report`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Totals {
    /// Number of weights.
    pub weights: usize,
    /// How many of them were converted.
    pub converted: usize,
    /// Number of values.
    pub values: u64,
    /// Bytes they took.
    pub bytes_before: u64,
    /// Bytes they take now.
    pub bytes_after: u64,
    /// Bytes of the mean images, which are no weights and are not in the sums above.
    pub mean_image_bytes: u64,
    /// Values that are too small for float16, see [`Distortion::underflows`]; `None` if that was not measured.
    pub underflows: Option<u64>,
}

impl Report {
    /// The sums over all weights.
    pub fn totals(&self) -> Totals {
        let mean_image_bytes = self.mean_images.iter().map(|mean| mean.bytes() as u64).sum();
        let none = Totals { mean_image_bytes, underflows: Some(0), ..Totals::default() };
        self.weights.iter().fold(none, |sum, weight| Totals {
            weights: sum.weights + 1,
            converted: sum.converted + usize::from(!matches!(weight.outcome, Outcome::Kept(_))),
            values: sum.values + weight.units() as u64,
            bytes_before: sum.bytes_before + weight.bytes_before() as u64,
            bytes_after: sum.bytes_after + weight.bytes_after() as u64,
            underflows: sum.underflows.zip(weight.distortion).map(|(sum, distortion)| sum + distortion.underflows()),
            mean_image_bytes: sum.mean_image_bytes,
        })
    }

    /// The signal-to-quantization-noise ratio of the model in decibels, each weight counted by its number of values:
    /// `-10 log10(cost / sum of N)` with `cost = sum of N x |w - w'|^2 / |w|^2`. Infinite if nothing changed, `None` if
    /// that was not measured.
    pub fn sqnr_db(&self) -> Option<f64> {
        Some(distortion::decibels(relative_error(self.weights.iter())?))
    }

    /// The layers whose weights were measured, the worst first: those with the lowest signal-to-quantization-noise
    /// ratio.
    pub fn worst_layers(&self) -> Vec<LayerDistortion> {
        let mut layers: BTreeMap<usize, Vec<&WeightReport>> = BTreeMap::new();
        for weight in &self.weights {
            layers.entry(weight.place.index).or_default().push(weight);
        }
        let measured = layers.into_values().filter_map(|weights| {
            let place = &weights.first()?.place;
            let relative = relative_error(weights.iter().copied())?;
            Some(LayerDistortion {
                network: place.network.to_string(),
                layer: place.layer.to_string(),
                layer_type: place.layer_type,
                index: place.index,
                values: weights.iter().map(|weight| weight.units() as u64).sum(),
                sqnr_db: distortion::decibels(relative),
                max_error: weights
                    .iter()
                    .filter_map(|weight| weight.distortion)
                    .map(|d| d.max_error())
                    .fold(0.0, f64::max),
            })
        });
        let mut layers: Vec<_> = measured.collect();
        layers.sort_by(|a, b| a.sqnr_db.total_cmp(&b.sqnr_db));
        layers
    }
}

/// The relative squared error of some weights, each counted by its number of values; `None` if not all were measured.
fn relative_error<'r>(mut weights: impl Iterator<Item = &'r WeightReport>) -> Option<f64> {
    let (cost, values) = weights.try_fold((0.0, 0.0), |(cost, values), weight| {
        let units = weight.units() as f64;
        Some((cost + units * weight.distortion?.relative_error(), values + units))
    })?;
    Some(distortion::relative(cost, values))
}

/// How far the weights of a layer are from the original ones, see [`Report::worst_layers`].
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LayerDistortion {
    /// The layer's network.
    pub network: String,
    /// The layer's name.
    pub layer: String,
    /// The layer's type, under its name in the format.
    pub layer_type: &'static str,
    /// The layer's index among all layers of the model: layers may share a name.
    pub index: usize,
    /// Number of values of its weights.
    pub values: u64,
    /// The signal-to-quantization-noise ratio in decibels, each weight counted by its number of values.
    pub sqnr_db: f64,
    /// The largest absolute error of a value.
    pub max_error: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !(self.folds.folds.is_empty() && self.folds.not_folded.is_empty()) {
            // Passes the alternate form on.
            fmt::Display::fmt(&self.folds, f)?;
            writeln!(f)?;
        }
        let rows: Vec<[String; 7]> = self
            .weights
            .iter()
            .map(|weight| {
                let mut stored = match weight.outcome {
                    Outcome::Converted => format!("{} -> {}", weight.before, weight.after),
                    Outcome::Float16Instead => {
                        format!("{} -> {}, {}", weight.before, weight.after, Reason::FloatOnly)
                    }
                    Outcome::MovedAlong => format!("{} -> {}, as the layer's others", weight.before, weight.after),
                    Outcome::Kept(reason) => format!("{}, {reason}", weight.before),
                };
                if let Some(underflows) = weight.distortion.map(|d| d.underflows()).filter(|&values| values > 0) {
                    stored += &format!(", {underflows} values too small");
                }
                [
                    format!("{}/{}", weight.place.network, weight.place.layer),
                    weight.place.layer_type.to_owned(),
                    weight.place.field.to_string(),
                    weight.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x"),
                    format!("{} -> {}", weight.bytes_before(), weight.bytes_after()),
                    weight.distortion.map_or_else(|| "-".to_owned(), |d| decibels(d.sqnr_db())),
                    stored,
                ]
            })
            .collect();
        let header = ["layer", "type", "weight", "shape", "bytes", "SQNR", "stored as"].map(str::to_owned);
        let mut widths = [0; 7];
        for row in std::iter::once(&header).chain(&rows) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in std::iter::once(&header).chain(&rows) {
            for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
                // The last column is not padded, so that no line ends in spaces.
                if index + 1 == row.len() { writeln!(f, "{cell}")? } else { write!(f, "{cell:width$}  ")? }
            }
        }
        for mean_image in &self.mean_images {
            writeln!(f, "{mean_image}")?;
        }
        let totals = self.totals();
        write!(
            f,
            "{} of {} weights converted, {} values, {} -> {} bytes",
            totals.converted, totals.weights, totals.values, totals.bytes_before, totals.bytes_after
        )?;
        if totals.bytes_before > 0 {
            write!(f, " ({:.1} %)", 100.0 * totals.bytes_after as f64 / totals.bytes_before as f64)?;
        }
        if totals.mean_image_bytes > 0 {
            write!(f, ", and {} bytes of mean images", totals.mean_image_bytes)?;
        }
        if let Some(sqnr) = self.sqnr_db() {
            write!(f, ", SQNR {}", decibels(sqnr))?;
        }
        if let Some(calibration) = &self.calibration {
            write!(f, "\n{calibration}")?;
        }
        let undefined = self.weights.iter().filter(|weight| weight.distortion.is_some_and(|d| !d.is_defined()));
        match undefined.count() {
            0 => {}
            1 => write!(f, ": a weight has values that are NaN or infinite")?,
            count => write!(f, ": {count} weights have values that are NaN or infinite")?,
        }
        if let Some(underflows) = totals.underflows.filter(|&values| values > 0) {
            write!(f, ", {underflows} values too small for float16")?;
        }
        Ok(())
    }
}

/// A ratio in decibels, for a table.
fn decibels(sqnr: f64) -> String {
    match sqnr {
        f64::INFINITY => "exact".to_owned(),
        _ if sqnr.is_nan() => "undefined".to_owned(),
        _ => format!("{sqnr:.1} dB"),
    }
}
