//! The weights of programs: constants of float16 and float32, and what is decompressed to these, with their consumers.
//!
//! A weight that several operations take is one weight. Where functions refer to the same bytes of a weight file, in the
//! same type and form, that is one weight too, made by several operations.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::axes::{self, Axes};
use super::evaluate::evaluate;
use super::form::stored_len;
use super::graph::{Graph, Node, Source, Use, constant, is_constexpr};
use super::operations;
use super::opset::{self, Opset};
use super::value::{BLOB_FROM, BlobFiles, Tensor, TensorSpec};
use crate::error::{Place, WeightProblem};
use crate::format::dtype::Dtype;
use crate::format::form::{Nbits, ProgramForm, StoredForm};
use crate::format::proto::mil_spec::value::{BlobFileValue, Value as Stored};
use crate::format::proto::mil_spec::{Operation, Program, Value};
use crate::format::proto::{Model, model::Type};
use crate::model::walk;

/// The weight file of programs that have none yet.
const WEIGHT_FILE: &str = "@model_path/weights/weight.bin";

/// The programs of a model and their weights.
#[derive(Debug, Default)]
pub(crate) struct Programs<'m> {
    /// In the order of the walk through models.
    pub(crate) programs: Vec<ProgramGraph<'m>>,
    /// In the order of the programs.
    pub(crate) weights: Vec<ProgramWeight<'m>>,
}

/// A program and what connects its operations.
#[derive(Debug)]
pub(crate) struct ProgramGraph<'m> {
    pub(crate) program: &'m Program,
    pub(crate) graph: Graph<'m>,
    /// The oldest opset of its functions; `None` if one is not known.
    pub(crate) opset: Option<Opset>,
}

/// One weight.
#[derive(Debug)]
pub(crate) struct ProgramWeight<'m> {
    /// The program's index.
    pub(crate) program: usize,
    /// The operations that make it.
    pub(crate) nodes: Vec<usize>,
    /// The weight as its first consumer sees it.
    pub(crate) place: Place,
    /// The types of all consumers and their parameters, each once.
    pub(crate) consumers: Vec<(&'static str, &'m str)>,
    pub(crate) spec: TensorSpec,
    pub(crate) stored: StoredForm,
    /// The channel axes on which all consumers agree.
    pub(crate) axes: Option<Axes>,
    /// What keeps it from being compressed.
    pub(crate) hold: Option<Hold>,
    /// Where it is, or where it is to be put.
    pub(crate) file: String,
    pub(crate) offset: u64,
}

/// Why a weight must not be compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// No operation takes it.
    Unused,
    /// A block returns it as it is.
    BlockOutput,
    /// It has fewer than two dimensions.
    FewDimensions,
    /// An operation uses its values as positions or counts.
    Exact {
        /// The operation's type.
        operation: &'static str,
    },
}

impl<'m> Programs<'m> {
    /// The programs of a model; `index` is that of the first operation among all layers of the model.
    pub(crate) fn of(model: &'m Model, index: usize) -> Self {
        let mut found = Self::default();
        let mut next = index;
        walk::each_model(model, walk::ROOT, &mut |path, model| {
            if let Some(Type::MlProgram(program)) = &model.r#type {
                let graph = Graph::of(program, path);
                let nodes = graph.nodes.len();
                found.add(program, graph, next);
                next += nodes;
            }
        });
        found
    }

    fn add(&mut self, program: &'m Program, graph: Graph<'m>, index: usize) {
        let number = self.programs.len();
        let mut known: HashMap<Vec<u8>, usize> = HashMap::new();
        for (node, it) in graph.nodes.iter().enumerate() {
            let Some((spec, stored)) = weight(&graph, it) else { continue };
            // What only feeds another compressed form is a part of that.
            let uses: Vec<Use<'m>> = it.uses.clone();
            if !uses.is_empty() && uses.iter().all(|taker| is_constexpr(graph.nodes[taker.node].operation)) {
                continue;
            }
            if let Some(key) = shared_bytes(it) {
                if let Some(&first) = known.get(&key) {
                    self.weights[first].nodes.push(node);
                    continue;
                }
                known.insert(key, self.weights.len());
            }
            let (file, offset) = location(it.operation)
                .map_or_else(|| (WEIGHT_FILE.to_owned(), u64::MAX), |blob| (blob.file_name.clone(), blob.offset));
            self.weights.push(ProgramWeight {
                program: number,
                nodes: vec![node],
                place: Place {
                    network: it.block.clone(),
                    layer: it.operation.outputs.first().map_or("", |output| output.name.as_str()).into(),
                    layer_type: "const",
                    index: index + node,
                    field: "val".into(),
                },
                consumers: Vec::new(),
                spec,
                stored,
                axes: None,
                hold: None,
                file,
                offset,
            });
        }
        for weight in self.weights.iter_mut().filter(|weight| weight.program == number) {
            let uses: Vec<Use<'m>> = weight.nodes.iter().flat_map(|&node| graph.nodes[node].uses.clone()).collect();
            let mut seen = HashSet::new();
            let consumers =
                uses.iter().map(|taker| (operations::name(&graph.nodes[taker.node].operation.r#type), taker.parameter));
            weight.consumers = consumers.filter(|&consumer| seen.insert(consumer)).collect();
            if let Some(&(kind, parameter)) = weight.consumers.first() {
                weight.place.layer_type = kind;
                weight.place.field = parameter.to_owned().into();
            }
            weight.axes = axes::agreed_axes(&graph, &uses, weight.spec.shape.len());
            weight.hold = hold(&graph, weight, &uses);
        }
        self.programs.push(ProgramGraph { program, graph, opset: opset::of(program) });
    }

    /// The values of a weight.
    pub(crate) fn values(&self, weight: &ProgramWeight<'m>, files: &BlobFiles) -> Result<Tensor, WeightProblem> {
        let node = weight.nodes.first().copied().unwrap_or_default();
        evaluate(&self.programs[weight.program].graph, node, 0, files)
    }

    /// The operation that makes a weight.
    pub(crate) fn operation(&self, weight: &ProgramWeight<'m>) -> Option<&'m Operation> {
        weight.nodes.first().map(|&node| self.programs[weight.program].graph.nodes[node].operation)
    }

    /// The operations that nothing needs when the weights get other forms, by program.
    pub(crate) fn unneeded(&self, changed: &[&ProgramWeight<'m>]) -> Vec<HashSet<usize>> {
        let mut all = vec![HashSet::new(); self.programs.len()];
        for (number, program) in self.programs.iter().enumerate() {
            let nodes = &program.graph.nodes;
            let changed: HashSet<usize> = changed
                .iter()
                .filter(|weight| weight.program == number)
                .flat_map(|weight| weight.nodes.clone())
                .collect();
            let mut removed = HashSet::new();
            let mut open: Vec<usize> = changed.iter().copied().collect();
            while let Some(node) = open.pop() {
                for input in &nodes[node].inputs {
                    let Source::Node { node: source, .. } = input.source else { continue };
                    let it = &nodes[source];
                    let is_part = is_constexpr(it.operation) || constant(it.operation).is_some();
                    let free =
                        it.uses.iter().all(|taker| changed.contains(&taker.node) || removed.contains(&taker.node));
                    if is_part && free && !it.is_block_output && removed.insert(source) {
                        open.push(source);
                    }
                }
            }
            all[number] = removed;
        }
        all
    }
}

/// Type and form of what an operation makes, if that is a weight.
fn weight(graph: &Graph<'_>, node: &Node<'_>) -> Option<(TensorSpec, StoredForm)> {
    let operation = node.operation;
    if let Some(value) = constant(operation) {
        let spec = TensorSpec::of(value.r#type.as_ref())?;
        let stored = match spec.dtype {
            Dtype::Float16 => StoredForm::Float16,
            Dtype::Float32 => StoredForm::Float32,
            _ => return None,
        };
        return (spec.len() >= BLOB_FROM).then_some((spec, stored));
    }
    if !is_constexpr(operation) || operation.outputs.len() != 1 {
        return None;
    }
    let spec = TensorSpec::of(operation.outputs.first()?.r#type.as_ref())?;
    let form = spec.dtype.is_float().then(|| form(graph, node, &spec))?;
    Some((spec, StoredForm::Program(form)))
}

/// The form of a compressed weight, as far as its parameters tell.
fn form(graph: &Graph<'_>, node: &Node<'_>, weight: &TensorSpec) -> ProgramForm {
    let operation = node.operation;
    let parameter = |name: &str| -> Option<TensorSpec> {
        let value = match operation.attributes.get(name) {
            Some(value) => value,
            None => match node.inputs.iter().find(|input| input.parameter == name)?.source {
                Source::Value(value) => value,
                Source::Node { node, .. } => constant(graph.nodes[node].operation)?,
                Source::Outside => return None,
            },
        };
        TensorSpec::of(value.r#type.as_ref())
    };
    let float_bytes = usize::from(weight.dtype.bits()) / 8;
    let nbits = |bits: u32| Nbits::new(bits);
    let known = match operation.r#type.as_str() {
        "constexpr_cast" if parameter("source_val").is_some_and(|spec| spec.dtype == Dtype::Float16) => {
            Some(ProgramForm::Cast)
        }
        "constexpr_affine_dequantize" | "constexpr_blockwise_shift_scale" => {
            let data = parameter("quantized_data").or_else(|| parameter("data"));
            let offset = parameter("zero_point").or_else(|| parameter("offset"));
            data.zip(parameter("scale")).and_then(|(data, scale)| {
                let nbits = nbits(u32::from(data.dtype.bits()))?;
                let offsets = offset.map_or(0, |offset| offset.len());
                Some(ProgramForm::Linear { nbits, scales: scale.len(), offsets, float_bytes })
            })
        }
        "constexpr_lut_to_dense" => parameter("lut").zip(parameter("indices")).and_then(|(lut, indices)| {
            let is_old = operation.attributes.contains_key("shape");
            let bits = if is_old { lut.len().checked_ilog2()? } else { indices.dtype.bits().into() };
            let vector = if is_old { 1 } else { lut.shape.last().copied()? };
            let nbits = nbits(bits).filter(|_| vector == 1)?;
            Some(ProgramForm::Table { nbits, tables: lut.len() / nbits.levels(), float_bytes })
        }),
        "constexpr_sparse_to_dense" => {
            let mask = parameter("mask");
            parameter("nonzero_data").zip(mask).map(|(kept, _)| ProgramForm::Sparse { kept: kept.len(), float_bytes })
        }
        _ => None,
    };
    known.unwrap_or_else(|| ProgramForm::Other { bytes: chain_len(graph, node, 0) as usize })
}

/// Bytes of everything that a compressed weight is made of.
fn chain_len(graph: &Graph<'_>, node: &Node<'_>, depth: usize) -> u64 {
    let of = |value: &Value| TensorSpec::of(value.r#type.as_ref()).map_or(0, |spec| stored_len(&spec));
    let attributes: u64 = node.operation.attributes.values().map(of).sum();
    let inputs = node.inputs.iter().map(|input| match input.source {
        Source::Value(value) => of(value),
        Source::Node { node, .. } if depth < 8 => chain_len(graph, &graph.nodes[node], depth + 1),
        _ => 0,
    });
    attributes + inputs.sum::<u64>()
}

/// What a weight consists of, as bytes that are equal for operations that share it; `None` if it lies in the operation.
fn shared_bytes(node: &Node<'_>) -> Option<Vec<u8>> {
    let operation = node.operation;
    location(operation)?;
    if node.inputs.iter().any(|input| !matches!(input.source, Source::Value(_))) {
        return None;
    }
    let mut bare = operation.clone();
    bare.attributes.remove("name");
    for output in &mut bare.outputs {
        output.name.clear();
    }
    Some(bare.encode_to_vec())
}

/// The first weight file that an operation refers to: that of its data, for the forms that are known.
fn location(operation: &Operation) -> Option<&BlobFileValue> {
    let inputs = operation.inputs.values().flat_map(|argument| &argument.arguments);
    let values = inputs.filter_map(|binding| match &binding.binding {
        Some(crate::format::proto::mil_spec::argument::binding::Binding::Value(value)) => Some(value),
        _ => None,
    });
    operation.attributes.values().chain(values).find_map(|value| match &value.value {
        Some(Stored::BlobFileValue(blob)) => Some(blob),
        _ => None,
    })
}

fn hold(graph: &Graph<'_>, weight: &ProgramWeight<'_>, uses: &[Use<'_>]) -> Option<Hold> {
    if weight.nodes.iter().any(|&node| graph.nodes[node].is_block_output) {
        return Some(Hold::BlockOutput);
    }
    if uses.is_empty() {
        return Some(Hold::Unused);
    }
    let exact = weight.nodes.iter().find_map(|&node| axes::exact_use(graph, node));
    if let Some(taker) = exact {
        return Some(Hold::Exact { operation: operations::name(&graph.nodes[taker.node].operation.r#type) });
    }
    (weight.spec.shape.len() < 2).then_some(Hold::FewDimensions)
}
