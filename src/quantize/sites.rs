//! What becomes of each weight, decided before anything is computed.

use std::sync::Arc;

use prost::Message;

use crate::error::{Error, Place, QuantizeError, WeightError};
use crate::format::form::StoredForm;
use crate::format::proto::{Model, WeightParams};
use crate::network::layers;
use crate::network::params;
use crate::network::rules::{self, Refusal, Rule};
use crate::network::shape::Shape;
use crate::network::uses::Uses;
use crate::network::weights::{self, LayerWeights};
use crate::quantizer::{Dequantize, Float16, Quantizer};
use crate::weight::{Buffers, WeightSpec, WeightView};

use super::config::{Biases, QuantConfig};
use super::exact::stay_exact;
use super::refusal::{reason, refusal};
use super::report::{Outcome, Reason};
use super::selector::WeightInfo;

/// One weight of a model and what becomes of it. Sites are in the order of [`weights::each`].
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

impl<'m> Site<'m> {
    /// What a quantizer is told of the weight.
    pub(crate) fn spec(&self) -> WeightSpec<'_> {
        WeightSpec::at(&self.shape.blocks, &self.place)
    }

    /// The weight as a quantizer sees it.
    pub(crate) fn view(&self, buffers: &mut Buffers) -> Result<WeightView<'_>, WeightError> {
        params::view(self.params, &self.shape, self.spec(), buffers)
    }

    /// What brings the weight into its new form; `None` if it stays.
    pub(crate) fn converter(&self) -> Option<&dyn Quantizer> {
        match (self.outcome, &self.quantizer) {
            (Outcome::Kept(_), _) => None,
            (Outcome::Converted, Some(quantizer)) => Some(quantizer.as_ref()),
            _ if self.after == StoredForm::Float16 => Some(&Float16),
            _ => Some(&Dequantize),
        }
    }

    /// Why a form cannot hold the weight's values; `None` if it can.
    pub(crate) fn refusal(&self, quantizer: &dyn Quantizer, form: StoredForm) -> Option<QuantizeError> {
        refusal(|buffers| self.view(buffers), quantizer, form)
    }

    /// The weight stays as it is, for a reason.
    pub(crate) fn keep(&mut self, reason: Reason) {
        self.after = self.before;
        self.outcome = Outcome::Kept(reason);
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
    let uses = Uses::of_model(model);
    weights::each(model, &mut |layer| {
        if failure.is_none()
            && let Err(error) = plan_layer(&layer, &uses, config, &mut sites)
        {
            failure = Some(error);
        }
    });
    if let Some(error) = failure {
        return Err(error);
    }
    Ok(sites)
}

fn plan_layer<'m>(
    weights: &LayerWeights<'_, 'm>,
    uses: &Uses,
    config: &QuantConfig,
    sites: &mut Vec<Site<'m>>,
) -> Result<(), Error> {
    let LayerWeights { at, layer, layer_type: Some(_), .. } = *weights else { return Ok(()) };
    let first = sites.len();
    let mut selected = false;
    // Biases that become float16, by their index among the layer's weights.
    let mut softened: Vec<usize> = Vec::new();
    for weight in &weights.weights {
        let place = weights.place(weight);
        let fail = |cause: WeightError| Error::Weight { place: Box::new(place.clone()), cause };
        let (params, shape, before) = weight.stored().map_err(fail)?;
        let info = WeightInfo::of(weights, weight);
        config.check_planned(sites.len(), &info)?;
        let chosen = match weight.rule {
            Rule::LeaveAlone => Err(Reason::LeftAlone),
            _ => config.choose(sites.len(), &info),
        };
        selected |= chosen.is_ok();
        let chosen = chosen.and_then(|quantizer| {
            let form = quantizer.stored_form(&WeightSpec::at(&shape.blocks, &place));
            let in_few_bits = matches!(form, StoredForm::Linear { .. } | StoredForm::LookupTable { .. });
            if !in_few_bits || config.is_planned() || !layers::is_bias(layer, shape) {
                return Ok(quantizer);
            }
            match config.biases {
                Biases::AsWeights => Ok(quantizer),
                // Becomes float16 instead of codes, with the weights beside it.
                Biases::Float16 if weight.rule == Rule::FloatOnly => Ok(quantizer),
                Biases::Keep => Err(Reason::BiasKept),
                Biases::Float16 => match beyond_float16(params) {
                    Some(index) => Err(Reason::BeyondFloat16 { index }),
                    None => {
                        softened.push(sites.len() - first);
                        Ok(Arc::new(Float16) as Arc<dyn Quantizer>)
                    }
                },
            }
        });
        let decision = match &chosen {
            Ok(quantizer) => {
                let target = target(quantizer.as_ref(), &WeightSpec::at(&shape.blocks, &place)).map_err(fail)?;
                decide(weights, config, params, weight.rule, before, target, shape.units)
            }
            Err(reason) => Err(*reason),
        };
        let (after, outcome) = match decision {
            Ok((form, outcome)) => (form, outcome),
            Err(reason) => (before, Outcome::Kept(reason)),
        };
        let shape = shape.clone();
        sites.push(Site { place, shape, params, before, after, outcome, quantizer: chosen.ok() });
    }
    let sites = &mut sites[first..];
    // What is float16 though nobody asked for it falls back in any case.
    let instead = sites.iter().any(|site| site.outcome == Outcome::Float16Instead);
    let fallback = instead || config.fallback(layer);
    if fallback {
        for site in sites.iter_mut() {
            let refused = site.converter().and_then(|quantizer| site.refusal(quantizer, site.after));
            if let Some(reason) = refused.as_ref().and_then(reason) {
                site.keep(reason);
            }
        }
    }
    if sites.iter().any(|site| site.after == StoredForm::Float32 && is_checked(site)) {
        for index in softened {
            if sites[index].outcome == Outcome::Converted {
                sites[index].keep(Reason::Float32Beside);
            }
        }
    }
    if selected {
        agree(sites, fallback);
    }
    if let Some(used_as) = uses.of_stored(at.index) {
        stay_exact(sites, used_as);
    }
    Ok(())
}

/// The first finite value of a float32 weight that is beyond float16. Others are the quantizer's to refuse.
fn beyond_float16(params: &WeightParams) -> Option<usize> {
    /// The smallest magnitude that rounds to infinity.
    const BEYOND: f32 = 65520.0;
    params.float_value.iter().position(|value| value.is_finite() && value.abs() >= BEYOND)
}

/// The form the quantizer wants for a weight, if Core ML reads it.
fn target(quantizer: &dyn Quantizer, weight: &WeightSpec<'_>) -> Result<StoredForm, WeightError> {
    let form = quantizer.stored_form(weight);
    if matches!(form, StoredForm::Program(_)) {
        return Err(WeightError::NotAllowed { form });
    }
    if let StoredForm::Linear { scales, biases, .. } = form
        && (!(scales == 1 || scales == weight.blocks.count()) || !(biases == 0 || biases == scales))
    {
        return Err(WeightError::NotAllowed { form });
    }
    Ok(form)
}

/// The form a selected weight gets and how that came about, or the reason for which it stays.
fn decide(
    weights: &LayerWeights<'_, '_>,
    config: &QuantConfig,
    params: &WeightParams,
    rule: Rule,
    before: StoredForm,
    target: StoredForm,
    units: usize,
) -> Result<(StoredForm, Outcome), Reason> {
    if before == target && matches!(target, StoredForm::Float32 | StoredForm::Float16 | StoredForm::Int8) {
        return Err(Reason::AlreadyStored);
    }
    if target != StoredForm::Float32 && layers::is_updatable(weights.layer) {
        return Err(Reason::Updatable);
    }
    let is_codes = matches!(target, StoredForm::Linear { .. } | StoredForm::LookupTable { .. });
    let (target, outcome) = match rule.permits(target) {
        Err(Refusal::FloatOnly) if is_codes && before == StoredForm::Float32 && config.float16_instead => {
            (StoredForm::Float16, Outcome::Float16Instead)
        }
        permitted => permitted.map(|()| (target, Outcome::Converted))?,
    };
    if target == StoredForm::Int8 {
        rules::permits_int8(weights.layer, weights.at.exact_arrays)?;
    }
    if before.is_quantized() && !config.requantize(target) {
        return Err(Reason::AlreadyQuantized);
    }
    let bytes = params::encoded_len(target, units, params.is_updatable);
    if !config.allow_growth(target) && bytes >= params.encoded_len() {
        return Err(Reason::WouldNotShrink { bytes });
    }
    Ok((target, outcome))
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Float32Only => Self::Float32Only,
            Refusal::FloatOnly => Self::FloatOnly,
            Refusal::NotAMatrix => Self::NotAMatrix,
            Refusal::LayerHasBias => Self::LayerHasBias,
            Refusal::Rank5Mapping => Self::Rank5Mapping,
        }
    }
}

/// Makes the float weights of one layer agree in their type, as Core ML demands.
///
/// Where some become float16, the others follow; with `fallback` only if all can, else none does. A mix that only the
/// original had (Create ML writes such models) becomes float32, which loses nothing.
pub(crate) fn agree(sites: &mut [Site<'_>], fallback: bool) {
    let mixed = |sites: &[Site<'_>]| {
        let has = |form| sites.iter().any(|site| site.after == form && is_checked(site));
        has(StoredForm::Float16) && has(StoredForm::Float32)
    };
    if !mixed(sites) {
        return;
    }
    // What was asked for and is so already was asked for all the same.
    let asked = [Outcome::Converted, Outcome::Float16Instead, Outcome::Kept(Reason::AlreadyStored)];
    let is_asked = |site: &Site<'_>| site.after == StoredForm::Float16 && asked.contains(&site.outcome);
    let follows = |site: &Site<'_>| site.after == StoredForm::Float32 && is_checked(site);
    let cannot = |site: &Site<'_>| follows(site) && site.refusal(&Float16, StoredForm::Float16).is_some();
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
