//! Mixed precision: a method for each weight, chosen by what it costs and what it saves.

use std::fmt;

use crate::quantize::method::Method;
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
    /// The relative squared error, `|w - w'|^2 / |w|^2`.
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
