//! Any bytes as a model.
#![no_main]

#[path = "../../tests/bodies/model.rs"]
mod model;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    model::decodes(data);
});
