//! Packing and k-means, as their public faces show them. Bodies for property tests and fuzz targets: include with
//! `#[path]`.

use coreml_quant::weight_params::FloatValues;
use coreml_quant::{Blocks, Codes, KmeansLut, Nbits, Payload, QuantizeContext, Quantizer, WeightSpec, WeightView};

/// Packs codes and unpacks them again. The first byte chooses the bits.
///
/// # Panics
///
/// If the packed bytes are not what the definition says, or the codes not what they were.
pub fn packs(data: &[u8]) {
    let Some((&choice, codes)) = data.split_first() else { return };
    let nbits = Nbits::new(u32::from(choice % 8) + 1).expect("1 to 8");
    let fits = |code: &u8| usize::from(*code) < nbits.levels();
    assert_eq!(Codes::pack(codes, nbits).is_ok(), codes.iter().all(fits));
    // With the high bits cut off, all fit.
    let codes: Vec<u8> = codes.iter().map(|code| (usize::from(*code) % nbits.levels()) as u8).collect();
    let packed = Codes::pack(&codes, nbits).expect("codes that fit");

    // The definition, bit by bit: most significant first, zeros at the end.
    let bits: Vec<u8> = codes.iter().flat_map(|code| (0..nbits.get()).rev().map(move |bit| code >> bit & 1)).collect();
    let bytes: Vec<u8> = bits
        .chunks(8)
        .map(|bits| bits.iter().enumerate().fold(0, |byte, (index, bit)| byte | bit << (7 - index)))
        .collect();
    assert_eq!(packed.as_packed(), bytes);
    assert_eq!(packed.to_vec(), codes);
    assert_eq!((packed.len(), packed.nbits()), (codes.len(), nbits));
}

/// Clusters values. The first byte chooses the bits, the second what the values are like.
///
/// # Panics
///
/// If a value does not get the nearest entry of the table, or the error is not the least possible.
pub fn clusters(data: &[u8]) {
    let &[choice, kind, ref data @ ..] = data else { return };
    let nbits = Nbits::new(u32::from(choice % 8) + 1).expect("1 to 8");
    let values: Vec<f32> = match kind % 3 {
        // Any floats.
        0 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        // A lattice, where many partitions are equally good.
        1 => data.iter().map(|&byte| f32::from(byte as i8)).collect(),
        // Values of many magnitudes.
        _ => data.as_chunks().0.iter().map(|&[a, b]| (f32::from(a) - 127.5) * f32::from(b % 64).exp2() / 4e9).collect(),
    };
    let blocks = Blocks::per_tensor(&[values.len()]);
    let stored = FloatValues::from(&values[..]);
    let view = WeightView::new(&stored, WeightSpec::new(&blocks)).expect("a vector");
    let finite = values.iter().all(|value| value.is_finite());
    let result = KmeansLut::new(nbits).quantize(view, &mut QuantizeContext::new());
    let (codes, table) = match result {
        Ok(Payload::LookupTable { codes, table }) => (codes.to_vec(), table),
        Ok(other) => panic!("{other:?}"),
        Err(error) => return assert!(!finite, "{error}"),
    };
    assert!(finite);
    assert_eq!((codes.len(), table.len()), (values.len(), nbits.levels()));
    assert!(table.iter().all(|entry| entry.is_finite()) && table.is_sorted(), "{table:?}");
    let distance = |value: f32, entry: f32| (f64::from(value) - f64::from(entry)).abs();
    let mut error = 0.0;
    for (&value, &code) in values.iter().zip(&codes) {
        let found = distance(value, table[usize::from(code)]);
        let nearest = table.iter().map(|&entry| distance(value, entry)).fold(f64::INFINITY, f64::min);
        assert_eq!(found, nearest, "{value} with code {code} of {table:?}");
        error += found * found;
    }
    if values.len() <= 48 {
        let least = least_error(&values, nbits.levels());
        // The table is rounded to float32: each value is off by half a unit in the last place of the largest.
        let largest = values.iter().fold(0.0_f64, |largest, value| largest.max(f64::from(*value).abs()));
        let rounding = (largest * f64::from(f32::EPSILON)).max(f64::from(f32::from_bits(1)));
        let allowed =
            least + 2.0 * rounding * (least * values.len() as f64).sqrt() + values.len() as f64 * rounding.powi(2);
        assert!(error <= allowed * (1.0 + 1e-9), "{error}, {least} is possible: {values:?}");
    }
}

/// The least squared error of `k` clusters: every partition of the sorted values, by dynamic programming.
fn least_error(values: &[f32], k: usize) -> f64 {
    let mut sorted: Vec<f64> = values.iter().map(|&value| value.into()).collect();
    sorted.sort_by(f64::total_cmp);
    // cost[start][end]: the squared distances of a run from its mean, in two passes so that nothing cancels.
    let cost = |run: &[f64]| {
        let mean = run.iter().sum::<f64>() / run.len() as f64;
        run.iter().map(|value| (value - mean).powi(2)).sum::<f64>()
    };
    let len = sorted.len();
    if k >= len {
        return 0.0;
    }
    let mut best: Vec<f64> = (0..=len).map(|end| if end == 0 { 0.0 } else { cost(&sorted[..end]) }).collect();
    for _ in 1..k {
        for end in (1..=len).rev() {
            let with_cut = (1..end).map(|start| best[start] + cost(&sorted[start..end])).fold(best[end], f64::min);
            best[end] = with_cut;
        }
    }
    best[len]
}
