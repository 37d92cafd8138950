//! One weight in every mode, on one thread, beside a copy of the same bytes.
//!
//! Groups are named by mode, ids are `bits/elements`, throughput counts the input's bytes.

use std::hint::black_box;

use coreml_quant::weight_params::FloatValues;
use coreml_quant::{
    Blocks, Float16, KmeansLut, Linear, LinearLut, LinearSymmetric, Nbits, QuantizeContext, Quantizer, SymmetricBits,
    WeightSpec, WeightView,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

#[path = "synthetic.rs"]
#[allow(dead_code, reason = "the models are for the other bench")]
mod synthetic;

use synthetic::{Distribution, weights};

/// As many weights as a layer of a large network has, and as a small one.
const SHAPES: [[usize; 2]; 2] = [[1024, 1024], [64, 64]];

fn modes(criterion: &mut Criterion) {
    let quantizers = |bits: u32| -> Vec<(&str, Box<dyn Quantizer>)> {
        let nbits = Nbits::new(bits).unwrap_or(Nbits::EIGHT);
        vec![
            ("linear", Box::new(Linear::new(nbits))),
            (
                "linear_symmetric",
                Box::new(LinearSymmetric::new(SymmetricBits::new(bits).unwrap_or(SymmetricBits::EIGHT))),
            ),
            ("linear_lut", Box::new(LinearLut::new(nbits))),
            ("kmeans_lut", Box::new(KmeansLut::new(nbits))),
        ]
    };
    for shape in SHAPES {
        let elements = shape[0] * shape[1];
        let Some(blocks) = Blocks::along(&shape, 0) else { continue };
        let values = FloatValues::from(weights(Distribution::Normal, elements, 1));
        let throughput = Throughput::Bytes(4 * elements as u64);

        let mut group = criterion.benchmark_group("memcpy");
        group.throughput(throughput.clone());
        let mut copy = vec![0_u8; 4 * elements];
        group.bench_function(BenchmarkId::from_parameter(elements), |bencher| {
            bencher.iter(|| black_box(&mut copy[..]).copy_from_slice(black_box(values.as_le_bytes())));
        });
        group.finish();

        let mut run = |mode: &str, bits: u32, quantizer: &dyn Quantizer| {
            let mut group = criterion.benchmark_group(mode);
            group.throughput(throughput.clone());
            let mut context = QuantizeContext::new();
            group.bench_function(BenchmarkId::new(bits.to_string(), elements), |bencher| {
                bencher.iter(|| {
                    let weight = WeightView::new(black_box(&values), WeightSpec::new(&blocks));
                    let quantized = weight.map(|weight| quantizer.quantize(weight, &mut context));
                    if let Some(Ok(quantized)) = black_box(quantized) {
                        context.recycle(quantized);
                    }
                });
            });
            group.finish();
        };
        run("float16", 16, &Float16);
        for bits in [8, 4] {
            for (mode, quantizer) in quantizers(bits) {
                run(mode, bits, quantizer.as_ref());
            }
        }
    }
}

/// Benches on one thread, so that the ratio to a copy says what a core does.
fn on_one_thread(criterion: &mut Criterion) {
    match rayon::ThreadPoolBuilder::new().num_threads(1).build_global() {
        Ok(()) => modes(criterion),
        Err(error) => eprintln!("no thread pool: {error}"),
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = on_one_thread
}
criterion_main!(benches);
