//! The job itself: every planned weight is read, quantized and put back.

pub(crate) mod config;
pub(crate) mod method;
pub(crate) mod plan;
pub(crate) mod report;
pub(crate) mod save;
pub(crate) mod selector;
pub(crate) mod sites;

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use crate::error::{Error, WeightError};
use crate::fold::{FoldReport, fold_proto, has_foldable};
use crate::format::form::{Nbits, StoredForm};
use crate::format::proto::quantization_params::QuantizationType;
use crate::format::proto::{
    self, LinearQuantizationParams, LookUpTableQuantizationParams, QuantizationParams, WeightParams,
};
use crate::format::weight_params::{FloatValues, Hole};
use crate::kernels::Channels;
use crate::kernels::dequantize::{self, Stored};
use crate::model::Model;
use crate::network::layers::{self, ChannelAxis, Shape};
use crate::network::walk;
use crate::quantize::config::{Progress, QuantConfig};
use crate::quantize::report::{Outcome, Report, WeightReport};
use crate::quantize::save::SaveOptions;
use crate::quantize::sites::{Site, has_site, plan};
use crate::quantizer::{Buffers, QuantizedWeight, Quantizer, WeightView, channels};
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
/// [`Error::NoNetwork`] if the model has no neural network, [`Error::Weight`] for a weight that is not stored as its
/// layer needs it or whose values cannot be quantized.
pub fn quantize_weights(model: &Model, config: &QuantConfig) -> Result<Quantized, Error> {
    let (model, folds) = prepare(model, config)?;
    let sites = plan(&model, config)?;
    let job = Job::new(config, &sites);
    let results: Vec<Result<WeightParams, Error>> =
        (0..sites.len()).into_par_iter().map(|index| job.run(index, &mut Buffers::new())).collect();
    let params = results.into_iter().collect::<Result<Vec<_>, _>>()?;
    let measured = job.measured();
    let mut quantized = proto::Model::clone(&model);
    put_back(&mut quantized, &sites, params);
    Ok(Quantized { model: Model::from_proto(quantized), report: report(folds, sites, measured) })
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
    let (model, folds) = prepare(model, config)?;
    let sites = plan(&model, config)?;
    let job = Job::new(config, &sites);
    let holes: Vec<Arc<Hole>> = sites.iter().map(|site| Arc::new(Hole::new(encoded_len(site)))).collect();
    let mut skeleton = proto::Model::clone(&model);
    put_back(&mut skeleton, &sites, holes.iter().map(WeightParams::hole));
    save::write_file(&skeleton, &holes, path.as_ref(), options, &|index, buffers| job.run(index, buffers))?;
    let measured = job.measured();
    Ok(report(folds, sites, measured))
}

/// The model whose weights are planned: folded first, if the configuration says so.
pub(crate) fn prepare<'m>(
    model: &'m Model,
    config: &QuantConfig,
) -> Result<(Cow<'m, proto::Model>, FoldReport), Error> {
    model.require_network()?;
    if !config.fold || !has_foldable(model.proto()) {
        return Ok((Cow::Borrowed(model.proto()), FoldReport::default()));
    }
    let (folded, report) = fold_proto(model.proto());
    Ok((Cow::Owned(folded), report))
}

/// The encoded length of a site's weight once it is stored in its new form: known before it is computed.
fn encoded_len(site: &Site<'_>) -> usize {
    match site.outcome {
        Outcome::Kept(_) => prost::Message::encoded_len(site.params),
        Outcome::Converted | Outcome::MovedAlong => {
            WeightParams::encoded_len_of(site.after, site.shape.units, site.params.is_updatable)
        }
    }
}

/// Puts new weights in the place of the old ones, in the order of the sites, and raises the versions of the models
/// around them.
fn put_back(model: &mut proto::Model, sites: &[Site<'_>], params: impl IntoIterator<Item = WeightParams>) {
    let mut new = sites.iter().zip(params);
    walk::change_networks(model, walk::ROOT, &mut |_, model| {
        let mut version = 0;
        let Some((layers, _)) = walk::network_mut(model) else { return version };
        walk::change_layers(layers, &mut |layer| {
            let mut int8_dynamic = None;
            for weight in layers::weights_mut(layer).into_iter().filter(has_site) {
                let (Some(place), Some((site, params))) = (weight.params, new.next()) else { continue };
                *place = params;
                if site.outcome != Outcome::Converted {
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
                layers::set_int8_dynamic(layer, enabled);
            }
        });
        version
    });
}

/// Runs sites and counts what is done.
struct Job<'a> {
    config: &'a QuantConfig,
    sites: &'a [Site<'a>],
    /// What is measured of each site.
    distortions: Vec<OnceLock<Distortion>>,
    weights: usize,
    values: u64,
    weights_done: AtomicUsize,
    values_done: AtomicU64,
}

impl<'a> Job<'a> {
    fn new(config: &'a QuantConfig, sites: &'a [Site<'a>]) -> Self {
        let changed = || sites.iter().filter(|site| !matches!(site.outcome, Outcome::Kept(_)));
        Self {
            config,
            sites,
            distortions: sites.iter().map(|_| OnceLock::new()).collect(),
            weights: changed().count(),
            values: changed().map(|site| site.shape.units as u64).sum(),
            weights_done: AtomicUsize::new(0),
            values_done: AtomicU64::new(0),
        }
    }

    /// The weight of a site in its new form.
    fn run(&self, index: usize, buffers: &mut Buffers) -> Result<WeightParams, Error> {
        let site = &self.sites[index];
        let Some(quantizer) = site.converter() else { return Ok(site.params.clone()) };
        let fail = |source| Error::Weight { place: Box::new(site.place.clone()), source };
        let (quantized, distortion) = convert(site, quantizer, self.config.measure, buffers).map_err(fail)?;
        if let Some(distortion) = distortion {
            // Set once: no site runs twice.
            let _ = self.distortions[index].set(distortion);
        }
        let params = to_params(quantized, site.params.is_updatable);
        let units = site.shape.units as u64;
        let weights_done = self.weights_done.fetch_add(1, Ordering::Relaxed) + 1;
        let values_done = self.values_done.fetch_add(units, Ordering::Relaxed) + units;
        if let Some(progress) = &self.config.progress {
            progress(Progress { weights_done, weights: self.weights, values_done, values: self.values });
        }
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

fn report(folds: FoldReport, sites: Vec<Site<'_>>, measured: Vec<Option<Distortion>>) -> Report {
    let weights = sites.into_iter().zip(measured).map(|(site, distortion)| WeightReport {
        place: site.place,
        shape: site.shape.dims,
        before: site.before,
        after: site.after,
        outcome: site.outcome,
        distortion,
    });
    Report { folds, weights: weights.collect() }
}

/// A weight as a quantizer sees it.
pub(crate) fn view<'s>(site: &'s Site<'_>, buffers: &mut Buffers) -> WeightView<'s> {
    let Site { shape, params, .. } = site;
    let axis = shape.scale_axis();
    if site.before == StoredForm::Float32 {
        WeightView::shared(params.float_value.as_le_bytes(), &shape.dims, axis)
    } else {
        WeightView::decoded(decode(params, shape, site.before, buffers), &shape.dims, axis)
    }
}

/// How far a new form of a weight is from the values that the weight had.
fn distortion(site: &Site<'_>, quantized: &QuantizedWeight, buffers: &mut Buffers) -> Distortion {
    // A decoded weight went into the quantizer; decoding again is cheaper than a copy of every weight.
    let original = view(site, buffers);
    let distortion = distortion::distortion(&original, quantized);
    original.recycle(buffers);
    distortion
}

/// A weight in its new form, and how far that is from the values it had if it is to be measured.
fn convert(
    site: &Site<'_>,
    quantizer: &dyn Quantizer,
    measure: bool,
    buffers: &mut Buffers,
) -> Result<(QuantizedWeight, Option<Distortion>), WeightError> {
    let weight = view(site, buffers);
    let (quantized, measured) = if measure {
        quantizer.quantize_and_measure(weight, buffers)?
    } else {
        (quantizer.quantize(weight, buffers)?, None)
    };
    let returned = quantized.stored_form(site.shape.units)?;
    if returned != site.after {
        return Err(WeightError::OtherForm { announced: site.after, returned });
    }
    let measured = match measured {
        None if measure => Some(distortion(site, &quantized, buffers)),
        measured => measured,
    };
    Ok((quantized, measured))
}

/// The values of a weight as little-endian float32, from any form but that.
pub(crate) fn decode(params: &WeightParams, shape: &Shape, form: StoredForm, buffers: &mut Buffers) -> Vec<u8> {
    let mut values = buffers.take(StoredForm::Float32.byte_len(shape.units));
    let quantization = params.quantization.as_ref().and_then(|params| params.quantization_type.as_ref());
    match (form, quantization) {
        (StoredForm::Float16, _) => dequantize::decode(&params.float16_value, Stored::Float16, &mut values),
        (StoredForm::Linear { nbits, scales, .. }, Some(QuantizationType::LinearQuantization(linear))) => {
            let axis = shape.channels.filter(|_| scales > 1);
            let decode = |channels, scale: &[f32], bias: &[f32], values: &mut [u8]| {
                let stored = Stored::Linear { nbits: nbits.get(), channels, scale, bias };
                dequantize::decode(&params.raw_value, stored, values);
            };
            match axis {
                Some(axis) if axis.groups > 1 => {
                    let (rows, scale) = grouped_rows(shape, axis, &linear.scale);
                    decode(rows, &scale, &grouped_rows(shape, axis, &linear.bias).1, &mut values);
                }
                _ => {
                    decode(channels(&shape.dims, axis.map(|axis| axis.axis)), &linear.scale, &linear.bias, &mut values)
                }
            }
        }
        (StoredForm::LookupTable { nbits }, Some(QuantizationType::LookupTableQuantization(table))) => {
            let stored = Stored::Table { nbits: nbits.get(), table: &table.float_value };
            dequantize::decode(&params.raw_value, stored, &mut values);
        }
        (StoredForm::Int8, Some(QuantizationType::LinearQuantization(linear))) => {
            let scale = linear.scale.first().copied().unwrap_or(1.0);
            dequantize::decode(&params.int8_raw_value, Stored::Int8 { scale }, &mut values);
        }
        _ => {}
    }
    values
}

/// The scales (or biases) of a grouped deconvolution, where each slab of the first dimension has a stretch of its own,
/// repeated for every row of the two leading dimensions; and those rows as channels.
fn grouped_rows(shape: &Shape, axis: ChannelAxis, all: &[f32]) -> (Channels, Vec<f32>) {
    let (inputs, outputs) = (shape.dims[0], shape.dims[axis.axis]);
    let rows = inputs * outputs;
    let slab = inputs / axis.groups;
    let of_row = |row: usize| all.get(row / outputs / slab * outputs + row % outputs).copied();
    (Channels { outer: 1, count: rows, inner: shape.units / rows }, (0..rows).map_while(of_row).collect())
}

/// A quantized weight as Core ML stores it.
fn to_params(quantized: QuantizedWeight, is_updatable: bool) -> WeightParams {
    let empty = WeightParams { is_updatable, ..WeightParams::default() };
    match quantized {
        QuantizedWeight::Float32(bytes) => {
            WeightParams { float_value: FloatValues::from_le_bytes(bytes.into()).unwrap_or_default(), ..empty }
        }
        QuantizedWeight::Float16(bytes) => WeightParams { float16_value: bytes.into(), ..empty },
        QuantizedWeight::Linear { codes, scale, bias } => {
            let linear = LinearQuantizationParams { scale, bias };
            let quantization = quantization(codes.nbits(), QuantizationType::LinearQuantization(linear));
            WeightParams { raw_value: codes.into_packed().into(), quantization, ..empty }
        }
        QuantizedWeight::LookupTable { codes, table } => {
            let table = LookUpTableQuantizationParams { float_value: table };
            let quantization = quantization(codes.nbits(), QuantizationType::LookupTableQuantization(table));
            WeightParams { raw_value: codes.into_packed().into(), quantization, ..empty }
        }
        QuantizedWeight::Int8 { values, scale } => {
            let linear = LinearQuantizationParams { scale: vec![scale], bias: Vec::new() };
            let quantization = quantization(Nbits::EIGHT, QuantizationType::LinearQuantization(linear));
            WeightParams { int8_raw_value: values.into(), quantization, ..empty }
        }
    }
}

fn quantization(nbits: Nbits, kind: QuantizationType) -> Option<QuantizationParams> {
    Some(QuantizationParams { number_of_bits: nbits.get().into(), quantization_type: Some(kind) })
}
