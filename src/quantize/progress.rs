//! How far a job is, and whether the caller has ended it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::config::{Progress, QuantConfig};
use crate::error::{Error, Place};

/// Counts what is done, and tells it.
pub(crate) struct Tally<'a> {
    config: &'a QuantConfig,
    weights: usize,
    values: u64,
    weights_done: AtomicUsize,
    values_done: AtomicU64,
    cancelled: AtomicBool,
}

impl<'a> Tally<'a> {
    /// Of a job with so many weights and values to convert.
    pub(crate) fn new(config: &'a QuantConfig, weights: usize, values: u64) -> Self {
        Self {
            config,
            weights,
            values,
            weights_done: AtomicUsize::new(0),
            values_done: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
        }
    }

    /// Fails if the caller has ended the job.
    pub(crate) fn go_on(&self) -> Result<(), Error> {
        if self.cancelled.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// One more weight is done, of so many values.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the caller ends the job.
    pub(crate) fn done(&self, place: &Place, units: u64) -> Result<(), Error> {
        let weights_done = self.weights_done.fetch_add(1, Ordering::Relaxed) + 1;
        let values_done = self.values_done.fetch_add(units, Ordering::Relaxed) + units;
        if let Some(progress) = &self.config.progress {
            let (weights, values) = (self.weights, self.values);
            if progress(Progress { place, weights_done, weights, values_done, values }).is_break() {
                self.cancelled.store(true, Ordering::Relaxed);
                return Err(Error::Cancelled);
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Tally<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tally").field("weights", &self.weights).field("values", &self.values).finish_non_exhaustive()
    }
}
