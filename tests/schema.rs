//! Holds `proto/` against a table of Core ML's format, and the names the crate keeps by hand against `proto/`.

use std::collections::{BTreeMap, BTreeSet};

use coreml_quant::{Model, layer_type, proto};
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// Every file, message, field and enum value of the format, a line each.
const TABLE: &str = include_str!("fixtures/coreml-format.tsv");

fn files() -> Vec<FileDescriptorProto> {
    let bytes = include_bytes!("../src/format/generated/descriptors.bin");
    FileDescriptorSet::decode(&bytes[..]).expect("a descriptor set").file
}

/// Names of the format's things lead with a dot where they are referred to.
fn type_name(field: &FieldDescriptorProto) -> &str {
    field.type_name().trim_start_matches('.')
}

/// Writes the schema in the table's own form.
struct Writer {
    lines: Vec<String>,
}

impl Writer {
    fn line(&mut self, columns: &[&str]) {
        self.lines.push(columns.join("\t"));
    }

    fn file(&mut self, file: &FileDescriptorProto) {
        assert_eq!(file.syntax(), "proto3", "{}", file.name());
        let public: Vec<_> =
            file.public_dependency.iter().map(|&index| file.dependency[index as usize].as_str()).collect();
        let imports = file.dependency.join(",");
        self.line(&["#file", file.name(), "package", file.package(), "imports", &imports, "public", &public.join(",")]);
        for message in &file.message_type {
            self.message(file.name(), file.package(), message);
        }
        for kind in &file.enum_type {
            self.kind(file.name(), file.package(), kind);
        }
    }

    fn message(&mut self, file: &str, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        // Maps are written as messages of their own, which the fields below resolve.
        let (maps, nested): (Vec<_>, Vec<_>) =
            message.nested_type.iter().partition(|nested| nested.options.as_ref().is_some_and(|o| o.map_entry()));
        let maps: BTreeMap<_, _> = maps.into_iter().map(|map| (format!("{name}.{}", map.name()), map)).collect();
        for field in &message.field {
            assert!(!field.proto3_optional() && field.options.is_none(), "{name}.{}", field.name());
            let kind = match maps.get(type_name(field)) {
                Some(map) => format!("map<{},{}>", value_type(&map.field[0]), value_type(&map.field[1])),
                None => value_type(field),
            };
            let cardinality = if field.label() == Label::Repeated { "repeated" } else { "single" };
            let oneof = field.oneof_index.map_or("", |index| message.oneof_decl[index as usize].name());
            self.line(&[file, &name, &field.number().to_string(), field.name(), cardinality, &kind, oneof]);
        }
        if message.field.is_empty() {
            self.line(&[file, &name, "", "", "", "", ""]);
        }
        for nested in nested {
            self.message(file, &name, nested);
        }
        for kind in &message.enum_type {
            self.kind(file, &name, kind);
        }
    }

    fn kind(&mut self, file: &str, scope: &str, kind: &EnumDescriptorProto) {
        let name = format!("enum {scope}.{}", kind.name());
        for value in &kind.value {
            self.line(&[file, &name, &value.number().to_string(), value.name(), "", "enum value", ""]);
        }
    }
}

fn value_type(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message => type_name(field).to_owned(),
        Type::Enum => format!("enum {}", type_name(field)),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

#[test]
fn schema_is_the_table() {
    let mut writer = Writer { lines: Vec::new() };
    for file in files() {
        writer.file(&file);
    }
    let schema: BTreeSet<&str> = writer.lines.iter().map(String::as_str).collect();
    assert_eq!(schema.len(), writer.lines.len(), "the schema says something twice");
    let table: BTreeMap<&str, usize> =
        TABLE.lines().zip(1..).filter(|(line, _)| !line.starts_with("#file\tmessage or enum\t")).collect();
    let missing: Vec<_> = table
        .iter()
        .filter(|(line, _)| !schema.contains(**line))
        .map(|(line, number)| format!("line {number} of the table is not in proto/: {line}"))
        .collect();
    let extra: Vec<_> = schema
        .iter()
        .filter(|line| !table.contains_key(**line))
        .map(|line| format!("proto/ says what the table does not: {line}"))
        .collect();
    assert!(missing.is_empty() && extra.is_empty(), "\n{}\n{}", missing.join("\n"), extra.join("\n"));
    assert_eq!(table.len(), schema.len());
}

/// A message of one field, which is an empty message.
fn empty_field(number: i32) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_key(number as u32, prost::encoding::WireType::LengthDelimited, &mut bytes);
    bytes.push(0);
    bytes
}

/// The names and numbers of a oneof's fields.
fn oneof_fields(message: &str, oneof: &str) -> Vec<(String, i32)> {
    let files = files();
    let message = files.iter().flat_map(|file| &file.message_type).find(|m| m.name() == message).expect("message");
    let index = message.oneof_decl.iter().position(|o| o.name() == oneof).expect("oneof") as i32;
    let fields = message.field.iter().filter(|field| field.oneof_index == Some(index));
    fields.map(|field| (field.name().to_owned(), field.number())).collect()
}

#[test]
fn layer_types_have_the_names_of_the_format() {
    let fields = oneof_fields("NeuralNetworkLayer", "layer");
    assert_eq!(fields.len(), TABLE.lines().filter(|line| is_oneof_line(line, "NeuralNetworkLayer", "layer")).count());
    for (name, number) in fields {
        let layer = proto::NeuralNetworkLayer::decode(&empty_field(number)[..]).expect("an empty layer");
        assert_eq!(layer_type(&layer), Some(name.as_str()), "field {number}");
    }
    assert_eq!(layer_type(&proto::NeuralNetworkLayer::default()), None);
}

#[test]
fn model_kinds_have_the_names_of_the_format() {
    let fields = oneof_fields("Model", "Type");
    assert_eq!(fields.len(), TABLE.lines().filter(|line| is_oneof_line(line, "Model", "Type")).count());
    for (name, number) in fields {
        let model = Model::from_bytes(empty_field(number)).expect("an empty model");
        assert_eq!(model.kind(), name, "field {number}");
    }
}

fn is_oneof_line(line: &str, message: &str, oneof: &str) -> bool {
    let columns: Vec<_> = line.split('\t').collect();
    columns[1] == format!("CoreML.Specification.{message}") && columns[6] == oneof
}
