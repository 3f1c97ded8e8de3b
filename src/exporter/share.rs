//! Rejected items of a merged request, shared out over the batches it was made of.

/// Shares `rejected` out in proportion to `items`, by largest remainder (Hamilton's method); the shares
/// add up to `rejected`, or to all items if there are fewer. Of equal remainders the earlier wins.
pub(super) fn share(rejected: u64, items: &[u64]) -> Vec<u64> {
    let total: u128 = items.iter().map(|n| u128::from(*n)).sum();
    let rejected = u128::from(rejected).min(total);
    if rejected == 0 {
        return vec![0; items.len()];
    }
    let exact = |n: u64| u128::from(n) * rejected;
    // A share is at most its batch's items, so it fits.
    let mut shares: Vec<u64> = items.iter().map(|n| (exact(*n) / total) as u64).collect();
    let given: u64 = shares.iter().sum();
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(exact(items[*i]) % total));
    for i in order.into_iter().take((rejected - u128::from(given)) as usize) {
        shares[i] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rejected_items_are_shared_out_in_proportion() {
        let check = |rejected: u64, items: &[u64], expected: &[u64]| {
            assert_eq!(share(rejected, items), expected, "{rejected} of {items:?}");
        };
        check(0, &[5, 5], &[0, 0]);
        check(3, &[10], &[3]);
        check(3, &[5, 5, 5], &[1, 1, 1]);
        check(1, &[5, 5], &[1, 0]);
        check(5, &[1, 9], &[1, 4]);
        check(100, &[3, 4], &[3, 4]);
        check(7, &[], &[]);
        check(2, &[0, 4], &[0, 2]);
        check(u64::MAX, &[u64::MAX, u64::MAX], &[u64::MAX / 2 + 1, u64::MAX / 2]);
    }

    proptest! {
        #[test]
        fn shares_add_up_and_fit(
            rejected in 0..2000u64, items in prop::collection::vec(0..300u64, 0..10),
        ) {
            let shares = share(rejected, &items);
            prop_assert_eq!(shares.iter().sum::<u64>(), rejected.min(items.iter().sum()));
            prop_assert!(shares.iter().zip(&items).all(|(share, items)| share <= items));
        }
    }
}
