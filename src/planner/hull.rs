//! The best choice for many weights together: least cost in a number of bytes, or fewest bytes at a cost.
//!
//! Every weight has choices, each with bytes and a cost. For any exchange rate of cost for bytes the best choice of a
//! weight lies on the lower convex hull of its choices, and the best choice of all is that of each. So the steps along
//! all hulls, taken in the order of what a byte saves, pass through optimal plans only; the target lies on one of them
//! or between two. What is left then is filled by single moves that still fit. The result is optimal up to one step:
//! no plan within the target costs less than the hull there, which is less than one step below.
//!
//! A group holds weights that have to agree: not float16 in one and float32 in another. It has a hull for each way to
//! agree, and what counts is the lower hull of these together.

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
#[derive(Debug)]
pub(super) struct Group {
    pub weights: Vec<Vec<Choice>>,
}

/// What limits a plan.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    /// The least cost in at most these bytes.
    Bytes(u64),
    /// The fewest bytes at no more than this cost.
    Cost(f64),
}

/// A way to choose for all weights of a group: an index for each.
#[derive(Clone, Debug)]
struct Point {
    bytes: u64,
    cost: f64,
    picks: Vec<usize>,
}

/// Goes from one point of a group's hull to the next: more bytes, less cost.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// Change of the cost for a byte; negative.
    slope: f64,
    group: usize,
    /// The index of the point it leads to.
    to: usize,
}

/// Chooses for every weight of every group: an index into its choices.
///
/// # Errors
/// The fewest bytes there can be, if the bound is below.
pub(super) fn solve(groups: &[Group], bound: Bound) -> Result<Vec<Vec<usize>>, u64> {
    let hulls: Vec<Vec<Point>> = groups.iter().map(Group::hull).collect();
    let mut at = vec![0; groups.len()];
    let least: u64 = hulls.iter().filter_map(|hull| hull.first()).map(|point| point.bytes).sum();
    if let Bound::Bytes(limit) = bound
        && least > limit
    {
        return Err(least);
    }
    let mut steps: Vec<Step> = Vec::new();
    for (group, hull) in hulls.iter().enumerate() {
        let pairs = hull.windows(2).enumerate();
        steps.extend(pairs.map(|(index, pair)| Step { slope: slope(&pair[0], &pair[1]), group, to: index + 1 }));
    }
    // Stable: the steps of a hull stay in order even if two slopes are equal.
    steps.sort_by(|a, b| a.slope.total_cmp(&b.slope));
    let cost = |at: &[usize]| hulls.iter().zip(at).map(|(hull, &at)| hull[at].cost).sum::<f64>();
    let mut bytes = least;
    for step in steps {
        let hull = &hulls[step.group];
        let more = hull[step.to].bytes - hull[at[step.group]].bytes;
        match bound {
            Bound::Bytes(limit) if bytes + more > limit => break,
            Bound::Cost(limit) if cost(&at) <= limit => break,
            _ => {}
        }
        bytes += more;
        at[step.group] = step.to;
    }
    let mut picks: Vec<Vec<usize>> = hulls.iter().zip(&at).map(|(hull, &at)| hull[at].picks.clone()).collect();
    fill(groups, &hulls, bound, &mut picks);
    Ok(picks)
}

/// Uses up what the bound leaves, by the move that gains most, again and again: one weight chosen otherwise, or a group
/// at another point of its hull.
fn fill(groups: &[Group], hulls: &[Vec<Point>], bound: Bound, picks: &mut [Vec<usize>]) {
    loop {
        let now = groups.iter().zip(&*picks).map(|(group, picks)| group.sums(picks));
        let (bytes, cost) = now.fold((0, 0.0), |(bytes, cost), point| (bytes + point.0, cost + point.1));
        let mut best: Option<(f64, usize, Vec<usize>)> = None;
        for (index, (group, hull)) in groups.iter().zip(hulls).enumerate() {
            let old = group.sums(&picks[index]);
            let singles = group
                .weights
                .iter()
                .enumerate()
                .flat_map(|(weight, choices)| (0..choices.len()).map(move |choice| (weight, choice)));
            let moves = singles.map(|(weight, choice)| {
                let mut moved = picks[index].clone();
                moved[weight] = choice;
                moved
            });
            for moved in moves.chain(hull.iter().map(|point| point.picks.clone())) {
                let new = group.sums(&moved);
                let (fits, gain) = match bound {
                    Bound::Bytes(limit) => (bytes - old.0 + new.0 <= limit, old.1 - new.1),
                    Bound::Cost(limit) => (cost - old.1 + new.1 <= limit, old.0 as f64 - new.0 as f64),
                };
                let better = best.as_ref().is_none_or(|(most, ..)| gain > *most);
                // Rounding must not make two plans turn into each other for ever.
                let gains = gain > 1e-12 * cost.abs() && gain > 0.0;
                if fits && gains && better && group.agrees(&moved) {
                    best = Some((gain, index, moved));
                }
            }
        }
        match best {
            Some((_, index, moved)) => picks[index] = moved,
            None => return,
        }
    }
}

fn slope(from: &Point, to: &Point) -> f64 {
    (to.cost - from.cost) / (to.bytes as f64 - from.bytes as f64)
}

impl Group {
    fn sums(&self, picks: &[usize]) -> (u64, f64) {
        let chosen = self.weights.iter().zip(picks).map(|(choices, &pick)| choices[pick]);
        chosen.fold((0, 0.0), |(bytes, cost), choice| (bytes + choice.bytes, cost + choice.cost))
    }

    /// Whether no float16 meets float32, or all is as it was.
    fn agrees(&self, picks: &[usize]) -> bool {
        let has = |float| self.weights.iter().zip(picks).any(|(choices, &pick)| choices[pick].float == float);
        picks.iter().all(|&pick| pick == 0) || !(has(Float::Half) && has(Float::Single))
    }

    /// The lower hull of bytes and cost of the group as a whole.
    fn hull(&self) -> Vec<Point> {
        let kept = self.sums(&vec![0; self.weights.len()]);
        let mut points = vec![Point { bytes: kept.0, cost: kept.1, picks: vec![0; self.weights.len()] }];
        for forbidden in [Float::Half, Float::Single] {
            points.extend(self.points_without(forbidden).into_iter().flatten());
        }
        lower_hull(points)
    }

    /// The points on the way from the fewest bytes to the least cost without one float type; none if a weight has
    /// nothing else.
    fn points_without(&self, forbidden: Float) -> Option<Vec<Point>> {
        let hulls = self.weights.iter().map(|choices| {
            let allowed = choices.iter().enumerate().filter(|(_, choice)| choice.float != forbidden);
            lower_hull(
                allowed.map(|(i, choice)| Point { bytes: choice.bytes, cost: choice.cost, picks: vec![i] }).collect(),
            )
        });
        let hulls: Vec<Vec<Point>> = hulls.collect();
        let mut steps: Vec<(f64, usize, usize)> = Vec::new();
        let mut picks = Vec::new();
        for (weight, hull) in hulls.iter().enumerate() {
            picks.push(hull.first()?.picks[0]);
            steps.extend(hull.windows(2).map(|pair| (slope(&pair[0], &pair[1]), weight, pair[1].picks[0])));
        }
        steps.sort_by(|a, b| a.0.total_cmp(&b.0));
        let point = |picks: &[usize]| {
            let (bytes, cost) = self.sums(picks);
            Point { bytes, cost, picks: picks.to_vec() }
        };
        let mut points = vec![point(&picks)];
        for (_, weight, choice) in steps {
            picks[weight] = choice;
            points.push(point(&picks));
        }
        Some(points)
    }
}

/// The lower convex hull, from the fewest bytes to the least cost.
fn lower_hull(mut points: Vec<Point>) -> Vec<Point> {
    points.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.cost.total_cmp(&b.cost)));
    let mut hull: Vec<Point> = Vec::new();
    for point in points {
        if hull.last().is_some_and(|last| point.cost >= last.cost) {
            continue;
        }
        while let [.., before, last] = &hull[..]
            && slope(before, last) >= slope(last, &point)
        {
            hull.pop();
        }
        hull.push(point);
    }
    hull
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every valid plan of some groups.
    fn all_plans(groups: &[Group]) -> Vec<(u64, f64)> {
        let mut plans = vec![(0, 0.0)];
        for group in groups {
            let mut picks = vec![vec![]];
            for choices in &group.weights {
                picks = picks
                    .into_iter()
                    .flat_map(|picks| (0..choices.len()).map(move |choice| [picks.clone(), vec![choice]].concat()))
                    .collect();
            }
            let valid: Vec<_> = picks.iter().filter(|picks| group.agrees(picks)).map(|p| group.sums(p)).collect();
            plans = plans.iter().flat_map(|plan| valid.iter().map(move |p| (plan.0 + p.0, plan.1 + p.1))).collect();
        }
        plans
    }

    fn choice() -> impl Strategy<Value = Choice> {
        let float = prop_oneof![4 => Just(Float::Free), 1 => Just(Float::Half), 1 => Just(Float::Single)];
        (1_u64..60, 0_u32..100, float).prop_map(|(bytes, cost, float)| Choice { bytes, cost: f64::from(cost), float })
    }

    fn groups() -> impl Strategy<Value = Vec<Group>> {
        let weight = prop::collection::vec(choice(), 1..5);
        let group = prop::collection::vec(weight, 1..3).prop_map(|weights| Group { weights });
        prop::collection::vec(group, 1..4)
    }

    /// The largest step of any hull: (bytes, cost).
    fn largest_step(groups: &[Group]) -> (u64, f64) {
        let hulls: Vec<Vec<Point>> = groups.iter().map(Group::hull).collect();
        let steps = hulls.iter().flat_map(|hull| hull.windows(2));
        steps.fold((0, 0.0), |(bytes, cost), pair| {
            (bytes.max(pair[1].bytes - pair[0].bytes), f64::max(cost, pair[0].cost - pair[1].cost))
        })
    }

    proptest! {
        #[test]
        fn no_plan_of_brute_force_is_better_by_a_step(groups in groups(), limit in 1_u64..250, cost_limit in 0_u32..400) {
            let plans = all_plans(&groups);
            let total = |picks: &[Vec<usize>]| {
                let sums = groups.iter().zip(picks).map(|(group, picks)| {
                    assert!(group.agrees(picks));
                    group.sums(picks)
                });
                sums.fold((0, 0.0), |(bytes, cost), sum| (bytes + sum.0, cost + sum.1))
            };
            let step = largest_step(&groups);
            let best = plans.iter().filter(|plan| plan.0 <= limit).map(|plan| plan.1).min_by(f64::total_cmp);
            match (solve(&groups, Bound::Bytes(limit)), best) {
                (Ok(picks), Some(best)) => {
                    let (bytes, cost) = total(&picks);
                    prop_assert!(bytes <= limit);
                    prop_assert!(cost == best || cost < best + step.1, "cost {cost}, best {best}, step {step:?}");
                }
                (Err(least), None) => {
                    prop_assert_eq!(Some(least), plans.iter().map(|plan| plan.0).min());
                }
                (solved, best) => prop_assert!(false, "{solved:?}, {best:?}"),
            }
            let limit = f64::from(cost_limit);
            let best = plans.iter().filter(|plan| plan.1 <= limit).map(|plan| plan.0).min();
            let (bytes, cost) = total(&solve(&groups, Bound::Cost(limit)).unwrap());
            if let Some(best) = best {
                prop_assert!(cost <= limit);
                prop_assert!(bytes == best || bytes < best + step.0, "{bytes} bytes, best {best}, step {step:?}");
            }
        }
    }
}
