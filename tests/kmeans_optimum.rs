//! kmeans_lut against the least error, which an independent exact algorithm computed: see
//! `tests/fixtures/golden/README.md`.

mod common;

use std::collections::HashMap;
use std::fs;

use common::fixture;
use coreml_quant::weight_params::FloatValues;
use coreml_quant::{Blocks, KmeansLut, Nbits, Payload, QuantizeContext, Quantizer, WeightSpec, WeightView};

#[test]
fn the_error_is_the_optimum() {
    let vectors = fs::read_to_string(fixture("golden/kmeans/vectors.tsv")).unwrap();
    let vectors: HashMap<&str, Vec<f32>> = vectors
        .lines()
        .skip(1)
        .map(|row| {
            let [name, _, values] = row.split('\t').collect::<Vec<_>>()[..] else { panic!("three columns: {row}") };
            let bits = |digits: &[u8]| u32::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
            (name, values.as_bytes().chunks(8).map(|digits| f32::from_bits(bits(digits))).collect())
        })
        .collect();
    let optimum = fs::read_to_string(fixture("golden/kmeans/optimum.tsv")).unwrap();
    let mut checked = 0;
    for row in optimum.lines().skip(1) {
        let [name, k, sse, _] = row.split('\t').collect::<Vec<_>>()[..] else { panic!("four columns: {row}") };
        let nbits = Nbits::new(k.parse::<u32>().unwrap().ilog2()).unwrap();
        let best = f64::from_bits(u64::from_str_radix(sse, 16).unwrap());
        let values = &vectors[name];
        let floats = FloatValues::from(values.as_slice());
        let blocks = Blocks::per_tensor(&[values.len()]);
        let weight = WeightView::new(&floats, WeightSpec::new(&blocks)).unwrap();
        let Payload::LookupTable { codes, table } =
            KmeansLut::new(nbits).quantize(weight, &mut QuantizeContext::new()).unwrap()
        else {
            panic!("a table is expected");
        };
        assert!(table.is_sorted(), "{name}, k = {k}");
        let error = |(&code, &value): (&u8, &f32)| (f64::from(table[usize::from(code)]) - f64::from(value)).powi(2);
        let got: f64 = codes.to_vec().iter().zip(values).map(error).sum();
        // The table is rounded to float32: half a unit in the last place of the largest value, for each value.
        let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let rounding = values.len() as f64 * (f64::from(largest.next_up() - largest) / 2.0).powi(2);
        assert!(got <= best * (1.0 + 1e-9) + rounding, "{name}, k = {k}: {got}, the optimum is {best}");
        assert!(got >= best * (1.0 - 1e-9) - rounding, "{name}, k = {k}: {got} is below the optimum {best}");
        checked += 1;
    }
    assert!(checked > 50, "{checked} cases");
}
