//! What a model holds, whether Core ML accepts it, and how two of them compare.

mod check;
mod compare;
mod survey;

pub use check::{Finding, Subject, Violation, check};
pub use compare::compare;
pub use survey::{LayerSurvey, WeightSurvey};
