//! From a network's message to its steps: blobs get numbers, weights are decoded, and lives end after the last reader.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rayon::prelude::*;

use super::{BlobId, Network, Operation, Step};
use crate::error::Place;
use crate::format::layer_type;
use crate::format::proto::NeuralNetworkLayer;
use crate::format::proto::neural_network_layer::Layer;
use crate::model::walk::{self, inner_networks};
use crate::predict::error::{LayerInfo, PredictError};
use crate::predict::layers::{self, PrepareError, Prepared};

pub(super) type Prepare = Result<Option<Box<dyn Prepared>>, PrepareError>;

impl Network {
    /// Compiles a network that gets `inputs` and is asked for `outputs`.
    ///
    /// # Errors
    ///
    /// If a weight cannot be read, a parameter makes no sense, or a layer or output reads what is never written.
    pub(crate) fn compile(
        path: &str,
        layers: &[NeuralNetworkLayer],
        inputs: &[&str],
        outputs: &[&str],
    ) -> Result<Self, PredictError> {
        let mut all = Vec::new();
        collect(layers, &mut all);
        let prepared: Vec<Prepare> = all.par_iter().map(|layer| layers::prepare(layer)).collect();
        let mut compiler = Compiler { prepared: prepared.into_iter(), ..Compiler::default() };
        for input in inputs {
            let id = compiler.blob(input);
            compiler.written.insert(id);
        }
        let path: Arc<str> = path.into();
        let mut steps = compiler.steps(&path, layers)?;
        let mut ids = Vec::with_capacity(outputs.len());
        for &name in outputs {
            let written = compiler.ids.get(name).filter(|id| compiler.written.contains(id));
            let missing = || PredictError::MissingOutput { network: Arc::clone(&path), name: name.to_owned() };
            ids.push(*written.ok_or_else(missing)?);
        }
        let mut live: HashSet<BlobId> = ids.iter().copied().collect();
        free(&mut steps, &mut live);
        Ok(Self {
            path,
            steps: steps.into_iter().map(Draft::finish).collect(),
            blobs: Arc::new(compiler.names),
            ids: Arc::new(compiler.ids),
            outputs: ids,
        })
    }
}

/// All layers, those of inner networks after the layer they are in.
fn collect<'l>(layers: &'l [NeuralNetworkLayer], all: &mut Vec<&'l NeuralNetworkLayer>) {
    for layer in layers {
        all.push(layer);
        for (_, inner) in inner_networks(layer) {
            collect(&inner.layers, all);
        }
    }
}

/// A layer whose blobs' lives are not known yet.
struct Draft {
    info: LayerInfo,
    inputs: Vec<BlobId>,
    outputs: Vec<BlobId>,
    frees: Vec<BlobId>,
    operation: DraftOperation,
}

enum DraftOperation {
    Leaf(Operation),
    Branch([Vec<Draft>; 2]),
    Loop { limit: u64, condition_blob: Option<BlobId>, networks: [Vec<Draft>; 2] },
}

impl Draft {
    fn finish(self) -> Arc<Step> {
        let all = |drafts: Vec<Self>| drafts.into_iter().map(Self::finish).collect();
        let operation = match self.operation {
            DraftOperation::Leaf(operation) => operation,
            DraftOperation::Branch([then, otherwise]) => {
                Operation::Branch { then: all(then), otherwise: all(otherwise) }
            }
            DraftOperation::Loop { limit, condition_blob, networks: [condition, body] } => {
                Operation::Loop { limit, condition_blob, condition: all(condition), body: all(body) }
            }
        };
        let Self { info, inputs, outputs, frees, .. } = self;
        Arc::new(Step { info, inputs, outputs, frees, operation })
    }

    fn networks_mut(&mut self) -> Option<&mut [Vec<Self>; 2]> {
        match &mut self.operation {
            DraftOperation::Leaf(_) => None,
            DraftOperation::Branch(networks) | DraftOperation::Loop { networks, .. } => Some(networks),
        }
    }

    /// What this layer and those inside read and write.
    fn blobs(&self, read: &mut Vec<BlobId>, written: &mut Vec<BlobId>) {
        read.extend(&self.inputs);
        written.extend(&self.outputs);
        let networks = match &self.operation {
            DraftOperation::Leaf(_) => return,
            DraftOperation::Branch(networks) => networks,
            DraftOperation::Loop { condition_blob, networks, .. } => {
                read.extend(condition_blob);
                networks
            }
        };
        networks.iter().flatten().for_each(|draft| draft.blobs(read, written));
    }
}

/// Finds out after which layer each blob is read no more, from the end; `live` are the blobs that are read later.
fn free(steps: &mut [Draft], live: &mut HashSet<BlobId>) {
    for step in steps.iter_mut().rev() {
        let (mut read, mut written) = (Vec::new(), Vec::new());
        step.blobs(&mut read, &mut written);
        step.frees = read.iter().chain(&written).copied().filter(|id| !live.contains(id)).collect();
        step.frees.sort_unstable();
        step.frees.dedup();
        let repeats = matches!(step.operation, DraftOperation::Loop { .. });
        if let Some(networks) = step.networks_mut() {
            for network in networks {
                // A round may need whatever any other round has read or written.
                let mut inside = live.clone();
                if repeats {
                    inside.extend(read.iter().chain(&written));
                }
                free(network, &mut inside);
            }
        }
        live.extend(read);
    }
}

#[derive(Default)]
struct Compiler {
    prepared: std::vec::IntoIter<Prepare>,
    names: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, BlobId>,
    written: HashSet<BlobId>,
    next_index: usize,
}

impl Compiler {
    fn blob(&mut self, name: &str) -> BlobId {
        if let Some(&id) = self.ids.get(name) {
            return id;
        }
        let (id, name): (BlobId, Arc<str>) = (self.names.len(), name.into());
        self.names.push(Arc::clone(&name));
        self.ids.insert(name, id);
        id
    }

    fn steps(&mut self, path: &Arc<str>, layers: &[NeuralNetworkLayer]) -> Result<Vec<Draft>, PredictError> {
        layers.iter().map(|layer| self.step(path, layer)).collect()
    }

    fn step(&mut self, path: &Arc<str>, layer: &NeuralNetworkLayer) -> Result<Draft, PredictError> {
        let inputs: Vec<BlobId> = layer.input.iter().map(|name| self.blob(name)).collect();
        let outputs: Vec<BlobId> = layer.output.iter().map(|name| self.blob(name)).collect();
        let names = |ids: &[BlobId]| ids.iter().map(|&id| Arc::clone(&self.names[id])).collect();
        let info = LayerInfo {
            index: self.next_index,
            network: Arc::clone(path),
            name: layer.name.as_str().into(),
            layer_type: layer_type(layer).unwrap_or("none"),
            inputs: names(&inputs),
            outputs: names(&outputs),
        };
        self.next_index += 1;
        let prepared = self.prepared.next().unwrap_or(Ok(None));
        if let Some(&blob) = inputs.iter().find(|id| !self.written.contains(id)) {
            let blob = Arc::clone(&self.names[blob]);
            return Err(PredictError::MissingBlob { layer: Box::new(info), blob });
        }
        let missing = |what| PredictError::Incomplete { layer: Box::new(info.clone()), what };
        let operation = match &layer.layer {
            Some(Layer::Branch(p)) => {
                let mut networks = [Vec::new(), Vec::new()];
                let inner = [("ifBranch", p.if_branch.as_ref()), ("elseBranch", p.else_branch.as_ref())];
                for (network, (field, inner)) in networks.iter_mut().zip(inner) {
                    if let Some(inner) = inner {
                        *network = self.steps(&walk::inner_path(path, &layer.name, field).into(), &inner.layers)?;
                    } else if field == "ifBranch" {
                        return Err(missing("ifBranch"));
                    }
                }
                DraftOperation::Branch(networks)
            }
            Some(Layer::Loop(p)) => {
                let body = p.body_network.as_ref().ok_or_else(|| missing("bodyNetwork"))?;
                // What a round writes, the next one can read.
                for blob in written_in(layer) {
                    let id = self.blob(blob);
                    self.written.insert(id);
                }
                let condition_blob = (!p.condition_var.is_empty()).then(|| self.blob(&p.condition_var));
                let condition = match &p.condition_network {
                    Some(network) => {
                        self.steps(&walk::inner_path(path, &layer.name, "conditionNetwork").into(), &network.layers)?
                    }
                    None => Vec::new(),
                };
                let body = self.steps(&walk::inner_path(path, &layer.name, "bodyNetwork").into(), &body.layers)?;
                DraftOperation::Loop { limit: p.max_loop_iterations, condition_blob, networks: [condition, body] }
            }
            _ => DraftOperation::Leaf(leaf(layer, prepared, &info)?),
        };
        self.written.extend(&outputs);
        Ok(Draft { info, inputs, outputs, frees: Vec::new(), operation })
    }
}

/// The names of the blobs that the layers inside a layer write.
fn written_in(layer: &NeuralNetworkLayer) -> Vec<&str> {
    let mut all = Vec::new();
    for (_, inner) in inner_networks(layer) {
        collect(&inner.layers, &mut all);
    }
    all.into_iter().flat_map(|layer| layer.output.iter().map(String::as_str)).collect()
}

/// The operation of a layer without inner networks.
pub(super) fn leaf(layer: &NeuralNetworkLayer, prepared: Prepare, info: &LayerInfo) -> Result<Operation, PredictError> {
    let prepared = prepared.map_err(|error| match error {
        PrepareError::Layer(cause) => PredictError::Layer { layer: Box::new(info.clone()), cause },
        PrepareError::Weight(error) => PredictError::Weight {
            place: Box::new(Place {
                network: Arc::clone(&info.network),
                layer: Arc::clone(&info.name),
                layer_type: info.layer_type,
                index: info.index,
                field: error.field,
            }),
            cause: error.cause,
        },
    })?;
    Ok(match (prepared, &layer.layer) {
        (Some(prepared), _) => Operation::Prepared(prepared.into()),
        (None, Some(Layer::Copy(_))) => Operation::Copy,
        (None, Some(Layer::LoopBreak(_))) => Operation::Break,
        (None, Some(Layer::LoopContinue(_))) => Operation::Continue,
        (None, Some(Layer::Custom(params))) => Operation::Custom(Arc::new(params.clone())),
        (None, Some(layer)) => Operation::Simple(Arc::new(layer.clone())),
        (None, None) => {
            return Err(PredictError::Incomplete { layer: Box::new(info.clone()), what: "its type" });
        }
    })
}
