//! Any bytes as a model, run within small limits: as they are, and as decisions about a network that lies.
#![no_main]

#[path = "../../tests/bodies/bytes.rs"]
mod bytes;
#[path = "../../tests/bodies/model.rs"]
mod model;
#[path = "../../tests/bodies/predict.rs"]
mod predict;
#[path = "../../tests/bodies/structured.rs"]
mod structured;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    predict::runs(data);
    predict::runs_what_lies(data);
});
