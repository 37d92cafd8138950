//! What all jobs share: threads, and a bar while they run.

use std::ops::ControlFlow;

use clap::Args;
use coreml_quant::QuantConfig;
use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::Failure;

/// How a job runs.
#[derive(Args, Clone, Copy, Debug)]
pub struct Running {
    /// Number of threads, at most 256; as many as there are cores unless given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Print nothing but errors and warnings.
    #[arg(long)]
    pub quiet: bool,
}

impl Running {
    /// Makes the threads.
    pub fn start(&self) -> Result<(), Failure> {
        let Some(threads) = self.threads else { return Ok(()) };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into());
        pool.build_global().map_err(|error| Failure::Job(error.to_string()))
    }

    /// A bar on standard error, if that is a terminal.
    pub fn bar(&self) -> Bar {
        let bar = if self.quiet { ProgressBar::hidden() } else { ProgressBar::no_length() };
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3} %  {eta} left") {
            bar.set_style(style);
        }
        Bar(bar)
    }
}

/// Shows how far a job is, and disappears with it.
#[derive(Clone, Debug)]
pub struct Bar(ProgressBar);

impl Bar {
    /// Moves the bar.
    pub fn at(&self, done: usize, total: usize) {
        self.0.set_length(total as u64);
        self.0.set_position(done as u64);
    }

    /// A configuration that moves the bar.
    pub fn follow(&self, config: QuantConfig) -> QuantConfig {
        if self.0.is_hidden() {
            return config;
        }
        let bar = self.0.clone();
        config.with_progress(move |progress| {
            bar.set_length(progress.values);
            bar.set_position(progress.values_done);
            ControlFlow::Continue(())
        })
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
