//! What would have been kept of everything seen in a tick: the items of highest randomness that fit a budget.
//!
//! As long as everything fits, items are only written down; once it does not, they are put in order. Many
//! are added up by classes of randomness, and the lowest class goes out whole, so that an item costs a few
//! nanoseconds and a cap some kilobytes however large its budget is.
//! Either way the cut is the lowest threshold above which everything fits, of all thresholds or of those
//! between classes: moving an item that is kept to another place above the cut does not move the cut, and
//! so 1/p stays unbiased. Invariant: items of one randomness stand or fall together.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::sampling::threshold::RANDOMNESS_VALUES;

/// The most different randomness values that are held one by one; more than that are cheaper in classes.
const HELD: usize = 64;
/// A class is this part of a power of two of 2^56 - R, which is what p is to be: the cut keeps up to 1/64
/// less than would fit.
const CLASSES: u64 = 64;
const CLASS_BITS: u32 = CLASSES.trailing_zeros();
/// The class of randomness 0; that of the highest randomness is 0.
const LOWEST: usize = 56 * CLASSES as usize;

/// Where to cut, given the randomness excluded last and the least one included.
pub(super) type CutRule = fn(excluded: u64, included: Option<u64>) -> u64;

/// The rule that is right: the population above the first excluded randomness is what was kept.
pub(super) fn first_excluded(excluded: u64, _included: Option<u64>) -> u64 {
    excluded + 1
}

/// The items of highest randomness whose costs fit a budget.
#[derive(Debug)]
pub(super) struct Heap {
    items: Items,
    held: f64,
    /// The highest randomness that is held.
    highest: u64,
    /// T_heap, from 0 to 2^56.
    cut: u64,
    rule: CutRule,
    /// How many were offered since it was cleared.
    offered: usize,
}

#[derive(Debug)]
enum Items {
    /// Everything fits: as they came.
    AsOffered(Vec<Item>),
    /// Something was excluded: the lowest is first.
    Ordered(BinaryHeap<Item>),
    /// There were more than [`HELD`].
    Classes(Classes),
}

/// Items of one randomness, or some of them.
#[derive(Debug, Clone, Copy)]
struct Item {
    randomness: u64,
    cost: f64,
}

/// The lowest randomness is the greatest, for [`BinaryHeap`].
impl Ord for Item {
    fn cmp(&self, other: &Self) -> Ordering {
        other.randomness.cmp(&self.randomness)
    }
}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.randomness == other.randomness
    }
}

impl Eq for Item {}

impl Heap {
    pub(super) fn new(rule: CutRule) -> Self {
        Self { items: Items::AsOffered(Vec::new()), held: 0.0, highest: 0, cut: 0, rule, offered: 0 }
    }

    /// T_heap: first excluded + 1, 0 if none is excluded; up to 2^56.
    pub(super) fn cut(&self) -> u64 {
        self.cut
    }

    /// The costs of what is held.
    pub(super) fn held(&self) -> f64 {
        self.held
    }

    /// Adds an item; tells whether one trace alone exceeds the budget and stays.
    pub(super) fn offer(&mut self, randomness: u64, cost: f64, budget: f64, may_owe: bool) -> bool {
        if randomness < self.cut {
            return false;
        }
        self.add(randomness, cost);
        match self.held > budget {
            true => self.exclude(budget, may_owe),
            false => false,
        }
    }

    /// Adds items, of which each has a randomness and a cost.
    pub(super) fn offer_all(&mut self, items: &[(u64, f64)], budget: f64, may_owe: bool) {
        let sum: f64 = items.iter().map(|item| item.1).sum();
        if self.cut > 0 || self.held + sum > budget {
            return items.iter().for_each(|item| _ = self.offer(item.0, item.1, budget, may_owe));
        }
        let Items::Classes(classes) = &mut self.items else {
            return items.iter().for_each(|item| self.add(item.0, item.1));
        };
        classes.add_all(items);
        self.offered += items.len();
        self.held += sum;
        self.highest = items.iter().fold(self.highest, |highest, item| highest.max(item.0));
    }

    #[inline]
    fn add(&mut self, randomness: u64, cost: f64) {
        self.offered += 1;
        self.held += cost;
        self.highest = self.highest.max(randomness);
        let count = match &mut self.items {
            Items::AsOffered(items) => {
                match items.last_mut() {
                    Some(last) if last.randomness == randomness => last.cost += cost,
                    _ => items.push(Item { randomness, cost }),
                }
                items.len()
            }
            Items::Ordered(items) => {
                match items.peek().is_some_and(|lowest| lowest.randomness == randomness) {
                    true => items.peek_mut().into_iter().for_each(|mut lowest| lowest.cost += cost),
                    false => items.push(Item { randomness, cost }),
                }
                items.len()
            }
            Items::Classes(classes) => {
                classes.add(randomness, cost);
                0
            }
        };
        if count > 2 * HELD {
            self.compact();
        }
    }

    fn exclude(&mut self, budget: f64, may_owe: bool) -> bool {
        if let Items::AsOffered(items) = &mut self.items {
            self.items = Items::Ordered(BinaryHeap::from(std::mem::take(items)));
        }
        match &self.items {
            Items::Classes(_) => self.exclude_classes(budget, may_owe),
            _ => self.exclude_single(budget, may_owe),
        }
    }

    fn exclude_single(&mut self, budget: f64, may_owe: bool) -> bool {
        let Items::Ordered(items) = &mut self.items else { return false };
        while self.held > budget {
            let Some(lowest) = items.peek().map(|item| item.randomness) else { break };
            if may_owe && lowest == self.highest && lowest > 0 {
                return true;
            }
            while let Some(item) = items.peek().filter(|item| item.randomness == lowest) {
                self.held -= item.cost;
                items.pop();
            }
            let included = items.peek().map(|item| item.randomness);
            self.cut = self.cut.max((self.rule)(lowest, included));
        }
        false
    }

    fn exclude_classes(&mut self, budget: f64, may_owe: bool) -> bool {
        let Items::Classes(classes) = &mut self.items else { return false };
        while self.held > budget {
            let Some((excluded, cost)) = classes.lowest() else { break };
            if may_owe && self.held <= cost && excluded > 0 {
                return true;
            }
            classes.remove_lowest();
            self.held -= cost;
            self.cut = self.cut.max((self.rule)(excluded, None));
        }
        false
    }

    /// Adds up what has one randomness; if that is not enough, puts all in classes.
    fn compact(&mut self) {
        let (mut items, ordered) = match &mut self.items {
            Items::AsOffered(items) => (std::mem::take(items), false),
            Items::Ordered(items) => (std::mem::take(items).into_vec(), true),
            Items::Classes(_) => return,
        };
        items.sort_unstable();
        items.dedup_by(|next, first| {
            let same = next == first;
            first.cost += if same { next.cost } else { 0.0 };
            same
        });
        self.items = match (items.len() > HELD, ordered) {
            (false, false) => Items::AsOffered(items),
            (false, true) => Items::Ordered(BinaryHeap::from(items)),
            (true, _) => {
                let mut classes = Classes::default();
                items.iter().for_each(|item| classes.add(item.randomness, item.cost));
                Items::Classes(classes)
            }
        };
    }

    /// Begins again; what was needed stays in use.
    pub(super) fn clear(&mut self) {
        let offered = self.offered;
        let empty = |mut items: Vec<Item>| {
            items.clear();
            items.shrink_to(2 * offered);
            Items::AsOffered(items)
        };
        self.items = match std::mem::replace(&mut self.items, Items::AsOffered(Vec::new())) {
            Items::AsOffered(items) => empty(items),
            Items::Ordered(items) => empty(items.into_vec()),
            Items::Classes(mut classes) if offered > HELD => {
                classes.clear();
                Items::Classes(classes)
            }
            Items::Classes(_) => empty(Vec::new()),
        };
        (self.held, self.highest, self.cut, self.offered) = (0.0, 0, 0, 0);
    }
}

/// Costs by class. All caps together are more than a processor's caches hold: so costs come as a list, line
/// after line, and are added up when the list is full or something is to be excluded, which in most ticks is
/// never.
#[derive(Debug, Default)]
struct Classes {
    /// Place and cost of an item each.
    fresh: Vec<u32>,
    /// Lowest randomness first: most items are in the first few hundred classes. A class counts up to 2^32 - 1
    /// units of cost a tick.
    costs: Vec<u32>,
    /// No class before this place has any costs.
    lowest: usize,
}

/// How many items are listed before they are added up.
const FRESH: usize = 1024;
/// The bits of a listed item that are its cost; the others are its place.
const COST_BITS: u32 = 20;

impl Classes {
    fn add(&mut self, randomness: u64, cost: f64) {
        let cost = cost as u32;
        if cost >> COST_BITS > 0 {
            return self.count(place(class(randomness)), cost);
        }
        if self.fresh.len() == FRESH {
            self.count_fresh();
        }
        self.fresh.push(listed(randomness, cost));
    }

    fn add_all(&mut self, items: &[(u64, f64)]) {
        let is_listed = |item: &(u64, f64)| item.1 < f64::from(1u32 << COST_BITS);
        if items.len() > FRESH || !items.iter().all(is_listed) {
            return items.iter().for_each(|item| self.add(item.0, item.1));
        }
        if self.fresh.len() + items.len() > FRESH {
            self.count_fresh();
        }
        self.fresh.extend(items.iter().map(|item| listed(item.0, item.1 as u32)));
    }

    fn count_fresh(&mut self) {
        let mut fresh = std::mem::take(&mut self.fresh);
        for item in fresh.drain(..) {
            self.count((item >> COST_BITS) as usize, item & ((1 << COST_BITS) - 1));
        }
        self.fresh = fresh;
    }

    fn count(&mut self, place: usize, cost: u32) {
        if place >= self.costs.len() {
            self.costs.resize(place + 1, 0);
        }
        self.costs[place] = self.costs[place].saturating_add(cost);
        self.lowest = self.lowest.min(place);
    }

    /// The class of lowest randomness: the highest randomness it may hold, and its costs.
    fn lowest(&mut self) -> Option<(u64, f64)> {
        self.count_fresh();
        let rest = self.costs.get(self.lowest..)?;
        self.lowest += rest.iter().position(|cost| *cost > 0)?;
        Some((highest(place(self.lowest)), f64::from(self.costs[self.lowest])))
    }

    fn remove_lowest(&mut self) {
        if let Some(cost) = self.costs.get_mut(self.lowest) {
            *cost = 0;
        }
    }

    /// Begins again; the memory that was needed stays in use.
    fn clear(&mut self) {
        let used = self.costs.iter().rposition(|cost| *cost > 0).map_or(0, |last| last + 1);
        self.costs.truncate(used);
        self.costs.shrink_to(2 * used);
        self.costs.fill(0);
        self.fresh.clear();
        self.lowest = 0;
    }
}

/// An item as it is listed; its cost has at most [`COST_BITS`] bits.
fn listed(randomness: u64, cost: u32) -> u32 {
    (place(class(randomness)) as u32) << COST_BITS | cost
}

/// Where a class is among the costs, and which class is at a place.
fn place(class: usize) -> usize {
    LOWEST - class
}

/// The class of a randomness: the exponent and the first bits behind it of 2^56 - R.
fn class(randomness: u64) -> usize {
    let rest = RANDOMNESS_VALUES - randomness;
    let exponent = rest.ilog2();
    let bits = (rest << (63 - exponent) << 1) >> (64 - CLASS_BITS);
    (u64::from(exponent) * CLASSES + bits) as usize
}

/// The highest randomness of a class.
fn highest(class: usize) -> u64 {
    let (exponent, bits) = (class as u64 / CLASSES, class as u64 % CLASSES);
    RANDOMNESS_VALUES - (((CLASSES + bits) << exponent) >> CLASS_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::limit::tests::{adjusted, mean, random};

    /// The mutant: cuts at the last item that is included.
    fn last_included(excluded: u64, included: Option<u64>) -> u64 {
        included.unwrap_or(excluded + 1)
    }

    /// The mutant: believes that what it excluded began a class lower than it did.
    fn a_class_too_low(excluded: u64, _included: Option<u64>) -> u64 {
        highest((class(excluded) + 1).min(class(0))) + 1
    }

    /// The estimate from what a heap holds at the end of a tick, over the truth.
    fn estimate(mut heap: Heap, (items, budget): (usize, f64), costs: u64, seed: u64) -> f64 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut truth = 0.0;
        for _ in 0..items {
            let cost = rng.u64(1..=costs) as f64;
            truth += cost;
            heap.offer(random(&mut rng), cost, budget, false);
        }
        heap.held * adjusted(heap.cut) / truth
    }

    fn one_by_one(rule: CutRule) -> Heap {
        Heap::new(rule)
    }

    fn by_classes(rule: CutRule) -> Heap {
        Heap { items: Items::Classes(Classes::default()), ..Heap::new(rule) }
    }

    fn bias(heap: fn(CutRule) -> Heap, rule: CutRule, size: (usize, f64), costs: u64) -> (f64, f64) {
        let estimates: Vec<f64> = (0..4000).map(|seed| estimate(heap(rule), size, costs, seed)).collect();
        let (mean, error) = mean(&estimates);
        (mean - 1.0, error)
    }

    #[test]
    fn the_first_excluded_item_gives_an_unbiased_count_and_the_last_included_does_not() {
        let check = |size: (usize, f64), costs: u64, over_count: f64| {
            let (of_rule, error) = bias(one_by_one, first_excluded, size, costs);
            assert!(of_rule.abs() < 3.0 * error, "{size:?}: {of_rule} within 3 x {error}");
            let (of_mutant, error) = bias(one_by_one, last_included, size, costs);
            assert!(of_mutant > 3.0 * error, "the mutant passes: {size:?} {of_mutant} {error}");
            let off = (of_mutant - over_count).abs();
            assert!(off < 4.0 * error, "{size:?}: {of_mutant}, {over_count} was expected");
        };
        // The last included over-counts by 1/(k - 1).
        check((1000, 50.0), 1, 1.0 / 49.0);
        check((100, 10.0), 1, 1.0 / 9.0);
        let of_many_costs = bias(one_by_one, first_excluded, (262, 400.0), 40);
        assert!(of_many_costs.0.abs() < 3.0 * of_many_costs.1, "{of_many_costs:?}");
        let mutant = bias(one_by_one, last_included, (262, 400.0), 40);
        assert!(mutant.0 > 3.0 * mutant.1, "the mutant passes: {mutant:?}");
    }

    #[test]
    fn classes_give_an_unbiased_count_and_a_cut_inside_what_is_excluded_does_not() {
        for (size, costs) in [((1000, 50.0), 1), ((100, 10.0), 1), ((262, 400.0), 40)] {
            let (of_rule, error) = bias(by_classes, first_excluded, size, costs);
            assert!(of_rule.abs() < 3.0 * error, "{size:?}: {of_rule} within 3 x {error}");
        }
        let mutant = bias(by_classes, a_class_too_low, (4000, 400.0), 1);
        assert!(mutant.0.abs() > 3.0 * mutant.1, "the mutant passes: {mutant:?}");
    }

    #[test]
    fn a_class_holds_what_lies_between_its_ends() {
        let mut rng = fastrand::Rng::with_seed(1);
        let spread = (0..10_000).map(|_| RANDOMNESS_VALUES - (random(&mut rng) >> rng.u32(0..56)).max(1));
        for randomness in spread.chain([0, 1, RANDOMNESS_VALUES - 1, RANDOMNESS_VALUES - 2]) {
            let own = class(randomness);
            assert!(own <= class(0) && randomness <= highest(own), "{randomness:x}");
            assert_eq!(class(highest(own)), own, "{randomness:x}");
            if randomness < highest(own) {
                assert_ne!(class(highest(own) + 1), own, "{randomness:x}");
            }
        }
    }

    #[test]
    fn many_items_use_the_budget_to_a_part_in_sixty_four_and_memory_of_a_few_kilobytes() {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut heap = Heap::new(first_excluded);
        for _ in 0..200_000 {
            heap.offer(random(&mut rng), 1.0, 50_000.0, false);
        }
        assert!(matches!(heap.items, Items::Classes(_)));
        assert!((50_000.0 * 63.0 / 64.0..=50_000.0).contains(&heap.held), "{}", heap.held);
        let p = 1.0 / adjusted(heap.cut);
        assert!((0.24..0.26).contains(&p), "{p}");
        heap.clear();
        assert!(matches!(heap.items, Items::Classes(_)), "a tick like the last begins with classes");
        heap.clear();
        assert!(matches!(heap.items, Items::AsOffered(_)), "nothing came");
    }

    #[test]
    fn traces_whose_spans_come_by_turns_are_held_as_one_each() {
        let mut heap = Heap::new(first_excluded);
        let traces = [3, 1 << 20, 1 << 40, 1 << 55];
        for turn in 0..10_000 {
            assert!(!heap.offer(traces[turn % 4], 1.0, 1e9, true));
        }
        let Items::AsOffered(items) = &heap.items else { panic!("{:?}", heap.items) };
        assert!(items.len() <= 2 * HELD);
        assert!(!heap.offer(traces[0], 1.0, 7_500.0, true), "three traces fit");
        assert_eq!((heap.cut, heap.held), (traces[0] + 1, 7_500.0));
        for _ in 0..10_000 {
            heap.offer(traces[3], 1.0, 5_000.0, true);
        }
        assert_eq!((heap.cut, heap.held), (traces[2] + 1, 12_500.0), "the last one owes");
        let Items::Ordered(items) = &heap.items else { panic!("{:?}", heap.items) };
        assert!(items.len() <= 2 * HELD);
    }

    #[test]
    fn a_giant_owes_among_classes_too() {
        let (mut heap, mut rng) = (by_classes(first_excluded), fastrand::Rng::with_seed(5));
        for _ in 0..1000 {
            heap.offer(random(&mut rng) / 2, 1.0, 500.0, true);
        }
        let giant = RANDOMNESS_VALUES - 2;
        let owes = (0..600).filter(|_| heap.offer(giant, 1.0, 500.0, true)).count();
        assert_eq!((owes, heap.held), (100, 600.0));
        assert!(heap.cut <= giant && heap.cut > RANDOMNESS_VALUES / 3, "{:x}", heap.cut);
        assert!(!heap.offer(giant, 1.0, 500.0, false) && heap.held == 0.0 && heap.cut > giant);
    }
}
