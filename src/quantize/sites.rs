//! What becomes of each weight, decided before anything is computed.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{Error, Place, WeightError};
use crate::format::form::StoredForm;
use crate::format::layer_type;
use crate::format::proto::{Model, NeuralNetworkLayer, WeightParams};
use crate::network::layers::{self, Rule, Shape};
use crate::network::uses::{Uses, ValueUse};
use crate::network::walk::{self, At};
use crate::quantize::config::QuantConfig;
use crate::quantize::report::{Outcome, Reason};
use crate::quantize::selector::WeightInfo;
use crate::quantize::view;
use crate::quantizer::{Buffers, Dequantize, Float16, Quantizer, WeightView};
use crate::weight::distortion::{self, Distortion};

/// One weight of a model and what becomes of it. Sites are in the order of [`walk::each_layer`] and
/// [`layers::weights`].
#[derive(Debug)]
pub(crate) struct Site<'m> {
    pub place: Place,
    pub shape: Shape,
    /// The weight as it is stored.
    pub params: &'m WeightParams,
    pub before: StoredForm,
    pub after: StoredForm,
    pub outcome: Outcome,
    /// What converts it; `None` unless it was chosen to be converted.
    pub quantizer: Option<Arc<dyn Quantizer>>,
}

impl Site<'_> {
    /// What converts the weight; `None` if it stays.
    pub(crate) fn converter(&self) -> Option<&dyn Quantizer> {
        match (self.outcome, &self.quantizer) {
            (Outcome::Kept(_), _) => None,
            (Outcome::Converted, Some(quantizer)) => Some(quantizer.as_ref()),
            _ if self.after == StoredForm::Float16 => Some(&Float16),
            _ => Some(&Dequantize),
        }
    }
}

/// Whether a weight has a site: it is stored, or Core ML needs it. What only its layer understands counts if it is stored
/// as a weight at all.
pub(crate) fn has_site<P: Borrow<WeightParams>>(weight: &layers::Weight<P>) -> bool {
    let stored = weight.params.as_ref().map(Borrow::borrow).filter(|params| !params.is_empty());
    match (&weight.shape, stored) {
        (Ok(shape), Some(params)) if weight.rule == Rule::LeaveAlone => StoredForm::of(params, shape).is_ok(),
        (_, Some(_)) => true,
        (shape, None) => {
            let has_values = shape.as_ref().map_or(true, |shape| shape.units > 0);
            !weight.optional && has_values && weight.rule != Rule::LeaveAlone
        }
    }
}

/// Decides for every weight of a model.
///
/// # Errors
///
/// [`Error::Weight`] for the first weight that is not stored as its layer needs it, [`Error::PlanMismatch`] if the
/// configuration has a plan for another network.
pub(crate) fn plan<'m>(model: &'m Model, config: &QuantConfig) -> Result<Vec<Site<'m>>, Error> {
    let mut sites = Vec::new();
    let mut failure = None;
    walk::each_model(model, walk::ROOT, &mut |path, model| {
        let uses = walk::network(model).map(|(layers, _)| Uses::of(layers)).unwrap_or_default();
        walk::each_own_layer(model, path, &mut |at, layer| {
            if failure.is_none()
                && let Err(error) = plan_layer(at, layer, &uses, config, &mut sites)
            {
                failure = Some(error);
            }
        });
    });
    if let Some(error) = failure {
        return Err(error);
    }
    config.check_planned_count(sites.len())?;
    Ok(sites)
}

fn plan_layer<'m>(
    at: At<'_>,
    layer: &'m NeuralNetworkLayer,
    uses: &Uses<'_>,
    config: &QuantConfig,
    sites: &mut Vec<Site<'m>>,
) -> Result<(), Error> {
    let Some(layer_type) = layer_type(layer) else { return Ok(()) };
    let first = sites.len();
    let mut selected = false;
    let updatable = layers::is_updatable(layer);
    let name: Arc<str> = layer.name.as_str().into();
    for weight in layers::weights(layer).into_iter().filter(has_site) {
        let place =
            Place { network: Arc::clone(at.network), layer: Arc::clone(&name), layer_type, field: weight.field };
        let fail = |source: WeightError| Error::Weight { place: Box::new(place.clone()), source };
        let shape = weight.shape.map_err(|error| fail(error.into()))?;
        let params = weight.params.ok_or_else(|| fail(WeightError::Missing { expected: shape.units }))?;
        let before = StoredForm::of(params, &shape).map_err(fail)?;
        let info = WeightInfo {
            network: at.network,
            inside: at.inside,
            layer,
            layer_name: &layer.name,
            layer_type,
            field: &place.field,
            shape: &shape.dims,
        };
        config.check_planned(sites.len(), &info)?;
        let chosen = match weight.rule {
            Rule::LeaveAlone => Err(Reason::LeftAlone),
            _ => config.choose(sites.len(), &info),
        };
        selected |= chosen.is_ok();
        let decision = match &chosen {
            Ok(quantizer) => {
                let target = target(quantizer.as_ref(), &shape).map_err(fail)?;
                decide(at, layer, config, updatable, weight.rule, before, target, shape.units)
            }
            Err(reason) => Err(*reason),
        };
        let (after, outcome) = match decision {
            Ok(form) => (form, Outcome::Converted),
            Err(reason) => (before, Outcome::Kept(reason)),
        };
        sites.push(Site { place, shape, params, before, after, outcome, quantizer: chosen.ok() });
    }
    if selected {
        agree(&mut sites[first..]);
    }
    if let Some(used_as) = uses.of_stored(layer) {
        stay_exact(&mut sites[first..], used_as);
    }
    Ok(())
}

/// The form the quantizer wants for a shape, if Core ML reads it.
fn target(quantizer: &dyn Quantizer, shape: &Shape) -> Result<StoredForm, WeightError> {
    let axis = shape.scale_axis();
    let form = quantizer.stored_form(&shape.dims, axis);
    if let StoredForm::Linear { scales, biases, .. } = form {
        let channels = axis.map_or(1, |axis| shape.dims[axis]);
        if !(scales == 1 || scales == channels) || !(biases == 0 || biases == scales) {
            return Err(WeightError::NotAllowed { form });
        }
    }
    Ok(form)
}

/// The form a selected weight gets, or the reason for which it stays.
#[expect(clippy::too_many_arguments, reason = "the facts that the rules speak of, each used once")]
fn decide(
    at: At<'_>,
    layer: &NeuralNetworkLayer,
    config: &QuantConfig,
    updatable: bool,
    rule: Rule,
    before: StoredForm,
    target: StoredForm,
    units: usize,
) -> Result<StoredForm, Reason> {
    if before == target && matches!(target, StoredForm::Float32 | StoredForm::Float16 | StoredForm::Int8) {
        return Err(Reason::AlreadyStored);
    }
    if target != StoredForm::Float32 {
        if updatable {
            return Err(Reason::Updatable);
        }
        if rule == Rule::Float32Only {
            return Err(Reason::Float32Only);
        }
    }
    if target.is_quantized() && rule == Rule::FloatOnly {
        return Err(Reason::FloatOnly);
    }
    if target == StoredForm::Int8 {
        let int8 = layers::int8_dynamic(layer).filter(|_| rule == Rule::AnyOrInt8).ok_or(Reason::NotAMatrix)?;
        if int8.has_bias {
            return Err(Reason::LayerHasBias);
        }
        if !at.exact_arrays {
            return Err(Reason::Rank5Mapping);
        }
    }
    if before.is_quantized() && !config.requantize {
        return Err(Reason::AlreadyQuantized);
    }
    let bytes = target.byte_len(units);
    if !config.allow_growth && bytes >= before.byte_len(units) {
        return Err(Reason::WouldNotShrink { bytes });
    }
    Ok(target)
}

/// Makes the float weights of one layer agree in their type, as Core ML demands.
///
/// Where some become float16, the others follow. A mix that only the original had (Create ML writes such models)
/// becomes float32, which loses nothing.
fn agree(sites: &mut [Site<'_>]) {
    let has = |form| sites.iter().any(|site| site.after == form && is_checked(site));
    if !(has(StoredForm::Float16) && has(StoredForm::Float32)) {
        return;
    }
    let narrowing = sites.iter().any(|site| site.after == StoredForm::Float16 && site.outcome == Outcome::Converted);
    let (from, to) =
        if narrowing { (StoredForm::Float32, StoredForm::Float16) } else { (StoredForm::Float16, StoredForm::Float32) };
    for site in sites.iter_mut().filter(|site| site.after == from && is_checked(site)) {
        site.after = to;
        site.outcome = if site.before == to { Outcome::Kept(Reason::AlreadyStored) } else { Outcome::MovedAlong };
    }
}

/// Keeps the weights of a layer whose values are used as something that must be exact, unless each has exactly the same
/// values in its new form: in the few that a table holds, or where float16 holds them.
fn stay_exact(sites: &mut [Site<'_>], used_as: ValueUse) {
    if sites.iter().all(|site| site.converter().is_none_or(|quantizer| is_exact(site, quantizer))) {
        return;
    }
    for site in sites.iter_mut().filter(|site| site.converter().is_some()) {
        site.after = site.before;
        site.outcome = Outcome::Kept(Reason::MustBeExact { used_as });
    }
    // What is left of a mix of float types becomes float32.
    agree(sites);
}

/// Whether a new form of a weight has the very same values. What cannot be quantized at all has not.
fn is_exact(site: &Site<'_>, quantizer: &dyn Quantizer) -> bool {
    let mut buffers = Buffers::new();
    let weight = view(site, &mut buffers);
    if !can_be_exact(&weight, site.after) {
        return false;
    }
    let quantized = quantizer.quantize(weight.clone(), &mut buffers);
    quantized.is_ok_and(|quantized| distortion::distortion(&weight, &quantized) == Distortion::NONE)
}

/// Whether a form has enough codes for the values of a weight, which must be finite: spares most of the work.
fn can_be_exact(weight: &WeightView<'_>, form: StoredForm) -> bool {
    let codes = match form {
        StoredForm::Float32 | StoredForm::Float16 => usize::MAX,
        StoredForm::Linear { nbits, scales, .. } => nbits.levels().saturating_mul(scales),
        StoredForm::LookupTable { nbits } => nbits.levels(),
        StoredForm::Int8 => 1 << 8,
    };
    let mut distinct = HashSet::new();
    weight.iter().all(|value| {
        // Both zeros are one value.
        let bits = (value + 0.0).to_bits();
        value.is_finite() && (codes == usize::MAX || !distinct.insert(bits) || distinct.len() <= codes)
    })
}

fn is_checked(site: &Site<'_>) -> bool {
    site.outcome != Outcome::Kept(Reason::LeftAlone)
}
