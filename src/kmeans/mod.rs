//! One-dimensional k-means: the k values with the least sum of squared distances to the given values.
//!
//! In one dimension an optimal cluster is a run of the sorted values, so the best division into runs is a shortest path,
//! which dynamic programming finds exactly. The cost of a run follows from prefix sums; the best division point of a
//! longer prefix never lies before that of a shorter one, so divide and conquer finds all points of a row in
//! O(n log n).

/// The best `k` centroids for the values, ascending; fewer if there are fewer distinct values.
pub(crate) fn solve(values: &[u8], k: usize) -> Vec<f32> {
    let mut sorted: Vec<f32> = crate::weight_params::floats(values).map(|value| value + 0.0).collect();
    sorted.sort_unstable_by(f32::total_cmp);
    let mut distinct: Vec<(f64, f64)> = Vec::new();
    for &value in &sorted {
        match distinct.last_mut() {
            Some((last, count)) if *last == f64::from(value) => *count += 1.0,
            _ => distinct.push((f64::from(value), 1.0)),
        }
    }
    if distinct.len() <= k {
        return distinct.iter().map(|&(value, _)| value as f32).collect();
    }
    let n = distinct.len();
    let (mut count, mut sum, mut square) = (vec![0.0; n + 1], vec![0.0; n + 1], vec![0.0; n + 1]);
    for (i, &(value, weight)) in distinct.iter().enumerate() {
        count[i + 1] = count[i] + weight;
        sum[i + 1] = sum[i] + weight * value;
        square[i + 1] = square[i] + weight * value * value;
    }
    let cost = |from: usize, to: usize| {
        let total = sum[to] - sum[from];
        (square[to] - square[from] - total * total / (count[to] - count[from])).max(0.0)
    };
    let mut best: Vec<f64> = (0..=n).map(|to| if to == 0 { 0.0 } else { cost(0, to) }).collect();
    let mut from = vec![vec![0_u32; n + 1]];
    for clusters in 2..=k {
        let mut next = vec![f64::INFINITY; n + 1];
        let mut starts = vec![0_u32; n + 1];
        let mut stack = vec![(clusters, n, clusters - 1, n - 1)];
        while let Some((low, high, first, last)) = stack.pop() {
            if low > high {
                continue;
            }
            let to = low + (high - low) / 2;
            let mut at = first;
            for start in first..=last.min(to - 1) {
                let total = best[start] + cost(start, to);
                if total < next[to] {
                    (next[to], at) = (total, start);
                }
            }
            starts[to] = at as u32;
            stack.push((low, to - 1, first, at));
            stack.push((to + 1, high, at, last));
        }
        best = next;
        from.push(starts);
    }
    let mut centroids = Vec::with_capacity(k);
    let mut to = n;
    for starts in from.iter().rev() {
        let start = starts[to] as usize;
        centroids.push(((sum[to] - sum[start]) / (count[to] - count[start])) as f32);
        to = start;
    }
    centroids.reverse();
    centroids
}

/// The nearest centroid of each value, ties to the lower code, packed.
pub(crate) fn assign(values: &[u8], centroids: &[f32], nbits: u8, packed: &mut [u8]) {
    let middles: Vec<f64> = centroids.windows(2).map(|pair| (f64::from(pair[0]) + f64::from(pair[1])) / 2.0).collect();
    let codes: Vec<u8> = crate::weight_params::floats(values)
        .map(|value| middles.partition_point(|&middle| middle < f64::from(value)) as u8)
        .collect();
    crate::kernels::pack::pack(&codes, nbits, packed);
}
