//! Models beside networks in pipelines.

use super::description::FeatureInfo;
use super::error::PredictError;
use super::features::Features;
use crate::proto;

/// A model that is no network.
#[derive(Debug)]
pub(crate) enum Member {}

impl Member {
    /// `None` for what cannot be run.
    pub(crate) fn new(_: &proto::Model, _: &str) -> Result<Option<Self>, PredictError> {
        Ok(None)
    }

    pub(crate) fn run(
        &self,
        _path: &str,
        _inputs: &[FeatureInfo],
        _outputs: &[FeatureInfo],
        _features: &Features,
    ) -> Result<Features, PredictError> {
        match *self {}
    }
}
