//! Neural networks: a walk over their layers, and the table of their weights.

pub(crate) mod layers;
pub(crate) mod walk;
