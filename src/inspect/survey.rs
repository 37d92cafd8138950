//! What a model holds: its layers and how their weights are stored.

use std::borrow::Cow;
use std::sync::Arc;

use crate::error::{Error, WeightError};
use crate::format::form::StoredForm;
use crate::format::proto::{NeuralNetworkLayer, WeightParams};
use crate::format::slots_mut;
use crate::model::{Model, walk};
use crate::network::mean_image::{self, MeanImage};
use crate::network::params;
use crate::network::weights::{self, StoredWeight};
use crate::quantize::selector::WeightInfo;
use crate::weight::{Buffers, Payload, WeightSpec};

/// A layer of one of a model's networks.
#[derive(Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LayerSurvey<'a> {
    /// Its index among all layers of the model.
    pub index: usize,
    /// The network's path: `model`, `model/pipeline[1]`, `model/cond/ifBranch`.
    pub network: Arc<str>,
    /// The layer.
    #[cfg_attr(feature = "serde", serde(serialize_with = "name", rename = "name"))]
    pub layer: &'a NeuralNetworkLayer,
    /// The types of the layers that the network lies in (`branch`, `loop`), outermost first.
    pub inside: Vec<&'static str>,
    /// The layer's type under its name in the format; `None` if it has none.
    pub layer_type: Option<&'static str>,
    /// The weights that Core ML reads.
    pub weights: Vec<WeightSurvey<'a>>,
}

impl LayerSurvey<'_> {
    /// A weight of the layer as a selector sees it, by its field and shape: to ask what a selector would select.
    pub fn info<'s>(&'s self, field: &'s str, shape: &'s [usize]) -> WeightInfo<'s> {
        WeightInfo {
            network: &self.network,
            inside: &self.inside,
            layer: Some(self.layer),
            layer_name: &self.layer.name,
            layer_type: self.layer_type.unwrap_or_default(),
            field,
            shape,
        }
    }
}

/// How a weight is stored.
#[derive(Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WeightSurvey<'a> {
    /// The field's name in the format.
    pub field: Cow<'static, str>,
    /// The dimensions, row-major; empty if the layer's sizes make no shape.
    pub shape: Vec<usize>,
    /// The weight itself; `None` if it is missing.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub params: Option<&'a WeightParams>,
    /// The form it is stored in, or what is wrong with it.
    #[cfg_attr(feature = "serde", serde(serialize_with = "form_or_error"))]
    pub stored: Result<StoredForm, WeightError>,
    #[cfg_attr(feature = "serde", serde(skip))]
    weight: StoredWeight<'a>,
}

/// A layer as its name.
#[cfg(feature = "serde")]
fn name<S: serde::Serializer>(layer: &NeuralNetworkLayer, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&layer.name)
}

/// A form, or what is wrong as `{"error": ".."}`.
#[cfg(feature = "serde")]
fn form_or_error<S: serde::Serializer>(
    stored: &Result<StoredForm, WeightError>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    use serde::Serialize;
    use serde::ser::SerializeMap;
    match stored {
        Ok(form) => form.serialize(serializer),
        Err(error) => {
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry("error", &error.to_string())?;
            map.end()
        }
    }
}

impl WeightSurvey<'_> {
    /// The values, row-major, decoded from whatever form they are stored in, as Core ML does it.
    ///
    /// # Errors
    ///
    /// What is wrong with the weight.
    pub fn to_f32(&self) -> Result<Vec<f32>, WeightError> {
        let (params, shape, _) = self.weight.stored()?;
        let view = params::view(params, shape, WeightSpec::new(&shape.blocks), &mut Buffers::default())?;
        Ok(view.to_vec())
    }
}

impl Model {
    /// The mean images that networks subtract from images: often large, and no weights.
    pub fn mean_images(&self) -> Vec<MeanImage> {
        mean_image::mean_images(self.proto())
    }

    /// Every layer of every network: through pipelines, branches and loops, in the model's order.
    pub fn layers(&self) -> Vec<LayerSurvey<'_>> {
        let mut found = Vec::new();
        weights::each(self.proto(), &mut |layer| {
            let weights = layer.weights.into_iter().map(|weight| WeightSurvey {
                stored: weight.stored().map(|(_, _, form)| form),
                shape: weight.shape.as_ref().map(|shape| shape.dims.clone()).unwrap_or_default(),
                field: weight.field.clone(),
                params: weight.params,
                weight,
            });
            found.push(LayerSurvey {
                index: layer.at.index,
                network: Arc::clone(layer.at.network),
                layer: layer.layer,
                inside: layer.at.inside.to_vec(),
                layer_type: layer.layer_type,
                weights: weights.collect(),
            });
        });
        found
    }

    /// Stores a weight otherwise: new values, or another form. The layer is given by its index, as [`LayerSurvey::index`]
    /// and [`Place::index`](crate::Place) have it, the weight by its field's name.
    ///
    /// The payload must be a whole weight of the layer's shape; whether Core ML allows its form there is for
    /// [`check`](crate::check) to say.
    ///
    /// ```
    /// use coreml_quant::{Model, Payload};
    ///
    /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/digits/digits.mlmodel");
    /// let mut model = Model::open(path)?;
    /// let layer = &model.layers()[0];
    /// let mut values = layer.weights[0].to_f32()?;
    /// let (index, field) = (layer.index, layer.weights[0].field.to_string());
    /// values[0] = 0.5;
    /// model.set_weight(index, &field, Payload::from_f32(&values))?;
    /// assert_eq!(model.layers()[0].weights[0].to_f32()?[0], 0.5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NoWeight`] if there is no such layer or field, [`Error::Weight`] if the payload does not fit.
    pub fn set_weight(&mut self, index: usize, field: &str, payload: Payload) -> Result<(), Error> {
        let mut checked = Err(Error::NoWeight { index, field: field.to_owned() });
        weights::each(self.proto(), &mut |layer| {
            let Some(weight) = layer.weights.iter().find(|weight| weight.field == field) else { return };
            if layer.at.index == index {
                let checks = weight.shape.clone().map_err(WeightError::from);
                let checks = checks.and_then(|shape| payload.check(shape.units, shape.channel_count()));
                let place = || Box::new(layer.place(weight));
                checked = checks.map_err(|cause| Error::Weight { place: place(), cause });
            }
        });
        checked?;
        let version = payload.form().specification_version();
        let (mut at, mut payload) = (0, Some(payload));
        walk::change_networks(self.proto_mut(), walk::ROOT, &mut |_, model| {
            let Some((layers, _)) = walk::network_mut(model) else { return 0 };
            let mut needed = 0;
            walk::change_layers(layers, &mut at, &mut |at, layer| {
                for (name, place) in slots_mut(layer) {
                    if at == index
                        && name == field
                        && let (Some(place), Some(payload)) = (place, payload.take())
                    {
                        *place = params::to_params(payload, place.is_updatable);
                        needed = version;
                    }
                }
            });
            needed
        });
        Ok(())
    }
}
