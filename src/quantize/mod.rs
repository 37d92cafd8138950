//! The job itself: every planned weight is read, quantized and put back.

pub(crate) mod calibration_report;
pub(crate) mod config;
mod exact;
pub(crate) mod method;
pub(crate) mod plan;
pub(crate) mod programs;
mod progress;
mod refusal;
pub(crate) mod report;
pub(crate) mod selector;
pub(crate) mod sites;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use self::calibration_report::CalibrationReport;
use self::config::QuantConfig;
use self::programs::{CarriedOut, ProgramPlan};
use self::progress::Tally;
use self::refusal::reason;
use self::report::{Outcome, Report, WeightReport};
use self::selector::WeightInfo;
use self::sites::{Site, plan};
use crate::error::{Error, Refused, WeightError};
use crate::fold::{FoldReport, fold_proto, has_foldable};
use crate::format::form::StoredForm;
use crate::format::proto::{self, WeightParams};
use crate::format::weight_params::Hole;
use crate::model::{Model, SaveOptions, walk, write};
use crate::network::mean_image::{MeanImage, make_biases, mean_images};
use crate::network::{layers, params, rules, weights};
use crate::quantizer::{self, QuantizeContext};
use crate::weight::Buffers;
use crate::weight::distortion::{self, Distortion};

/// A quantized model, and what was done to it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Quantized {
    /// The model; weights that were not converted share their memory with the original.
    pub model: Model,
    /// What became of each weight.
    pub report: Report,
}

/// Stores the weights of a model in fewer bits, as the configuration says. The original stays as it is.
///
/// The work is spread over rayon's current thread pool; the result does not depend on the number of threads.
///
/// # Errors
///
/// [`Error::NoNetwork`] if the model has no neural network, [`Error::Weight`] for the first weight that is not stored as
/// its layer needs it or that its quantizer fails on, [`Error::Unrepresentable`] for all weights with values that their
/// new form cannot hold, unless they stay: see [`QuantConfig::with_fallback`].
pub fn quantize_weights(model: &Model, config: &QuantConfig) -> Result<Quantized, Error> {
    let Prepared { model: prepared, folds, .. } = prepare(model, config)?;
    let mut sites = plan(&prepared, config)?;
    let programs = plan_programs(model, &prepared, config, sites.len())?;
    let chosen = Chosen::new(&prepared, &mut sites, config).map_err(|error| with_all_refused(error, &sites))?;
    let tally = tally(config, &sites, &programs);
    let job = Job::new(config, &sites, &chosen, &tally);
    // The first weight that failed so far: what comes after it is not begun any more. What comes before it is, so that
    // the error is that of the first weight, whatever the threads.
    let failed = AtomicUsize::new(usize::MAX);
    let run = |index| {
        if index > failed.load(Ordering::Relaxed) {
            return None;
        }
        let result = job.run(index, &mut QuantizeContext::new());
        if result.is_err() {
            failed.fetch_min(index, Ordering::Relaxed);
        }
        Some(result)
    };
    let results: Vec<Option<Result<WeightParams, Error>>> = (0..sites.len()).into_par_iter().map(run).collect();
    let params: Result<Vec<_>, _> = results.into_iter().flatten().collect();
    let params = params.map_err(|error| with_all_refused(error, &sites))?;
    let measured = job.measured();
    let mut quantized = proto::Model::clone(&prepared);
    put_back(&mut quantized, &sites, params);
    chosen.add_biases(&mut quantized);
    let CarriedOut { model: quantized, files, weights } = programs.carry_out(quantized, config, &tally)?;
    let mut report = report(mean_images(&prepared), folds, sites, measured, chosen.report);
    report.weights.extend(weights);
    Ok(Quantized { model: model.with_weights(quantized, files), report })
}

/// Quantizes a model straight into a file: the same bytes as [`quantize_weights`] and [`Model::save`], in less memory
/// and time, because no weight is held longer than it takes to write it.
///
/// The file is replaced as [`Model::save_with`] does it: on an error the old one stays.
///
/// # Errors
///
/// As [`quantize_weights`], and [`Error::Io`] if the file cannot be written.
pub fn quantize_to_file(
    model: &Model,
    config: &QuantConfig,
    path: impl AsRef<std::path::Path>,
    options: &SaveOptions,
) -> Result<Report, Error> {
    let path = path.as_ref();
    if crate::model::is_package(path) {
        let Quantized { model, report } = quantize_weights(model, config)?;
        model.save_with(path, options)?;
        return Ok(report);
    }
    model.require_no_package(path)?;
    let Prepared { model, folds, .. } = prepare(model, config)?;
    let mut sites = plan(&model, config)?;
    config.check_planned_count(sites.len())?;
    let chosen = Chosen::new(&model, &mut sites, config).map_err(|error| with_all_refused(error, &sites))?;
    let tally = tally(config, &sites, &ProgramPlan::default());
    let job = Job::new(config, &sites, &chosen, &tally);
    let (mut skeleton, holes) = skeleton(&model, &sites);
    chosen.add_biases(&mut skeleton);
    write::write_file(&skeleton, &holes, path, options, &|index, buffers| {
        let mut context = QuantizeContext::with_buffers(std::mem::take(buffers));
        let params = job.run(index, &mut context);
        *buffers = context.buffers;
        params
    })
    .map_err(|error| with_all_refused(error, &sites))?;
    let measured = job.measured();
    Ok(report(mean_images(&model), folds, sites, measured, chosen.report))
}

/// What [`quantize_weights`] would do, as its report without errors: which weights would be converted, to which forms, and
/// why the others would stay. Nothing is computed, which takes no time; weights whose values cannot be quantized are not
/// found.
///
/// # Errors
///
/// [`Error::NoNetwork`] if the model has no neural network, [`Error::Weight`] for a weight that is not stored as its
/// layer needs it.
pub fn preview(model: &Model, config: &QuantConfig) -> Result<Report, Error> {
    let Prepared { model: prepared, folds, .. } = prepare(model, config)?;
    let sites = plan(&prepared, config)?;
    let programs = plan_programs(model, &prepared, config, sites.len())?;
    let unmeasured = vec![None; sites.len()];
    let mut report = report(mean_images(&prepared), folds, sites, unmeasured, None);
    report.weights.extend(programs.preview());
    Ok(report)
}

/// What becomes of the weights of programs; `first` is the number of weights of networks.
fn plan_programs<'m>(
    model: &Model,
    proto: &'m proto::Model,
    config: &QuantConfig,
    first: usize,
) -> Result<ProgramPlan<'m>, Error> {
    let mut layers = 0;
    walk::each_layer(proto, &mut |_, _| layers += 1);
    let plan = ProgramPlan::new(proto, programs::files(model), config, first, layers)?;
    config.check_planned_count(first + plan.sites.len())?;
    Ok(plan)
}

/// How much there is to do.
fn tally<'a>(config: &'a QuantConfig, sites: &[Site<'_>], programs: &ProgramPlan<'_>) -> Tally<'a> {
    let changed = || sites.iter().filter(|site| !matches!(site.outcome, Outcome::Kept(_)));
    let (weights, values) = programs.changed();
    let in_networks: u64 = changed().map(|site| site.shape.units as u64).sum();
    Tally::new(config, changed().count() + weights, in_networks + values)
}

/// The model whose weights are planned.
pub(crate) struct Prepared<'m> {
    /// The model itself, or what was made of it: mean images as bias layers, layers folded.
    pub model: Cow<'m, proto::Model>,
    /// What was folded.
    pub folds: FoldReport,
    /// The layers that folding left as they are because they are skipped, by their index before it.
    pub unfolded: BTreeSet<usize>,
}

/// Makes the model whose weights are planned.
///
/// # Errors
///
/// [`Error::NoNetwork`] if the model has neither a neural network nor an ML Program, [`Error::Config`] for a configuration
/// that is not one for it.
pub(crate) fn prepare<'m>(model: &'m Model, config: &QuantConfig) -> Result<Prepared<'m>, Error> {
    if model.has_program() {
        programs::require_possible(config)?;
    } else {
        model.require_network()?;
        config.require_no_program_options()?;
    }
    let mut model = Cow::Borrowed(model.proto());
    if config.mean_image_as_bias && mean_images(&model).iter().any(|mean| mean.obstacle.is_none()) {
        make_biases(model.to_mut(), &|_, _| true);
    }
    if !config.fold() || !has_foldable(&model) {
        return Ok(Prepared { model, folds: FoldReport::default(), unfolded: BTreeSet::new() });
    }
    let unfolded = unfolded(&model, config);
    let (folded, folds) = fold_proto(&model, &unfolded);
    Ok(Prepared { model: Cow::Owned(folded), folds, unfolded })
}

/// The layers with weights that folding leaves as they are, by their index: those of which the configuration skips every
/// weight, and those of its plan.
fn unfolded(model: &proto::Model, config: &QuantConfig) -> BTreeSet<usize> {
    let mut found = config.planned_unfolded();
    weights::each(model, &mut |layer| {
        if !layer.weights.is_empty() && layer.weights.iter().all(|weight| config.skips(&WeightInfo::of(&layer, weight)))
        {
            found.insert(layer.at.index);
        }
    });
    found
}

/// The error of a job: if it is that a weight's values cannot be stored, all such weights.
fn with_all_refused(error: Error, sites: &[Site<'_>]) -> Error {
    let first = match &error {
        Error::Weight { place, cause: WeightError::Quantize(cause) } if reason(cause).is_some() => place,
        _ => return error,
    };
    let of_site = |site: &Site<'_>| {
        let cause = site.refusal(site.converter()?, site.after)?;
        Some(Refused { place: site.place.clone(), form: site.after, cause })
    };
    let refused: Vec<Refused> = sites.par_iter().filter_map(of_site).collect();
    // A quantizer of the caller's may refuse a weight for another cause, and another time.
    if refused.iter().any(|refused| refused.place == **first) { Error::Unrepresentable { refused } } else { error }
}

/// The model with a hole for each weight, as long as the weight will be.
fn skeleton(model: &proto::Model, sites: &[Site<'_>]) -> (proto::Model, Vec<Arc<Hole>>) {
    let holes: Vec<Arc<Hole>> = sites.iter().map(|site| Arc::new(Hole::new(encoded_len(site)))).collect();
    let mut skeleton = model.clone();
    put_back(&mut skeleton, sites, holes.iter().map(WeightParams::hole));
    (skeleton, holes)
}

/// The exact length of the file of a model once its weights are stored in their new forms, in bytes.
pub(crate) fn file_len(model: &proto::Model, sites: &[Site<'_>]) -> usize {
    prost::Message::encoded_len(&skeleton(model, sites).0)
}

/// The encoded length of a site's weight once it is stored in its new form: known before it is computed.
fn encoded_len(site: &Site<'_>) -> usize {
    match site.outcome {
        Outcome::Kept(_) => prost::Message::encoded_len(site.params),
        Outcome::Converted | Outcome::Float16Instead | Outcome::MovedAlong => {
            params::encoded_len(site.after, site.shape.units, site.params.is_updatable)
        }
    }
}

/// Puts new weights in the place of the old ones, and raises the versions of the models around them.
fn put_back(model: &mut proto::Model, sites: &[Site<'_>], params: impl IntoIterator<Item = WeightParams>) {
    let mut new: BTreeMap<usize, Vec<(&Site<'_>, WeightParams)>> = BTreeMap::new();
    for (site, params) in sites.iter().zip(params) {
        new.entry(site.place.index).or_default().push((site, params));
    }
    let mut index = 0;
    walk::change_networks(model, walk::ROOT, &mut |_, model| {
        let mut version = 0;
        let Some((layers, _)) = walk::network_mut(model) else { return version };
        walk::change_layers(layers, &mut index, &mut |index, layer| {
            let Some(mut new) = new.remove(&index) else { return };
            let mut int8_dynamic = None;
            for weight in layers::weights_mut(layer) {
                let found = new.iter().position(|(site, _)| site.place.field == weight.field);
                let (Some(place), Some(found)) = (weight.params, found) else { continue };
                let (site, params) = new.swap_remove(found);
                *place = params;
                if matches!(site.outcome, Outcome::Kept(_)) {
                    continue;
                }
                version = version.max(site.after.specification_version());
                if site.after == StoredForm::Int8 {
                    int8_dynamic = Some(true);
                } else if site.before == StoredForm::Int8 {
                    int8_dynamic = Some(false);
                }
            }
            if let Some(enabled) = int8_dynamic {
                rules::set_int8_dynamic(layer, enabled);
            }
        });
        version
    });
}

/// What decides some of the weights before the others are quantized, by more than their values. This is all that the job
/// knows of calibration.
pub(crate) trait Chooser: fmt::Debug + Send + Sync {
    /// Chooses weights of a model. Sites of biases may change their form.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from choosing, and those of weights that cannot be quantized.
    fn choose(&self, model: &proto::Model, sites: &mut [Site<'_>]) -> Result<Chosen, Error>;
}

/// What was chosen before the job.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    /// Weights by the number of their site.
    pub(crate) weights: BTreeMap<usize, WeightParams>,
    /// Biases for layers that had none, by the layer's index among all layers of the model.
    pub(crate) biases: BTreeMap<usize, WeightParams>,
    /// What is told of it.
    pub(crate) report: Option<CalibrationReport>,
}

impl Chosen {
    fn new(model: &proto::Model, sites: &mut [Site<'_>], config: &QuantConfig) -> Result<Self, Error> {
        config.chooser.as_ref().map_or_else(|| Ok(Self::default()), |chooser| chooser.choose(model, sites))
    }

    fn add_biases(&self, model: &mut proto::Model) {
        if self.biases.is_empty() {
            return;
        }
        let mut index = 0;
        walk::change_networks(model, walk::ROOT, &mut |_, model| {
            let Some((layers, _)) = walk::network_mut(model) else { return 0 };
            walk::change_layers(layers, &mut index, &mut |index, layer| {
                if let Some(bias) = self.biases.get(&index) {
                    layers::add_bias(layer, bias.clone());
                }
            });
            0
        });
    }
}

/// The weight of a site in its new form, and how far it is from the values it had if that is to be measured.
pub(crate) fn convert(
    site: &Site<'_>,
    measure: bool,
    context: &mut QuantizeContext,
) -> Result<(WeightParams, Option<Distortion>), Error> {
    let Some(quantizer) = site.converter() else { return Ok((site.params.clone(), None)) };
    let fail = |cause| Error::Weight { place: Box::new(site.place.clone()), cause };
    let view = |buffers: &mut Buffers| site.view(buffers);
    let (payload, distortion) = quantizer::run(quantizer, view, site.after, measure, context).map_err(fail)?;
    Ok((params::to_params(payload, site.params.is_updatable), distortion))
}

/// How far a chosen weight is from the values that its site's weight had.
fn measure_chosen(site: &Site<'_>, chosen: &WeightParams, buffers: &mut Buffers) -> Result<Distortion, WeightError> {
    let original = site.view(buffers)?;
    let stored = params::view(chosen, &site.shape, site.spec(), buffers)?;
    let measured = distortion::between(original.as_le_bytes(), stored.as_le_bytes(), site.after);
    original.recycle(buffers);
    stored.recycle(buffers);
    Ok(measured)
}

/// Runs sites and counts what is done.
struct Job<'a> {
    chosen: &'a Chosen,
    config: &'a QuantConfig,
    sites: &'a [Site<'a>],
    /// What is measured of each site.
    distortions: Vec<OnceLock<Distortion>>,
    tally: &'a Tally<'a>,
}

impl<'a> Job<'a> {
    fn new(config: &'a QuantConfig, sites: &'a [Site<'a>], chosen: &'a Chosen, tally: &'a Tally<'a>) -> Self {
        Self { chosen, config, sites, distortions: sites.iter().map(|_| OnceLock::new()).collect(), tally }
    }

    /// The weight of a site in its new form.
    fn run(&self, index: usize, context: &mut QuantizeContext) -> Result<WeightParams, Error> {
        let site = &self.sites[index];
        if matches!(site.outcome, Outcome::Kept(_)) {
            return Ok(site.params.clone());
        }
        self.tally.go_on()?;
        let (params, distortion) = match self.chosen.weights.get(&index) {
            Some(params) => {
                let fail = |cause| Error::Weight { place: Box::new(site.place.clone()), cause };
                let mut measure = |params| measure_chosen(site, params, &mut context.buffers).map_err(fail);
                (params.clone(), self.config.measure.then(|| measure(params)).transpose()?)
            }
            None => convert(site, self.config.measure, context)?,
        };
        if let Some(distortion) = distortion {
            // Set once: no site runs twice.
            let _ = self.distortions[index].set(distortion);
        }
        self.tally.done(&site.place, site.shape.units as u64)?;
        Ok(params)
    }

    /// What was measured of each site.
    fn measured(self) -> Vec<Option<Distortion>> {
        let measure = self.config.measure;
        let of = |(site, measured): (&Site<'_>, OnceLock<Distortion>)| match site.outcome {
            Outcome::Kept(_) => measure.then_some(Distortion::NONE),
            _ => measured.into_inner(),
        };
        self.sites.iter().zip(self.distortions).map(of).collect()
    }
}

fn report(
    mean_images: Vec<MeanImage>,
    folds: FoldReport,
    sites: Vec<Site<'_>>,
    measured: Vec<Option<Distortion>>,
    calibration: Option<CalibrationReport>,
) -> Report {
    let weights = sites.into_iter().zip(measured).map(|(site, distortion)| WeightReport {
        place: site.place,
        shape: site.shape.dims,
        before: site.before,
        after: site.after,
        outcome: site.outcome,
        distortion,
    });
    Report { mean_images, folds, weights: weights.collect(), calibration }
}
