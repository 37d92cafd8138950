//! Makes `src/format/generated/` from the schema in `proto/`, when the feature `generate` asks for it.
//!
//! What it makes is checked in, so that building the crate takes no protobuf compiler. With the feature it is made again,
//! by `protox` (a protobuf compiler in Rust) and `prost-build`, and a test holds it against what is checked in; see
//! CONTRIBUTING.md.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "generate")]
    generate::run()?;
    Ok(())
}

#[cfg(feature = "generate")]
mod generate {
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

    /// The message that `src/format/weight_params.rs` writes by hand.
    const WEIGHT_PARAMS: (&str, &str) =
        (".CoreML.Specification.WeightParams", "crate::format::weight_params::WeightParams");

    const LAYER: &str = ".CoreML.Specification.NeuralNetworkLayer";
    const MODEL: &str = ".CoreML.Specification.Model";
    /// Where a layer's own weights end: the layers of inner networks are layers of their own.
    const NETWORK: &str = ".CoreML.Specification.NeuralNetwork";

    /// The modules of the generated types, outermost first, with the package that each holds.
    const MODULES: [(&str, &[&str]); 3] = [
        ("core_ml.specification", &["core_ml", "specification"]),
        ("core_ml.specification.core_ml_models", &["core_ml_models"]),
        ("core_ml.specification.mil_spec", &["mil_spec"]),
    ];

    pub(crate) fn run() -> Result<(), Box<dyn Error>> {
        println!("cargo:rerun-if-changed=proto");
        // `Model.proto` imports every other file.
        let descriptors = protox::compile(["proto/Model.proto"], ["proto"])?;
        let out_dir = PathBuf::from(env::var("OUT_DIR")?);
        fs::write(out_dir.join("descriptors.bin"), descriptors.encode_to_vec())?;
        let schema = Schema::new(&descriptors);
        fs::write(out_dir.join("wire_table.rs"), schema.wire_table()?)?;
        fs::write(out_dir.join("names.rs"), schema.names())?;
        fs::write(out_dir.join("slots.rs"), schema.slots())?;

        let mut config = prost_build::Config::new();
        for field in BOXED {
            config.boxed(field);
        }
        config
            // A decoded model shares its payloads with the file's bytes instead of copying them.
            .bytes(["."])
            // Sorted maps make the encoding deterministic.
            .btree_map(["."])
            // Weights keep their floats as they lie in the file.
            .extern_path(WEIGHT_PARAMS.0, WEIGHT_PARAMS.1)
            .compile_fds(descriptors)?;
        let mut types = String::from(GENERATED);
        for (package, modules) in MODULES {
            for module in modules {
                writeln!(types, "pub mod {module} {{")?;
            }
            types.push_str(&fs::read_to_string(out_dir.join(format!("{package}.rs")))?);
            if package != MODULES[0].0 {
                types.push_str("}\n");
            }
        }
        types.push_str("}\n}\n");
        fs::write(out_dir.join("types.rs"), types)?;
        println!("cargo:rustc-env=COREML_QUANT_GENERATED={}", out_dir.display());
        Ok(())
    }

    const GENERATED: &str = "// @generated from proto/ by build.rs, see CONTRIBUTING.md\n";

    /// Every message with its fields, and what is written of it.
    struct Schema<'a> {
        /// By full name.
        messages: BTreeMap<String, &'a DescriptorProto>,
    }

    impl<'a> Schema<'a> {
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

        fn wire_table(&self) -> Result<String, Box<dyn Error>> {
            let mut out = format!("{GENERATED}[\n");
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
                Type::Float
                | Type::Int32
                | Type::Uint32
                | Type::Sint32
                | Type::Fixed32
                | Type::Sfixed32
                | Type::Enum => "u32".to_owned(),
                Type::Bool => "bool".to_owned(),
                Type::String => "String".to_owned(),
                Type::Bytes => "bytes::Bytes".to_owned(),
                Type::Group => return Err("the format has no groups".into()),
                Type::Message => {
                    let name = field.type_name();
                    let message = self.messages[name];
                    if message.options.as_ref().is_some_and(|options| options.map_entry()) {
                        let types: Result<Vec<_>, _> =
                            message.field.iter().map(|field| self.rust_type(field)).collect();
                        format!("({})", types?.join(", "))
                    } else if name == WEIGHT_PARAMS.0 {
                        WEIGHT_PARAMS.1.to_owned()
                    } else {
                        let mut path: Vec<_> =
                            name.trim_start_matches('.').split('.').map(|part| part.to_snake_case()).collect();
                        path.pop();
                        format!("crate::format::proto::{}::{}", path.join("::"), message.name().to_upper_camel_case())
                    }
                }
            })
        }

        /// The fields of a oneof, as the variants that prost makes of them, with the message that each holds.
        fn variants(&self, message: &str, oneof: &str) -> Vec<(String, &FieldDescriptorProto)> {
            let message = self.messages[message];
            let index = message.oneof_decl.iter().position(|decl| decl.name() == oneof).map(|index| index as i32);
            let fields = message.field.iter().filter(|field| field.oneof_index.is_some() && field.oneof_index == index);
            fields.map(|field| (field.name().to_upper_camel_case(), field)).collect()
        }

        /// The names of the types of layers and models, as the format has them.
        fn names(&self) -> String {
            let mut out = String::from(GENERATED);
            for (function, oneof, message, path) in [
                ("layer_name", "layer", LAYER, "neural_network_layer::Layer"),
                ("model_name", "Type", MODEL, "model::Type"),
            ] {
                let _ = writeln!(
                    out,
                    "/// The name of a type in the format.\npub(crate) fn {function}(of: &crate::format::proto::{path}) -> &'static str {{\n    \
                     use crate::format::proto::{path} as Of;\n    match of {{"
                );
                for (variant, field) in self.variants(message, oneof) {
                    let _ = writeln!(out, "        Of::{variant}(_) => {:?},", field.name());
                }
                out.push_str("    }\n}\n");
            }
            let _ = writeln!(out, "/// The names of all types of layers.\npub(crate) const LAYER_NAMES: &[&str] = &[");
            for (_, field) in self.variants(LAYER, "layer") {
                let _ = writeln!(out, "    {:?},", field.name());
            }
            out.push_str("];\n");
            out
        }

        /// Every field of a layer that holds a weight: a function for shared and one for exclusive access.
        fn slots(&self) -> String {
            let mut out = String::from(GENERATED);
            for (name, reference, as_ref, iter) in
                [("slots", "&'a", "as_ref", "iter"), ("slots_mut", "&'a mut", "as_mut", "iter_mut")]
            {
                let _ = writeln!(
                    out,
                    "/// The fields of a layer that hold weights, by their names in the format, read by the layer or not.\n\
                     #[allow(clippy::all)]\npub(crate) fn {name}<'a>(layer: {reference} crate::format::proto::NeuralNetworkLayer) \
                     -> Vec<(std::borrow::Cow<'static, str>, Option<{reference} crate::format::weight_params::WeightParams>)> {{\n    \
                     use crate::format::proto::*;\n    let mut found = Vec::new();\n    match layer.layer.{as_ref}() {{"
                );
                for (variant, field) in self.variants(LAYER, "layer") {
                    let mut body = String::new();
                    self.slots_of(field.type_name(), "p", &Vec::new(), "", as_ref, iter, &mut body);
                    if !body.is_empty() {
                        let _ = writeln!(out, "        Some(neural_network_layer::Layer::{variant}(p)) => {{{body}}}");
                    }
                }
                out.push_str("        _ => {}\n    }\n    found\n}\n");
            }
            out
        }

        /// Writes the statements that gather the weights of a message in the variable `var`. `prefix` is the way to it, in
        /// which `{}` stands for each of the `indices`.
        #[allow(clippy::too_many_arguments)]
        fn slots_of(
            &self,
            message: &str,
            var: &str,
            indices: &[String],
            prefix: &str,
            as_ref: &str,
            iter: &str,
            out: &mut String,
        ) {
            let descriptor = self.messages[message];
            let mut oneofs: BTreeMap<i32, String> = BTreeMap::new();
            for field in descriptor.field.iter().filter(|field| field.r#type() == Type::Message) {
                let (kind, member) = (field.type_name(), field.name().to_snake_case());
                let repeated = field.label() == Label::Repeated;
                let path = format!("{prefix}{}{}", field.name(), if repeated { "[{}]" } else { "" });
                let inner = format!("{var}{}", indices.len());
                let mut path_indices = indices.to_vec();
                if repeated {
                    path_indices.push(format!("i{}", indices.len()));
                }
                let mut body = String::new();
                if kind == WEIGHT_PARAMS.0 {
                    let name = if path_indices.is_empty() {
                        format!("{path:?}.into()")
                    } else {
                        format!("format!({path:?}, {}).into()", path_indices.join(", "))
                    };
                    if repeated {
                        let _ = write!(body, "found.push(({name}, Some({inner}x)));");
                    } else {
                        let _ = write!(out, "found.push(({name}, {var}.{member}.{as_ref}()));");
                        continue;
                    }
                } else if kind != NETWORK && self.messages.contains_key(kind) {
                    self.slots_of(
                        kind,
                        &format!("{inner}x"),
                        &path_indices,
                        &format!("{path}."),
                        as_ref,
                        iter,
                        &mut body,
                    );
                }
                if body.is_empty() {
                    continue;
                }
                if let Some(oneof) = field.oneof_index {
                    let name = descriptor.oneof_decl[oneof as usize].name();
                    let owner = descriptor.name().to_snake_case();
                    let arm = format!(
                        "Some({owner}::{}::{}({inner}x)) => {{{body}}}",
                        name.to_upper_camel_case(),
                        field.name().to_upper_camel_case()
                    );
                    oneofs.entry(oneof).or_default().push_str(&arm);
                } else if repeated {
                    let _ = write!(
                        out,
                        "for (i{}, {inner}x) in {var}.{member}.{iter}().enumerate() {{{body}}}",
                        indices.len()
                    );
                } else {
                    let _ = write!(out, "if let Some({inner}x) = {var}.{member}.{as_ref}() {{{body}}}");
                }
            }
            for (oneof, arms) in oneofs {
                let member = descriptor.oneof_decl[oneof as usize].name().to_snake_case();
                let _ = write!(out, "match {var}.{member}.{as_ref}() {{{arms} _ => {{}}}}");
            }
        }
    }
}
