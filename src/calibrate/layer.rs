//! The weights of one layer: which inputs each of them meets, in which shape it is a matrix, and where the correction of
//! the mean goes.
//!
//! | layer | rows | inputs |
//! |---|---|---|
//! | convolution | outputs of a group | windows of the group's channels |
//! | transposed convolution | the same | the same, with zeros between the inputs |
//! | innerProduct, batchedMatmul | outputs | vectors |
//! | embedding | outputs | the tokens, one of many |
//! | recurrent: weight matrices | units | steps of the sequence |
//! | recurrent: recursion matrices | units | the outputs of the steps before, once the weight matrices are quantized |

use half::f16;

use super::gather::{Reading, transpose};
use super::levels::Grid;
use super::matrix::{Coded, Method, calibrate_matrix};
use super::moments::{Inputs, Stats, generator, some_positions};
use super::network::{Pair, Runner};
use crate::format::form::StoredForm;
use crate::format::proto::neural_network_layer::Layer;
use crate::format::proto::{NeuralNetworkLayer, WeightParams};
use crate::network::layers;
use crate::predict::Tensor;
use crate::predict::engine::Geometry;
use crate::quantize::report::Outcome;
use crate::quantize::sites::{Site, has_site};
use crate::quantize::{to_params, view};
use crate::quantizer::{Buffers, Codes, Levels, QuantizedWeight};

/// Values of inputs that are held at a time, in one network.
const MOST_VALUES: usize = 1 << 26;
/// Positions that are looked at even if they are more values than that.
const LEAST_POSITIONS: usize = 64;

/// What a layer gets in both networks.
pub(super) struct LayerInputs<'a> {
    /// For each sample the layer's inputs.
    pub(super) inputs: &'a [Vec<Pair>],
    pub(super) seed: u64,
    pub(super) positions: usize,
}

/// What became of a layer.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Weights by the number of their site within the layer.
    pub(super) weights: Vec<(usize, WeightParams)>,
    /// A bias, where there was none.
    pub(super) added_bias: Option<WeightParams>,
}

/// A weight that is calibrated.
struct Job {
    site: usize,
    method: Method,
    nbits: crate::format::form::Nbits,
    bias: String,
}

/// Calibrates what can be of a layer; `quantized` is the layer without it, and changed.
pub(super) fn calibrate_layer(
    layer: &NeuralNetworkLayer,
    quantized: &mut NeuralNetworkLayer,
    runner: &Runner<'_>,
    sites: &mut [Site<'_>],
    all: &LayerInputs<'_>,
) -> Done {
    let mut done = Done::default();
    let jobs: Vec<Job> = (0..sites.len()).filter_map(|site| job(&sites[site], site)).collect();
    let Some(first) = all.inputs.first().and_then(|inputs| inputs.first()) else { return done };
    if jobs.is_empty() {
        return done;
    }
    let mut shifts: Vec<(String, Vec<f64>)> = Vec::new();
    let (recursions, matrices): (Vec<Job>, Vec<Job>) =
        jobs.into_iter().partition(|job| sites[job.site].place.field.to_lowercase().contains("recursionmatrix"));
    if let Some(reading) = reading(layer, runner, &first.float) {
        let blobs = all.inputs.iter().map(|inputs| {
            let (float, quantized) = (&inputs[0].float, inputs[0].quantized.as_ref());
            (values(float), quantized.map(values))
        });
        if let Some(stats) = gathered(&reading, blobs.collect(), all) {
            run(&matrices, &reading, &stats, sites, quantized, &mut done, &mut shifts);
        }
    }
    if !recursions.is_empty() {
        // Biases as the weight matrices need them, recursion matrices as they were.
        for (field, shift) in &shifts {
            shift_bias(layer, quantized, sites, field, shift, &mut done);
        }
        let mut so_far = quantized.clone();
        let originals = layers::weights(layer).into_iter().filter(has_site);
        let places = layers::weights_mut(&mut so_far).into_iter().filter(has_site);
        for (index, (original, place)) in originals.zip(places).enumerate() {
            let is_recursion = recursions.iter().any(|job| job.site == index);
            if let (true, Some(original), Some(place)) = (is_recursion, original.params, place.params) {
                *place = original.clone();
            }
        }
        for direction in 0..directions(layer) {
            let own: Vec<&Job> = recursions
                .iter()
                .filter(|job| {
                    directions(layer) == 1
                        || sites[job.site].place.field.starts_with(&format!("weightParams[{direction}]"))
                })
                .collect();
            let Some((units, blobs)) = previous_outputs(layer, &so_far, all, direction) else { continue };
            let reading = Reading::Vectors(units);
            if let Some(stats) = gathered(&reading, blobs, all) {
                let own: Vec<Job> = own
                    .into_iter()
                    .map(|job| Job { site: job.site, method: job.method, nbits: job.nbits, bias: job.bias.clone() })
                    .collect();
                run(&own, &reading, &stats, sites, quantized, &mut done, &mut shifts);
            }
        }
    }
    for (field, shift) in shifts {
        shift_bias(layer, quantized, sites, &field, &shift, &mut done);
    }
    done
}

/// The job for a site, if its weight can be calibrated.
fn job(site: &Site<'_>, index: usize) -> Option<Job> {
    if site.outcome != Outcome::Converted {
        return None;
    }
    let method = match site.quantizer.as_ref()?.levels()? {
        Levels::Even => Method::Linear,
        Levels::EvenAroundZero => Method::LinearSymmetric,
        Levels::Table => Method::Table,
    };
    let nbits = match (site.after, method) {
        (StoredForm::LookupTable { nbits }, Method::Table) => nbits,
        (StoredForm::Linear { nbits, scales, biases }, Method::Linear | Method::LinearSymmetric)
            if scales == biases =>
        {
            let rows = site.shape.channels.map_or(1, |channels| site.shape.dims[channels.axis] * channels.groups);
            if scales != rows {
                return None;
            }
            nbits
        }
        _ => return None,
    };
    let field = site.place.field.as_ref();
    let bias = field
        .replace("WeightMatrix", "BiasVector")
        .replace("RecursionMatrix", "BiasVector")
        .replace("weightMatrix", "biasVector")
        .replace("recursionMatrix", "biasVector")
        .replace("weights", "bias");
    (bias != field).then_some(Job { site: index, method, nbits, bias })
}

/// How a layer reads its first input.
fn reading(layer: &NeuralNetworkLayer, runner: &Runner<'_>, input: &Tensor) -> Option<Reading> {
    let size = |value: u64| usize::try_from(value).ok().filter(|&value| value > 0);
    Some(match layer.layer.as_ref()? {
        Layer::Convolution(_) => {
            let (geometry, transposed) = runner.prepared()?.windows(input)?;
            Reading::Windows { geometry, transposed }
        }
        Layer::InnerProduct(p) => Reading::Vectors(size(p.input_channels)?),
        Layer::BatchedMatmul(p) => Reading::Vectors(size(p.weight_matrix_first_dimension)?),
        Layer::Embedding(p) => Reading::Tokens(size(p.input_dim)?),
        Layer::EmbeddingNd(p) => Reading::Tokens(size(p.vocab_size)?),
        Layer::SimpleRecurrent(p) => Reading::Vectors(size(p.input_vector_size)?),
        Layer::Gru(p) => Reading::Vectors(size(p.input_vector_size)?),
        Layer::UniDirectionalLstm(p) => Reading::Vectors(size(p.input_vector_size)?),
        Layer::BiDirectionalLstm(p) => Reading::Vectors(size(p.input_vector_size)?),
        _ => return None,
    })
}

/// The values of a tensor, row-major.
fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.as_slice().map_or_else(|| tensor.iter().copied().collect(), <[f32]>::to_vec)
}

/// The statistics at some positions of the blobs, one for each sample.
fn gathered(reading: &Reading, blobs: Vec<(Vec<f32>, Option<Vec<f32>>)>, all: &LayerInputs<'_>) -> Option<Stats> {
    let width = reading.groups() * reading.inputs();
    if width == 0 {
        return None;
    }
    // Neighbouring windows overlap; vectors tell more each.
    let positions = if matches!(reading, Reading::Windows { .. }) { all.positions } else { 4 * all.positions };
    let wanted = positions.min((MOST_VALUES / width).max(LEAST_POSITIONS)).div_ceil(blobs.len().max(1));
    let mut rng = generator(all.seed);
    let chosen: Vec<Vec<usize>> =
        blobs.iter().map(|(float, _)| some_positions(reading.positions(float.len()), wanted, &mut rng)).collect();
    let paired = blobs.iter().any(|(_, quantized)| quantized.is_some());
    let total = chosen.iter().map(Vec::len).sum();
    let mut inputs = Inputs::new(reading.groups(), reading.inputs(), total, paired);
    for ((float, quantized), positions) in blobs.iter().zip(&chosen) {
        reading.read_all(float, quantized.as_deref(), positions, &mut inputs);
    }
    inputs.stats()
}

/// Calibrates weights that share their statistics.
fn run(
    jobs: &[Job],
    reading: &Reading,
    stats: &Stats,
    sites: &[Site<'_>],
    quantized: &mut NeuralNetworkLayer,
    done: &mut Done,
    shifts: &mut Vec<(String, Vec<f64>)>,
) {
    let geometry = match reading {
        Reading::Windows { geometry, transposed: true } => Some(geometry),
        _ => None,
    };
    for job in jobs {
        let site = &sites[job.site];
        let mut buffers = Buffers::new();
        let weight = view(site, &mut buffers);
        let mut matrix = weight.to_vec();
        let whole = matrix.len().is_multiple_of(stats.inputs() * reading.groups());
        if !whole || !matrix.iter().all(|value| value.is_finite()) {
            continue;
        }
        let Some(quantizer) = &site.quantizer else { continue };
        let Ok(data_free) = quantizer.quantize(weight, &mut buffers) else { continue };
        let rows = matrix.len() / stats.inputs();
        let Some(mut data_free) = coded(data_free, rows) else { continue };
        if let Some(geometry) = geometry {
            matrix = transpose(&matrix, geometry, false);
            data_free.codes = transpose(&data_free.codes, geometry, false);
        }
        let found = calibrate_matrix(matrix, stats, job.method, job.nbits.get(), Some(&data_free));
        let Some(params) = stored(found.coded, job, geometry, site) else { continue };
        let place = layers::weights_mut(quantized).into_iter().filter(has_site).nth(job.site);
        if let Some(place) = place.and_then(|weight| weight.params) {
            *place = params.clone();
        }
        done.weights.push((job.site, params));
        match shifts.iter_mut().find(|(field, _)| *field == job.bias) {
            Some((_, shift)) => shift.iter_mut().zip(found.bias).for_each(|(shift, more)| *shift += more),
            None => shifts.push((job.bias.clone(), found.bias)),
        }
    }
}

/// Codes as they are stored.
fn stored(coded: Coded, job: &Job, geometry: Option<&Geometry>, site: &Site<'_>) -> Option<WeightParams> {
    let codes = match geometry {
        Some(geometry) => transpose(&coded.codes, geometry, true),
        None => coded.codes,
    };
    let codes = Codes::pack(&codes, job.nbits).ok()?;
    let quantized = match coded.grid {
        Grid::Linear { scale, bias } => QuantizedWeight::Linear { codes, scale, bias },
        Grid::Table(table) => QuantizedWeight::LookupTable { codes, table },
    };
    let form = quantized.stored_form(site.shape.units).ok()?;
    (form == site.after).then(|| to_params(quantized, site.params.is_updatable))
}

/// What a quantizer made, as codes.
fn coded(quantized: QuantizedWeight, rows: usize) -> Option<Coded> {
    match quantized {
        QuantizedWeight::Linear { codes, scale, bias } if scale.len() == rows && bias.len() == rows => {
            Some(Coded { codes: codes.to_vec(), grid: Grid::Linear { scale, bias } })
        }
        QuantizedWeight::LookupTable { codes, table } => {
            Some(Coded { codes: codes.to_vec(), grid: Grid::Table(table) })
        }
        _ => None,
    }
}

/// Adds to a bias: float16 if the layer's float weights are not float32.
fn shift_bias(
    layer: &NeuralNetworkLayer,
    quantized: &mut NeuralNetworkLayer,
    sites: &mut [Site<'_>],
    field: &str,
    shift: &[f64],
    done: &mut Done,
) {
    let index = sites.iter().position(|site| site.place.field == field);
    let before = match index {
        Some(index) => {
            let mut buffers = Buffers::new();
            view(&sites[index], &mut buffers).to_vec()
        }
        None => vec![0.0; shift.len()],
    };
    if before.len() != shift.len() {
        return;
    }
    let values: Vec<f32> = before.iter().zip(shift).map(|(bias, shift)| (f64::from(*bias) + shift) as f32).collect();
    let other_float32 = sites
        .iter()
        .enumerate()
        .any(|(at, site)| Some(at) != index && site.after == StoredForm::Float32 && site.place.field != field);
    let halves: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
    let fits = halves.iter().all(|half| half.is_finite());
    let (params, form) = if other_float32 || !fits {
        (WeightParams::from_floats(&values), StoredForm::Float32)
    } else {
        let bytes: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
        (WeightParams { float16_value: bytes.into(), ..WeightParams::default() }, StoredForm::Float16)
    };
    match index {
        Some(index) => {
            let other_float16 =
                sites.iter().enumerate().any(|(at, site)| at != index && site.after == StoredForm::Float16);
            if form == StoredForm::Float32 && other_float16 {
                return;
            }
            let site = &mut sites[index];
            let params = WeightParams { is_updatable: site.params.is_updatable, ..params };
            site.after = form;
            site.outcome = Outcome::Converted;
            let place = layers::weights_mut(quantized).into_iter().filter(has_site).nth(index);
            if let Some(place) = place.and_then(|weight| weight.params) {
                *place = params.clone();
            }
            done.weights.push((index, params));
        }
        None if layers::has_bias(layer) == Some(false) => {
            layers::add_bias(quantized, params.clone());
            done.added_bias = Some(params);
        }
        None => {}
    }
}

/// How many times a recurrent layer runs over its sequence.
fn directions(layer: &NeuralNetworkLayer) -> usize {
    if matches!(layer.layer, Some(Layer::BiDirectionalLstm(_))) { 2 } else { 1 }
}

/// For each sample, the vectors that a recursion matrix meets: the outputs of the steps before, in both networks.
#[expect(clippy::type_complexity, reason = "a vector for each network, where they differ")]
fn previous_outputs(
    layer: &NeuralNetworkLayer,
    quantized: &NeuralNetworkLayer,
    all: &LayerInputs<'_>,
    direction: usize,
) -> Option<(usize, Vec<(Vec<f32>, Option<Vec<f32>>)>)> {
    let (float, quantized) = (with_all_steps(layer)?, with_all_steps(quantized)?);
    let (float, quantized) = (Runner::new(&float)?, Runner::new(&quantized)?);
    let units = float.prepared()?.state_len()?;
    let directions = directions(layer);
    let shifted = |inputs: Vec<Tensor>, runner: &Runner<'_>| -> Option<Vec<f32>> {
        let outputs = values(runner.run(&inputs)?.first()?);
        let batch = *inputs.first()?.shape().get(1)?;
        let width = units * directions;
        let mut rows: Vec<Vec<f32>> = outputs
            .chunks(batch * width)
            .map(|step| step.chunks(width).flat_map(|row| row[direction * units..][..units].to_vec()).collect())
            .collect();
        // The backward half is aligned with the input: the step before is the next one.
        if direction == 1 {
            rows.reverse();
        }
        // Forward states come first; each direction of an LSTM has two.
        let state = inputs.get(1 + 2 * direction).map(values).filter(|state| state.len() == batch * units);
        rows.pop();
        rows.insert(0, state.unwrap_or_else(|| vec![0.0; batch * units]));
        Some(rows.concat())
    };
    let mut blobs = Vec::with_capacity(all.inputs.len());
    for inputs in all.inputs {
        let own = inputs.iter().map(|pair| pair.float.clone()).collect();
        let other = inputs.iter().map(|pair| pair.in_quantized().clone()).collect();
        blobs.push((shifted(own, &float)?, Some(shifted(other, &quantized)?)));
    }
    Some((units, blobs))
}

/// The layer with an output for each step.
fn with_all_steps(layer: &NeuralNetworkLayer) -> Option<NeuralNetworkLayer> {
    let mut layer = layer.clone();
    match layer.layer.as_mut()? {
        Layer::SimpleRecurrent(p) => p.sequence_output = true,
        Layer::Gru(p) => p.sequence_output = true,
        Layer::UniDirectionalLstm(p) => p.params.get_or_insert_default().sequence_output = true,
        Layer::BiDirectionalLstm(p) => p.params.get_or_insert_default().sequence_output = true,
        _ => return None,
    }
    layer.output.truncate(1);
    Some(layer)
}
