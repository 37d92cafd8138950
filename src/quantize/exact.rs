//! Constants whose values must stay exactly what they are, see [`uses`](crate::network::uses).
//!
//! Whether a form holds the values of a weight is found by making it: it counts what Core ML decodes from what will be
//! stored, whichever quantizer makes that.

use std::collections::HashSet;

use super::report::Reason;
use super::sites::{Site, agree};
use crate::error::WeightError;
use crate::format::form::StoredForm;
use crate::network::uses::ValueUse;
use crate::quantizer::{self, QuantizeContext, Quantizer};
use crate::weight::distortion::{self, Distortion};
use crate::weight::{Buffers, WeightView};

/// Keeps the weights of a layer whose values are used as something that must be exact, unless each has exactly the same
/// values in its new form: in the few that a table holds, or where float16 holds them.
pub(crate) fn stay_exact(sites: &mut [Site<'_>], used_as: ValueUse) {
    let holds = |site: &Site<'_>| site.converter().is_none_or(|quantizer| is_exact(site, quantizer).unwrap_or(false));
    if sites.iter().all(holds) {
        return;
    }
    for site in sites.iter_mut().filter(|site| site.converter().is_some()) {
        site.keep(Reason::MustBeExact { used_as });
    }
    // What is left of a mix of float types becomes float32.
    agree(sites, false);
}

/// Whether a new form of a weight has the very same values.
fn is_exact(site: &Site<'_>, quantizer: &dyn Quantizer) -> Result<bool, WeightError> {
    let mut context = QuantizeContext::new();
    let weight = site.view(&mut context.buffers)?;
    if !can_be_exact(&weight, site.after) {
        return Ok(false);
    }
    let view = |buffers: &mut Buffers| site.view(buffers);
    let (payload, _) = quantizer::run(quantizer, view, site.after, false, &mut context)?;
    Ok(distortion::distortion(&weight, &payload) == Distortion::NONE)
}

/// Whether a form has enough codes for the values of a weight, which must be finite: spares most of the work.
fn can_be_exact(weight: &WeightView<'_>, form: StoredForm) -> bool {
    let codes = match form {
        StoredForm::Float32 | StoredForm::Float16 => usize::MAX,
        StoredForm::Linear { nbits, scales, .. } => nbits.levels().saturating_mul(scales),
        StoredForm::LookupTable { nbits } => nbits.levels(),
        StoredForm::Int8 => 1 << 8,
        // Networks have none of these.
        StoredForm::Program(_) => 0,
    };
    let mut distinct = HashSet::new();
    weight.iter().all(|value| {
        // Both zeros are one value.
        let bits = (value + 0.0).to_bits();
        value.is_finite() && (codes == usize::MAX || !distinct.insert(bits) || distinct.len() <= codes)
    })
}
