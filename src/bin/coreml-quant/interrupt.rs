//! Ctrl-C and termination: what was being written is removed, what was there before stays.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The folders that hold unfinished files.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has an interrupt remove unfinished files before the process ends with exit code 130.
pub fn install() {
    // Without it an interrupt ends the process at once, as it would end any other.
    let _ = ctrlc::set_handler(|| {
        // Held until the end, so that nothing is finished or begun any more.
        let folders = unfinished();
        for folder in folders.iter() {
            // Other threads may still be making files.
            let _ = (0..3).find(|_| fs::remove_dir_all(folder).is_ok());
        }
        std::process::exit(130);
    });
}

/// A folder for a file that is not finished, beside the place it will have; removed with all in it when dropped.
#[derive(Debug)]
pub struct Workplace(PathBuf);

impl Workplace {
    /// Makes the folder in another one.
    pub fn beside(parent: &Path) -> io::Result<Self> {
        let mut folders = unfinished();
        let folder = tempfile::Builder::new().prefix(".coreml-quant-").suffix(".tmp").tempdir_in(parent)?.keep();
        folders.push(folder.clone());
        Ok(Self(folder))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let mut folders = unfinished();
        // What cannot be removed cannot be helped; the result is complete or was never there.
        let _ = fs::remove_dir_all(&self.0);
        folders.retain(|folder| *folder != self.0);
    }
}
