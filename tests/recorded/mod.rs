//! Recorded inputs and expected outputs of models, in tab-separated tables and binary files: include with `mod recorded`.

use std::fs;
use std::path::{Path, PathBuf};

use coreml_quant::predict::{ColorOrder, Features, Image, Predictor, Tensor, Value};
use ndarray::{ArrayD, IxDyn};

/// A table whose first line names its columns.
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Reads a table.
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let mut lines = text.lines().map(|line| line.split('\t').map(str::to_owned).collect::<Vec<_>>());
        Self { columns: lines.next().unwrap(), rows: lines.collect() }
    }

    /// The rows.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|row| Row { table: self, row })
    }
}

/// A row of a table.
#[derive(Clone, Copy)]
pub struct Row<'t> {
    table: &'t Table,
    row: &'t [String],
}

impl<'t> Row<'t> {
    /// The value of a column.
    pub fn get(&self, column: &str) -> &'t str {
        let index = self.table.columns.iter().position(|name| name == column).unwrap();
        &self.row[index]
    }

    /// The bytes that a row with `offset` and `bytes` means.
    pub fn bytes<'f>(&self, file: &'f [u8]) -> &'f [u8] {
        let offset: usize = self.get("offset").parse().unwrap();
        &file[offset..][..self.get("bytes").parse().unwrap()]
    }

    /// Numbers joined by a separator.
    pub fn shape(&self, separator: char) -> Vec<usize> {
        let shape = self.get("shape");
        if shape.is_empty() { Vec::new() } else { shape.split(separator).map(|size| size.parse().unwrap()).collect() }
    }
}

/// The folder that an environment variable names, or one beside the checkout; `None` if there is neither.
pub fn folder(variable: &str, beside: &str) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(variable) {
        return Some(folder.into());
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(beside);
    folder.exists().then_some(folder)
}

/// float32 values from their bytes.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

/// An input: float32 values, or 8-bit pixels.
pub fn value(kind: &str, shape: &[usize], bytes: &[u8]) -> Value {
    if kind == "image" {
        let order = if shape.len() == 3 { ColorOrder::Rgb } else { ColorOrder::Gray };
        return Image::from_interleaved(shape[1], shape[0], order, bytes.to_vec()).unwrap().into();
    }
    ArrayD::from_shape_vec(IxDyn(shape), floats(bytes)).unwrap().into()
}

/// The blobs of some names after a prediction, as layers wrote them last.
pub fn blobs(predictor: &Predictor, features: &Features, names: &[&str]) -> Result<Vec<Option<Tensor>>, String> {
    let mut blobs = vec![None; names.len()];
    let outputs = predictor.predict_with(features, |layer, outputs| {
        for (name, output) in layer.outputs.iter().zip(outputs) {
            if let Some(index) = names.iter().position(|wanted| *wanted == &**name) {
                blobs[index] = Some(output.clone());
            }
        }
    });
    let outputs = outputs.map_err(|error| error.to_string())?;
    for (blob, name) in blobs.iter_mut().zip(names) {
        // An input that is an output.
        if let (None, Some(array)) = (&blob, outputs.array(name)) {
            *blob = Some(array.to_shared());
        }
    }
    Ok(blobs)
}
