//! Compresses the weights of an ML Program, for the comparison with coremltools: `compress in.mlpackage out.mlpackage MODE
//! [BITS] [granularity=G] [target=T] [threshold=N] [range=R] [prune=RULE:NUMBERS]`.

use std::error::Error;

use coreml_quant::{
    KmeansLut, Linear, LinearRange, LinearSymmetric, Mode, Model, Nbits, Pruning, QuantConfig, SymmetricBits,
    quantize_weights,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output, mode, options @ ..] = arguments.as_slice() else {
        return Err("compress in.mlpackage out.mlpackage MODE [BITS] [key=value]".into());
    };
    let nbits: Option<u32> = options.iter().find_map(|option| option.parse().ok());
    let value = |key: &str| options.iter().find_map(|option| option.strip_prefix(key)?.strip_prefix('='));
    let mut config = match (mode.as_str(), value("range")) {
        ("prune", _) => QuantConfig::prune(pruning(value("prune").ok_or("prune=RULE is missing")?)?),
        ("linear", Some(_)) => QuantConfig::custom(Linear::new(bits(nbits)?).with_range(LinearRange::LeastSquares)),
        ("linear_symmetric", Some(_)) => QuantConfig::custom(
            LinearSymmetric::new(nbits.and_then(SymmetricBits::new).ok_or("2 to 8 bits are expected")?)
                .with_range(LinearRange::LeastSquares),
        ),
        ("kmeans_exact", _) => QuantConfig::custom(KmeansLut::new(bits(nbits)?).exact()),
        (mode, _) => QuantConfig::from_mode(mode.parse::<Mode>()?, nbits)?,
    };
    if let Some(granularity) = value("granularity") {
        config = config.with_granularity(granularity.parse()?);
    }
    if let Some(target) = value("target") {
        config = config.with_target(target.parse()?);
    }
    if let Some(threshold) = value("threshold") {
        config = config.with_weight_threshold(threshold.parse()?);
    }
    let quantized = quantize_weights(&Model::open(input)?, &config.with_growth(true))?;
    quantized.model.save(output)?;
    println!("{}", quantized.report);
    Ok(())
}

fn bits(nbits: Option<u32>) -> Result<Nbits, Box<dyn Error>> {
    nbits.and_then(Nbits::new).ok_or_else(|| "bits are missing".into())
}

fn pruning(text: &str) -> Result<Pruning, Box<dyn Error>> {
    let (rule, numbers) = text.split_once(':').ok_or("a rule has numbers: sparsity:0.5")?;
    let numbers = numbers.split(',').map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    Ok(match (rule, numbers.as_slice()) {
        ("sparsity", &[share]) => Pruning::target_sparsity(share)?,
        ("blocks", &[share, size, axis]) => Pruning::block_sparsity(share, size as usize, axis as usize)?,
        ("threshold", &[threshold, minimum]) => Pruning::threshold(threshold)?.minimum_sparsity(minimum)?,
        ("n_of_m", &[n, m, axis]) => Pruning::n_of_m(n as usize, m as usize)?.along(axis as usize)?,
        _ => return Err(format!("no rule: {text}").into()),
    })
}
