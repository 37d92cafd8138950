//! The least error in a quarter of the size: a plan, which may be looked at and changed, and its execution.
//!
//! Usage: `mixed_precision INPUT OUTPUT`

use std::error::Error;

use coreml_quant::{Method, Model, Planner, QuantConfig, Target, quantize_weights};

fn main() -> Result<(), Box<dyn Error>> {
    let [_, input, output] = &std::env::args().collect::<Vec<_>>()[..] else {
        return Err("usage: mixed_precision INPUT OUTPUT".into());
    };
    let model = Model::open(input)?;
    let size = std::fs::metadata(input)?.len();
    let mut plan = Planner::new(Target::Bytes(size / 4)).plan(&model)?;
    println!("{plan}");
    // A plan is a value: this one shall leave the biases alone.
    for weight in plan.weights.iter_mut().filter(|weight| weight.field == "bias") {
        weight.method = Method::Keep;
    }
    let quantized = quantize_weights(&model, &QuantConfig::planned(plan))?;
    quantized.model.save(output)?;
    println!("{}", quantized.report);
    Ok(())
}
