//! Reads models from standard input and tells what the library makes of each, for `differential.py`.
//!
//! A model is its length in four little-endian bytes and its bytes. For each comes a line with the verdict, and, if it
//! is accepted, the number of bytes that follow: the model encoded again.

use std::error::Error;
use std::io::{self, BufReader, BufWriter, Read, Write};

use coreml_quant::{Model, NotAModel};

fn main() -> Result<(), Box<dyn Error>> {
    let mut input = BufReader::new(io::stdin().lock());
    let mut output = BufWriter::new(io::stdout().lock());
    let mut len = [0; 4];
    while input.read_exact(&mut len).is_ok() {
        let mut bytes = vec![0; u32::from_le_bytes(len) as usize];
        input.read_exact(&mut bytes)?;
        match Model::from_bytes(bytes) {
            Ok(model) => {
                let encoded = model.to_bytes();
                writeln!(output, "accepted {}", encoded.len())?;
                output.write_all(&encoded)?;
            }
            Err(coreml_quant::Error::NotAModel(what)) => writeln!(output, "{} {what}", name(&what))?,
            Err(error) => writeln!(output, "error {error}")?,
        }
    }
    output.flush()?;
    Ok(())
}

fn name(what: &NotAModel) -> &'static str {
    match what {
        NotAModel::UnknownField { .. } => "unknown",
        NotAModel::NewerVersion { .. } => "newer",
        NotAModel::NoType { .. } => "no-type",
        NotAModel::Empty => "empty",
        NotAModel::TooMuchMemory { .. } => "memory",
        _ => "damaged",
    }
}
