//! The format as it lies in files: generated types, the one message written by hand, and a scan of raw bytes.

pub(crate) mod dtype;
pub(crate) mod form;
pub mod proto;
pub(crate) mod scan;
pub mod weight_params;

/// What `build.rs` makes of the schema, beside the types: names, and where weights are.
#[rustfmt::skip]
mod generated {
    include!("generated/names.rs");
    include!("generated/slots.rs");
}

use generated::{LAYER_NAMES, layer_name, model_name};
pub(crate) use generated::{slots, slots_mut};

use proto::NeuralNetworkLayer;

/// The type of a layer under its name in the format (`innerProduct`, `uniDirectionalLSTM`), as coremltools' selectors
/// use it; `None` for a layer without a type.
pub fn layer_type(layer: &NeuralNetworkLayer) -> Option<&'static str> {
    layer.layer.as_ref().map(layer_name)
}

/// The names of all types of layers in the format, in the schema's order.
pub fn layer_types() -> &'static [&'static str] {
    LAYER_NAMES
}

/// The name of a model's type in the format: `neuralNetworkClassifier`, `pipeline`, `mlProgram`; `none` without one.
pub fn model_type(model: &proto::Model) -> &'static str {
    model.r#type.as_ref().map_or("none", model_name)
}

#[cfg(all(test, feature = "generate"))]
mod tests {
    use std::path::Path;

    /// What is checked in is what the schema gives. With `COREML_QUANT_UPDATE` set, it is written anew.
    #[test]
    fn generated() {
        let made = Path::new(env!("COREML_QUANT_GENERATED"));
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/format/generated");
        let update = std::env::var_os("COREML_QUANT_UPDATE").is_some();
        for file in ["types.rs", "names.rs", "slots.rs", "wire_table.rs", "descriptors.bin"] {
            if update {
                std::fs::copy(made.join(file), kept.join(file)).unwrap();
            }
            let [made, kept] = [made.join(file), kept.join(file)].map(|path| std::fs::read(path).unwrap());
            assert!(
                made == kept,
                "{file} differs: cargo test --features generate generated, with COREML_QUANT_UPDATE=1"
            );
        }
    }
}
