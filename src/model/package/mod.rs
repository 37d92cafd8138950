//! `.mlpackage` folders: a manifest, a model file, weight files, and whatever else somebody put there.
//!
//! A [`Package`] is such a folder in memory: every file under its path, `/` between the parts. Nothing of it is
//! interpreted but the manifest, and what is not replaced stays as it is, byte for byte: also the files that no item of
//! the manifest names. Links are read through; a package in memory has none.

pub(crate) mod manifest;
pub(crate) mod save;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::{Error, ManifestError};
use manifest::{MANIFEST, Manifest};

/// How deep folders may lie in each other: links may lead in circles.
const MAX_DEPTH: usize = 32;

/// How many files a package may have.
const MAX_FILES: usize = 1 << 16;

/// An `.mlpackage` folder in memory.
///
/// ```
/// use coreml_quant::{Model, Package};
///
/// # fn example(files: Vec<(String, bytes::Bytes)>) -> Result<(), Box<dyn std::error::Error>> {
/// // From wherever the files are kept: an archive, a database, a memory map.
/// let model = Model::from_package(Package::new(files)?)?;
/// for (path, bytes) in model.to_package().files() {
///     println!("{path}: {} bytes", bytes.len());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq)]
pub struct Package {
    manifest: Manifest,
    files: BTreeMap<String, Bytes>,
}

impl Package {
    /// A package from its files: each under its path in the package, as `Manifest.json` or
    /// `Data/com.apple.CoreML/model.mlmodel`.
    ///
    /// # Errors
    ///
    /// [`ManifestError`] if there is no manifest, it breaks a rule, or it names what is not there.
    pub fn new<P: Into<String>, B: Into<Bytes>>(
        files: impl IntoIterator<Item = (P, B)>,
    ) -> Result<Self, ManifestError> {
        let files: BTreeMap<String, Bytes> =
            files.into_iter().map(|(path, bytes)| (path.into(), bytes.into())).collect();
        if let Some(path) = files.keys().find(|path| !manifest::is_inside(path)) {
            return Err(ManifestError::Path { identifier: String::new(), path: path.clone() });
        }
        let manifest = Manifest::parse(files.get(MANIFEST).ok_or(ManifestError::Missing)?)?;
        for item in manifest.items() {
            let below = format!("{item}/");
            let there = files.contains_key(item)
                || files.range(below.clone()..).next().is_some_and(|(path, _)| path.starts_with(&below));
            // An empty folder of weights is no file, and nothing needs it.
            if !there && item == manifest.root() {
                return Err(ManifestError::NotThere { path: item.clone() });
            }
        }
        Ok(Self { manifest, files })
    }

    /// A package for a model that had none.
    pub(crate) fn empty() -> Self {
        let manifest = Manifest::new();
        let files = BTreeMap::from([
            (MANIFEST.to_owned(), manifest.to_bytes().into()),
            (manifest.root().to_owned(), Bytes::new()),
        ]);
        Self { manifest, files }
    }

    /// Reads a folder.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let mut files = BTreeMap::new();
        read_folder(path, "", 0, &mut files)?;
        Self::new(files).map_err(|cause| Error::Package { path: path.to_owned(), cause })
    }

    /// Every file under its path, in the order of the paths.
    pub fn files(&self) -> impl ExactSizeIterator<Item = (&str, &Bytes)> {
        self.files.iter().map(|(path, bytes)| (path.as_str(), bytes))
    }

    /// The files alone.
    pub fn into_files(self) -> BTreeMap<String, Bytes> {
        self.files
    }

    /// One file.
    pub fn file(&self, path: &str) -> Option<&Bytes> {
        self.files.get(path)
    }

    /// The path of the root model's file.
    pub fn root(&self) -> &str {
        self.manifest.root()
    }

    /// The path of a weight file, from the name that a program gives it: `@model_path/weights/weight.bin`, where
    /// `@model_path` is the folder of the model file.
    pub(crate) fn weight_path(&self, file_name: &str) -> Option<String> {
        let relative = file_name.strip_prefix("@model_path/")?;
        if !manifest::is_inside(relative) {
            return None;
        }
        let folder = self.root().rsplit_once('/').map_or("", |(folder, _)| folder);
        Some(format!("{folder}/{relative}"))
    }

    /// Puts the root model's bytes in place.
    pub(crate) fn set_root(&mut self, bytes: Bytes) {
        self.files.insert(self.manifest.root().to_owned(), bytes);
    }

    /// Puts a weight file in place, listed in the manifest; without bytes it goes away.
    pub(crate) fn set_weights(&mut self, path: &str, bytes: Bytes) {
        let before = self.manifest.items().len();
        self.manifest.cover_weights(path);
        if self.manifest.items().len() > before {
            self.files.insert(MANIFEST.to_owned(), self.manifest.to_bytes().into());
        }
        self.files.insert(path.to_owned(), bytes);
    }
}

impl fmt::Debug for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.files.iter().map(|(path, bytes)| (path, bytes.len()))).finish()
    }
}

fn read_folder(folder: &Path, prefix: &str, depth: usize, files: &mut BTreeMap<String, Bytes>) -> Result<(), Error> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |cause| Error::Io { path, cause }
    };
    let refuse = |path: PathBuf, what: &'static str| Error::Io { path, cause: io::Error::other(what) };
    if depth > MAX_DEPTH {
        return Err(refuse(folder.to_owned(), "folders lie too deep in each other, or links lead in a circle"));
    }
    for entry in fs::read_dir(folder).map_err(io(folder))? {
        let path = entry.map_err(io(folder))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| manifest::is_inside(name))
        else {
            return Err(refuse(path, "a name that no package can hold"));
        };
        let inner = format!("{prefix}{name}");
        // Follows links.
        let metadata = fs::metadata(&path).map_err(io(&path))?;
        if metadata.is_dir() {
            read_folder(&path, &format!("{inner}/"), depth + 1, files)?;
        } else if metadata.is_file() {
            if files.len() == MAX_FILES {
                return Err(refuse(path, "the package has too many files"));
            }
            let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
            fs::File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(io(&path))?;
            files.insert(inner, bytes.into());
        } else {
            return Err(refuse(path, "neither a file nor a folder"));
        }
    }
    Ok(())
}
