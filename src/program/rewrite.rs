//! A model with some of its weights in other forms: the new program, and the new weight files.
//!
//! Offsets follow from the forms, so all of it is known before the first weight is computed, but for the few numbers that
//! are kept in the program itself. Only weight files in which something changes are written anew: their blobs in the old
//! order, each once, however many values name it; a new one in the place of the one that it replaces; what no value names
//! is left out. Nothing else of a program changes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Mutex;

use bytes::Bytes;
use rayon::prelude::*;

use super::blobs::{Blob, Layout, RawBlob};
use super::form::Form;
use super::graph;
use super::opset::{self, Opset};
use super::value::{self, BlobFiles, Tensor, TensorSpec};
use crate::error::{BlobError, Error};
use crate::format::proto;
use crate::format::proto::mil_spec::argument::binding::Binding;
use crate::format::proto::mil_spec::value::immediate_value::Value as Immediate;
use crate::format::proto::mil_spec::value::{BlobFileValue, ImmediateValue, Value as Stored};
use crate::format::proto::mil_spec::value_type::Type;
use crate::format::proto::mil_spec::{Block, Program, Value, ValueType};
use crate::format::proto::model::Type as ModelType;
use crate::model::walk;

/// A weight that gets another form.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// Which program, in the order of the walk through models.
    pub(crate) program: usize,
    /// The operations that make the weight: several, where functions share it.
    pub(crate) nodes: Vec<usize>,
    pub(crate) weight: TensorSpec,
    pub(crate) form: Form,
    /// The weight file it goes to.
    pub(crate) file: String,
    /// Where in that file it was.
    pub(crate) offset: u64,
}

/// A model that is being written.
#[derive(Debug)]
pub(crate) struct Rewrite {
    model: proto::Model,
    changes: Vec<Change>,
    /// The opset of each program; `None` if it stays as it is.
    opsets: Vec<Option<Opset>>,
    /// Operations that nothing needs any more.
    removed: Vec<HashSet<usize>>,
    pub(crate) files: Vec<NewFile>,
    /// For each change and parameter, the blob it is in, unless it stays in the program.
    places: Vec<Vec<Option<Place>>>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    file: usize,
    blob: usize,
}

/// A weight file that is being written.
#[derive(Debug)]
pub(crate) struct NewFile {
    /// The name that programs give it.
    pub(crate) name: String,
    pub(crate) layout: Layout,
    /// The blobs that are copied, by their index.
    copies: Vec<(usize, Bytes)>,
}

/// Computes the parameters of the change with an index, in the order of [`Form::parameters`].
pub(crate) type Produce<'a> = dyn Fn(usize) -> Result<Vec<Bytes>, Error> + Sync + 'a;

/// Takes a blob's data: the file's index, the blob, its bytes.
pub(crate) type Sink<'a> = dyn Fn(usize, usize, &Blob, &[u8]) -> Result<(), Error> + Sync + 'a;

impl Rewrite {
    /// Prepares the changes: `opsets` and `removed` are for each program of the model.
    pub(crate) fn new(
        model: &proto::Model,
        files: &BlobFiles,
        changes: Vec<Change>,
        opsets: Vec<Option<Opset>>,
        removed: Vec<HashSet<usize>>,
    ) -> Result<Self, BlobError> {
        let mut model = model.clone();
        // What the changed operations were is not needed any more: they name no blobs.
        let mut changed: HashMap<(usize, usize), ()> = HashMap::new();
        for change in &changes {
            changed.extend(change.nodes.iter().map(|&node| ((change.program, node), ())));
        }
        each_program_mut(&mut model, &mut |number, program| {
            graph::change_operations(program, &mut |node, operation| {
                let is_removed = removed.get(number).is_some_and(|removed| removed.contains(&node));
                if changed.contains_key(&(number, node)) || is_removed {
                    operation.inputs.clear();
                    operation.attributes.retain(|name, _| name == "name");
                }
                true
            });
        });
        let touched: BTreeSet<&str> = changes.iter().map(|change| change.file.as_str()).collect();
        let mut kept: BTreeMap<&str, BTreeSet<u64>> = touched.iter().map(|&name| (name, BTreeSet::new())).collect();
        each_program_mut(&mut model, &mut |_, program| {
            each_blob(program, &mut |blob| {
                if let Some(offsets) = kept.get_mut(blob.file_name.as_str()) {
                    offsets.insert(blob.offset);
                }
            });
        });

        let mut places: Vec<Vec<Option<Place>>> = Vec::new();
        for change in &changes {
            let opset = opset_of(&opsets, change.program);
            places.push(vec![None; change.form.parameters(&change.weight, opset).len()]);
        }
        let mut new_files = Vec::new();
        let mut moved: HashMap<(String, u64), u64> = HashMap::new();
        for (file, (name, kept)) in kept.into_iter().enumerate() {
            // Changes at one place keep their order.
            let mut entries: Vec<(u64, Option<usize>)> = kept.into_iter().map(|offset| (offset, None)).collect();
            let here = changes.iter().enumerate().filter(|(_, change)| change.file == name);
            entries.extend(here.map(|(index, change)| (change.offset, Some(index))));
            entries.sort();
            let (mut layout, mut copies) = (Layout::default(), Vec::new());
            let mut ends: Vec<(u64, u64)> = Vec::new();
            for (offset, change) in entries {
                let Some(index) = change else {
                    let raw: RawBlob = files.file(name)?.raw(offset)?;
                    ends.push((offset, raw.end));
                    let blob = layout.add_copy(&raw);
                    moved.insert((name.to_owned(), offset), layout.blobs()[blob].offset);
                    copies.push((blob, raw.data));
                    continue;
                };
                let change = &changes[index];
                let opset = opset_of(&opsets, change.program);
                for (parameter, (_, spec)) in change.form.parameters(&change.weight, opset).iter().enumerate() {
                    if spec.goes_to_blob() {
                        let blob = layout.add(spec.dtype, spec.len());
                        places[index][parameter] = Some(Place { file, blob });
                    }
                }
            }
            if let Some(pair) = ends.windows(2).find(|pair| pair[0].1 > pair[1].0) {
                return Err(BlobError::Overlap { first: pair[0].0, second: pair[1].0 });
            }
            new_files.push(NewFile { name: name.to_owned(), layout, copies });
        }
        each_program_mut(&mut model, &mut |_, program| {
            each_blob(program, &mut |blob| {
                if let Some(&offset) = moved.get(&(blob.file_name.clone(), blob.offset)) {
                    blob.offset = offset;
                }
            });
        });
        Ok(Self { model, changes, opsets, removed, files: new_files, places })
    }

    /// Computes every weight and hands it over, on all threads of the pool; returns the finished model.
    pub(crate) fn run(mut self, produce: &Produce<'_>, sink: &Sink<'_>) -> Result<proto::Model, Error> {
        for (number, file) in self.files.iter().enumerate() {
            let copied = file
                .copies
                .par_iter()
                .find_map_first(|(index, data)| sink(number, *index, &file.layout.blobs()[*index], data).err());
            copied.map_or(Ok(()), Err)?;
        }
        let in_program: Vec<Result<Vec<Option<Bytes>>, Error>> = (0..self.changes.len())
            .into_par_iter()
            .map(|index| {
                let parameters = produce(index)?;
                let places = &self.places[index];
                let mut left = Vec::with_capacity(parameters.len());
                for (bytes, place) in parameters.into_iter().zip(places) {
                    left.push(match place {
                        Some(Place { file, blob }) => {
                            sink(*file, *blob, &self.files[*file].layout.blobs()[*blob], &bytes)?;
                            None
                        }
                        None => Some(bytes),
                    });
                }
                Ok(left)
            })
            .collect();
        let in_program = in_program.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut model = std::mem::take(&mut self.model);
        self.fill(&mut model, in_program);
        Ok(model)
    }

    /// Puts the new operations into the model, and raises it.
    fn fill(&self, model: &mut proto::Model, in_program: Vec<Vec<Option<Bytes>>>) {
        let mut new: HashMap<(usize, usize), usize> = HashMap::new();
        for (index, change) in self.changes.iter().enumerate() {
            new.extend(change.nodes.iter().map(|&node| ((change.program, node), index)));
        }
        each_program_mut(model, &mut |number, program| {
            let Some(opset) = self.opsets.get(number).copied().flatten() else { return };
            opset::raise(program, opset);
            graph::change_operations(program, &mut |node, operation| {
                if self.removed.get(number).is_some_and(|removed| removed.contains(&node)) {
                    return false;
                }
                let Some(&index) = new.get(&(number, node)) else { return true };
                let change = &self.changes[index];
                let specs = change.form.parameters(&change.weight, opset);
                let values = specs.into_iter().enumerate().map(|(parameter, (name, spec))| {
                    let place = self.places[index][parameter];
                    let value = match (place, &in_program[index][parameter]) {
                        (Some(Place { file, blob }), _) => {
                            let file = &self.files[file];
                            value::blob_value(&spec, &file.name, file.layout.blobs()[blob].offset)
                        }
                        (None, Some(bytes)) => Tensor { spec, bytes: bytes.clone() }.to_immediate(),
                        (None, None) => Value::default(),
                    };
                    (name, value)
                });
                change.form.put(operation, &change.weight, opset, values.collect());
                true
            });
        });
        let mut number = 0;
        raise_versions(model, &self.opsets, &mut number);
    }
}

/// The opset of a program in which something changes.
fn opset_of(opsets: &[Option<Opset>], program: usize) -> Opset {
    opsets.get(program).copied().flatten().unwrap_or(Opset::CORE_ML_9)
}

/// Raises the specificationVersion of models to what their programs need, and that of pipelines around them.
fn raise_versions(model: &mut proto::Model, opsets: &[Option<Opset>], number: &mut usize) -> i32 {
    let mut version = 0;
    if let Some(ModelType::MlProgram(program)) = &model.r#type {
        // A program that stays in its opset keeps its version, whatever that is.
        let opset = opsets.get(*number).copied().flatten();
        version = opset.filter(|_| !program.functions.is_empty()).map_or(0, Opset::specification_version);
        *number += 1;
    }
    for member in walk::members_mut(model) {
        version = version.max(raise_versions(member, opsets, number));
    }
    model.specification_version = model.specification_version.max(version);
    version
}

/// Visits the programs of a model and of the members of its pipelines, outer ones first.
pub(crate) fn each_program_mut(model: &mut proto::Model, visit: &mut dyn FnMut(usize, &mut Program)) {
    fn each(model: &mut proto::Model, number: &mut usize, visit: &mut dyn FnMut(usize, &mut Program)) {
        if let Some(ModelType::MlProgram(program)) = &mut model.r#type {
            visit(*number, program);
            *number += 1;
        }
        for member in walk::members_mut(model) {
            each(member, number, visit);
        }
    }
    each(model, &mut 0, visit);
}

/// Visits every reference to a weight file in a program, also in blocks that are not live and in types.
pub(crate) fn each_blob(program: &mut Program, visit: &mut dyn FnMut(&mut BlobFileValue)) {
    program.attributes.values_mut().for_each(|value| in_value(value, visit));
    for function in program.functions.values_mut() {
        function.attributes.values_mut().for_each(|value| in_value(value, visit));
        function.inputs.iter_mut().for_each(|input| in_type(input.r#type.as_mut(), visit));
        function.block_specializations.values_mut().for_each(|block| in_block(block, visit));
    }
}

fn in_block(block: &mut Block, visit: &mut dyn FnMut(&mut BlobFileValue)) {
    block.attributes.values_mut().for_each(|value| in_value(value, visit));
    block.inputs.iter_mut().for_each(|input| in_type(input.r#type.as_mut(), visit));
    for operation in &mut block.operations {
        operation.attributes.values_mut().for_each(|value| in_value(value, visit));
        for binding in operation.inputs.values_mut().flat_map(|argument| &mut argument.arguments) {
            if let Some(Binding::Value(value)) = &mut binding.binding {
                in_value(value, visit);
            }
        }
        operation.outputs.iter_mut().for_each(|output| in_type(output.r#type.as_mut(), visit));
        operation.blocks.iter_mut().for_each(|block| in_block(block, visit));
    }
}

fn in_value(value: &mut Value, visit: &mut dyn FnMut(&mut BlobFileValue)) {
    in_type(value.r#type.as_mut(), visit);
    match &mut value.value {
        Some(Stored::BlobFileValue(blob)) => visit(blob),
        Some(Stored::ImmediateValue(ImmediateValue { value: Some(immediate) })) => match immediate {
            Immediate::Tensor(_) => {}
            Immediate::Tuple(tuple) => tuple.values.iter_mut().for_each(|value| in_value(value, visit)),
            Immediate::List(list) => list.values.iter_mut().for_each(|value| in_value(value, visit)),
            Immediate::Dictionary(dictionary) => {
                for pair in &mut dictionary.values {
                    pair.key.iter_mut().chain(&mut pair.value).for_each(|value| in_value(value, visit));
                }
            }
        },
        Some(Stored::ImmediateValue(ImmediateValue { value: None })) | None => {}
    }
}

fn in_type(value_type: Option<&mut ValueType>, visit: &mut dyn FnMut(&mut BlobFileValue)) {
    match value_type.and_then(|value_type| value_type.r#type.as_mut()) {
        Some(Type::TensorType(tensor)) => tensor.attributes.values_mut().for_each(|value| in_value(value, visit)),
        Some(Type::ListType(list)) => in_type(list.r#type.as_deref_mut(), visit),
        Some(Type::TupleType(tuple)) => tuple.types.iter_mut().for_each(|inner| in_type(Some(inner), visit)),
        Some(Type::DictionaryType(dictionary)) => {
            in_type(dictionary.key_type.as_deref_mut(), visit);
            in_type(dictionary.value_type.as_deref_mut(), visit);
        }
        Some(Type::StateType(state)) => in_type(state.wrapped_type.as_deref_mut(), visit),
        None => {}
    }
}

/// Weight files that are made in memory, each blob in a slice of its own.
pub(crate) fn in_memory(
    rewrite: Rewrite,
    produce: &Produce<'_>,
) -> Result<(proto::Model, Vec<(String, Bytes)>), Error> {
    let layouts: Vec<(String, Layout)> =
        rewrite.files.iter().map(|file| (file.name.clone(), file.layout.clone())).collect();
    let mut buffers: Vec<Vec<u8>> = layouts.iter().map(|(_, layout)| vec![0; layout.len() as usize]).collect();
    let mut slices: Vec<Vec<Mutex<&mut [u8]>>> = Vec::new();
    for (buffer, (_, layout)) in buffers.iter_mut().zip(&layouts) {
        let (header, mut rest) = buffer.split_at_mut(layout.header().len());
        header.copy_from_slice(&layout.header());
        let (mut at, mut blobs) = (header.len() as u64, Vec::new());
        for blob in layout.blobs() {
            let (_, after) = rest.split_at_mut((blob.offset - at) as usize);
            let (metadata, after) = after.split_at_mut(blob.metadata().len());
            metadata.copy_from_slice(&blob.metadata());
            let (data, after) = after.split_at_mut(blob.len);
            blobs.push(Mutex::new(data));
            rest = after;
            at = blob.data_offset() + blob.len as u64;
        }
        slices.push(blobs);
    }
    let model = rewrite.run(produce, &|file, blob, _, data| {
        let mut slice = slices[file][blob].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if slice.len() == data.len() {
            slice.copy_from_slice(data);
        }
        Ok(())
    })?;
    drop(slices);
    let files = layouts.into_iter().zip(buffers).map(|((name, _), bytes)| (name, bytes.into()));
    Ok((model, files.collect()))
}
