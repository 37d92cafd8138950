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

use std::collections::BTreeMap;

use half::f16;

use super::gather::{Reading, transpose};
use super::levels::Grid;
use super::matrix::{Coded, Judge, Method, calibrate_matrix};
use super::moments::{Inputs, Stats, generator, some_positions};
use super::network::{Pair, Runner, asks};
use crate::error::{Error, WeightError};
use crate::format::form::{Nbits, StoredForm};
use crate::format::proto::neural_network_layer::Layer;
use crate::format::proto::{NeuralNetworkLayer, WeightParams};
use crate::network::{layers, params};
use crate::predict::Tensor;
use crate::predict::engine::Geometry;
use crate::quantize::calibration_report::NotCalibrated;
use crate::quantize::report::{Outcome, Reason};
use crate::quantize::sites::Site;
use crate::quantizer::{Levels, Needs, QuantizeContext, Statistics};
use crate::weight::{Buffers, Codes, Payload};

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
    /// See [`Inputs::with_damping`].
    pub(super) damping: f64,
}

/// What became of a layer.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Weights by the number of their site within the layer.
    pub(super) weights: BTreeMap<usize, WeightParams>,
    /// A bias, where there was none.
    pub(super) added_bias: Option<WeightParams>,
    /// What is told of weights, by the number of their site.
    pub(super) seen: BTreeMap<usize, Seen>,
}

/// What is told of a weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) reason: Option<NotCalibrated>,
    pub(super) inputs: usize,
    pub(super) positions: usize,
}

impl Seen {
    /// A weight that was not looked at.
    pub(super) fn left(reason: NotCalibrated) -> Self {
        Self { reason: Some(reason), inputs: 0, positions: 0 }
    }
}

/// A weight that is calibrated.
#[derive(Clone, Debug)]
struct Job {
    site: usize,
    choice: Choice,
    bias: String,
}

/// Who chooses the values.
#[derive(Clone, Copy, Debug)]
enum Choice {
    Calibration(Method, Nbits),
    Quantizer,
}

/// What the calibration of a layer has so far.
struct Calibrating<'a, 's, 'm> {
    /// The layer in the float network.
    layer: &'a NeuralNetworkLayer,
    /// The layer in the quantized one.
    quantized: &'a mut NeuralNetworkLayer,
    sites: &'a mut [Site<'m>],
    all: &'a LayerInputs<'s>,
    done: Done,
    /// What biases grow by, by their fields.
    shifts: Vec<(String, Vec<f64>)>,
}

/// Calibrates what can be of a layer; `quantized` is the layer without it, and changed.
///
/// # Errors
///
/// Those of its quantizers.
pub(super) fn calibrate_layer(
    layer: &NeuralNetworkLayer,
    quantized: &mut NeuralNetworkLayer,
    runner: &Runner<'_>,
    sites: &mut [Site<'_>],
    all: &LayerInputs<'_>,
) -> Result<Done, Error> {
    let mut this = Calibrating { layer, quantized, sites, all, done: Done::default(), shifts: Vec::new() };
    let mut jobs = Vec::new();
    for site in (0..this.sites.len()).filter(|&site| asks(&this.sites[site])) {
        match job(&this.sites[site], site) {
            Ok(job) => jobs.push(job),
            Err(reason) => {
                this.done.seen.insert(site, Seen::left(reason));
            }
        }
    }
    let Some(first) = all.inputs.first().and_then(|inputs| inputs.first()) else { return Ok(this.done) };
    let is_recursion = |job: &Job| this.sites[job.site].place.field.to_lowercase().contains("recursionmatrix");
    let (recursions, matrices): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(is_recursion);
    if let (Some(reading), false) = (reading(layer, runner, &first.float), matrices.is_empty()) {
        let blobs = all.inputs.iter().map(|inputs| {
            let (float, quantized) = (&inputs[0].float, inputs[0].quantized.as_ref());
            (values(float), quantized.map(values))
        });
        this.run(&matrices, &reading, gathered(&reading, blobs.collect(), all).as_ref())?;
    }
    if !recursions.is_empty() {
        this.recursions(&recursions)?;
    }
    this.shift_biases();
    Ok(this.done)
}

/// The job for a site whose quantizer asks for statistics.
fn job(site: &Site<'_>, index: usize) -> Result<Job, NotCalibrated> {
    let needs = site.quantizer.as_ref().map_or(Needs::Nothing, |quantizer| quantizer.needs());
    let choice = match needs {
        Needs::Nothing => return Err(NotCalibrated::UnknownUse),
        Needs::Statistics => Choice::Quantizer,
        Needs::Levels(levels) => {
            let method = match levels {
                Levels::Even => Method::Linear,
                Levels::EvenAroundZero => Method::LinearSymmetric,
                Levels::Table => Method::Table,
            };
            match (site.after, method) {
                (StoredForm::LookupTable { nbits }, Method::Table) => Choice::Calibration(method, nbits),
                (StoredForm::Linear { nbits, scales, biases }, Method::Linear | Method::LinearSymmetric)
                    if scales == biases && scales == site.shape.channel_count() =>
                {
                    Choice::Calibration(method, nbits)
                }
                _ => return Err(NotCalibrated::SharedScales),
            }
        }
    };
    let field = site.place.field.as_ref();
    let bias = field
        .replace("WeightMatrix", "BiasVector")
        .replace("RecursionMatrix", "BiasVector")
        .replace("weightMatrix", "biasVector")
        .replace("recursionMatrix", "biasVector")
        .replace("weights", "bias");
    if bias == field { Err(NotCalibrated::UnknownUse) } else { Ok(Job { site: index, choice, bias }) }
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
    let mut inputs = Inputs::new(reading.groups(), reading.inputs(), total, paired).with_damping(all.damping);
    for ((float, quantized), positions) in blobs.iter().zip(&chosen) {
        reading.read_all(float, quantized.as_deref(), positions, &mut inputs);
    }
    inputs.stats()
}

impl Calibrating<'_, '_, '_> {
    /// Calibrates recursion matrices: the layer runs again, its weight matrices quantized.
    fn recursions(&mut self, jobs: &[Job]) -> Result<(), Error> {
        // Biases as the weight matrices need them, recursion matrices as they were.
        self.shift_biases();
        let mut so_far = self.quantized.clone();
        let originals = layers::weights(self.layer);
        for place in layers::weights_mut(&mut so_far) {
            let is_recursion = jobs.iter().any(|job| self.sites[job.site].place.field == place.field);
            let original = originals.iter().find(|original| original.field == place.field);
            if let (true, Some(original), Some(place)) = (is_recursion, original.and_then(|it| it.params), place.params)
            {
                *place = original.clone();
            }
        }
        for direction in 0..directions(self.layer) {
            let prefix = format!("weightParams[{direction}]");
            let is_own =
                |job: &&Job| directions(self.layer) == 1 || self.sites[job.site].place.field.starts_with(&prefix);
            let own: Vec<Job> = jobs.iter().filter(is_own).cloned().collect();
            let Some((units, blobs)) = previous_outputs(self.layer, &so_far, self.all, direction) else { continue };
            let reading = Reading::Vectors(units);
            self.run(&own, &reading, gathered(&reading, blobs, self.all).as_ref())?;
        }
        Ok(())
    }

    /// Calibrates weights that share their statistics; without, the inputs are not finite.
    fn run(&mut self, jobs: &[Job], reading: &Reading, stats: Option<&Stats>) -> Result<(), Error> {
        let geometry = match reading {
            Reading::Windows { geometry, transposed: true } => Some(geometry),
            _ => None,
        };
        for job in jobs {
            let inputs = reading.inputs();
            let positions = stats.map_or(0, Stats::positions);
            let mut reason = Some(NotCalibrated::NotFinite);
            if let Some(stats) = stats {
                match self.chosen(job, reading.groups(), stats, geometry)? {
                    Ok((payload, bias)) => {
                        self.take(job, payload, bias);
                        reason = None;
                    }
                    Err(why) => reason = Some(why),
                }
            }
            self.done.seen.insert(job.site, Seen { reason, inputs, positions });
        }
        Ok(())
    }

    /// A weight and what its bias grows by, or why it stays as it is without samples.
    fn chosen(
        &self,
        job: &Job,
        groups: usize,
        stats: &Stats,
        geometry: Option<&Geometry>,
    ) -> Result<Result<(Payload, Vec<f64>), NotCalibrated>, Error> {
        let site = &self.sites[job.site];
        let fail = |cause: WeightError| Error::Weight { place: Box::new(site.place.clone()), cause };
        let Some(quantizer) = &site.quantizer else { return Ok(Err(NotCalibrated::UnknownUse)) };
        let mut context = QuantizeContext::new();
        let weight = site.view(&mut context.buffers).map_err(fail)?;
        let (original, blocks) = (weight.to_vec(), weight.blocks());
        if stats.inputs() == 0 || !original.len().is_multiple_of(stats.inputs() * groups) {
            return Ok(Err(NotCalibrated::UnknownUse));
        }
        if !original.iter().all(|value| value.is_finite()) {
            return Ok(Err(NotCalibrated::NotFinite));
        }
        let data_free = quantizer.quantize(weight.clone(), &mut context).map_err(|error| fail(error.into()))?;
        let to_rows = |values: &[f32]| match geometry {
            Some(geometry) => transpose(values, geometry, false),
            None => values.to_vec(),
        };
        let back = |values: Vec<f32>| match geometry {
            Some(geometry) => transpose(&values, geometry, true),
            None => values,
        };
        match job.choice {
            Choice::Calibration(method, nbits) => {
                let Some(mut data_free) = coded(data_free, original.len() / stats.inputs()) else {
                    return Ok(Err(NotCalibrated::SharedScales));
                };
                if let Some(geometry) = geometry {
                    data_free.codes = transpose(&data_free.codes, geometry, false);
                }
                let found = calibrate_matrix(to_rows(&original), stats, method, nbits.get(), Some(&data_free));
                if found.data_free {
                    return Ok(Err(NotCalibrated::NoBetter));
                }
                let codes = match geometry {
                    Some(geometry) => transpose(&found.coded.codes, geometry, true),
                    None => found.coded.codes,
                };
                let codes = Codes::pack(&codes, nbits).map_err(|error| fail(error.into()))?;
                let payload = match found.coded.grid {
                    Grid::Linear { scale, bias } => Payload::Linear { codes, scale, bias },
                    Grid::Table(table) => Payload::LookupTable { codes, table },
                };
                payload.check(original.len(), site.shape.channel_count()).map_err(fail)?;
                Ok(Ok((payload, found.bias)))
            }
            Choice::Quantizer => {
                let judge = Judge::new(&to_rows(&original), stats);
                let (target, importance) = (back(judge.target.clone()), back(judge.importance()));
                let error = |values: &[f32]| judge.error(&to_rows(values));
                let positions = stats.positions();
                let statistics = Statistics { importance: &importance, target: &target, positions, error: &error };
                let payload =
                    quantizer.quantize_with(weight, &statistics, &mut context).map_err(|error| fail(error.into()))?;
                payload.check(original.len(), blocks.count()).map_err(fail)?;
                let (announced, returned) = (site.after, payload.form());
                if returned != announced {
                    return Err(fail(WeightError::OtherForm { announced, returned }));
                }
                let stored = to_rows(&decoded(&payload, site, &mut context.buffers));
                if judge.error(&stored) >= judge.error(&to_rows(&decoded(&data_free, site, &mut context.buffers))) {
                    return Ok(Err(NotCalibrated::NoBetter));
                }
                Ok(Ok((payload, judge.bias(&stored))))
            }
        }
    }

    fn take(&mut self, job: &Job, payload: Payload, bias: Vec<f64>) {
        let site = &self.sites[job.site];
        let params = params::to_params(payload, site.params.is_updatable);
        put(self.quantized, &site.place.field, &params);
        self.done.weights.insert(job.site, params);
        match self.shifts.iter_mut().find(|(field, _)| *field == job.bias) {
            Some((_, shift)) => shift.iter_mut().zip(bias).for_each(|(shift, more)| *shift += more),
            None => self.shifts.push((job.bias.clone(), bias)),
        }
    }

    fn shift_biases(&mut self) {
        for (field, shift) in &self.shifts.clone() {
            self.shift_bias(field, shift);
        }
    }

    /// A bias in the float network and what is added to it. It becomes float16, but where it stays float32, the layer
    /// has other weights in float32, or a value does not fit.
    fn shift_bias(&mut self, field: &str, shift: &[f64]) {
        let Self { layer, quantized, sites, done, .. } = self;
        let index = sites.iter().position(|site| site.place.field == field);
        let mut buffers = Buffers::default();
        let before = match index {
            Some(index) => match sites[index].view(&mut buffers) {
                Ok(view) => view.to_vec(),
                Err(_) => return,
            },
            None => vec![0.0; shift.len()],
        };
        if before.len() != shift.len() {
            return;
        }
        let values: Vec<f32> =
            before.iter().zip(shift).map(|(bias, shift)| (f64::from(*bias) + shift) as f32).collect();
        let others = |form| {
            let is_other = |(at, site): (usize, &Site<'_>)| Some(at) != index && site.after == form;
            sites.iter().enumerate().any(is_other)
        };
        let halves: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
        let stays = index.is_some_and(|index| {
            matches!(sites[index].outcome, Outcome::Kept(_)) && sites[index].before == StoredForm::Float32
        });
        let single = stays || others(StoredForm::Float32) || !halves.iter().all(|half| half.is_finite());
        if single && others(StoredForm::Float16) {
            return;
        }
        let payload = if single {
            Payload::Float32(values.iter().flat_map(|value| value.to_le_bytes()).collect())
        } else {
            Payload::Float16(halves.iter().flat_map(|half| half.to_le_bytes()).collect())
        };
        let form = payload.form();
        match index {
            Some(index) => {
                let site = &mut sites[index];
                let untouched = [Reason::NotSelected, Reason::LeftAlone, Reason::Updatable];
                if untouched.iter().any(|&reason| site.outcome == Outcome::Kept(reason)) {
                    return;
                }
                let params = params::to_params(payload, site.params.is_updatable);
                (site.after, site.outcome) = (form, Outcome::Converted);
                put(quantized, field, &params);
                done.weights.insert(index, params);
            }
            None if layers::has_bias(layer) == Some(false) => {
                let params = params::to_params(payload, false);
                layers::add_bias(quantized, params.clone());
                done.added_bias = Some(params);
            }
            None => {}
        }
    }
}

/// Puts a weight in its place.
fn put(layer: &mut NeuralNetworkLayer, field: &str, params: &WeightParams) {
    let place = layers::weights_mut(layer).into_iter().find(|weight| weight.field == field);
    if let Some(place) = place.and_then(|weight| weight.params) {
        *place = params.clone();
    }
}

/// The values of a payload for a site.
fn decoded(payload: &Payload, site: &Site<'_>, buffers: &mut Buffers) -> Vec<f32> {
    let bytes = payload.decode(site.shape.stored_blocks(), buffers);
    let values = bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    buffers.give_back(bytes);
    values
}

/// What a quantizer made, as codes.
fn coded(quantized: Payload, rows: usize) -> Option<Coded> {
    match quantized {
        Payload::Linear { codes, scale, bias } if scale.len() == rows && bias.len() == rows => {
            Some(Coded { codes: codes.to_vec(), grid: Grid::Linear { scale, bias } })
        }
        Payload::LookupTable { codes, table } => Some(Coded { codes: codes.to_vec(), grid: Grid::Table(table) }),
        _ => None,
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
