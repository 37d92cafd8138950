//! Quantizes a model file: 4-bit tables, 8 bits for the last layer, and says what that cost.
//!
//! Usage: `quantize INPUT OUTPUT`. The command-line tool does much more; this is what it stands on.

use std::error::Error;

use coreml_quant::{KmeansLut, Model, Nbits, Pattern, QuantConfig, SaveOptions, quantize_to_file};

fn main() -> Result<(), Box<dyn Error>> {
    let [_, input, output] = &std::env::args().collect::<Vec<_>>()[..] else {
        return Err("usage: quantize INPUT OUTPUT".into());
    };
    let model = Model::open(input)?;
    let config = QuantConfig::kmeans_lut(4)?.with_rule(Pattern::new("dense_2"), KmeansLut::new(Nbits::EIGHT));
    // Weight by weight straight into the file, so that the output is never in memory as a whole.
    let report = quantize_to_file(&model, &config, output, &SaveOptions::default())?;
    println!("{report}");
    for layer in report.worst_layers().iter().take(3) {
        println!("{:6.2} dB  {}", layer.sqnr_db, layer.layer);
    }
    Ok(())
}
