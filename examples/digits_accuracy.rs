//! How many of the digits model's held-out samples are still right, by mode and size: runs the quantized network on the
//! CPU. Prints a Markdown table.

use std::error::Error;
use std::fs;
use std::path::Path;

use coreml_quant::predict::{Features, Predictor, Value};
use coreml_quant::{Mode, Model, Planner, QuantConfig, Target, quantize_weights};
use ndarray::Array3;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/digits");
    let model = Model::open(folder.join("digits.mlmodel"))?;
    let samples = samples(&fs::read_to_string(folder.join("samples.csv"))?)?;
    let full = model.to_bytes().len();
    println!("| weights | bytes | of the original | SQNR | right of {} |\n|---|---|---|---|---|", samples.len());
    println!("| float32 | {full} | 100.0 % | | {} |", right(&model, &samples)?);
    let print = |name: String, config: QuantConfig| -> Result<(), Box<dyn Error>> {
        let quantized = quantize_weights(&model, &config)?;
        let bytes = quantized.model.to_bytes().len();
        let sqnr = quantized.report.sqnr_db().ok_or("not measured")?;
        let share = 100.0 * bytes as f64 / full as f64;
        println!("| {name} | {bytes} | {share:.1} % | {sqnr:.1} dB | {} |", right(&quantized.model, &samples)?);
        Ok(())
    };
    print("float16".into(), QuantConfig::float16())?;
    for mode in [Mode::Linear, Mode::LinearSymmetric, Mode::LinearLut, Mode::KmeansLut] {
        for nbits in [8, 6, 4, 3, 2, 1].into_iter().filter(|nbits| mode.nbits().contains(nbits)) {
            print(format!("{mode} {nbits} bits"), QuantConfig::from_mode(mode, Some(nbits))?)?;
        }
    }
    for bits in [8.0, 6.0, 4.0, 3.0, 2.5, 2.0, 1.5] {
        let plan = Planner::new(Target::AverageBits(bits)).plan(&model)?;
        print(format!("planned, {bits} bits on average"), QuantConfig::planned(plan))?;
    }
    Ok(())
}

/// Labels and images.
fn samples(text: &str) -> Result<Vec<(i64, Features)>, Box<dyn Error>> {
    let sample = |line: &str| -> Result<(i64, Features), Box<dyn Error>> {
        let (label, pixels) = line.split_once(',').ok_or("a sample without pixels")?;
        let pixels = pixels.split(',').map(str::parse).collect::<Result<Vec<f32>, _>>()?;
        Ok((label.parse()?, Features::new().with("image", Array3::from_shape_vec((1, 8, 8), pixels)?)))
    };
    text.lines().skip(1).map(sample).collect()
}

/// How many samples the model labels right.
fn right(model: &Model, samples: &[(i64, Features)]) -> Result<usize, Box<dyn Error>> {
    let predictor = Predictor::new(model)?;
    let mut count = 0;
    for (label, image) in samples {
        let outputs = predictor.predict(image)?;
        count += usize::from(outputs.get("digit") == Some(&Value::Int64(*label)));
    }
    Ok(count)
}
