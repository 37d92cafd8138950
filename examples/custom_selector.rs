//! Quantizes with a selection rule of one's own: 8 bits, but not the last layer.
//!
//! Usage: `custom_selector INPUT OUTPUT`

use std::error::Error;

use coreml_quant::{DefaultSelector, LayerSelector, Model, QuantConfig, WeightInfo, quantize_weights};

/// Leaves one layer, and whatever is too small to matter, as it is.
struct MySelector;

impl LayerSelector for MySelector {
    fn selects(&self, weight: &WeightInfo<'_>) -> bool {
        let count: usize = weight.shape.iter().product();
        DefaultSelector.selects(weight) && weight.layer_name != "dense_2" && count >= 64
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let [_, input, output] = &std::env::args().collect::<Vec<_>>()[..] else {
        return Err("usage: custom_selector INPUT OUTPUT".into());
    };
    let model = Model::open(input)?;
    let config = QuantConfig::linear(8)?.with_selector(MySelector);
    let quantized = quantize_weights(&model, &config)?;
    quantized.model.save(output)?;
    println!("{}", quantized.report);
    Ok(())
}
