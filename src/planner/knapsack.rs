//! One point of each class: least cost in a number of bytes, or fewest bytes at a cost. (The multiple-choice knapsack
//! problem.)
//!
//! 1. **Hull.** For any price of a byte the best of all is the best point of each class, and these lie on the classes'
//!    lower convex hulls. The steps along all hulls, in the order of what a byte saves, pass through such optima; where
//!    the limit is met, the price gives a bound below which no plan is (Sinha and Zoltners, "The multiple-choice knapsack
//!    problem", Operations Research 27, 1979). Single moves then use up what is left.
//! 2. **Search.** What a point costs more, at that price, than its class's best adds up. If it is more than what lies
//!    between the bound and the best plan known, no better plan has the point. Classes are joined one by one, the largest
//!    first, and of the sums those stay that pass this test and that no other beats (Pisinger, "A minimal algorithm for
//!    the multiple-choice knapsack problem", European Journal of Operational Research 83, 1995).
//!
//! The result is proven to be within [`TOLERANCE`] of the optimum, unless more than [`MAX_SUMS`] are left at a step; then
//! they are thinned out evenly.

use super::frontier::Point;

/// What limits a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bound {
    /// The least cost in at most these bytes.
    Bytes(u64),
    /// The fewest bytes at no more than this cost.
    Cost(f64),
}

/// Share by which a plan may miss the optimum.
const TOLERANCE: f64 = 1e-4;
/// Most sums that are kept at a time, and in all steps together.
const MAX_SUMS: usize = 1 << 13;
const MAX_ALL_SUMS: usize = 1 << 21;
/// Most single moves in a row.
const MAX_MOVES: usize = 1 << 10;

/// What a point takes of the limit, and what is to be least.
#[derive(Clone, Copy, Debug)]
struct Item {
    uses: f64,
    goal: f64,
}

/// Chooses a point of every class. `known` are plans to begin with: the result is no worse than any of them that keeps
/// within the bound.
///
/// `None` if no plan keeps within the bound.
pub(super) fn solve(classes: &[Vec<Point>], bound: Bound, known: &[Vec<usize>]) -> Option<Vec<usize>> {
    let item = |point: &Point| match bound {
        Bound::Bytes(_) => Item { uses: point.bytes as f64, goal: point.cost },
        Bound::Cost(_) => Item { uses: point.cost, goal: point.bytes as f64 },
    };
    let limit = match bound {
        Bound::Bytes(bytes) => bytes as f64,
        Bound::Cost(cost) => cost,
    };
    let problem = Problem { classes: classes.iter().map(|class| class.iter().map(item).collect()).collect(), limit };
    problem.solve(known)
}

/// Classes of items, of each of which one is taken.
#[derive(Debug)]
struct Problem {
    classes: Vec<Vec<Item>>,
    limit: f64,
}

/// The optimum of the hulls.
struct Relaxed {
    /// What a unit of the limit is worth.
    price: f64,
    /// No plan within the limit is below.
    least: f64,
    /// The last plan on the way that keeps within the limit.
    plan: Vec<usize>,
}

/// The sum of the items of some classes.
#[derive(Clone, Copy, Debug)]
struct Sum {
    uses: f64,
    goal: f64,
    /// What it costs more than the classes' best, at the price.
    excess: f64,
    /// The sum of the classes before, and the item that was added.
    before: u32,
    pick: u32,
}

impl Problem {
    fn solve(&self, known: &[Vec<usize>]) -> Option<Vec<usize>> {
        let relaxed = self.relaxed()?;
        let mut best = relaxed.plan.clone();
        self.improve(&mut best);
        for plan in known {
            let (uses, goal) = self.sums(plan);
            if uses <= self.limit && goal < self.sums(&best).1 {
                best.clone_from(plan);
                self.improve(&mut best);
            }
        }
        if self.sums(&best).1 * (1.0 - TOLERANCE) > relaxed.least {
            self.search(&relaxed, &mut best);
        }
        Some(best)
    }

    fn sums(&self, plan: &[usize]) -> (f64, f64) {
        let items = self.classes.iter().zip(plan).map(|(class, &pick)| class[pick]);
        items.fold((0.0, 0.0), |(uses, goal), item| (uses + item.uses, goal + item.goal))
    }

    /// Walks along the hulls until the limit is met.
    fn relaxed(&self) -> Option<Relaxed> {
        let hulls: Vec<Vec<usize>> = self.classes.iter().map(|class| hull(class)).collect();
        let mut plan: Vec<usize> = hulls.iter().map(|hull| hull.first().copied()).collect::<Option<_>>()?;
        let mut uses = self.sums(&plan).0;
        if uses > self.limit {
            return None;
        }
        // (slope, class, item)
        let mut steps: Vec<(f64, usize, usize)> = Vec::new();
        for (at, (class, hull)) in self.classes.iter().zip(&hulls).enumerate() {
            steps.extend(hull.windows(2).map(|pair| (slope(class[pair[0]], class[pair[1]]), at, pair[1])));
        }
        // Stable: the steps of a hull stay in order even if two slopes are equal.
        steps.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut price = 0.0;
        for (slope, class, item) in steps {
            let more = self.classes[class][item].uses - self.classes[class][plan[class]].uses;
            if uses + more > self.limit {
                price = -slope;
                break;
            }
            uses += more;
            plan[class] = item;
        }
        let least =
            |class: &Vec<Item>| class.iter().map(|item| item.goal + price * item.uses).fold(f64::INFINITY, f64::min);
        let least: f64 = self.classes.iter().map(least).sum();
        // Without a price the limit, which may be infinite, does not count.
        let least = if price == 0.0 { least } else { least - price * self.limit };
        // Steps are added up in another order than sums are: a last place may be over.
        while self.sums(&plan).0 > self.limit {
            let back = |(class, &pick): (usize, &usize)| {
                let at = hulls[class].iter().position(|&item| item == pick)?;
                Some((class, hulls[class][at.checked_sub(1)?]))
            };
            let (class, item) = plan.iter().enumerate().find_map(back)?;
            plan[class] = item;
        }
        Some(Relaxed { price, least, plan })
    }

    /// Moves single classes to other items, the move that gains most first, as long as one gains.
    fn improve(&self, plan: &mut [usize]) {
        for _ in 0..MAX_MOVES {
            let (uses, goal) = self.sums(plan);
            let mut best: Option<(f64, usize, usize)> = None;
            for (at, class) in self.classes.iter().enumerate() {
                let old = class[plan[at]];
                for (pick, item) in class.iter().enumerate() {
                    let gain = old.goal - item.goal;
                    let better = best.is_none_or(|(most, ..)| gain > most);
                    if gain > 0.0 && better && uses - old.uses + item.uses <= self.limit {
                        best = Some((gain, at, pick));
                    }
                }
            }
            let Some((gain, class, pick)) = best else { return };
            let old = std::mem::replace(&mut plan[class], pick);
            // Rounding must not make two plans turn into each other for ever, nor break the limit.
            let (uses, new) = self.sums(plan);
            if uses > self.limit || new >= goal || gain <= 1e-12 * goal {
                plan[class] = old;
                return;
            }
        }
    }

    /// Looks for plans that are better than the best by more than the tolerance.
    fn search(&self, relaxed: &Relaxed, best: &mut Vec<usize>) {
        let price = relaxed.price;
        let priced = |item: &Item| item.goal + price * item.uses;
        // The best item of each class at the price; of equals the one that uses least.
        let defaults: Vec<usize> = self
            .classes
            .iter()
            .map(|class| {
                let order = |a: &&Item, b: &&Item| priced(a).total_cmp(&priced(b)).then(a.uses.total_cmp(&b.uses));
                let least = class.iter().min_by(order).map(priced).unwrap_or_default();
                class.iter().position(|item| priced(item) == least).unwrap_or_default()
            })
            .collect();
        let excess =
            |class: usize, item: &Item| (priced(item) - priced(&self.classes[class][defaults[class]])).max(0.0);
        let mut goal = self.sums(best).1;
        let allowed = |goal: f64| goal * (1.0 - TOLERANCE) - relaxed.least;
        // What is left of each class. The largest come first: those to come fill the gaps.
        let mut open: Vec<(usize, Vec<usize>)> = Vec::new();
        let mut plan = defaults.clone();
        for (at, class) in self.classes.iter().enumerate() {
            let left: Vec<usize> = (0..class.len()).filter(|&pick| excess(at, &class[pick]) <= allowed(goal)).collect();
            match left[..] {
                [] => return,
                [only] => plan[at] = only,
                _ => open.push((at, left)),
            }
        }
        let uses = |class: usize, pick: usize| self.classes[class][pick].uses;
        let spread = |(class, left): &(usize, Vec<usize>)| {
            let of = |pick: &usize| uses(*class, *pick);
            left.iter().map(of).fold(0.0, f64::max) - left.iter().map(of).fold(f64::INFINITY, f64::min)
        };
        open.sort_by(|a, b| spread(b).total_cmp(&spread(a)).then(a.0.cmp(&b.0)));
        // From each class on, the least that the rest uses, and the sums of its best.
        let mut rest = vec![(0.0, 0.0, 0.0); open.len() + 1];
        for (at, (class, left)) in open.iter().enumerate().rev() {
            let least = left.iter().map(|&pick| uses(*class, pick)).fold(f64::INFINITY, f64::min);
            let default = self.classes[*class][defaults[*class]];
            let (least_after, uses_after, goal_after) = rest[at + 1];
            rest[at] = (least_after + least, uses_after + default.uses, goal_after + default.goal);
        }
        let fixed = (0..plan.len()).filter(|class| open.iter().all(|(open, _)| open != class));
        let start = fixed.fold(Sum { uses: 0.0, goal: 0.0, excess: 0.0, before: 0, pick: 0 }, |sum, class| {
            let item = self.classes[class][plan[class]];
            Sum {
                uses: sum.uses + item.uses,
                goal: sum.goal + item.goal,
                excess: sum.excess + excess(class, &item),
                ..sum
            }
        });
        let most = (MAX_ALL_SUMS / open.len().max(1)).clamp(256, MAX_SUMS);
        let mut steps: Vec<Vec<Sum>> = vec![vec![start]];
        // The step and the sum that leads to the best plan, if one was found.
        let mut found = None;
        for (at, (class, left)) in open.iter().enumerate() {
            let (least_after, uses_after, goal_after) = rest[at + 1];
            let items: Vec<(u32, Item, f64)> = left
                .iter()
                .map(|&pick| (pick as u32, self.classes[*class][pick]))
                .map(|(pick, item)| (pick, item, excess(*class, &item)))
                .collect();
            let mut sums = Vec::new();
            for (before, sum) in (0..).zip(&steps[at]) {
                for &(pick, item, more) in &items {
                    let sum = Sum {
                        uses: sum.uses + item.uses,
                        goal: sum.goal + item.goal,
                        excess: sum.excess + more,
                        before,
                        pick,
                    };
                    if sum.excess <= allowed(goal) && sum.uses + least_after <= self.limit {
                        sums.push(sum);
                    }
                }
            }
            sums.sort_by(|a, b| a.uses.total_cmp(&b.uses).then(a.goal.total_cmp(&b.goal)));
            let mut least = f64::INFINITY;
            sums.retain(|sum| {
                let better = sum.goal < least;
                least = least.min(sum.goal);
                better
            });
            thin_out(&mut sums, most);
            for (index, sum) in sums.iter().enumerate() {
                if sum.uses + uses_after <= self.limit && sum.goal + goal_after < goal {
                    goal = sum.goal + goal_after;
                    found = Some((at, index));
                }
            }
            steps.push(sums);
        }
        let Some((last, mut index)) = found else { return };
        for at in (0..=last).rev() {
            let sum = steps[at + 1][index];
            plan[open[at].0] = sum.pick as usize;
            index = sum.before as usize;
        }
        self.improve(&mut plan);
        let (uses, goal) = self.sums(&plan);
        if uses <= self.limit && goal < self.sums(best).1 {
            *best = plan;
        }
    }
}

/// Leaves at most `most` of the sums, which rise in what they use: in each of as many equal steps of the goal the one
/// that uses least.
fn thin_out(sums: &mut Vec<Sum>, most: usize) {
    let (Some(first), Some(last)) = (sums.first(), sums.last()) else { return };
    if sums.len() <= most {
        return;
    }
    let (high, step) = (first.goal, (first.goal - last.goal) / (most - 1) as f64);
    sums.dedup_by_key(|sum| ((high - sum.goal) / step) as usize);
}

/// The indices of the lower convex hull, from what uses least to what has the least goal.
fn hull(class: &[Item]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..class.len()).collect();
    let by =
        |&a: &usize, &b: &usize| class[a].uses.total_cmp(&class[b].uses).then(class[a].goal.total_cmp(&class[b].goal));
    order.sort_by(by);
    let mut hull: Vec<usize> = Vec::new();
    for item in order {
        if hull.last().is_some_and(|&last| class[item].goal >= class[last].goal) {
            continue;
        }
        while let [.., before, last] = hull[..]
            && slope(class[before], class[last]) >= slope(class[last], class[item])
        {
            hull.pop();
        }
        hull.push(item);
    }
    hull
}

fn slope(from: Item, to: Item) -> f64 {
    (to.goal - from.goal) / (to.uses - from.uses)
}

#[cfg(test)]
mod tests {
    use super::super::frontier::Group;
    use super::super::frontier::tests::{Random, all};
    use super::*;

    /// Bytes and cost of all plans, by trying every one.
    fn all_plans(groups: &[Group]) -> Vec<(u64, f64)> {
        let mut plans = vec![(0, 0.0)];
        for group in groups {
            let ways: Vec<_> = all(group).iter().map(|picks| group.sums(picks)).collect();
            plans =
                plans.iter().flat_map(|plan| ways.iter().map(move |way| (plan.0 + way.0, plan.1 + way.1))).collect();
        }
        plans
    }

    fn total(classes: &[Vec<Point>], plan: &[usize]) -> (u64, f64) {
        let points = classes.iter().zip(plan).map(|(class, &pick)| &class[pick]);
        points.fold((0, 0.0), |(bytes, cost), point| (bytes + point.bytes, cost + point.cost))
    }

    /// A thousand small menus, whose weights agree in groups: no plan of brute force is better by more than the tolerance.
    #[test]
    fn brute_force_finds_nothing_better() {
        let mut random = Random(3);
        let (mut reached, mut missed) = (0, 0);
        for case in 0..1000 {
            let count = 1 + random.below(4);
            let groups: Vec<Group> = (0..count)
                .map(|_| {
                    let weights = 1 + random.below(2);
                    random.group(weights, 4)
                })
                .collect();
            let classes: Vec<Vec<Point>> =
                groups.iter().map(|group| group.frontier(&[], &mut |picks| group.sums(picks).0)).collect();
            let plans = all_plans(&groups);
            let limit = random.below(1500);
            let best = plans.iter().filter(|plan| plan.0 <= limit).map(|plan| plan.1).min_by(f64::total_cmp);
            let solved = solve(&classes, Bound::Bytes(limit), &[]).map(|plan| total(&classes, &plan));
            assert_eq!(solved.is_some(), best.is_some(), "case {case}");
            if let (Some((bytes, cost)), Some(best)) = (solved, best) {
                reached += 1;
                assert!(bytes <= limit && cost <= best * (1.0 + 2.0 * TOLERANCE), "case {case}: {cost}, {best}");
            }
            let limit = random.below(300) as f64;
            let best = plans.iter().filter(|plan| plan.1 <= limit).map(|plan| plan.0).min();
            let solved = solve(&classes, Bound::Cost(limit), &[]).map(|plan| total(&classes, &plan));
            assert_eq!(solved.is_some(), best.is_some(), "case {case}");
            if let (Some((bytes, cost)), Some(best)) = (solved, best) {
                assert!(
                    cost <= limit && bytes as f64 <= best as f64 * (1.0 + 2.0 * TOLERANCE),
                    "case {case}: {bytes}, {best}"
                );
            } else {
                missed += 1;
            }
        }
        assert!(reached > 300 && missed > 30, "{reached}, {missed}");
    }

    /// The least cost for each number of bytes, by the textbook's dynamic programme over bytes.
    fn least_costs(classes: &[Vec<Point>], limit: usize) -> Vec<f64> {
        let mut least = vec![0.0; limit + 1];
        for class in classes {
            let with = |bytes: usize| {
                let fits = class.iter().filter(|point| point.bytes as usize <= bytes);
                fits.map(|point| least[bytes - point.bytes as usize] + point.cost).fold(f64::INFINITY, f64::min)
            };
            least = (0..=limit).map(with).collect();
        }
        least
    }

    /// Weights of all sizes in one to eight bits, or kept: what networks ask for.
    fn network(random: &mut Random, layers: u64, large: u64) -> Vec<Vec<Point>> {
        let mut layer = |_| {
            let values = (1 + random.below(large)) * if random.below(3) == 0 { 8 } else { 1 };
            let quality = 0.5 + random.below(1000) as f64 / 1000.0;
            let mut point = |bits: u64| Point {
                bytes: 3 + bits * values / 8 + (1 << bits.min(8)) / 8,
                cost: if bits == 9 {
                    0.0
                } else {
                    values as f64 * quality * (0.24 + random.below(80) as f64 / 1000.0).powi(bits as i32)
                },
                picks: vec![bits as usize],
            };
            let mut points: Vec<Point> = (1..=9).map(&mut point).collect();
            points[8].bytes = 4 * values;
            points.sort_by_key(|point| point.bytes);
            points
        };
        (0..layers).map(&mut layer).collect()
    }

    #[test]
    fn networks_get_the_best_plan_there_is() {
        let mut random = Random(4);
        for (layers, large) in [(2, 900), (5, 400), (8, 300), (12, 200), (20, 100), (40, 40), (100, 10)] {
            for _ in 0..4 {
                let classes = network(&mut random, layers, large);
                let most: u64 = classes.iter().flat_map(|class| class.iter().map(|point| point.bytes).max()).sum();
                let least = least_costs(&classes, most as usize);
                for share in [8, 12, 16, 24, 32, 50] {
                    let limit = most * share / 100;
                    let best = least[limit as usize];
                    match solve(&classes, Bound::Bytes(limit), &[]) {
                        None => assert_eq!(best, f64::INFINITY),
                        Some(plan) => {
                            let (bytes, cost) = total(&classes, &plan);
                            assert!(bytes <= limit);
                            assert!(cost <= best * 1.001, "{layers} layers, {share} %: {cost}, {best}");
                            let cost_limit = cost * (1.0 + 1e-9);
                            let fewest = least.partition_point(|&cost| cost > cost_limit);
                            let plan = solve(&classes, Bound::Cost(cost_limit), &[]).unwrap();
                            let (bytes, cost) = total(&classes, &plan);
                            assert!(cost <= cost_limit);
                            assert!(bytes as f64 <= fewest as f64 * 1.001, "{layers} layers: {bytes}, {fewest}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_known_plan_is_never_worse() {
        let mut random = Random(5);
        for _ in 0..200 {
            let classes = network(&mut random, 6, 300);
            let known: Vec<usize> = classes.iter().map(|class| random.below(class.len() as u64) as usize).collect();
            let (bytes, cost) = total(&classes, &known);
            let plan = solve(&classes, Bound::Bytes(bytes), std::slice::from_ref(&known)).unwrap();
            let found = total(&classes, &plan);
            assert!(found.0 <= bytes && found.1 <= cost);
            let plan = solve(&classes, Bound::Cost(cost), std::slice::from_ref(&known)).unwrap();
            let found = total(&classes, &plan);
            assert!(found.0 <= bytes && found.1 <= cost);
        }
    }

    #[test]
    fn limits_without_end() {
        let classes = network(&mut Random(6), 3, 50);
        let plan = solve(&classes, Bound::Cost(f64::INFINITY), &[]).unwrap();
        assert_eq!(total(&classes, &plan).0, classes.iter().map(|class| class[0].bytes).sum::<u64>());
        let plan = solve(&classes, Bound::Bytes(u64::MAX), &[]).unwrap();
        assert_eq!(total(&classes, &plan).1, 0.0);
        assert_eq!(solve(&[], Bound::Bytes(0), &[]), Some(Vec::new()));
    }
}
