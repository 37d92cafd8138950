//! Neural networks: which weights their layers have, what Core ML allows for each, and how they are stored.

pub(crate) mod layers;
pub(crate) mod params;
pub(crate) mod rules;
pub(crate) mod shape;
pub(crate) mod weights;
