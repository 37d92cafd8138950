//! The steps against the formulas in float64, written out.

use super::descent::{From, Rows, Scratch};
use super::levels::{Grid, Levels};
use super::matrix::{Coded, Method, calibrate_matrix};
use super::moments::{Inputs, Metric, Stats, generator, some_positions};
use super::refit::{Ones, Spacing, refit_table};
use super::{start, target};
use proptest::prelude::*;
use rand::RngExt;

/// Inputs that are correlated, with means, and what earlier layers made of them.
fn inputs(groups: usize, inputs: usize, positions: usize, noise: f32, seed: u64) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let mut rng = generator(seed);
    let mut normal = move || -> f32 { (0..6).map(|_| rng.random_range(-0.7..0.7_f32)).sum() };
    let width = groups * inputs;
    let mix: Vec<f32> = (0..width * 4).map(|_| normal()).collect();
    let scales: Vec<f32> = (0..width).map(|_| 0.2 + normal().abs()).collect();
    let (mut float, mut quantized) = (Vec::new(), Vec::new());
    for _ in 0..positions {
        let hidden: Vec<f32> = (0..4).map(|_| normal()).collect();
        let row: Vec<f32> = (0..width)
            .map(|i| {
                let shared: f32 = hidden.iter().zip(&mix[4 * i..]).map(|(h, m)| h * m).sum();
                scales[i] * (shared + normal() + 0.5)
            })
            .collect();
        quantized.push(row.iter().map(|&value| value * (1.0 + noise * 0.3) + noise * normal()).collect());
        float.push(row);
    }
    (float, quantized)
}

fn stats(groups: usize, width: usize, float: &[Vec<f32>], quantized: &[Vec<f32>], paired: bool) -> Stats {
    let mut all = Inputs::new(groups, width, float.len() + 3, paired);
    for (float, quantized) in float.iter().zip(quantized) {
        all.push(float, quantized);
    }
    assert_eq!(all.positions(), float.len());
    all.stats().unwrap()
}

fn weights(rows: usize, inputs: usize, seed: u64) -> Vec<f32> {
    let mut rng = generator(seed);
    (0..rows * inputs).map(|_| (0..4).map(|_| rng.random_range(-0.1..0.1_f32)).sum()).collect()
}

/// The formulas of a group, in float64, columns as they come.
struct Naive {
    k: usize,
    mean: Vec<f64>,
    mean_quantized: Vec<f64>,
    h: Vec<Vec<f64>>,
    c: Vec<Vec<f64>>,
    d: f64,
}

impl Naive {
    fn new(float: &[Vec<f32>], quantized: &[Vec<f32>], group: usize, k: usize) -> Self {
        let n = float.len() as f64;
        let part = |rows: &[Vec<f32>]| -> Vec<Vec<f64>> {
            rows.iter().map(|row| row[group * k..][..k].iter().map(|&v| f64::from(v)).collect()).collect()
        };
        let (x, y) = (part(float), part(quantized));
        let mean =
            |x: &[Vec<f64>]| -> Vec<f64> { (0..k).map(|i| x.iter().map(|row| row[i]).sum::<f64>() / n).collect() };
        let moment = |x: &[Vec<f64>], y: &[Vec<f64>], mx: &[f64], my: &[f64]| -> Vec<Vec<f64>> {
            (0..k)
                .map(|i| {
                    (0..k).map(|j| x.iter().zip(y).map(|(x, y)| x[i] * y[j]).sum::<f64>() / n - mx[i] * my[j]).collect()
                })
                .collect()
        };
        let (mean, mean_quantized) = (mean(&x), mean(&y));
        let h = moment(&y, &y, &mean_quantized, &mean_quantized);
        let c = moment(&x, &y, &mean, &mean_quantized);
        let d = (0..k).map(|i| h[i][i]).sum::<f64>() / k as f64;
        Self { k, mean, mean_quantized, h, c, d }
    }

    fn metric(&self) -> Vec<Vec<f64>> {
        let mut a = self.h.clone();
        (0..self.k).for_each(|i| a[i][i] += 0.01 * self.d);
        a
    }

    /// w (C + r d I)(H + r d I)^-1, by Gaussian elimination.
    fn target(&self, w: &[f64]) -> Vec<f64> {
        let k = self.k;
        let mut left = self.h.clone();
        let mut right: Vec<f64> =
            (0..k).map(|j| (0..k).map(|i| w[i] * self.c[i][j]).sum::<f64>() + 0.1 * self.d * w[j]).collect();
        (0..k).for_each(|i| left[i][i] += 0.1 * self.d);
        for i in 0..k {
            for j in i + 1..k {
                let (above, below) = left.split_at_mut(j);
                let (pivot, row) = (&above[i], &mut below[0]);
                let factor = row[i] / pivot[i];
                row.iter_mut().zip(pivot).skip(i).for_each(|(value, pivot)| *value -= factor * pivot);
                right[j] -= factor * right[i];
            }
        }
        for i in (0..k).rev() {
            right[i] = (right[i] - (i + 1..k).map(|j| left[i][j] * right[j]).sum::<f64>()) / left[i][i];
        }
        right
    }

    fn error(&self, target: &[f64], q: &[f64]) -> f64 {
        let a = self.metric();
        let e: Vec<f64> = target.iter().zip(q).map(|(t, q)| t - q).collect();
        (0..self.k).map(|i| e[i] * (0..self.k).map(|j| a[i][j] * e[j]).sum::<f64>()).sum()
    }

    /// The columns by falling diagonal.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.k).collect();
        order.sort_by(|&i, &j| self.h[j][j].total_cmp(&self.h[i][i]));
        order
    }
}

fn close(found: f64, expected: f64, scale: f64) {
    assert!((found - expected).abs() <= scale, "{found}, {expected} expected");
}

/// Pieces of all rows as one for each group, targets in order and corrected.
fn pieces<'a>(stats: &'a Stats, target: &'a mut [f32], codes: &'a mut [u8]) -> Vec<Rows<'a>> {
    let len = target.len() / stats.groups.len();
    let groups = stats.groups.iter().zip(target.chunks_mut(len)).zip(codes.chunks_mut(len)).enumerate();
    groups
        .map(|(at, ((group, target), codes))| {
            for row in target.chunks_mut(group.inputs) {
                let before = row.to_vec();
                row.iter_mut().zip(&group.order).for_each(|(value, &place)| *value = before[place as usize]);
            }
            target::correct(group, target);
            Rows { group, first: at * len / group.inputs, target, codes, state: Vec::new() }
        })
        .collect()
}

fn shapes() -> Vec<(usize, usize, usize)> {
    // Groups, inputs, positions: dense, in several blocks, grouped, wide.
    vec![(1, 20, 300), (1, 300, 400), (3, 9, 50), (1, 90, 40), (2, 300, 70)]
}

#[test]
fn statistics_and_target_are_those_of_the_formulas() {
    for (groups, k, positions) in shapes() {
        let (float, quantized) = inputs(groups, k, positions, 0.1, 1);
        let stats = stats(groups, k, &float, &quantized, true);
        let naive: Vec<Naive> = (0..groups).map(|g| Naive::new(&float, &quantized, g, k)).collect();
        let unit = naive.iter().map(|n| n.d).sum::<f64>() / groups as f64;
        close(stats.unit, unit, 1e-5 * unit);
        let rows = 3;
        let w = weights(groups * rows, k, 2);
        let mut ordered = w.clone();
        let mut codes = vec![0; w.len()];
        let pieces = pieces(&stats, &mut ordered, &mut codes);
        for (g, (piece, naive)) in pieces.iter().zip(&naive).enumerate() {
            let group = piece.group;
            let order: Vec<usize> = group.order.iter().map(|&i| i as usize).collect();
            assert_eq!(order, naive.order());
            let a = naive.metric();
            let mut local = Vec::new();
            group.local(&mut local, 0, k);
            for (i, &oi) in order.iter().enumerate() {
                close(group.mean[oi], naive.mean[oi], 1e-6);
                close(group.mean_quantized[oi], naive.mean_quantized[oi], 1e-6);
                close(f64::from(group.diagonal[i]) * unit, a[oi][oi], 1e-5 * a[oi][oi]);
                for (j, &oj) in order.iter().enumerate() {
                    close(f64::from(local[i * k + j]) * unit, a[oi][oj], 2e-5 * (a[oi][oi] * a[oj][oj]).sqrt());
                }
            }
            assert_eq!(matches!(group.metric, Metric::Samples), k > positions);
            for row in 0..rows {
                let w: Vec<f64> = w[(g * rows + row) * k..][..k].iter().map(|&v| f64::from(v)).collect();
                let expected = naive.target(&w);
                let moved = w.iter().zip(&expected).map(|(w, t)| (w - t).abs()).fold(0.0, f64::max);
                assert!(moved > 1e-3);
                for (i, &oi) in order.iter().enumerate() {
                    close(f64::from(piece.target[row * k + i]), expected[oi], 1e-4 * moved + 1e-6);
                }
            }
        }
    }
}

#[test]
fn without_earlier_errors_the_target_is_the_weight() {
    let (float, _) = inputs(2, 12, 60, 0.0, 1);
    let w = weights(4, 12, 2);
    for paired in [false, true] {
        let stats = stats(2, 12, &float, &float, paired);
        let (mut ordered, mut codes) = (w.clone(), vec![0; w.len()]);
        for (g, piece) in pieces(&stats, &mut ordered, &mut codes).iter().enumerate() {
            for (row, target) in piece.target.chunks(12).enumerate() {
                for (&place, value) in piece.group.order.iter().zip(target) {
                    assert_eq!(*value, w[(g * 2 + row) * 12 + place as usize]);
                }
            }
        }
    }
}

/// What a pass does, one weight after the other, in float64. Returns the codes.
fn naive_pass(a: &[Vec<f64>], order: &[usize], target: &[f64], start: &[f64], levels: &impl Levels) -> Vec<u8> {
    let mut q = start.to_vec();
    let mut codes = vec![0; q.len()];
    for &j in order {
        let s: f64 = (0..q.len()).map(|i| (target[i] - q[i]) * a[i][j]).sum();
        let (code, value) = levels.nearest((q[j] + s / a[j][j]) as f32);
        (codes[j], q[j]) = (code, f64::from(value));
    }
    codes
}

#[test]
fn passes_choose_the_codes_of_the_naive_loop() {
    for (groups, k, positions) in shapes() {
        let (float, quantized) = inputs(groups, k, positions, 0.05, 3);
        let stats = stats(groups, k, &float, &quantized, true);
        let rows = 4;
        let w = weights(groups * rows, k, 4);
        let table = vec![-0.15_f32, -0.04, 0.05, 0.16];
        let linear = Grid::Linear { scale: vec![0.09; groups * rows], bias: vec![-0.14; groups * rows] };
        for grid in [Grid::Table(table), linear] {
            let (mut ordered, mut codes) = (w.clone(), vec![0; w.len()]);
            let mut pieces = pieces(&stats, &mut ordered, &mut codes);
            let mut same = 0;
            for (g, piece) in pieces.iter_mut().enumerate() {
                let naive = Naive::new(&float, &quantized, g, k);
                let (a, order) = (naive.metric(), naive.order());
                let place: Vec<usize> = piece.group.order.iter().map(|&i| i as usize).collect();
                let levels = piece.levels(&grid, 2);
                let mut scratch = Scratch::default();
                for from in [From::Target, From::Codes] {
                    let before = piece.codes.to_vec();
                    piece.pass(&levels, from, &mut scratch);
                    for row in 0..rows {
                        let (mut target, mut start) = (vec![0.0; k], vec![0.0; k]);
                        for (i, &to) in place.iter().enumerate() {
                            target[to] = f64::from(piece.target[row * k + i]);
                            start[to] = match from {
                                From::Target => target[to],
                                From::Codes => f64::from(levels[row].value(before[row * k + i])),
                            };
                        }
                        let expected = match levels[row] {
                            super::levels::RowLevels::Even(levels) => naive_pass(&a, &order, &target, &start, &levels),
                            super::levels::RowLevels::Listed(levels) => {
                                naive_pass(&a, &order, &target, &start, &levels)
                            }
                        };
                        same +=
                            place.iter().enumerate().filter(|&(i, &p)| piece.codes[row * k + i] == expected[p]).count();
                    }
                }
                // The state and the error are those of the codes.
                for row in 0..rows {
                    let (mut target, mut q) = (vec![0.0; k], vec![0.0; k]);
                    for (i, &to) in place.iter().enumerate() {
                        target[to] = f64::from(piece.target[row * k + i]);
                        q[to] = f64::from(levels[row].value(piece.codes[row * k + i]));
                    }
                    let expected = naive.error(&target, &q);
                    let mut one_target = piece.target[row * k..][..k].to_vec();
                    let mut one_codes = piece.codes[row * k..][..k].to_vec();
                    let len = piece.group.state_len();
                    let one = Rows {
                        group: piece.group,
                        first: piece.first + row,
                        target: &mut one_target,
                        codes: &mut one_codes,
                        state: piece.state[row * len..][..len].to_vec(),
                    };
                    close(one.error(&levels[row..=row]) * stats.unit, expected, 1e-4 * expected);
                }
            }
            // Ties and rounding to float32 may part ways now and then.
            let all = 2 * groups * rows * k;
            assert!(same * 1000 >= all * 995, "{same} of {all} codes for {groups} {k} {positions}");
        }
    }
}

#[test]
fn refits_solve_their_least_squares() {
    for (groups, k, positions) in shapes() {
        let (float, quantized) = inputs(groups, k, positions, 0.05, 5);
        let stats = stats(groups, k, &float, &quantized, true);
        let rows = 4;
        let w = weights(groups * rows, k, 6);
        // A table: at the best one the gradient is zero.
        let (mut ordered, mut codes) = (w.clone(), vec![0; w.len()]);
        let mut parts = pieces(&stats, &mut ordered, &mut codes);
        let mut table = start::table(&parts, 3);
        let error = |parts: &[Rows<'_>], grid: &Grid, nbits| -> f64 {
            parts.iter().map(|rows| rows.error(&rows.levels(grid, nbits))).sum()
        };
        let grid = Grid::Table(table.clone());
        for rows in &mut parts {
            let levels = rows.levels(&grid, 3);
            rows.pass(&levels, From::Target, &mut Scratch::default());
        }
        let before = error(&parts, &grid, 3);
        refit_table(&mut parts, &mut table);
        let after = error(&parts, &Grid::Table(table.clone()), 3);
        assert!(after < before);
        assert!(table.is_sorted());
        for entry in 0..table.len() {
            for step in [-0.02_f32, 0.02] {
                let mut other = table.clone();
                other[entry] += step * (table[7] - table[0]);
                let mut moved = 0.0;
                for rows in &parts {
                    let naive = Naive::new(&float, &quantized, rows.first / 4, k);
                    for (target, codes) in rows.target.chunks(k).zip(rows.codes.chunks(k)) {
                        let (mut t, mut q) = (vec![0.0; k], vec![0.0; k]);
                        for (i, &to) in rows.group.order.iter().enumerate() {
                            t[to as usize] = f64::from(target[i]);
                            q[to as usize] = f64::from(other[usize::from(codes[i])]);
                        }
                        moved += naive.error(&t, &q);
                    }
                }
                assert!(moved / stats.unit > after * (1.0 - 1e-3), "{entry}: {moved} {after}");
            }
        }
        // Scale and bias.
        for (spacing, nbits) in [(Spacing::Free, 2), (Spacing::Symmetric, 3)] {
            let (mut ordered, mut codes) = (w.clone(), vec![0; w.len()]);
            for mut part in pieces(&stats, &mut ordered, &mut codes) {
                let (mut scale, mut bias): (Vec<f32>, Vec<f32>) = part
                    .target
                    .chunks(k)
                    .map(|target| start::even(target, &part.group.diagonal, spacing, nbits))
                    .unzip();
                let levels = |scale: &[f32], bias: &[f32]| -> Vec<_> {
                    let rows = scale.iter().zip(bias);
                    rows.map(|(&scale, &bias)| super::levels::RowLevels::even(scale, bias, nbits)).collect()
                };
                part.pass(&levels(&scale, &bias), From::Target, &mut Scratch::default());
                let before = part.error(&levels(&scale, &bias));
                part.refit_even(&Ones::new(part.group), spacing, nbits, &mut scale, &mut bias);
                let after = part.error(&levels(&scale, &bias));
                assert!(after <= before * (1.0 + 1e-6), "{after} {before}");
                let naive = Naive::new(&float, &quantized, part.first / 4, k);
                for row in 0..rows {
                    let values = |scale: f64, bias: f64| -> f64 {
                        let (mut t, mut q) = (vec![0.0; k], vec![0.0; k]);
                        for (i, &to) in part.group.order.iter().enumerate() {
                            t[to as usize] = f64::from(part.target[row * k + i]);
                            q[to as usize] = f64::from(part.codes[row * k + i]) * scale + bias;
                        }
                        naive.error(&t, &q)
                    };
                    let (s, b) = (f64::from(scale[row]), f64::from(bias[row]));
                    let least = values(s, b);
                    for factor in [0.98, 1.02] {
                        match spacing {
                            Spacing::Free => {
                                assert!(values(s * factor, b) > least * (1.0 - 1e-4));
                                assert!(values(s, b * factor) > least * (1.0 - 1e-4));
                            }
                            Spacing::Symmetric => {
                                assert_eq!(bias[row], -4.0 * scale[row]);
                                assert!(values(s * factor, b * factor) > least * (1.0 - 1e-4));
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The error of the whole, in float64.
fn total_error(float: &[Vec<f32>], quantized: &[Vec<f32>], groups: usize, k: usize, w: &[f32], coded: &Coded) -> f64 {
    let rows = w.len() / k / groups;
    let mut error = 0.0;
    for g in 0..groups {
        let naive = Naive::new(float, quantized, g, k);
        for row in g * rows..(g + 1) * rows {
            let levels = coded.grid.levels(row, 3);
            let w: Vec<f64> = w[row * k..][..k].iter().map(|&w| f64::from(w)).collect();
            let q: Vec<f64> = coded.codes[row * k..][..k].iter().map(|&code| f64::from(levels.value(code))).collect();
            error += naive.error(&naive.target(&w), &q);
        }
    }
    error
}

#[test]
fn calibration_beats_rounding_and_says_by_how_much() {
    for (groups, k, positions) in shapes() {
        let (float, quantized) = inputs(groups, k, positions, 0.05, 7);
        let stats = stats(groups, k, &float, &quantized, true);
        let rows = 20;
        let w = weights(groups * rows, k, 8);
        for method in [Method::Linear, Method::LinearSymmetric, Method::Table] {
            let scale = vec![0.1_f32; groups * rows];
            let bias: Vec<f32> = scale.iter().map(|scale| -4.0 * scale).collect();
            let levels = super::levels::Even::new(0.1, -0.4, 3);
            let data_free =
                Coded { codes: w.iter().map(|&w| levels.nearest(w).0).collect(), grid: Grid::Linear { scale, bias } };
            let found = calibrate_matrix(w.clone(), &stats, method, 3, Some(&data_free));
            assert!(!found.data_free);
            let after = total_error(&float, &quantized, groups, k, &w, &found.coded);
            let before = total_error(&float, &quantized, groups, k, &w, &data_free);
            close(found.errors.after, after, 2e-3 * after);
            close(found.errors.before, before, 2e-3 * before);
            assert!(after < 0.5 * before, "{method:?} {groups} {k}: {after} {before}");
            // Fed back, it is kept.
            let again = calibrate_matrix(w.clone(), &stats, method, 3, Some(&found.coded));
            assert!(again.errors.after <= found.errors.after * (1.0 + 1e-4));
            // With the bias, the mean of the outputs is that of the float network.
            for (row, bias) in found.bias.iter().enumerate() {
                let first = row / rows * k;
                let levels = found.coded.grid.levels(row, 3);
                let mut difference = 0.0;
                for (x, y) in float.iter().zip(&quantized) {
                    for i in 0..k {
                        difference += f64::from(w[row * k + i]) * f64::from(x[first + i]);
                        difference -= f64::from(levels.value(found.coded.codes[row * k + i])) * f64::from(y[first + i]);
                    }
                }
                close(*bias, difference / float.len() as f64, 1e-6 + 1e-5 * bias.abs());
            }
        }
    }
}

#[test]
fn what_is_no_worse_without_calibration_is_kept() {
    let (float, quantized) = inputs(1, 16, 100, 0.0, 9);
    let stats = stats(1, 16, &float, &quantized, false);
    let table: Vec<f32> = (0..8).map(|i| i as f32 * 0.25 - 1.0).collect();
    let codes: Vec<u8> = (0..64).map(|i| (i * 5 % 8) as u8).collect();
    let w: Vec<f32> = codes.iter().map(|&code| table[usize::from(code)]).collect();
    let data_free = Coded { codes, grid: Grid::Table(table) };
    let found = calibrate_matrix(w, &stats, Method::Table, 3, Some(&data_free));
    assert_eq!(found.errors.before, 0.0);
    assert!(found.data_free && found.coded == data_free);
    assert!(found.bias.iter().all(|bias| bias.abs() < 1e-12));
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (float, quantized) = inputs(1, 300, 400, 0.05, 10);
    let w = weights(150, 300, 11);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let stats = stats(1, 300, &float, &quantized, true);
            [Method::Linear, Method::Table].map(|method| calibrate_matrix(w.clone(), &stats, method, 2, None).coded)
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn dead_inputs_and_constant_rows_are_no_trouble() {
    // A group that is always zero, beside one that is not.
    let mut all = Inputs::new(2, 4, 8, true);
    let mut rng = generator(1);
    for _ in 0..8 {
        let mut row = [0.0_f32; 8];
        row[4..].iter_mut().for_each(|value| *value = rng.random_range(-1.0..1.0));
        all.push(&row, &row);
    }
    let stats = all.stats().unwrap();
    let w = [vec![0.5; 4], weights(1, 4, 3), vec![0.0; 4], weights(1, 4, 4)].concat();
    for method in [Method::Linear, Method::LinearSymmetric, Method::Table] {
        let found = calibrate_matrix(w.clone(), &stats, method, 4, None);
        for (row, w) in w.chunks(4).enumerate() {
            let levels = found.coded.grid.levels(row, 4);
            for (w, &code) in w.iter().zip(&found.coded.codes[row * 4..]) {
                close(f64::from(levels.value(code)), f64::from(*w), 0.06);
            }
        }
    }
    assert!(Inputs::new(1, 4, 8, false).stats().is_none(), "no positions");
    let mut infinite = Inputs::new(1, 2, 8, false);
    infinite.push(&[1.0, f32::INFINITY], &[]);
    assert!(infinite.stats().is_none());
    // A single position: no moments at all.
    let mut single = Inputs::new(1, 2, 8, false);
    single.push(&[1.0, 2.0], &[]);
    let found = calibrate_matrix(vec![1.0, 2.0, 3.0, 4.0], &single.stats().unwrap(), Method::Table, 2, None);
    assert_eq!(found.coded.codes, [0, 1, 2, 3]);
}

#[test]
fn positions_are_drawn_evenly() {
    let mut counts = [0; 40];
    let mut rng = generator(1);
    for _ in 0..2000 {
        let drawn = some_positions(40, 10, &mut rng);
        assert!(drawn.len() == 10 && drawn.is_sorted());
        drawn.iter().for_each(|&at| counts[at] += 1);
    }
    assert!(counts.iter().all(|count| (400..600).contains(count)), "{counts:?}");
    assert_eq!(some_positions(3, 10, &mut rng), [0, 1, 2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn passes_and_refits_never_raise_the_error(
        seed in 0_u64..1000,
        groups in 1_usize..3,
        k in 1_usize..90,
        positions in 2_usize..80,
        nbits in 1_u8..6,
    ) {
        let (float, quantized) = inputs(groups, k, positions, 0.1, seed);
        let stats = stats(groups, k, &float, &quantized, true);
        let mut w = weights(groups * 3, k, seed + 1);
        let mut codes = vec![0; w.len()];
        let mut parts = pieces(&stats, &mut w, &mut codes);
        let mut table = start::table(&parts, nbits);
        let error = |parts: &[Rows<'_>], table: &[f32]| -> f64 {
            let grid = Grid::Table(table.to_vec());
            parts.iter().map(|rows| rows.error(&rows.levels(&grid, nbits))).sum()
        };
        let mut last = f64::INFINITY;
        for turn in 0..4 {
            let grid = Grid::Table(table.clone());
            for rows in &mut parts {
                let levels = rows.levels(&grid, nbits);
                rows.pass(&levels, if turn == 0 { From::Target } else { From::Codes }, &mut Scratch::default());
            }
            let passed = error(&parts, &table);
            prop_assert!(passed <= last * (1.0 + 1e-4) + 1e-9, "pass: {} {}", last, passed);
            refit_table(&mut parts, &mut table);
            last = error(&parts, &table);
            prop_assert!(last <= passed * (1.0 + 1e-4) + 1e-9, "refit: {} {}", passed, last);
        }
    }
}
