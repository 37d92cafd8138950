//! How a command ends: its exit code, and what it says when it fails.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

/// The exit codes, for the help text.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the job failed; nothing was written
  2    wrong options, or a name that the model does not have
  3    done, but nothing in the model changed
  4    a rule of Core ML's is broken, or a limit that was given is exceeded
  130  interrupted; nothing was written";

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// As asked.
    Done,
    /// As asked, but the model is the same as before.
    Unchanged,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        match status {
            Status::Done => Self::SUCCESS,
            Status::Unchanged => Self::from(3),
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The options make no sense, or not for this model.
    Usage(String),
    /// The job could not be done.
    Job(String),
    /// A rule or a limit is broken.
    Broken(String),
}

impl Failure {
    /// An error of a file's.
    pub fn of_file(path: &std::path::Path, error: &dyn fmt::Display) -> Self {
        Self::Job(format!("{}: {error}", path.display()))
    }

    /// Says why, and gives the exit code.
    pub fn report(&self) -> ExitCode {
        let (Self::Usage(message) | Self::Job(message) | Self::Broken(message)) = self;
        // Nobody may be listening.
        let _ = writeln!(std::io::stderr(), "error: {message}");
        ExitCode::from(match self {
            Self::Job(_) => 1,
            Self::Usage(_) => 2,
            Self::Broken(_) => 4,
        })
    }
}

impl From<coreml_quant::ConfigError> for Failure {
    fn from(error: coreml_quant::ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<coreml_quant::Error> for Failure {
    fn from(error: coreml_quant::Error) -> Self {
        match error {
            coreml_quant::Error::Config(error) => error.into(),
            coreml_quant::Error::Unrepresentable { .. } => {
                Self::Job(format!("{error}\nthe options for that: --fold, --keep-unrepresentable, --skip-layer NAME"))
            }
            // The library names the file that is going to take the output's place.
            coreml_quant::Error::NeedsPackage { .. } => Self::Job(
                "an ML Program has weight files beside it: the output has to be an .mlpackage folder".to_owned(),
            ),
            error => Self::Job(error.to_string()),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Job(error.to_string())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Job(error.to_string())
    }
}
