//! The module against slow, plain solutions of the same problem.

use super::histogram::{self, Division};
use super::{Clusters, Strategy, assign};
use proptest::prelude::{Strategy as Generator, *};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Least sum of squared errors for 0..=k clusters by the textbook dynamic programme over all starts, O(k n^2).
///
/// Costs grow value by value with Welford's update around the cluster's first value: sums of positive terms, no
/// cancellation.
fn optimum(values: &[f32], k: usize) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    let mut cost = vec![vec![0.0; n + 1]; n];
    for start in 0..n {
        let (mut mean, mut sum, mut count) = (0.0, 0.0, 0.0);
        for end in start..n {
            let value = sorted[end] - sorted[start];
            count += 1.0;
            let distance = value - mean;
            mean += distance / count;
            sum += distance * (value - mean);
            cost[start][end + 1] = sum;
        }
    }
    let mut best = vec![f64::INFINITY; n + 1];
    best[0] = 0.0;
    let mut of_k = vec![best[n]];
    for _ in 0..k {
        let mut next = vec![f64::INFINITY; n + 1];
        for end in 1..=n {
            next[end] = (0..end).map(|start| best[start] + cost[start][end]).fold(f64::INFINITY, f64::min);
        }
        // Empty clusters are allowed.
        next[0] = 0.0;
        best = next;
        of_k.push(best[n]);
    }
    of_k
}

/// Sum of squared distances to the nearest centroid.
fn error(values: &[f32], centroids: &[f32]) -> f64 {
    let square = |v: f32, c: f32| (f64::from(v) - f64::from(c)).powi(2);
    values.iter().map(|&v| centroids.iter().map(|&c| square(v, c)).fold(f64::INFINITY, f64::min)).sum()
}

/// What rounding the means to float32 may add.
fn rounding(values: &[f32]) -> f64 {
    values.iter().map(|&v| (f64::from(v) * 2_f64.powi(-24)).powi(2) + 1e-90).sum()
}

fn check_optimal(values: &[f32], ks: &[usize]) {
    let most = ks.iter().copied().max().unwrap_or(1);
    let best = optimum(values, most);
    let mut clusters = Clusters::new(&bytes(values), most, Strategy::Exact).unwrap();
    for &k in ks {
        let solution = clusters.solve(k);
        assert!(solution.centroids.len() <= k);
        assert!(solution.centroids.is_sorted_by(|a, b| a < b), "{:?}", solution.centroids);
        let error = error(values, &solution.centroids);
        let allowed = best[k] * (1.0 + 1e-7) + 4.0 * rounding(values);
        assert!(error <= allowed, "k = {k}: {error:e}, optimum {:e}, values {values:?}", best[k]);
        assert!(solution.sse >= error * (1.0 - 1e-9) && solution.sse <= allowed, "k = {k}: {} {error}", solution.sse);
    }
}

const KS: [usize; 10] = [1, 2, 3, 4, 5, 7, 8, 16, 33, 64];

#[test]
fn lattices() {
    check_optimal(&(0..100).map(|i| i as f32).collect::<Vec<_>>(), &KS);
    check_optimal(&(0..101).map(|i| i as f32 * 0.1 - 5.0).collect::<Vec<_>>(), &KS);
    check_optimal(&(0..90).map(|i| (i % 30) as f32).collect::<Vec<_>>(), &KS);
    check_optimal(&(0..150).map(|i| (i * i % 37) as f32 / 8.0).collect::<Vec<_>>(), &KS);
}

#[test]
fn symmetric() {
    let half: Vec<f32> = (0..70).map(|i| ((i * 7919 % 104_729) as f32 / 1e5).powi(3)).collect();
    check_optimal(&half.iter().flat_map(|&v| [v, -v]).collect::<Vec<_>>(), &KS);
}

#[test]
fn all_magnitudes() {
    let v: Vec<f32> = (-37..38).flat_map(|e| [1.0, 1.5, -1.1].map(|m| m * 10_f32.powi(e))).collect();
    check_optimal(&v, &[1, 2, 3, 5, 16, 64, 128, 200, 224]);
    // Pairs a rounding step apart, at every magnitude.
    let pairs: Vec<f32> = (-30..38).flat_map(|e| [10_f32.powi(e), 10_f32.powi(e).next_up()]).collect();
    let mut clusters = Clusters::new(&bytes(&pairs), 80, Strategy::Exact).unwrap();
    assert_eq!(clusters.solve(68).centroids.len(), 68);
    check_optimal(&pairs, &[1, 2, 10, 60, 68, 70, 100]);
}

#[test]
fn far_groups() {
    let v: Vec<f32> = [1e30_f32, 0.0, -1e30, 1.0]
        .iter()
        .flat_map(|&at| {
            (0..20).map(move |i| if at.abs() > 2.0 { at * (1.0 + i as f32 * 1e-3) } else { at + i as f32 * 1e-3 })
        })
        .collect();
    check_optimal(&v, &KS);
    let mut outlier: Vec<f32> = (0..80).map(|i| (i as f32 * 0.7).sin()).collect();
    outlier.push(3e38);
    check_optimal(&outlier, &KS);
    outlier.push(-3e38);
    check_optimal(&outlier, &KS);
}

#[test]
fn subnormals() {
    check_optimal(&(0..60).map(|i| f32::from_bits(i * i)).collect::<Vec<_>>(), &KS);
}

#[test]
fn fewer_values_than_clusters() {
    let mut clusters = Clusters::new(&bytes(&[0.5, -0.0, 0.5, 0.0, -3.0]), 16, Strategy::Auto).unwrap();
    let solution = clusters.solve(16);
    assert_eq!(solution.centroids, [-3.0, 0.0, 0.5]);
    assert_eq!(solution.sse, 0.0);
    assert_eq!(solution.table(2), [-3.0, 0.0, 0.5, 0.5]);
    let mut none = Clusters::new(&[], 16, Strategy::Auto).unwrap();
    assert!(none.solve(4).centroids.is_empty());
    let mut same = Clusters::new(&bytes(&[2.5; 1000]), 16, Strategy::Auto).unwrap();
    assert_eq!(same.solve(4).centroids, [2.5]);
}

#[test]
fn values_that_are_not_finite_are_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let found = Clusters::new(&bytes(&[0.0, 1.0, bad, f32::NAN]), 4, Strategy::Auto).unwrap_err();
        assert_eq!((found.index, found.value.to_bits()), (2, bad.to_bits()));
    }
}

/// Normally distributed numbers.
fn normal(random: &mut Xoshiro256PlusPlus) -> f64 {
    let (u, v): (f64, f64) = (random.random(), random.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// A large tensor of a named kind.
fn tensor(kind: &str, len: usize) -> Vec<f32> {
    let random = &mut Xoshiro256PlusPlus::seed_from_u64(7);
    let value = |at: usize| -> f64 {
        let u: f64 = random.random();
        let z = normal(random);
        match kind {
            "normal" => 0.05 * z,
            "student" => z / ((0..3).map(|_| normal(random).powi(2)).sum::<f64>() / 3.0).sqrt(),
            "laplace" => z.signum() * -(1.0 - u).ln(),
            "uniform" => u * 2.0 - 1.0,
            "two humps" => 0.01 * z + if u < 0.5 { -1.0 } else { 1.0 },
            "two spikes" => 1e-4 * z + if u < 0.3 { -1.0 } else { 1.0 },
            "many spikes" => 1e-5 * z + (u * 40.0).floor(),
            "cauchy" => (std::f64::consts::PI * (u - 0.5)).tan(),
            "float16" => f64::from(f32::from_bits(((0.05 * z as f32).to_bits() + 0x1000) & 0xFFFF_E000)),
            "int8" => (40.0 * z).round().clamp(-127.0, 127.0) * 0.0078,
            "int12" => (400.0 * z).round() * 0.00078,
            "sparse" => {
                if u < 0.9 {
                    0.0
                } else {
                    z
                }
            }
            "lognormal" => (3.0 * z).exp(),
            "outlier" => {
                if at == len / 2 {
                    1e30
                } else {
                    z
                }
            }
            "channels" => z * (1.7 * (at / 4608) as f64).sin().exp2(),
            "shifted" => 100.0 + 0.5 * z,
            "constant" => 0.3,
            "fewer than clusters" => ((u * 50.0).floor() * 1.37).sin(),
            _ => unreachable!("{kind}"),
        }
    };
    (0..len).map(value).map(|value| value as f32).collect()
}

const KINDS: [&str; 18] = [
    "normal",
    "student",
    "laplace",
    "uniform",
    "two humps",
    "two spikes",
    "many spikes",
    "cauchy",
    "float16",
    "int8",
    "int12",
    "sparse",
    "lognormal",
    "outlier",
    "channels",
    "shifted",
    "constant",
    "fewer than clusters",
];

/// Sum of squared distances to the nearest of the centroids, by the codes of [`assign`].
fn assigned_error(values: &[f32], centroids: &[f32]) -> f64 {
    let mut codes = vec![0; values.len()];
    let measured = assign(&bytes(values), centroids, 8, &mut codes, true).squared_error;
    let errors = values.iter().zip(codes).map(|(&v, code)| f64::from(v) - f64::from(centroids[usize::from(code)]));
    let error: f64 = errors.map(|error| error.powi(2)).sum();
    assert!((measured - error).abs() <= 1e-5 * error, "measured {measured}, it is {error}");
    error
}

#[test]
fn large_tensors_are_near_the_optimum() {
    for kind in KINDS {
        let values = tensor(kind, 70_000);
        let bytes = bytes(&values);
        let mut optimal = Clusters::new(&bytes, 256, Strategy::Exact).unwrap();
        for strategy in [Strategy::Auto, Strategy::Sorted] {
            let mut near = Clusters::new(&bytes, 256, strategy).unwrap();
            for k in [256, 16, 2] {
                let least = assigned_error(&values, &optimal.solve(k).centroids);
                let solution = near.solve(k);
                let error = assigned_error(&values, &solution.centroids);
                assert!(solution.centroids.len() <= k);
                assert!(error <= 1.001 * least, "{kind}, {strategy:?}, k = {k}: {}", error / least);
                assert!((solution.sse - error).abs() <= 0.005 * least, "{kind}, k = {k}: {} {error}", solution.sse);
            }
            for k in [128, 16, 5] {
                let solution = Clusters::new(&bytes, k, strategy).unwrap().solve(k);
                let error = assigned_error(&values, &solution.centroids);
                let least = assigned_error(&values, &optimal.solve(k).centroids);
                assert!(error <= 1.001 * least, "{kind}, {strategy:?}, at most {k}: {}", error / least);
            }
        }
    }
}

/// The values of a tensor, each moved to one of the two ends of the bucket that it would be counted in: what is evenly
/// spread in no bucket. The division stays the same, since no value leaves its cell.
fn at_the_ends_of_buckets(values: &[f32], clusters: usize, low: impl Fn(usize) -> bool) -> Vec<f32> {
    let bytes = bytes(values);
    let division = Division::from_sample(&histogram::sample(bytes.as_chunks().0), clusters);
    let moved = |(at, &value): (usize, &f32)| {
        let (first, last) = division.bounds(value.to_bits());
        f32::from_bits(if low(at) { first } else { last })
    };
    values.iter().enumerate().map(moved).collect()
}

#[test]
fn values_at_the_ends_of_buckets_are_near_the_optimum() {
    for kind in ["normal", "student", "laplace", "uniform", "channels", "two humps"] {
        let values = tensor(kind, 70_000);
        for k in [256, 64, 16] {
            for low in [(|at| at % 2 == 0) as fn(usize) -> bool, |at| at % 3 == 0, |at| at % 64 < 32] {
                let values = at_the_ends_of_buckets(&values, k, low);
                let bytes = bytes(&values);
                let least = Clusters::new(&bytes, k, Strategy::Exact).unwrap().solve(k);
                let least = assigned_error(&values, &least.centroids);
                let error =
                    assigned_error(&values, &Clusters::new(&bytes, k, Strategy::Auto).unwrap().solve(k).centroids);
                assert!(error <= 1.001 * least, "{kind}, k = {k}: {}", error / least);
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let values = bytes(&tensor("student", 2_500_000));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let solution = Clusters::new(&values, 64, Strategy::Auto).unwrap().solve(64);
            let mut packed = vec![0; 2_500_000 / 8 * 6];
            let sums = assign(&values, &solution.centroids, 6, &mut packed, true);
            (solution, packed, sums)
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(5));
}

#[test]
fn large_tensors_with_a_value_that_is_not_finite_are_refused() {
    for kind in ["normal", "int8"] {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = tensor(kind, 70_000);
            values[50_001] = bad;
            values[60_000] = bad;
            let found = Clusters::new(&bytes(&values), 4, Strategy::Auto).unwrap_err();
            assert_eq!((found.index, found.value.to_bits()), (50_001, bad.to_bits()));
        }
    }
}

/// Values of all kinds.
fn any_values() -> impl Generator<Value = Vec<f32>> {
    let value = prop_oneof![
        4 => -1.0_f32..1.0,
        2 => (-20_i32..20).prop_map(|i| i as f32 / 4.0),
        1 => any::<f32>().prop_filter("finite", |v| v.is_finite()),
        1 => (0_u32..100).prop_map(f32::from_bits),
        1 => (0_u32..10).prop_map(|i| f32::from_bits(1e20_f32.to_bits() + i)),
    ];
    let uniform = prop::collection::vec(-1.0_f32..1.0, 1..150);
    let lattice = prop::collection::vec((-8_i32..8).prop_map(|i| i as f32 * 0.3), 1..150);
    prop_oneof![prop::collection::vec(value, 1..120), uniform, lattice]
}

proptest! {
    #[test]
    fn solutions_are_optimal(values in any_values(), k in 1_usize..40) {
        check_optimal(&values, &[k, k / 2 + 1]);
    }

    #[test]
    fn codes_are_of_the_nearest_centroid(
        values in any_values(),
        mut centroids in any_values(),
        repeat in 1_usize..60,
        nbits in 1_u8..=8,
    ) {
        centroids.sort_by(f32::total_cmp);
        centroids.dedup();
        centroids.truncate(1 << nbits);
        // What lies next to centroids and midpoints is the hardest.
        let near = centroids.windows(2).flat_map(|pair| [pair[0] / 2.0 + pair[1] / 2.0, pair[0], pair[1]]);
        let near = near.flat_map(|v| [v, v.next_up(), v.next_down(), -v]).filter(|v| v.is_finite());
        let some: Vec<f32> = near.collect();
        let values: Vec<f32> = values.iter().chain(&some).copied().collect::<Vec<_>>().repeat(repeat);
        let mut packed = vec![0xAA; crate::kernels::pack::packed_len(values.len(), nbits)];
        assign(&bytes(&values), &centroids, nbits, &mut packed, false);
        let mut codes = vec![0; values.len()];
        crate::kernels::pack::unpack(&packed, nbits, &mut codes);
        for (&value, &code) in values.iter().zip(&codes) {
            prop_assert_eq!(usize::from(code), nearest(value, &centroids), "{} in {:?}", value, centroids);
        }
    }
}

/// The first centroid at the least distance, in exact arithmetic: v is nearer to b than to a < b if 2 v > a + b.
fn nearest(value: f32, centroids: &[f32]) -> usize {
    let exact = |v: f32| {
        // A float32 is an integer times a power of two.
        let bits = v.to_bits();
        let exponent = (bits >> 23 & 0xFF) as i32;
        let mantissa = i128::from(bits & 0x7F_FFFF | if exponent > 0 { 1 << 23 } else { 0 });
        (if bits >> 31 == 1 { -mantissa } else { mantissa }, exponent.max(1) - 1)
    };
    let greater = |v: f32, a: f32, b: f32| {
        // The sign of 2 v - a - b, from the largest exponent down until the rest is too small to change it.
        let mut terms = [exact(v), exact(v), exact(-a), exact(-b)];
        terms.sort_by_key(|t| -t.1);
        let (mut sum, mut exponent) = (0_i128, terms[0].1);
        for (mantissa, e) in terms.into_iter().filter(|t| t.0 != 0) {
            if sum != 0 {
                let shift = exponent - e;
                if sum.unsigned_abs().ilog2() as i32 + shift > 100 {
                    break;
                }
                sum <<= shift;
            }
            exponent = e;
            sum += mantissa;
        }
        sum > 0
    };
    (1..centroids.len()).take_while(|&i| greater(value, centroids[i - 1], centroids[i])).count()
}
