//! NumPy's files of arrays.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use ndarray::{ArrayD, Axis, IxDyn, OwnedRepr};
use ndarray_npy::{NpzReader, ReadNpyError, ReadNpzError, ReadableElement, read_npy};

use super::{EvaluateError, Sample, Source, described};
use crate::predict::{FeatureInfo, Features, Tensor};

pub(super) struct Arrays {
    /// By the inputs' names; samples along the first axis.
    arrays: Vec<(String, Tensor)>,
    labels: Option<Vec<String>>,
    len: usize,
}

/// Tries each type of element.
macro_rules! read_as_float32 {
    ($read:ident $arguments:tt, $wrong:pat, [$($element:ty),+]) => {{
        $(
            match $read::<$element> $arguments {
                Ok(array) => return Ok(array.mapv(|value| value as f32).into_shared()),
                Err($wrong) => {}
                Err(error) => return Err(error.to_string()),
            }
        )+
        Err("the elements are of no type that can be read: float32, float64, or whole numbers of up to 64 bits".to_owned())
    }};
}

fn one<T: ReadableElement>(path: &Path) -> Result<ArrayD<T>, ReadNpyError> {
    read_npy(path)
}

fn of_many<T: ReadableElement>(file: &mut NpzReader<impl Read + Seek>, name: &str) -> Result<ArrayD<T>, ReadNpzError> {
    file.by_name::<OwnedRepr<T>, IxDyn>(name)
}

fn npy(path: &Path) -> Result<Tensor, String> {
    read_as_float32!(one(path), ReadNpyError::WrongDescriptor(_), [f32, f64, u8, i32, i64, i8, i16, u16, u32, u64])
}

fn npz(file: &mut NpzReader<impl Read + Seek>, name: &str) -> Result<Tensor, String> {
    read_as_float32!(
        of_many(file, name),
        ReadNpzError::Npy(ReadNpyError::WrongDescriptor(_)),
        [f32, f64, u8, i32, i64, i8, i16, u16, u32, u64]
    )
}

impl Arrays {
    pub(super) fn open(inputs: &[FeatureInfo], path: &Path) -> Result<Self, EvaluateError> {
        let io = |cause| EvaluateError::Io { path: path.to_owned(), cause };
        let place = || path.display().to_string();
        let wrong = |what: String| EvaluateError::Samples { place: place(), what };
        let mut arrays = Vec::new();
        let mut labels = None;
        let file = File::open(path).map_err(io)?;
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npy")) {
            let mut needed = inputs.iter().filter(|input| !input.optional);
            let (Some(input), None) = (needed.next(), needed.next()) else {
                let what = "an .npy file is for models with one input".to_owned();
                return Err(EvaluateError::Inputs { what, inputs: described(inputs) });
            };
            arrays.push((input.name.clone(), npy(path).map_err(wrong)?));
        } else {
            let mut file = NpzReader::new(BufReader::new(file)).map_err(|error| wrong(error.to_string()))?;
            for entry in file.names().map_err(|error| wrong(error.to_string()))? {
                let name = entry.strip_suffix(".npy").unwrap_or(&entry);
                let mut read = || npz(&mut file, &entry).map_err(|what| wrong(format!("the array \"{name}\": {what}")));
                if inputs.iter().any(|input| input.name == name) {
                    let array = read()?;
                    arrays.push((name.to_owned(), array));
                } else if name == "label" || name == "labels" {
                    labels = Some(read()?.iter().map(|label| format!("{label:.0}")).collect::<Vec<_>>());
                } else {
                    let what = format!("{}: the array \"{name}\" is no input", place());
                    return Err(EvaluateError::Inputs { what, inputs: described(inputs) });
                }
            }
        }
        let count = |(name, array): &(String, Tensor)| match array.shape() {
            [count, ..] => Ok((name.clone(), *count)),
            [] => Err(wrong(format!("the array \"{name}\" has no axis of samples"))),
        };
        let counts = arrays.iter().map(count).collect::<Result<Vec<_>, _>>()?;
        let len = counts.first().map_or(0, |(_, count)| *count);
        if let Some((name, count)) = counts.iter().find(|(_, count)| *count != len) {
            return Err(wrong(format!("the array \"{name}\" has {count} samples, \"{}\" has {len}", counts[0].0)));
        }
        if len == 0 {
            return Err(EvaluateError::NoSamples { place: Some(place()) });
        }
        if let Some(labels) = labels.as_ref().filter(|labels| labels.len() != len) {
            return Err(EvaluateError::Labels { labels: labels.len(), samples: len });
        }
        Ok(Self { arrays, labels, len })
    }
}

impl Source for Arrays {
    fn len(&self) -> usize {
        self.len
    }

    fn get(&self, index: usize) -> Result<Sample, EvaluateError> {
        let arrays = self.arrays.iter();
        let features: Features =
            arrays.map(|(name, array)| (name.clone(), array.index_axis(Axis(0), index).to_owned().into())).collect();
        let mut sample = Sample::new(index.to_string(), features);
        sample.label = self.labels.as_ref().map(|labels| labels[index].clone());
        Ok(sample)
    }
}
