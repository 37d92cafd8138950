//! The ways to store the weights of one layer that are worth a thought: no other takes as few bytes at as little cost.
//!
//! A group holds the weights of a layer, which have to agree: not float16 in one and float32 in another. Without one of
//! the two, weights are independent, and the best of them together are sums of the best of each; what is best over both
//! ways is left. Sums are kept only where none is better in bytes and cost, which leaves few. Of very many, in layers
//! of dozens of weights, one in each ten-thousandth of the bytes is kept: the one of least cost.

/// Whether a choice is a float type that the weights of a group have to agree in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Float {
    /// Codes, or a weight that Core ML does not check.
    Free,
    Half,
    Single,
}

/// A form that a weight can take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub bytes: u64,
    pub cost: f64,
    pub float: Float,
}

/// The choices of each weight of a layer. The first of each is to keep it; kept together they are always valid.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    pub weights: Vec<Vec<Choice>>,
}

/// A way to choose for all weights of a group: an index for each.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Point {
    pub bytes: u64,
    pub cost: f64,
    pub picks: Vec<usize>,
}

/// Points up to which all are kept.
const MAX_POINTS: usize = 1 << 12;
/// Where there are more: steps of the bytes, of which each keeps one point, in a doubling of them.
const STEPS_PER_DOUBLING: f64 = 8192.0;

impl Group {
    /// The bytes and the cost of the weights, chosen like this.
    pub(super) fn sums(&self, picks: &[usize]) -> (u64, f64) {
        let chosen = self.weights.iter().zip(picks).map(|(choices, &pick)| choices[pick]);
        chosen.fold((0, 0.0), |(bytes, cost), choice| (bytes + choice.bytes, cost + choice.cost))
    }

    /// Whether no float16 meets float32, or all is as it was.
    pub(super) fn agrees(&self, picks: &[usize]) -> bool {
        let has = |float| self.weights.iter().zip(picks).any(|(choices, &pick)| choices[pick].float == float);
        picks.iter().all(|&pick| pick == 0) || !(has(Float::Half) && has(Float::Single))
    }

    /// The points that no other beats, by rising bytes and falling cost. Each of `also` that is valid is among them, or
    /// one that is no worse.
    ///
    /// `bytes` tells how many all weights take together: more than their sum by what lies around them, and not less the
    /// larger that sum is.
    pub(super) fn frontier(&self, also: &[Vec<usize>], bytes: &mut dyn FnMut(&[usize]) -> u64) -> Vec<Point> {
        let kept = vec![0; self.weights.len()];
        let mut points: Vec<Point> = [Float::Half, Float::Single].into_iter().flat_map(|f| self.without(f)).collect();
        for picks in also.iter().filter(|picks| self.agrees(picks)).chain([&kept]) {
            let (bytes, cost) = self.sums(picks);
            points.push(Point { bytes, cost, picks: picks.clone() });
        }
        for point in &mut points {
            point.bytes = bytes(&point.picks);
        }
        unbeaten(&mut points, |point| (point.bytes, point.cost));
        points
    }

    /// The points without one float type; none if a weight has nothing else.
    fn without(&self, forbidden: Float) -> Vec<Point> {
        let mut points = vec![Point { bytes: 0, cost: 0.0, picks: Vec::new() }];
        for choices in &self.weights {
            let allowed = choices.iter().enumerate().filter(|(_, choice)| choice.float != forbidden);
            let mut allowed: Vec<(usize, Choice)> = allowed.map(|(pick, choice)| (pick, *choice)).collect();
            unbeaten(&mut allowed, |(_, choice)| (choice.bytes, choice.cost));
            // (bytes, cost, point, pick)
            let mut sums: Vec<(u64, f64, usize, usize)> = Vec::with_capacity(points.len() * allowed.len());
            for (at, point) in points.iter().enumerate() {
                let sum = |(pick, choice): &(usize, Choice)| {
                    (point.bytes + choice.bytes, point.cost + choice.cost, at, *pick)
                };
                sums.extend(allowed.iter().map(sum));
            }
            unbeaten(&mut sums, |&(bytes, cost, ..)| (bytes, cost));
            if sums.len() > MAX_POINTS {
                let step = |bytes: u64| ((bytes.max(1) as f64).log2() * STEPS_PER_DOUBLING) as u64;
                // Of one step the last, which costs least.
                sums.reverse();
                sums.dedup_by_key(|(bytes, ..)| step(*bytes));
                sums.reverse();
            }
            let joined = |&(bytes, cost, at, pick): &(u64, f64, usize, usize)| {
                let before: &Point = &points[at];
                Point { bytes, cost, picks: before.picks.iter().copied().chain([pick]).collect() }
            };
            points = sums.iter().map(joined).collect();
        }
        points
    }
}

/// Leaves what no other has as few bytes and as little cost as, by rising bytes and falling cost. Of equals the first
/// stays.
fn unbeaten<T>(points: &mut Vec<T>, of: impl Fn(&T) -> (u64, f64)) {
    points.sort_by(|a, b| {
        let (a, b) = (of(a), of(b));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    let mut least = f64::INFINITY;
    let mut first = true;
    points.retain(|point| {
        let cost = of(point).1;
        let better = first || cost < least;
        first = false;
        least = least.min(cost);
        better
    });
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Numbers that look random: SplitMix64.
    pub(in super::super) struct Random(pub u64);

    impl Random {
        pub(in super::super) fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (z ^ (z >> 31)) % limit
        }

        /// A group of up to `weights` weights with up to `choices` choices each.
        pub(in super::super) fn group(&mut self, weights: u64, choices: u64) -> Group {
            let mut weight = || {
                let scale = 1 + self.below(40);
                let choice = |random: &mut Self| {
                    let float = match random.below(6) {
                        0 => Float::Half,
                        1 => Float::Single,
                        _ => Float::Free,
                    };
                    Choice { bytes: 1 + random.below(16) * scale, cost: random.below(100) as f64, float }
                };
                (0..1 + self.below(choices)).map(|_| choice(self)).collect()
            };
            let count = 1 + weights.saturating_sub(1).min(2);
            Group { weights: (0..count).map(|_| weight()).collect() }
        }
    }

    /// Every valid way to choose for a group.
    pub(in super::super) fn all(group: &Group) -> Vec<Vec<usize>> {
        let mut picks = vec![vec![]];
        for choices in &group.weights {
            let longer = |picks: &Vec<usize>| {
                let picks = picks.clone();
                (0..choices.len()).map(move |pick| [picks.clone(), vec![pick]].concat())
            };
            picks = picks.iter().flat_map(longer).collect();
        }
        picks.retain(|picks| group.agrees(picks));
        picks
    }

    #[test]
    fn no_way_is_better_than_the_frontier() {
        let mut random = Random(1);
        for _ in 0..1000 {
            let group = random.group(3, 7);
            let frontier = group.frontier(&[], &mut |picks| 10 + group.sums(picks).0);
            assert!(frontier.is_sorted_by(|a, b| a.bytes < b.bytes && a.cost > b.cost), "{frontier:?}");
            for point in &frontier {
                assert!(group.agrees(&point.picks));
                let (bytes, cost) = group.sums(&point.picks);
                assert_eq!((bytes + 10, cost), (point.bytes, point.cost));
            }
            for picks in all(&group) {
                let (bytes, cost) = group.sums(&picks);
                assert!(frontier.iter().any(|point| point.bytes <= bytes + 10 && point.cost <= cost), "{picks:?}");
            }
        }
    }

    #[test]
    fn of_very_many_points_those_near_all_others_stay() {
        let mut random = Random(2);
        let mut weight = || {
            let values = 1000 + random.below(1 << 20);
            let mut choice = |bits: u64| Choice {
                bytes: bits * values / 8 + random.below(100),
                cost: values as f64 * (0.2 + random.below(1000) as f64 / 1e4).powi(bits as i32),
                float: Float::Free,
            };
            (1..10).map(&mut choice).collect::<Vec<_>>()
        };
        let group = Group { weights: (0..24).map(|_| weight()).collect() };
        let frontier = group.frontier(&[], &mut |picks| group.sums(picks).0);
        assert!(frontier.len() > MAX_POINTS && frontier.len() < 10 * MAX_POINTS, "{}", frontier.len());
        // What costs least at a price of a byte is the least of each weight: points on the hull, known exactly.
        for price in [1e-4, 1e-3, 0.01, 0.1, 1.0] {
            let least = |choices: &Vec<Choice>| {
                choices.iter().map(|choice| choice.cost + price * choice.bytes as f64).fold(f64::INFINITY, f64::min)
            };
            let exact: f64 = group.weights.iter().map(least).sum();
            let found = frontier.iter().map(|point| point.cost + price * point.bytes as f64);
            let found = found.fold(f64::INFINITY, f64::min);
            assert!(found <= exact * 1.0005, "{price}: {found}, {exact}");
        }
    }
}
