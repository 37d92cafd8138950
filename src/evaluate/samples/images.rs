//! The images of a folder.

use std::fs;
use std::path::{Path, PathBuf};

use super::{EvaluateError, Sample, Source, described};
use crate::predict::{ColorOrder, FeatureInfo, FeatureKind, Features, Image};

/// How images become the size of the model's input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fit {
    /// They are stretched.
    #[default]
    Stretch,
    /// They are scaled until they cover it, and what stands out is cut off, on both sides alike.
    Crop,
}

pub(super) struct Images {
    input: String,
    size: [usize; 2],
    order: ColorOrder,
    fit: Fit,
    /// Files, with their labels.
    files: Vec<(PathBuf, Option<String>)>,
}

impl Images {
    pub(super) fn new(inputs: &[FeatureInfo], folder: &Path, fit: Fit) -> Result<Self, EvaluateError> {
        let mut needed = inputs.iter().filter(|input| !input.optional);
        let (Some(FeatureInfo { name, kind: FeatureKind::Image { width, height, order, .. }, .. }), None) =
            (needed.next(), needed.next())
        else {
            let what = "a folder of images is for models whose only input is an image".to_owned();
            return Err(EvaluateError::Inputs { what, inputs: described(inputs) });
        };
        let mut files = Vec::new();
        for path in entries(folder)? {
            if path.is_dir() {
                let label = path.file_name().map(|name| name.to_string_lossy().into_owned());
                files.extend(
                    entries(&path)?.into_iter().filter(|path| is_image(path)).map(|path| (path, label.clone())),
                );
            } else if is_image(&path) {
                files.push((path, None));
            }
        }
        if files.is_empty() {
            return Err(EvaluateError::NoSamples { place: Some(folder.display().to_string()) });
        }
        Ok(Self { input: name.clone(), size: [*width, *height], order: *order, fit, files })
    }
}

/// What is in a folder, in the order of the names.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, EvaluateError> {
    let fail = |cause| EvaluateError::Io { path: folder.to_owned(), cause };
    let entries = fs::read_dir(folder).map_err(fail)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = entries.collect::<Result<Vec<_>, _>>().map_err(fail)?;
    paths.sort();
    Ok(paths)
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    path.is_file() && extension.is_some_and(|extension| ["jpg", "jpeg", "png"].contains(&extension.as_str()))
}

impl Source for Images {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn get(&self, index: usize) -> Result<Sample, EvaluateError> {
        let (path, label) = &self.files[index];
        let fail = |error: crate::predict::PredictError| EvaluateError::Samples {
            place: path.display().to_string(),
            what: match error {
                crate::predict::PredictError::ImageFile { cause, .. } => cause.to_string(),
                other => other.to_string(),
            },
        };
        let mut image = Image::open(path).map_err(fail)?;
        let [width, height] = self.size;
        if self.fit == Fit::Crop {
            image = image.cropped_to_ratio(width, height);
        }
        if [image.width(), image.height()] != self.size {
            image = image.resized(width, height);
        }
        if self.order == ColorOrder::Gray {
            image = image.to_gray();
        }
        let name = match label {
            Some(label) => format!("{label}/{}", path.file_name().unwrap_or_default().to_string_lossy()),
            None => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        };
        Ok(Sample { name, features: Features::new().with(&self.input, image), label: label.clone() })
    }
}
