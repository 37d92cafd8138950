//! The layers without weights: pure functions from inputs and parameters to outputs, a file a family.
