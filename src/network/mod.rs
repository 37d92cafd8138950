//! Neural networks: which weights their layers have, what Core ML allows for each, how they are
//! stored, and what layers take their inputs for.

pub(crate) mod layers;
pub(crate) mod mean_image;
pub(crate) mod params;
pub(crate) mod rules;
pub(crate) mod shape;
pub(crate) mod uses;
pub(crate) mod weights;
