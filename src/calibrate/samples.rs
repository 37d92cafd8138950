//! What calibration runs on: samples of a model's inputs, and how they enter its network.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use ndarray::ArrayD;
use rand::RngExt;
use rayon::prelude::*;

use super::moments::generator;
use super::synthetic::{dead_leaves, tokens, vocabulary};
use crate::error::Error;
use crate::format::proto::Model;
use crate::model::walk;
use crate::network::layers::is_recurrent;
use crate::predict::network_model::NetworkModel;
use crate::predict::{FeatureInfo, FeatureKind, Features, Tensor};

/// Samples that go through the network while its weights are chosen: inputs as it will get them, without labels. 128 are
/// usually enough.
///
/// The result is measured on the last fifth, with weights that are chosen on the others; those that are stored are chosen
/// on all. Where there is no data, [`synthetic`](Self::synthetic) samples
/// keep most of what real ones gain.
///
/// ```
/// use coreml_quant::{Calibration, Model, QuantConfig, quantize_weights};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/digits/digits.mlmodel");
/// let model = Model::open(path)?;
/// let config = QuantConfig::kmeans_lut(2)?.with_calibration(Calibration::synthetic(16));
/// let report = quantize_weights(&model, &config)?.report;
/// println!("{}", report.calibration.ok_or("not calibrated")?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Calibration {
    source: Source,
    pub(super) seed: u64,
    pub(super) positions: usize,
    pub(super) memory: u64,
    hold_back: bool,
    pub(super) progress: Option<Arc<Progress>>,
}

type Progress = dyn Fn(CalibrationProgress) -> ControlFlow<()> + Send + Sync;

/// How far calibration is.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CalibrationProgress {
    /// Layers of the network that are done.
    pub layers_done: usize,
    /// Layers there are.
    pub layers: usize,
}

#[derive(Clone)]
enum Source {
    Given(Arc<Vec<Features>>),
    Synthetic(usize),
}

/// Positions of a convolution whose inputs are looked at, over all samples.
const POSITIONS: usize = 4096;
/// Bytes that blobs may take.
const MEMORY: u64 = 2 << 30;
/// Steps of a sequence that is drawn.
const STEPS: usize = 32;
/// One of so many samples is held back.
const HELD_BACK: usize = 5;

impl fmt::Debug for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, samples) = match &self.source {
            Source::Given(samples) => ("given", samples.len()),
            Source::Synthetic(count) => ("synthetic", *count),
        };
        f.debug_struct("Calibration")
            .field(kind, &samples)
            .field("seed", &self.seed)
            .field("positions", &self.positions)
            .field("memory", &self.memory)
            .field("hold_back", &self.hold_back)
            .finish_non_exhaustive()
    }
}

/// Samples as blobs.
#[derive(Clone)]
pub(super) struct Entering {
    /// For each sample, its blobs by name: those to calibrate on, then those held back.
    pub(super) blobs: Vec<Vec<(String, Tensor)>>,
    pub(super) held_back: usize,
    pub(super) synthetic: bool,
}

impl Calibration {
    /// On samples: the inputs of the model, by name.
    pub fn new(samples: impl IntoIterator<Item = Features>) -> Self {
        Self::from_source(Source::Given(Arc::new(samples.into_iter().collect())))
    }

    /// On so many samples that are drawn, and a fourth of them more to measure on: pictures of overlapping shapes of random
    /// sizes and values for images and arrays of three dimensions, from 0 to 255 or from 0 to 1; random tokens for what is
    /// looked up in an embedding; random values from 0 to 1 else.
    ///
    /// Better than nothing for networks that see pictures, and no substitute for data.
    pub fn synthetic(count: usize) -> Self {
        Self::from_source(Source::Synthetic(count))
    }

    fn from_source(source: Source) -> Self {
        Self { source, seed: 0, positions: POSITIONS, memory: MEMORY, hold_back: true, progress: None }
    }

    /// The seed of what is drawn: synthetic samples, and positions. Default: 0.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// At how many output positions of a convolution its inputs are looked at, over all samples, and a quarter of the
    /// vectors that other layers look at; memory and time grow with it. At least 1. Default: 4,096.
    #[must_use]
    pub fn with_positions(mut self, positions: usize) -> Self {
        self.positions = positions.max(1);
        self
    }

    /// How many bytes the blobs between layers may take, in all samples and both networks; what a layer's statistics take
    /// (about three times the square of its inputs, in float32) comes to it. Samples beyond are left out, the last ones
    /// first, and the report warns; one is always used. Default: 2 GiB.
    #[must_use]
    pub fn with_memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// Whether the network's outputs are measured on a fifth of the samples that is held back, of five samples or more.
    /// Then all is computed twice: once without these, once with all. Default: yes.
    #[must_use]
    pub fn with_held_back(mut self, hold_back: bool) -> Self {
        self.hold_back = hold_back;
        self
    }

    /// Calls `progress` after each layer; [`ControlFlow::Break`] ends the job with [`Error::Cancelled`].
    #[must_use]
    pub fn with_progress(
        mut self,
        progress: impl Fn(CalibrationProgress) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }

    /// The blobs of the model's own network for each sample, preprocessed. `None` if the model has no network of its own.
    pub(super) fn enter(&self, model: &Model) -> Result<Option<Entering>, Error> {
        let failed = |what: String| move |cause| Error::Calibration { what, cause: Box::new(cause) };
        let compiled = NetworkModel::compile(model, walk::ROOT).map_err(failed("the model".to_owned()))?;
        let Some(compiled) = compiled else { return Ok(None) };
        let drawn;
        let (samples, held_back, synthetic) = match &self.source {
            Source::Given(samples) => {
                let held_back = if self.hold_back { samples.len() / HELD_BACK } else { 0 };
                (&samples[..], held_back, false)
            }
            Source::Synthetic(count) => {
                let held_back = if self.hold_back { count / (HELD_BACK - 1) } else { 0 };
                drawn = self.draw(model, &compiled.inputs, count + held_back);
                (&drawn[..], held_back, true)
            }
        };
        if samples.is_empty() {
            return Err(Error::NoSamples);
        }
        let enter = |(index, sample): (usize, &Features)| {
            compiled.blobs(sample, &mut Vec::new()).map_err(failed(format!("sample {index}")))
        };
        let blobs = samples.par_iter().enumerate().map(enter).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(Entering { blobs, held_back, synthetic }))
    }

    fn draw(&self, model: &Model, inputs: &[FeatureInfo], count: usize) -> Vec<Features> {
        let mut rng = generator(self.seed);
        let layers = walk::network(model).map_or(&[][..], |(layers, _)| layers);
        let sequences = !walk::network(model).is_some_and(|(_, mapping)| walk::is_exact(mapping))
            && layers.iter().any(is_recurrent);
        let mut sample = || {
            let drawn = inputs.iter().filter(|input| !input.optional).filter_map(|input| {
                let (shape, top) = match &input.kind {
                    FeatureKind::Image { height, width, order, .. } => (vec![order.channels(), *height, *width], 255.0),
                    FeatureKind::Array { shape, .. } => (shape.clone(), 1.0),
                    _ => (vec![1], 1.0),
                };
                let mut shape: Vec<usize> = shape.into_iter().map(|size| size.max(1)).collect();
                if let ([_], true) = (&shape[..], sequences) {
                    shape.splice(0..0, [STEPS, 1]);
                }
                let len = shape.iter().product();
                let values = match (vocabulary(layers, &input.name), &shape[..]) {
                    (Some(words), _) => tokens(len, words, &mut rng),
                    (None, [.., channels, height, width]) if !sequences || shape.len() > 3 => {
                        let pictures = (0..len / (channels * height * width))
                            .flat_map(|_| dead_leaves(*channels, *height, *width, &mut rng));
                        pictures.map(|value| top * value).collect()
                    }
                    (None, [height, width]) => dead_leaves(1, *height, *width, &mut rng),
                    _ => (0..len).map(|_| rng.random_range(0.0..top)).collect(),
                };
                Some((input.name.clone(), ArrayD::from_shape_vec(shape, values).ok()?.into()))
            });
            drawn.collect()
        };
        (0..count).map(|_| sample()).collect()
    }
}
