//! Writing a package: a new folder beside the old one, put in its place when it is complete.
//!
//! Where the system can exchange two folders in one step (Linux, Apple's systems), the old or the new package is there at
//! any moment, whole. Elsewhere the old one is renamed away first, and renamed back if the new one cannot take its place.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::Package;
use crate::error::Error;

/// A package that is being written: a folder under a name of its own, which is removed unless it is finished.
#[derive(Debug)]
pub(crate) struct NewPackage {
    folder: tempfile::TempDir,
    target: PathBuf,
    sync: bool,
}

impl NewPackage {
    /// Starts writing what will be `path`.
    pub(crate) fn new(path: &Path, sync: bool) -> Result<Self, Error> {
        let io = |cause| Error::Io { path: path.to_owned(), cause };
        // A link stays a link: the folder that it leads to is replaced.
        let target = match fs::canonicalize(path) {
            Ok(target) => target,
            Err(_) => path.to_owned(),
        };
        match fs::metadata(&target) {
            Ok(old) if !old.is_dir() => return Err(io(io::Error::new(io::ErrorKind::AlreadyExists, "not a folder"))),
            _ => {}
        }
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".coreml-quant-").suffix(".tmp");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o777));
        }
        let folder = builder.tempdir_in(&parent).map_err(io)?;
        Ok(Self { folder, target, sync })
    }

    /// Creates a file, and the folders around it.
    pub(crate) fn create(&self, path: &str) -> Result<File, Error> {
        let full = self.folder.path().join(path);
        let create = || {
            if let Some(parent) = full.parent() {
                fs::create_dir_all(parent)?;
            }
            File::create(&full)
        };
        create().map_err(|cause| Error::Io { path: self.target.join(path), cause })
    }

    /// Writes a whole file.
    pub(crate) fn write(&self, path: &str, bytes: &[u8]) -> Result<(), Error> {
        let write = |mut file: File| {
            io::Write::write_all(&mut file, bytes)?;
            if self.sync { file.sync_all() } else { Ok(()) }
        };
        write(self.create(path)?).map_err(|cause| Error::Io { path: self.target.join(path), cause })
    }

    /// Puts the package in its place.
    pub(crate) fn finish(self) -> Result<(), Error> {
        let Self { folder, target, sync } = self;
        let io = |cause| Error::Io { path: target.clone(), cause };
        if let Ok(old) = fs::metadata(&target) {
            fs::set_permissions(folder.path(), old.permissions()).map_err(io)?;
        }
        if sync {
            sync_folders(folder.path()).map_err(io)?;
        }
        let left_over = replace(folder, &target).map_err(io)?;
        if sync {
            #[cfg(unix)]
            if let Some(parent) = target.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                File::open(parent).and_then(|parent| parent.sync_all()).map_err(io)?;
            }
        }
        // The new package is in its place; what is left of the old one is no reason to fail.
        drop(left_over);
        Ok(())
    }
}

/// Puts a folder in the place of another one, and returns the old one under a name of its own.
fn replace(new: tempfile::TempDir, target: &Path) -> io::Result<Option<tempfile::TempDir>> {
    if fs::symlink_metadata(target).is_err() {
        fs::rename(new.path(), target)?;
        // It has moved: there is nothing to remove.
        let _ = new.keep();
        return Ok(None);
    }
    if exchange(new.path(), target).is_ok() {
        // What has the new folder's old name is now the old package.
        return Ok(Some(new));
    }
    let parent = new.path().parent().unwrap_or(Path::new("."));
    let aside = tempfile::Builder::new().prefix(".coreml-quant-").suffix(".old").tempdir_in(parent)?;
    let old = aside.path().join("package");
    fs::rename(target, &old)?;
    match fs::rename(new.path(), target) {
        Ok(()) => {
            let _ = new.keep();
            Ok(Some(aside))
        }
        Err(error) => {
            if fs::rename(&old, target).is_err() {
                // Better left under an odd name than removed.
                let _ = aside.keep();
            }
            Err(error)
        }
    }
}

/// Exchanges the names of two folders in one step.
#[cfg(any(target_os = "linux", target_os = "macos", target_os = "ios"))]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

/// Exchanges the names of two folders in one step, where the system can.
#[cfg(not(any(target_os = "linux", target_os = "macos", target_os = "ios")))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Waits until the names of all files in a folder are on the disk.
fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    Ok(())
}

/// Writes a package as it is.
pub(crate) fn save(package: &Package, path: &Path, sync: bool) -> Result<(), Error> {
    let new = NewPackage::new(path, sync)?;
    for (path, bytes) in package.files() {
        new.write(path, bytes)?;
    }
    new.finish()
}
