//! What comparing two models' outputs gives.

use std::fmt;
use std::sync::Arc;

use super::statistics::{Decibels, Difference, Proportion};

/// How far one model's outputs are from another's, on samples.
///
/// `Display` writes a paragraph for each output and a table of layers.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct OutputReport {
    /// The number of samples.
    pub samples: usize,
    /// Whether the samples were drawn, not given.
    pub synthetic: bool,
    /// The outputs, in the order of the model's description.
    pub outputs: Vec<OutputComparison>,
    /// The layers of the other model, those with the largest errors of their own first; empty if that was not asked for.
    pub layers: Vec<LayerComparison>,
    /// Layers of the other model that could not be compared, because the original has no blobs of their outputs' names or
    /// shapes.
    pub unmatched_layers: usize,
    /// What was uncertain in the predictions: see [`Predictor::notes`](crate::predict::Predictor::notes).
    pub notes: Vec<&'static str>,
}

/// One output in both models.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct OutputComparison {
    /// Its name.
    pub name: String,
    /// How far its values are apart, over all samples; `None` for labels.
    pub difference: Option<Difference>,
    /// What it says of classes: for labels, a classifier's probabilities, and what a softmax layer writes.
    pub classes: Option<ClassComparison>,
    /// The samples with the smallest signal-to-noise ratios, smallest first. Those without a difference are left out.
    pub worst: Vec<WorstSample>,
}

/// How often two models choose the same class.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ClassComparison {
    /// Samples on which both choose the same class.
    pub agreement: Proportion,
    /// The k of `top_k_agreement`.
    pub k: usize,
    /// Samples on which the original's class is among the other model's k best; `None` for labels.
    pub top_k_agreement: Option<Proportion>,
    /// The Kullback-Leibler divergence of the other model's probabilities from the original's, in nats, the mean of all
    /// samples; `None` if they are no probabilities. Probabilities below 1e-12 count as that.
    pub kl_divergence: Option<f64>,
    /// Samples with a label that the original gets right; `None` without labels.
    pub original_accuracy: Option<Proportion>,
    /// Samples with a label that the other model gets right.
    pub accuracy: Option<Proportion>,
    /// The first samples on which they differ.
    pub flips: Vec<Flip>,
}

/// A sample on which two models choose different classes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Flip {
    /// The sample's name.
    pub sample: String,
    /// Its label, if it has one.
    pub label: Option<String>,
    /// What the original chooses.
    pub original: String,
    /// What the other model chooses.
    pub other: String,
}

/// A sample, and how far its outputs are apart.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WorstSample {
    /// The sample's name.
    pub sample: String,
    /// How far.
    pub difference: Difference,
}

/// One layer of the other model against the original.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LayerComparison {
    /// The network: `model`, `model/pipeline[1]`, `model/cond/ifBranch`.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_str"))]
    pub network: Arc<str>,
    /// The layer's name.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_str"))]
    pub layer: Arc<str>,
    /// Its type, under its name in the format.
    pub layer_type: &'static str,
    /// The layer's own error: its outputs from the original's inputs. `None` for random layers, and if the original has no
    /// such inputs.
    pub own: Option<Difference>,
    /// What the error has grown to: its outputs from what the other model's layers before it have computed.
    pub grown: Difference,
}

#[cfg(feature = "serde")]
fn as_str<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl OutputReport {
    /// The smallest signal-to-noise ratio of an output, in decibels; infinite if none differs.
    pub fn snr_db(&self) -> f64 {
        let ratios = self.outputs.iter().filter_map(|output| output.difference.as_ref());
        ratios.map(|difference| difference.snr_db).fold(f64::INFINITY, f64::min)
    }

    /// The smallest agreement on classes; `None` if no output has classes.
    pub fn agreement(&self) -> Option<Proportion> {
        let classes = self.outputs.iter().filter_map(|output| output.classes.as_ref());
        classes.map(|classes| classes.agreement).min_by(|a, b| a.share.total_cmp(&b.share))
    }

    /// The smallest accuracy of the other model; `None` without classes or labels.
    pub fn accuracy(&self) -> Option<Proportion> {
        let classes = self.outputs.iter().filter_map(|output| output.classes.as_ref());
        classes.filter_map(|classes| classes.accuracy).min_by(|a, b| a.share.total_cmp(&b.share))
    }
}

impl fmt::Display for OutputReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let drawn = if self.synthetic { ", synthetic: no substitute for data" } else { "" };
        writeln!(f, "{} samples{drawn}", self.samples)?;
        for output in &self.outputs {
            writeln!(f, "output {}", output.name)?;
            if let Some(difference) = &output.difference {
                writeln!(f, "  {difference}")?;
            }
            if let Some(classes) = &output.classes {
                write!(f, "{classes}")?;
            }
            for WorstSample { sample, difference } in &output.worst {
                writeln!(f, "  worst: {sample}, SNR {}", Decibels(difference.snr_db))?;
            }
        }
        if !self.layers.is_empty() {
            writeln!(f, "{:>9}  {:>9}  layer", "own", "grown")?;
        }
        for layer in &self.layers {
            let own = layer.own.map_or_else(|| "-".to_owned(), |own| Decibels(own.snr_db).to_string());
            let LayerComparison { network, layer: name, layer_type, grown, .. } = layer;
            writeln!(f, "{own:>9}  {:>9}  {network}/{name} ({layer_type})", Decibels(grown.snr_db))?;
        }
        if self.unmatched_layers > 0 {
            writeln!(f, "{} layers have no counterpart in the original", self.unmatched_layers)?;
        }
        for note in &self.notes {
            writeln!(f, "uncertain: {note}")?;
        }
        f.write_str("computed in float32; devices may compute in float16")
    }
}

impl fmt::Display for ClassComparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  same class: {}", self.agreement)?;
        if let Some(share) = &self.top_k_agreement {
            writeln!(f, "  among the best {}: {share}", self.k)?;
        }
        if let Some(divergence) = self.kl_divergence {
            writeln!(f, "  KL divergence {divergence:.3e}")?;
        }
        if let (Some(original), Some(other)) = (&self.original_accuracy, &self.accuracy) {
            writeln!(f, "  right: {other}; the original {original}")?;
        }
        for Flip { sample, label, original, other } in &self.flips {
            let label = label.as_ref().map(|label| format!(", it is {label}")).unwrap_or_default();
            writeln!(f, "  differ: {sample} is {other}, {original} in the original{label}")?;
        }
        Ok(())
    }
}
