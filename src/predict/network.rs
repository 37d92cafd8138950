//! A network, compiled: its layers in order, their weights decoded, its blobs numbered.
//!
//! The networks inside branches and loops share the blobs of the network around them, as the format has it. A blob is
//! freed after the last layer that reads it; what a loop reads lives as long as the loop.
//!
//! Comparing and calibrating stand on three things: [`Network::run`] shows every layer's inputs and outputs as it goes,
//! [`Step::eval`] runs one layer alone on any inputs, and [`Network::with_layer`] puts another layer in the place of
//! one, sharing all others.

mod compile;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ndarray::IxDyn;
use rand_pcg::Pcg64;

use self::compile::leaf;
use super::error::{LayerInfo, PredictError};
use super::layers::{self, Limits, Prepared};
use super::network_model::note;
use super::ops;
use super::tensor::{LayerError, Tensor};
use crate::format::layer_type;
use crate::format::proto::neural_network_layer::Layer;
use crate::format::proto::{CustomLayerParams, NeuralNetworkLayer};

/// The number of a blob in a network.
pub(crate) type BlobId = usize;

/// A condition is true if its magnitude is larger than this.
const TRUE: f32 = 1e-6;

/// A custom layer's class: a function of its inputs, named by a network's `className`.
pub trait CustomLayer: Send + Sync {
    /// The outputs of a layer of this class.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the parameters or inputs; it is reported with the layer's place.
    fn evaluate(
        &self,
        params: &CustomLayerParams,
        inputs: &[Tensor],
    ) -> Result<Vec<Tensor>, Box<dyn std::error::Error + Send + Sync>>;
}

/// How numbers are kept between layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Precision {
    /// float32, as Core ML computes on a CPU.
    #[default]
    Single,
    /// What each layer computes is rounded to float16, as the Neural Engine keeps it.
    Half,
}

/// What holds for every run of a network.
#[derive(Clone)]
pub(crate) struct Options {
    pub precision: Precision,
    pub seed: u64,
    /// The most layers that may run.
    pub step_limit: u64,
    /// The most values that a blob may have.
    pub max_values: usize,
    pub custom: HashMap<String, Arc<dyn CustomLayer>>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("precision", &self.precision).field("seed", &self.seed).finish_non_exhaustive()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            precision: Precision::Single,
            seed: 0,
            step_limit: 10_000_000,
            max_values: 1 << 30,
            custom: HashMap::new(),
        }
    }
}

impl Options {
    /// What layers get to know, at the start of a run.
    pub(crate) fn context(&self) -> ops::Context {
        ops::Context {
            output_count: 0,
            max_values: self.max_values,
            random: Pcg64::new(self.seed.into(), 0x0a02_bdbf_7bb3_c0a7_ac28_fa16_a64a_bf96),
            notes: Vec::new(),
        }
    }
}

/// A layer, compiled.
#[derive(Debug)]
pub(crate) struct Step {
    /// What is reported of it.
    pub info: LayerInfo,
    pub inputs: Vec<BlobId>,
    pub outputs: Vec<BlobId>,
    /// Blobs that nobody reads after this layer.
    frees: Vec<BlobId>,
    operation: Operation,
}

/// What a layer does. Layers with inner networks are shared, so that a step is cheaply copied.
#[derive(Clone)]
enum Operation {
    /// Parameters only.
    Simple(Arc<Layer>),
    Prepared(Arc<dyn Prepared>),
    Custom(Arc<CustomLayerParams>),
    Copy,
    Branch {
        then: Vec<Arc<Step>>,
        otherwise: Vec<Arc<Step>>,
    },
    Loop {
        limit: u64,
        condition_blob: Option<BlobId>,
        condition: Vec<Arc<Step>>,
        body: Vec<Arc<Step>>,
    },
    Break,
    Continue,
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Simple(_) => "Simple",
            Self::Prepared(_) => "Prepared",
            Self::Custom(_) => "Custom",
            Self::Copy => "Copy",
            Self::Branch { .. } => "Branch",
            Self::Loop { .. } => "Loop",
            Self::Break => "Break",
            Self::Continue => "Continue",
        })
    }
}

/// A network, compiled.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    path: Arc<str>,
    steps: Vec<Arc<Step>>,
    blobs: Arc<Vec<Arc<str>>>,
    ids: Arc<HashMap<Arc<str>, BlobId>>,
    outputs: Vec<BlobId>,
}

/// What goes on after a layer.
enum Flow {
    Next,
    Break,
    Continue,
}

/// A layer that has run.
pub(crate) struct Ran<'r> {
    /// The path of the network whose blobs it reads and writes.
    pub network: &'r str,
    pub step: &'r Step,
    pub inputs: &'r [Tensor],
    pub outputs: &'r [Tensor],
}

/// Sees every layer that has run. An error of its own ends the run.
pub(crate) type Observer<'o> = dyn FnMut(Ran<'_>) -> Result<(), PredictError> + 'o;

impl Network {
    /// Where the network is.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The layers outside of branches and loops, in order.
    pub(crate) fn steps(&self) -> &[Arc<Step>] {
        &self.steps
    }

    /// The names of the outputs, in the order in which they were asked for.
    pub(crate) fn output_names(&self) -> impl Iterator<Item = &str> {
        self.outputs.iter().map(|&id| &*self.blobs[id])
    }

    /// The number of a blob.
    pub(crate) fn blob(&self, name: &str) -> Option<BlobId> {
        self.ids.get(name).copied()
    }

    /// Visits the custom layers, with their classes.
    pub(crate) fn each_custom(&self, visit: &mut dyn FnMut(&LayerInfo, &str)) {
        each_custom(&self.steps, visit);
    }

    /// The layer of an index, wherever it is.
    pub(crate) fn step(&self, index: usize) -> Option<&Step> {
        find(&self.steps, index)
    }

    /// The same network with another layer in the place of one. Blobs stay as they are; all other layers are shared.
    /// Not for branches and loops.
    ///
    /// # Errors
    ///
    /// As [`compile`](Self::compile); also if there is no such layer or it has networks inside.
    pub(crate) fn with_layer(&self, index: usize, layer: &NeuralNetworkLayer) -> Result<Self, PredictError> {
        let mut network = self.clone();
        let old = self.step(index).map(|step| step.info.clone());
        let Some(info) = old.filter(|info| Some(info.layer_type) == layer_type(layer)) else {
            let info = LayerInfo {
                index,
                network: Arc::clone(&self.path),
                name: layer.name.as_str().into(),
                layer_type: "none",
                inputs: Vec::new(),
                outputs: Vec::new(),
            };
            return Err(PredictError::Incomplete {
                layer: Box::new(info),
                what: "a layer of the same type in the network",
            });
        };
        let operation = leaf(layer, layers::prepare(layer), &info)?;
        replace(&mut network.steps, index, &operation);
        Ok(network)
    }

    /// Runs the network. `blobs` are the inputs by name; what is missing is only an error if a layer needs it.
    /// The outputs are in the order in which they were asked for.
    ///
    /// # Errors
    ///
    /// If a layer cannot be computed.
    pub(crate) fn run(
        &self,
        inputs: impl IntoIterator<Item = (String, Tensor)>,
        options: &Options,
        notes: &mut Vec<&'static str>,
        observer: &mut Observer<'_>,
    ) -> Result<Vec<Tensor>, PredictError> {
        let mut run = self.start(inputs, options);
        let result = run.all(&self.steps, observer);
        run.context.notes.drain(..).for_each(|what| note(notes, what));
        result?;
        run.outputs()
    }

    /// The state before the first layer.
    pub(crate) fn start<'r>(
        &'r self,
        inputs: impl IntoIterator<Item = (String, Tensor)>,
        options: &'r Options,
    ) -> Run<'r> {
        let mut blobs = vec![None; self.blobs.len()];
        for (name, tensor) in inputs {
            if let Some(id) = self.blob(&name) {
                blobs[id] = Some(tensor);
            }
        }
        Run { network: self, options, blobs, context: options.context(), steps_left: options.step_limit }
    }
}

fn each_custom(steps: &[Arc<Step>], visit: &mut dyn FnMut(&LayerInfo, &str)) {
    for step in steps {
        if let Operation::Custom(params) = &step.operation {
            visit(&step.info, &params.class_name);
        }
        step.inner().into_iter().for_each(|inner| each_custom(inner, visit));
    }
}

fn find(steps: &[Arc<Step>], index: usize) -> Option<&Step> {
    let at = steps.partition_point(|step| step.info.index <= index).checked_sub(1)?;
    let step = &steps[at];
    if step.info.index == index {
        return Some(step);
    }
    step.inner().into_iter().find_map(|inner| find(inner, index))
}

fn replace(steps: &mut [Arc<Step>], index: usize, new: &Operation) {
    let Some(at) = steps.partition_point(|step| step.info.index <= index).checked_sub(1) else { return };
    let old = &steps[at];
    let mut operation = if old.info.index == index { new.clone() } else { old.operation.clone() };
    if old.info.index != index {
        for inner in operation.inner_mut() {
            replace(inner, index, new);
        }
    }
    steps[at] = Arc::new(Step {
        info: old.info.clone(),
        inputs: old.inputs.clone(),
        outputs: old.outputs.clone(),
        frees: old.frees.clone(),
        operation,
    });
}

impl Operation {
    fn inner_mut(&mut self) -> Vec<&mut Vec<Arc<Step>>> {
        match self {
            Self::Branch { then, otherwise } => vec![then, otherwise],
            Self::Loop { condition, body, .. } => vec![condition, body],
            _ => Vec::new(),
        }
    }
}

impl Step {
    /// The networks inside.
    pub(crate) fn inner(&self) -> Vec<&[Arc<Step>]> {
        match &self.operation {
            Operation::Branch { then, otherwise } => vec![then, otherwise],
            Operation::Loop { condition, body, .. } => vec![condition, body],
            _ => Vec::new(),
        }
    }

    /// Runs the layer alone. Branches and loops cannot be run alone.
    ///
    /// # Errors
    ///
    /// If it cannot be computed for these inputs.
    pub(crate) fn eval(
        &self,
        inputs: &[Tensor],
        options: &Options,
        context: &mut ops::Context,
    ) -> Result<Vec<Tensor>, PredictError> {
        let fail = |cause| PredictError::Layer { layer: Box::new(self.info.clone()), cause };
        let unsupported = |what: String| fail(LayerError::Unsupported { what });
        context.output_count = self.outputs.len();
        let mut outputs = match &self.operation {
            Operation::Simple(layer) => match ops::eval(layer, inputs, context) {
                Some(outputs) => outputs.map_err(fail)?,
                None => return Err(unsupported(format!("a layer of the type {}", self.info.layer_type))),
            },
            Operation::Prepared(layer) => {
                if let Some(note) = layer.note() {
                    context.note(note);
                }
                let limits = Limits { output_count: self.outputs.len(), max_values: context.max_values };
                layer.eval(inputs, limits).map_err(fail)?
            }
            Operation::Copy => inputs.to_vec(),
            Operation::Custom(params) => match options.custom.get(&params.class_name) {
                Some(class) => class
                    .evaluate(params, inputs)
                    .map_err(|cause| PredictError::CustomLayer { layer: Box::new(self.info.clone()), cause })?,
                None => return Err(unsupported(format!("a custom layer of the class \"{}\"", params.class_name))),
            },
            Operation::Branch { .. } | Operation::Loop { .. } | Operation::Break | Operation::Continue => {
                return Err(unsupported("control flow outside of its network".to_owned()));
            }
        };
        if outputs.len() < self.outputs.len() {
            return Err(fail(LayerError::Parameter {
                name: "output",
                found: format!("{} names", self.outputs.len()),
                expected: format!("at most {}", outputs.len()),
            }));
        }
        outputs.truncate(self.outputs.len());
        for output in &mut outputs {
            if output.ndim() == 0 {
                *output = Tensor::from_elem(IxDyn(&[1]), first(output));
            }
            if options.precision == Precision::Half {
                output.mapv_inplace(|value| half::f16::from_f32(value).to_f32());
            }
        }
        Ok(outputs)
    }

    /// Whether an input may be missing; what stands for it then.
    fn substitute(&self, input: usize) -> Option<Tensor> {
        match &self.operation {
            Operation::Prepared(layer) if input > 0 => layer.state_len().map(|len| Tensor::zeros(IxDyn(&[len]))),
            _ => None,
        }
    }
}

/// A run of a network: what its layers have written and others will read. A copy shares the blobs.
#[derive(Clone)]
pub(crate) struct Run<'r> {
    network: &'r Network,
    options: &'r Options,
    blobs: Vec<Option<Tensor>>,
    context: ops::Context,
    steps_left: u64,
}

impl<'r> Run<'r> {
    /// Goes on for some of the network's outer layers.
    ///
    /// # Errors
    ///
    /// If a layer cannot be computed.
    pub(crate) fn advance(&mut self, steps: std::ops::Range<usize>) -> Result<(), PredictError> {
        let steps = self.network.steps.get(steps).unwrap_or_default();
        self.all(steps, &mut |_| Ok(())).map(|_| ())
    }

    /// The same state in another network: one that [`Network::with_layer`] has made of this run's.
    pub(crate) fn in_network(mut self, network: &'r Network) -> Self {
        self.network = network;
        self
    }

    /// Bytes of the blobs that are alive.
    pub(crate) fn bytes(&self) -> u64 {
        self.blobs.iter().flatten().map(|blob| size_of::<f32>() as u64 * blob.len() as u64).sum()
    }

    /// The network's outputs, in the order in which they were asked for.
    ///
    /// # Errors
    ///
    /// If one has not been written.
    pub(crate) fn outputs(&self) -> Result<Vec<Tensor>, PredictError> {
        let network = self.network;
        let missing = |id: BlobId| PredictError::MissingOutput {
            network: Arc::clone(&network.path),
            name: network.blobs[id].to_string(),
        };
        network.outputs.iter().map(|&id| self.blobs[id].clone().ok_or_else(|| missing(id))).collect()
    }

    fn all(&mut self, steps: &[Arc<Step>], observer: &mut Observer<'_>) -> Result<Flow, PredictError> {
        for step in steps {
            self.steps_left = self.steps_left.checked_sub(1).ok_or_else(|| PredictError::StepLimit {
                network: Arc::clone(&self.network.path),
                limit: self.options.step_limit,
            })?;
            let flow = self.step(step, observer)?;
            for &id in &step.frees {
                self.blobs[id] = None;
            }
            if !matches!(flow, Flow::Next) {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn read(&self, step: &Step, input: usize) -> Result<Tensor, PredictError> {
        let id = step.inputs[input];
        let missing = || PredictError::MissingBlob {
            layer: Box::new(step.info.clone()),
            blob: Arc::clone(&self.network.blobs[id]),
        };
        self.blobs[id].clone().or_else(|| step.substitute(input)).ok_or_else(missing)
    }

    fn step(&mut self, step: &Step, observer: &mut Observer<'_>) -> Result<Flow, PredictError> {
        match &step.operation {
            Operation::Break => return Ok(Flow::Break),
            Operation::Continue => return Ok(Flow::Continue),
            Operation::Branch { then, otherwise } => {
                let condition = if step.inputs.is_empty() { 0.0 } else { first(&self.read(step, 0)?) };
                return self.all(if condition.abs() > TRUE { then } else { otherwise }, observer);
            }
            Operation::Loop { limit, condition_blob, condition, body } => {
                let rounds = match (step.inputs.is_empty(), *limit) {
                    (false, _) => Some(first(&self.read(step, 0)?).max(0.0) as u64),
                    (true, 0) if condition_blob.is_some() => None,
                    (true, limit) => Some(limit),
                };
                let mut round = 0;
                while rounds.is_none_or(|rounds| round < rounds) {
                    round += 1;
                    // Rounds of a loop without layers count too.
                    self.steps_left = self.steps_left.saturating_sub(1);
                    if self.steps_left == 0 {
                        let network = Arc::clone(&self.network.path);
                        return Err(PredictError::StepLimit { network, limit: self.options.step_limit });
                    }
                    if let Some(id) = *condition_blob {
                        self.all(condition, observer)?;
                        let value = self.blobs[id].as_ref().map(first).ok_or_else(|| PredictError::MissingBlob {
                            layer: Box::new(step.info.clone()),
                            blob: Arc::clone(&self.network.blobs[id]),
                        })?;
                        if value.abs() <= TRUE {
                            break;
                        }
                    }
                    if let Flow::Break = self.all(body, observer)? {
                        break;
                    }
                }
                return Ok(Flow::Next);
            }
            Operation::Simple(_) | Operation::Prepared(_) | Operation::Custom(_) | Operation::Copy => {}
        }
        let inputs = (0..step.inputs.len()).map(|input| self.read(step, input)).collect::<Result<Vec<_>, _>>()?;
        let outputs = step.eval(&inputs, self.options, &mut self.context)?;
        observer(Ran { network: &self.network.path, step, inputs: &inputs, outputs: &outputs })?;
        drop(inputs);
        for (&id, output) in step.outputs.iter().zip(outputs) {
            self.blobs[id] = Some(output);
        }
        Ok(Flow::Next)
    }
}

/// The first value; 0 of none.
fn first(tensor: &Tensor) -> f32 {
    tensor.iter().next().copied().unwrap_or(0.0)
}
