//! Compiles the schema in `proto/` to Rust. `protox` is a protobuf compiler in Rust, so no `protoc` is needed.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::{env, error::Error, fs, path::PathBuf};

use heck::{ToSnakeCase, ToUpperCamelCase};
use protox::prost::Message as _;
use protox::prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use protox::prost_reflect::prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// Layers of thousands of bytes that would make every layer as large.
const BOXED: [&str; 4] = [
    ".CoreML.Specification.NeuralNetworkLayer.layer.batchnorm",
    ".CoreML.Specification.NeuralNetworkLayer.layer.gru",
    ".CoreML.Specification.NeuralNetworkLayer.layer.simpleRecurrent",
    ".CoreML.Specification.NeuralNetworkLayer.layer.uniDirectionalLSTM",
];

/// The message that `src/weight_params.rs` writes by hand.
const WEIGHT_PARAMS: (&str, &str) = (".CoreML.Specification.WeightParams", "crate::weight_params::WeightParams");

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    // `Model.proto` imports every other file.
    let descriptors = protox::compile(["proto/Model.proto"], ["proto"])?;
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("descriptors.bin"), descriptors.encode_to_vec())?;
    fs::write(out_dir.join("wire_table.rs"), WireTable::new(&descriptors).write()?)?;

    let mut config = prost_build::Config::new();
    for field in BOXED {
        config.boxed(field);
    }
    config
        // A decoded model shares its payloads with the file's bytes instead of copying them.
        .bytes(["."])
        // Sorted maps make the encoding deterministic.
        .btree_map(["."])
        // Weights keep their floats as they lie in the file, see `src/weight_params.rs`.
        .extern_path(WEIGHT_PARAMS.0, WEIGHT_PARAMS.1)
        .include_file("schema.rs")
        .compile_fds(descriptors)?;
    Ok(())
}

/// Every message with its fields, as the table that `src/wire.rs` includes.
struct WireTable<'a> {
    /// By full name.
    messages: BTreeMap<String, &'a DescriptorProto>,
}

impl<'a> WireTable<'a> {
    fn new(descriptors: &'a FileDescriptorSet) -> Self {
        let mut table = Self { messages: BTreeMap::new() };
        for file in &descriptors.file {
            table.add(&format!(".{}", file.package()), &file.message_type);
        }
        table
    }

    fn add(&mut self, outer: &str, messages: &'a [DescriptorProto]) {
        for message in messages {
            let name = format!("{outer}.{}", message.name());
            self.add(&name, &message.nested_type);
            self.messages.insert(name, message);
        }
    }

    fn write(&self) -> Result<String, Box<dyn Error>> {
        let mut out = String::from("[\n");
        for (name, message) in &self.messages {
            let mut fields: Vec<_> = message.field.iter().collect();
            fields.sort_by_key(|field| field.number());
            write!(out, "MessageType {{ name: {:?}, fields: &[", message.name())?;
            for field in fields {
                let repeated = field.label() == Label::Repeated;
                let kind = self.kind(field)?;
                let memory = self.memory(name, field)?;
                let (number, name) = (field.number(), field.name());
                write!(
                    out,
                    "Field {{ number: {number}, name: {name:?}, repeated: {repeated}, kind: {kind}, memory: {memory} }},"
                )?;
            }
            out.push_str("] },\n");
        }
        out.push(']');
        Ok(out)
    }

    fn kind(&self, field: &FieldDescriptorProto) -> Result<String, Box<dyn Error>> {
        Ok(match field.r#type() {
            Type::Double | Type::Fixed64 | Type::Sfixed64 => "Kind::Fixed64".to_owned(),
            Type::Float | Type::Fixed32 | Type::Sfixed32 => "Kind::Fixed32".to_owned(),
            Type::Bytes | Type::String => "Kind::Bytes".to_owned(),
            Type::Message => {
                let index = self.messages.keys().position(|name| name == field.type_name());
                format!("Kind::Message({})", index.ok_or("a message of no file")?)
            }
            Type::Group => return Err("the format has no groups".into()),
            _ => "Kind::Varint".to_owned(),
        })
    }

    /// The bytes that one value of a field has in memory outside of its message.
    fn memory(&self, message: &str, field: &FieldDescriptorProto) -> Result<String, Box<dyn Error>> {
        let boxed = BOXED.iter().any(|path| {
            let oneof = field.oneof_index.map(|index| self.messages[message].oneof_decl[index as usize].name());
            let outer = oneof.map_or(message.to_owned(), |oneof| format!("{message}.{oneof}"));
            *path == format!("{outer}.{}", field.name())
        });
        let is_outside = field.label() == Label::Repeated
            || boxed
            || (field.r#type() == Type::Message && self.contains(field.type_name(), message, &mut HashSet::new()));
        Ok(if is_outside { format!("size_of::<{}>()", self.rust_type(field)?) } else { "0".to_owned() })
    }

    /// Whether a message can contain another in fields that are not repeated: prost puts such a cycle in boxes.
    fn contains<'n>(&'n self, outer: &'n str, inner: &str, seen: &mut HashSet<&'n str>) -> bool {
        outer == inner
            || (seen.insert(outer)
                && self.messages[outer].field.iter().any(|field| {
                    field.r#type() == Type::Message
                        && field.label() != Label::Repeated
                        && self.contains(field.type_name(), inner, seen)
                }))
    }

    /// The type of a single value in the code that prost generates.
    fn rust_type(&self, field: &FieldDescriptorProto) -> Result<String, Box<dyn Error>> {
        Ok(match field.r#type() {
            Type::Double | Type::Int64 | Type::Uint64 | Type::Sint64 | Type::Fixed64 | Type::Sfixed64 => {
                "u64".to_owned()
            }
            Type::Float | Type::Int32 | Type::Uint32 | Type::Sint32 | Type::Fixed32 | Type::Sfixed32 | Type::Enum => {
                "u32".to_owned()
            }
            Type::Bool => "bool".to_owned(),
            Type::String => "String".to_owned(),
            Type::Bytes => "bytes::Bytes".to_owned(),
            Type::Group => return Err("the format has no groups".into()),
            Type::Message => {
                let name = field.type_name();
                let message = self.messages[name];
                if message.options.as_ref().is_some_and(|options| options.map_entry()) {
                    let types: Result<Vec<_>, _> = message.field.iter().map(|field| self.rust_type(field)).collect();
                    format!("({})", types?.join(", "))
                } else if name == WEIGHT_PARAMS.0 {
                    WEIGHT_PARAMS.1.to_owned()
                } else {
                    let mut path: Vec<_> =
                        name.trim_start_matches('.').split('.').map(|part| part.to_snake_case()).collect();
                    path.pop();
                    format!("crate::proto::{}::{}", path.join("::"), message.name().to_upper_camel_case())
                }
            }
        })
    }
}
