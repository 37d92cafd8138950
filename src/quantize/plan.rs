//! Mixed precision: a method for each weight, chosen by what it costs and what it saves.

use std::fmt;

use crate::error::Error;
use crate::format::form::StoredForm;
use crate::model::Model;
use crate::quantize::config::QuantConfig;
use crate::quantize::method::Method;
use crate::quantize::prepare;
use crate::quantize::report::{Outcome, Report, WeightReport};
use crate::quantize::selector::WeightInfo;
use crate::weight::distortion;

/// A method for each weight of one model: made by a [`Planner`](crate::Planner), or edited, and carried out by
/// [`QuantConfig::planned`](crate::QuantConfig::planned).
///
/// `Display` writes an aligned table and a summary line. With the feature `serde` it can be written and read.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Plan {
    /// Whether mean images become the weights of bias layers first.
    #[cfg_attr(feature = "serde", serde(default))]
    pub mean_image_as_bias: bool,
    /// Whether batchnorm, scale and bias layers are folded first; the weights are those after it.
    pub fold: bool,
    /// The layers that folding leaves as they are, because the planner's selector skips them: their indices among all
    /// layers of the model, in its order.
    #[cfg_attr(feature = "serde", serde(default))]
    pub unfolded: Vec<usize>,
    /// The weights, in the order of the model.
    pub weights: Vec<PlannedWeight>,
}

/// A weight of a [`Plan`].
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct PlannedWeight {
    /// The network: `model`, `model/pipeline[1]`, `model/cond/ifBranch`.
    pub network: String,
    /// The layer's name.
    pub layer: String,
    /// The field's name in the format.
    pub field: String,
    /// Number of values.
    pub values: u64,
    /// How it is to be stored. The only field to edit: the others tell which weight it is, and what the planner expects
    /// of the method that it chose.
    pub method: Method,
    /// Bytes it takes then: codes, scales, biases and table.
    pub bytes: u64,
    /// The relative squared error, `|w - w'|^2 / |w|^2`. In text formats an infinity or NaN is written as a string, and
    /// what a planner expects in nine digits.
    #[cfg_attr(feature = "serde", serde(with = "number"))]
    pub relative_error: f64,
}

impl PlannedWeight {
    /// Whether this is the weight of a model.
    pub(crate) fn is(&self, weight: &WeightInfo<'_>) -> bool {
        let values = weight.shape.iter().product::<usize>() as u64;
        (&*self.network, &*self.layer, &*self.field, self.values)
            == (weight.network, weight.layer_name, weight.field, values)
    }
}

impl Plan {
    /// The plan that does again what a configuration did: `method` tells how the weights that the report calls converted
    /// are stored, and all others are kept.
    ///
    /// # Errors
    ///
    /// [`Error::NoNetwork`] if the model has no neural network.
    pub fn of_report(
        model: &Model,
        config: &QuantConfig,
        report: &Report,
        mut method: impl FnMut(&WeightReport) -> Method,
    ) -> Result<Self, Error> {
        let unfolded = prepare(model, config)?.unfolded.into_iter().collect();
        let weights = report.weights.iter().map(|weight| PlannedWeight {
            network: weight.place.network.to_string(),
            layer: weight.place.layer.to_string(),
            field: weight.place.field.to_string(),
            values: weight.units() as u64,
            method: match weight.outcome {
                Outcome::Kept(_) => Method::Keep,
                // Whatever was asked for: the layer's other weights, or its rules, led to this.
                _ if weight.after == StoredForm::Float16 => Method::Float16,
                _ => method(weight),
            },
            bytes: weight.bytes_after() as u64,
            relative_error: weight.distortion.map_or(0.0, |distortion| distortion.relative_error()),
        });
        let weights = weights.collect();
        Ok(Self { mean_image_as_bias: config.mean_image_as_bias, fold: config.fold(), unfolded, weights })
    }

    /// Bytes of all weights: codes, scales, biases and tables, as the planner expects them.
    pub fn bytes(&self) -> u64 {
        self.weights.iter().map(|weight| weight.bytes).sum()
    }

    /// The signal-to-quantization-noise ratio of the model in decibels, as
    /// [`Report::sqnr_db`](crate::Report::sqnr_db), as the planner expects it. Infinite if nothing changes.
    pub fn sqnr_db(&self) -> f64 {
        let values: f64 = self.weights.iter().map(|weight| weight.values as f64).sum();
        let cost: f64 = self.weights.iter().map(|weight| weight.values as f64 * weight.relative_error).sum();
        distortion::decibels(distortion::relative(cost, values))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |weight: &PlannedWeight| format!("{}/{}", weight.network, weight.layer);
        let width = |of: &dyn Fn(&PlannedWeight) -> usize| self.weights.iter().map(of).max().unwrap_or_default();
        let names = width(&|weight| name(weight).chars().count());
        let fields = width(&|weight| weight.field.chars().count());
        for weight in &self.weights {
            let PlannedWeight { field, values, method, bytes, relative_error, .. } = weight;
            let sqnr = match distortion::decibels(*relative_error) {
                f64::INFINITY => "exact".to_owned(),
                sqnr => format!("{sqnr:.1} dB"),
            };
            let name = name(weight);
            writeln!(f, "{name:names$}  {field:fields$}  {values:>9} values  {bytes:>9} bytes  {sqnr:>8}  {method}")?;
        }
        write!(f, "{} weights, {} bytes, SQNR {:.1} dB", self.weights.len(), self.bytes(), self.sqnr_db())
    }
}

/// Numbers in text formats, of which JSON for one has neither infinities nor NaN: these are written as the strings `inf`,
/// `-inf` and `NaN`.
#[cfg(feature = "serde")]
mod number {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Text {
        Number(f64),
        String(String),
    }

    pub(super) fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() && !number.is_finite() {
            number.to_string().serialize(serializer)
        } else {
            number.serialize(serializer)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        if !deserializer.is_human_readable() {
            return f64::deserialize(deserializer);
        }
        match Text::deserialize(deserializer)? {
            Text::Number(number) => Ok(number),
            Text::String(text) => text.parse().map_err(D::Error::custom),
        }
    }
}
