//! The hand-written WeightParams against prost's own.
#![no_main]

#[path = "../../tests/bodies/weight_params.rs"]
mod weight_params;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    weight_params::decodes_like_prost(data);
});
