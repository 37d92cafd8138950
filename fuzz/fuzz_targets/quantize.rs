//! Any bytes as a model, quantized in every mode; the first byte chooses bits and options.
#![no_main]

#[path = "../../tests/bodies/model.rs"]
mod model;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    model::quantizes(data);
});
