//! Neural networks: a walk over their layers, the table of their weights, and that of their inputs.

pub(crate) mod layers;
pub(crate) mod uses;
pub(crate) mod walk;
