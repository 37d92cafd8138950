//! Two models of one network, weight by weight.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use rayon::prelude::*;

use crate::error::{Error, Place};
use crate::fold::{FoldReport, fold_except};
use crate::format::layer_type;
use crate::model::{Model, walk};
use crate::network::mean_image::make_biases;
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
/// Where layers of one model were folded in the other one, by [`fold`](crate::fold()) or before quantizing, they are
/// folded first; the report says which. Where a mean image of one model is a bias layer of the other one, it becomes that
/// first. Values of a weight that are not finite leave its distortion undefined (NaN),
/// and that of the whole, unless the weight is stored alike in both.
///
/// # Errors
///
/// [`Error::Weight`] for a weight that is not stored as its layer needs it, [`Error::DifferentNetworks`] if the models
/// do not have the same weights.
pub fn compare(original: &Model, other: &Model) -> Result<Report, Error> {
    original.require_network()?;
    other.require_network()?;
    let (original, other) = (with_biases_like(original, other), with_biases_like(other, original));
    let (original, mut folds) = folded_like(&original, &other)?;
    let (other, more) = folded_like(&other, &original)?;
    folds.folds.extend(more.folds);
    folds.bytes_before += more.bytes_before;
    folds.bytes_after += more.bytes_after;
    let [ours, theirs] = [sites(&original)?, sites(&other)?];
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
    Ok(Report {
        mean_images: original.mean_images(),
        folds,
        weights: weights.collect::<Result<_, Error>>()?,
        calibration: None,
    })
}

/// A model in which those mean images are bias layers that another model of the same network does not have as mean images.
fn with_biases_like<'m>(model: &'m Model, other: &Model) -> Cow<'m, Model> {
    let there: HashSet<(Arc<str>, String)> =
        other.mean_images().into_iter().map(|mean| (mean.network, mean.feature)).collect();
    let is_bias_there = |network: &str, feature: &str| !there.contains(&(network.into(), feature.to_owned()));
    let mut found = model.mean_images().into_iter().filter(|mean| mean.obstacle.is_none());
    if !found.any(|mean| is_bias_there(&mean.network, &mean.feature)) {
        return Cow::Borrowed(model);
    }
    let mut changed = model.proto().clone();
    make_biases(&mut changed, &is_bias_there);
    Cow::Owned(Model::from_proto(changed))
}

/// A model in which those layers are folded that are folded in another model of the same network: there, they and the
/// layers before them are no longer what they are here.
fn folded_like<'m>(model: &'m Model, other: &Model) -> Result<(Cow<'m, Model>, FoldReport), Error> {
    let mut there = HashSet::new();
    walk::each_layer(other.proto(), &mut |at, layer| {
        there.insert((at.network.to_string(), &layer.name, layer_type(layer), &layer.output));
    });
    let mut folded = fold_except(model, |network, layer| {
        there.contains(&(network.to_owned(), &layer.name, layer_type(layer), &layer.output))
    })?;
    if folded.report.folds.is_empty() {
        return Ok((Cow::Borrowed(model), FoldReport::default()));
    }
    folded.report.not_folded.clear();
    Ok((Cow::Owned(folded.model), folded.report))
}

/// The weights of a model, none of which is to be changed.
fn sites(model: &Model) -> Result<Vec<Site<'_>>, Error> {
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
