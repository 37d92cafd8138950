//! Two models of one network, weight by weight.

use rayon::prelude::*;

use crate::error::{Error, Place};
use crate::fold::FoldReport;
use crate::model::Model;
use crate::quantize::config::QuantConfig;
use crate::quantize::report::{Outcome, Reason, Report, WeightReport};
use crate::quantize::selector::WeightInfo;
use crate::quantize::sites::{Site, plan};
use crate::weight::Buffers;
use crate::weight::distortion::{self, Distortion};

/// Compares the weights of two models of the same network, in whatever forms they are stored.
///
/// The report reads as if `other` had been made from `original`: forms and bytes before and after, and how far the
/// values are apart. What is stored alike in both is [`Reason::Identical`].
///
/// Folding batchnorm layers changes the network; compare with the folded model then.
///
/// # Errors
///
/// [`Error::Weight`] for a weight that is not stored as its layer needs it, [`Error::DifferentNetworks`] if the models
/// do not have the same weights.
pub fn compare(original: &Model, other: &Model) -> Result<Report, Error> {
    let [ours, theirs] = [sites(original)?, sites(other)?];
    for index in 0..ours.len().max(theirs.len()) {
        let of = |sites: &[Site<'_>]| sites.get(index).map(|site| (site.place.clone(), site.shape.dims.clone()));
        let (our, their) = (of(&ours), of(&theirs));
        if our != their {
            return Err(Error::DifferentNetworks { original: describe(our), other: describe(their) });
        }
    }
    let weights = ours.par_iter().zip(&theirs).map(|(ours, theirs)| {
        let identical = ours.params == theirs.params;
        let distortion = if identical { Distortion::NONE } else { distortion(ours, theirs)? };
        Ok(WeightReport {
            place: ours.place.clone(),
            shape: ours.shape.dims.clone(),
            before: ours.before,
            after: theirs.before,
            outcome: if identical { Outcome::Kept(Reason::Identical) } else { Outcome::Converted },
            distortion: Some(distortion),
        })
    });
    Ok(Report { folds: FoldReport::default(), weights: weights.collect::<Result<_, Error>>()? })
}

/// The weights of a model, none of which is to be changed.
fn sites(model: &Model) -> Result<Vec<Site<'_>>, Error> {
    model.require_network()?;
    plan(model.proto(), &QuantConfig::dequantize().with_selector(|_: &WeightInfo<'_>| false))
}

fn distortion(ours: &Site<'_>, theirs: &Site<'_>) -> Result<Distortion, Error> {
    let mut buffers = Buffers::default();
    let fail = |site: &Site<'_>, cause| Error::Weight { place: Box::new(site.place.clone()), cause };
    let our_values = ours.view(&mut buffers).map_err(|cause| fail(ours, cause))?;
    let their_values = theirs.view(&mut buffers).map_err(|cause| fail(theirs, cause))?;
    Ok(distortion::between(our_values.as_le_bytes(), their_values.as_le_bytes(), theirs.before))
}

fn describe(weight: Option<(Place, Vec<usize>)>) -> String {
    weight.map_or_else(|| "no more weights".to_owned(), |(place, shape)| format!("{place} of shape {shape:?}"))
}
