//! One weight as a value: what was lost of it.

pub(crate) mod distortion;
