//! Lists the layers of a model and how their weights are stored, and says what breaks a rule of Core ML's.
//!
//! Usage: `inspect MODEL`

use std::error::Error;

use coreml_quant::{Model, check};

fn main() -> Result<(), Box<dyn Error>> {
    let [_, path] = &std::env::args().collect::<Vec<_>>()[..] else { return Err("usage: inspect MODEL".into()) };
    let model = Model::open(path)?;
    println!("{}: {}", model.kind(), model.metadata().description);
    for layer in model.layers() {
        println!("{}: {} \"{}\"", layer.network, layer.layer_type.unwrap_or("no type"), layer.layer.name);
        for weight in &layer.weights {
            match &weight.stored {
                Ok(form) => println!("    {} {:?}: {form}", weight.field, weight.shape),
                Err(error) => println!("    {}: {error}", weight.field),
            }
        }
    }
    for finding in check(&model) {
        println!("broken: {finding}");
    }
    Ok(())
}
