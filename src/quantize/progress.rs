//! How far a job is.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::config::{Progress, QuantConfig};

/// Counts what is done, and tells it.
pub(crate) struct Tally<'a> {
    config: &'a QuantConfig,
    weights: usize,
    values: u64,
    weights_done: AtomicUsize,
    values_done: AtomicU64,
}

impl<'a> Tally<'a> {
    /// Of a job with so many weights and values to convert.
    pub(crate) fn new(config: &'a QuantConfig, weights: usize, values: u64) -> Self {
        Self { config, weights, values, weights_done: AtomicUsize::new(0), values_done: AtomicU64::new(0) }
    }

    /// One more weight is done, of so many values.
    pub(crate) fn done(&self, values: u64) {
        let weights_done = self.weights_done.fetch_add(1, Ordering::Relaxed) + 1;
        let values_done = self.values_done.fetch_add(values, Ordering::Relaxed) + values;
        if let Some(progress) = &self.config.progress {
            progress(Progress { weights_done, weights: self.weights, values_done, values: self.values });
        }
    }
}

impl std::fmt::Debug for Tally<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tally").field("weights", &self.weights).field("values", &self.values).finish_non_exhaustive()
    }
}
