//! k-means against the exact optimum.
#![no_main]

#[path = "../../tests/bodies/codes.rs"]
#[allow(dead_code, reason = "another target takes the rest")]
mod codes;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    codes::clusters(data);
});
