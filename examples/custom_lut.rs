//! Quantizes to a table of one's own: 4 bits, the values are zero and signed powers of two.
//!
//! Usage: `custom_lut INPUT OUTPUT`

use std::error::Error;

use coreml_quant::{Model, QuantConfig, quantize_weights};

/// The table: 0, then plus and minus the largest magnitude, halved seven times.
fn powers_of_two(nbits: u32, values: &[f32]) -> (Vec<f32>, Vec<u8>) {
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let mut table = vec![0.0];
    let mut magnitude = largest;
    while table.len() < 1 << nbits {
        table.push(if table.len() % 2 == 1 { magnitude } else { -magnitude });
        if table.len() % 2 == 1 {
            magnitude /= 2.0;
        }
    }
    let nearest = |value: &f32| {
        let distance = |entry: &f32| (entry - value).abs();
        (0..table.len()).min_by(|&a, &b| distance(&table[a]).total_cmp(&distance(&table[b]))).unwrap_or(0) as u8
    };
    let codes = values.iter().map(nearest).collect();
    (table, codes)
}

fn main() -> Result<(), Box<dyn Error>> {
    let [_, input, output] = &std::env::args().collect::<Vec<_>>()[..] else {
        return Err("usage: custom_lut INPUT OUTPUT".into());
    };
    let model = Model::open(input)?;
    let config = QuantConfig::custom_lut(4, |nbits, values| Ok(powers_of_two(nbits, values)))?;
    let quantized = quantize_weights(&model, &config)?;
    quantized.model.save(output)?;
    println!("{}", quantized.report);
    Ok(())
}
