//! Well-formed models with lying shapes, quantized in every mode.
#![no_main]

#[path = "../../tests/bodies/bytes.rs"]
mod bytes;
#[path = "../../tests/bodies/model.rs"]
mod model;
#[path = "../../tests/bodies/structured.rs"]
mod structured;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    structured::quantizes_what_lies(data);
});
