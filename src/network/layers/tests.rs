//! Holds the table of weights against the schema.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use super::*;

const LAYER: &str = ".CoreML.Specification.NeuralNetworkLayer";
const WEIGHT: &str = ".CoreML.Specification.WeightParams";
/// Where a layer's own weights end: the layers of inner networks are layers of their own.
const NETWORK: &str = ".CoreML.Specification.NeuralNetwork";

/// The schema's messages by name.
struct Schema(BTreeMap<String, DescriptorProto>);

/// The fields from a layer down to one of its weights, each with the message it belongs to.
type Path<'a> = Vec<(&'a str, &'a FieldDescriptorProto)>;

impl Schema {
    fn new() -> Self {
        let bytes = include_bytes!("../../format/generated/descriptors.bin");
        let mut messages = BTreeMap::new();
        for file in FileDescriptorSet::decode(&bytes[..]).unwrap().file {
            for message in file.message_type {
                messages
                    .insert(format!(".{}.{}", file.package.as_deref().unwrap_or_default(), message.name()), message);
            }
        }
        Self(messages)
    }

    /// The fields of a message that are messages, nested definitions aside: none of those holds a weight.
    fn message_fields(&self, name: &str) -> impl Iterator<Item = &FieldDescriptorProto> {
        let fields = self.0.get(name).map_or(&[][..], |message| &message.field);
        fields.iter().filter(|field| field.r#type() == Type::Message)
    }

    /// Every way from a message to a weight.
    fn paths<'a>(&'a self, name: &'a str) -> Vec<Path<'a>> {
        let mut paths = Vec::new();
        for field in self.message_fields(name) {
            match field.type_name() {
                NETWORK => {}
                WEIGHT => paths.push(vec![(name, field)]),
                inner => {
                    let inner = self.paths(inner);
                    paths.extend(inner.into_iter().map(|path| [vec![(name, field)], path].concat()));
                }
            }
        }
        paths
    }

    /// A message in which the weight at the end of `path` has a single value, and everything that says that a weight is
    /// there (`hasBias` and the like) is true.
    fn encode(&self, name: &str, path: &[(&str, &FieldDescriptorProto)]) -> Vec<u8> {
        let mut bytes = self.flags(name);
        if let [(_, field), rest @ ..] = path {
            let inner = if rest.is_empty() {
                WeightParams::from_floats(&[1.0]).encode_to_vec()
            } else {
                self.encode(field.type_name(), rest)
            };
            put(field, &inner, &mut bytes);
        }
        bytes
    }

    /// The flags of a message, and those of the messages in it that have nothing to do with weights.
    fn flags(&self, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in self.0.get(name).map_or(&[][..], |message| &message.field) {
            if field.r#type() == Type::Bool && field.name().starts_with("has") {
                encode_key(field.number() as u32, WireType::Varint, &mut bytes);
                bytes.push(1);
            } else if field.r#type() == Type::Message
                && field.oneof_index.is_none()
                && field.label() != Label::Repeated
                && !matches!(field.type_name(), NETWORK | WEIGHT)
            {
                let inner = self.flags(field.type_name());
                if !inner.is_empty() {
                    put(field, &inner, &mut bytes);
                }
            }
        }
        bytes
    }
}

/// Weights that the schema has room for and the table leaves out: those of an activation inside a recurrent layer. Core
/// ML runs only activations without weights there, so a model with such a weight is not valid, and it is not touched.
fn is_exception(path: &Path<'_>) -> bool {
    path[1..].iter().any(|(_, field)| field.type_name() == ".CoreML.Specification.ActivationParams")
}

fn put(field: &FieldDescriptorProto, message: &[u8], bytes: &mut Vec<u8>) {
    encode_key(field.number() as u32, WireType::LengthDelimited, bytes);
    encode_varint(message.len() as u64, bytes);
    bytes.extend_from_slice(message);
}

/// The name under which the table lists a weight: the path below the layer's type.
fn table_name(path: &Path<'_>) -> String {
    let names = path[1..].iter().map(|(_, field)| {
        let index = if field.label() == Label::Repeated { "[0]" } else { "" };
        format!("{}{index}", field.name())
    });
    names.collect::<Vec<_>>().join(".")
}

fn stored<P>(weights: Vec<Weight<P>>) -> Vec<String> {
    weights.into_iter().filter(|weight| weight.params.is_some()).map(|weight| weight.field.into_owned()).collect()
}

/// Both forms of the table list the same, in the same order.
fn assert_same_both_ways(layer: &NeuralNetworkLayer, what: &str) {
    fn listed<P>(weights: Vec<Weight<P>>) -> Vec<Weight<()>> {
        let without_params = |Weight { field, shape, rule, optional, params }| Weight {
            field,
            shape,
            rule,
            optional,
            params: params.map(|_: P| ()),
        };
        weights.into_iter().map(without_params).collect()
    }
    let (shared, exclusive) = (listed(weights(layer)), listed(weights_mut(&mut layer.clone())));
    assert_eq!(format!("{shared:?}"), format!("{exclusive:?}"), "{what}");
}

#[test]
fn every_weight_of_the_schema_is_in_the_table() {
    let schema = Schema::new();
    let mut listed = BTreeSet::new();
    for path in schema.paths(LAYER) {
        let names: Vec<_> = path.iter().map(|(_, field)| field.name()).collect();
        let layer = NeuralNetworkLayer::decode(&schema.encode(LAYER, &path)[..]).unwrap();
        let expected = if is_exception(&path) { vec![] } else { vec![table_name(&path)] };
        assert_eq!(stored(weights(&layer)), expected, "{}", names.join("."));
        assert_same_both_ways(&layer, &names.join("."));
        let (message, field) = path[path.len() - 1];
        listed.insert((message, field.name()));
    }
    let in_schema: BTreeSet<_> = schema
        .0
        .iter()
        .flat_map(|(name, message)| message.field.iter().map(move |field| (name.as_str(), field)))
        .filter(|(_, field)| field.type_name() == WEIGHT)
        .map(|(name, field)| (name, field.name()))
        .collect();
    assert_eq!(listed, in_schema);
    assert_eq!(in_schema.len(), 54);
}

#[test]
fn both_tables_list_the_same_in_full_layers() {
    let schema = Schema::new();
    let mut layers: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for path in schema.paths(LAYER) {
        // Messages merge when their bytes are joined.
        layers.entry(path[0].1.name()).or_default().extend(schema.encode(LAYER, &path));
    }
    assert_eq!(layers.len(), 18);
    for (name, bytes) in layers {
        let layer = NeuralNetworkLayer::decode(&bytes[..]).unwrap();
        assert!(!weights(&layer).is_empty(), "{name}");
        assert_same_both_ways(&layer, name);
    }
}
