//! Orders of the documents: as given, reversed, then shuffles.

/// `items` in order number `order`.
pub(super) fn permuted<T: Clone>(items: &[T], order: u32) -> Vec<T> {
    let mut items = items.to_vec();
    match order {
        0 => {}
        1 => items.reverse(),
        _ => shuffle(&mut items, u64::from(order)),
    }
    items
}

/// Fisher-Yates over SplitMix64: the same on every machine.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed;
    for last in (1..items.len()).rev() {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let bound = last as u64 + 1;
        items.swap(last, ((mixed ^ (mixed >> 31)) % bound) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_holds_every_item_and_the_first_ones_differ() {
        let items: Vec<u32> = (0..10).collect();
        let orders: Vec<Vec<u32>> = (0..16).map(|order| permuted(&items, order)).collect();
        assert_eq!((&orders[0], orders[1][0]), (&items, 9));
        for (index, order) in orders.iter().enumerate() {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, items);
            assert!(
                orders[..index].iter().all(|earlier| earlier != order),
                "order {index} repeats an earlier one"
            );
        }
    }
}
