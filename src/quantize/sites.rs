//! What becomes of each weight, decided before anything is computed.

use std::borrow::Borrow;
use std::sync::Arc;

use crate::error::{Error, Place, WeightError};
use crate::format::form::StoredForm;
use crate::format::layer_type;
use crate::format::proto::{Model, NeuralNetworkLayer, WeightParams};
use crate::network::layers::{self, Rule, Shape};
use crate::network::walk::{self, At};
use crate::quantize::config::QuantConfig;
use crate::quantize::refusal::refusal;
use crate::quantize::report::{Outcome, Reason};
use crate::quantize::selector::WeightInfo;
use crate::quantizer::{Dequantize, Float16, Quantizer};

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
    /// What brings the weight into its new form; `None` if it stays.
    pub(crate) fn converter(&self) -> Option<&dyn Quantizer> {
        match (self.outcome, &self.quantizer) {
            (Outcome::Kept(_), _) => None,
            (Outcome::Converted, Some(quantizer)) => Some(quantizer.as_ref()),
            _ if self.after == StoredForm::Float16 => Some(&Float16),
            _ => Some(&Dequantize),
        }
    }

    /// The weight stays as it is, for a reason.
    fn keep(&mut self, reason: Reason) {
        self.after = self.before;
        self.outcome = Outcome::Kept(reason);
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
    walk::each_layer(model, &mut |at, layer| {
        if failure.is_none()
            && let Err(error) = plan_layer(at, layer, config, &mut sites)
        {
            failure = Some(error);
        }
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
    let sites = &mut sites[first..];
    let fallback = config.fallback(layer);
    if fallback {
        for site in sites.iter_mut() {
            let refused = site.converter().and_then(|quantizer| refusal(site, quantizer, site.after));
            if let Some((reason, _)) = refused {
                site.keep(reason);
            }
        }
    }
    if selected {
        agree(sites, fallback);
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
/// Where some become float16, the others follow; with `fallback` only if all can, else none does. A mix that only the
/// original had (Create ML writes such models) becomes float32, which loses nothing.
fn agree(sites: &mut [Site<'_>], fallback: bool) {
    let mixed = |sites: &[Site<'_>]| {
        let has = |form| sites.iter().any(|site| site.after == form && is_checked(site));
        has(StoredForm::Float16) && has(StoredForm::Float32)
    };
    if !mixed(sites) {
        return;
    }
    let is_asked = |site: &Site<'_>| site.after == StoredForm::Float16 && site.outcome == Outcome::Converted;
    let follows = |site: &Site<'_>| site.after == StoredForm::Float32 && is_checked(site);
    let cannot = |site: &Site<'_>| follows(site) && refusal(site, &Float16, StoredForm::Float16).is_some();
    let mut narrowing = sites.iter().any(is_asked);
    if narrowing && fallback && sites.iter().any(cannot) {
        narrowing = false;
        for site in sites.iter_mut().filter(|site| is_asked(site)) {
            site.keep(Reason::OthersBeyondFloat16);
        }
        if !mixed(sites) {
            return;
        }
    }
    let (from, to) =
        if narrowing { (StoredForm::Float32, StoredForm::Float16) } else { (StoredForm::Float16, StoredForm::Float32) };
    for site in sites.iter_mut().filter(|site| site.after == from && is_checked(site)) {
        site.after = to;
        site.outcome = if site.before == to { Outcome::Kept(Reason::AlreadyStored) } else { Outcome::MovedAlong };
    }
}

fn is_checked(site: &Site<'_>) -> bool {
    site.outcome != Outcome::Kept(Reason::LeftAlone)
}
