//! Derived unique key per transaction: the host half, which finds the key of any counter from the key of the device.
//!
//! Both schemes grow the same tree. A node is a counter; its parent is the counter with the lowest one-bit cleared;
//! the root, counter 0, is the initial key. So the way to a counter is as long as it has one-bits.
//!
//! Architecture invariant: nothing here originates. It keeps no future keys, advances no counter and erases nothing;
//! that is the device's half. Nothing here decides whether a counter is legal or fresh either:
//! [`crate::ksn::Counter`] and the replay rules do, and the arithmetic is defined for every counter.

pub mod aes;
pub mod cache;
pub(crate) mod des;
pub mod lanes;
pub mod tdes;

/// The counters on the way from the root to `counter`, each one derivation step from the one before: its one-bits
/// added from the highest down, so that the last is `counter` itself. Empty for 0.
///
/// ```
/// let way: Vec<u32> = warifu_core::dukpt::path(0b1011).collect();
/// assert_eq!(way, [0b1000, 0b1010, 0b1011]);
/// ```
pub fn path(counter: u32) -> impl Iterator<Item = u32> {
    below(0, counter)
}

/// The counter one step nearer to the root: the lowest one-bit cleared (X9.24-1:2009 A.3, X9.24-3:2017 6.1).
/// 0 is the root, and its own parent.
pub const fn parent(counter: u32) -> u32 {
    counter & counter.wrapping_sub(1)
}

/// Whether `node` lies on the path to `counter`, both ends included.
const fn is_on_path(node: u32, counter: u32) -> bool {
    let below_node = match node.trailing_zeros() {
        32 => u32::MAX,
        zeros => (1 << zeros) - 1,
    };
    counter & !below_node == node
}

/// The part of `path(counter)` below `ancestor`, which must lie on it or be 0.
fn below(ancestor: u32, counter: u32) -> impl Iterator<Item = u32> {
    let mut node = ancestor;
    std::iter::from_fn(move || {
        let missing = counter & !node;
        let highest = missing.checked_ilog2()?;
        node |= 1 << highest;
        Some(node)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn zero_is_the_root_and_has_no_path() {
        assert_eq!(path(0).count(), 0);
        assert_eq!(parent(0), 0);
        assert!(is_on_path(0, 0) && is_on_path(0, u32::MAX) && !is_on_path(1, 0));
    }

    proptest! {
        #[test]
        fn every_step_of_a_path_adds_one_bit_below_its_parent(counter in any::<u32>()) {
            let mut previous = 0;
            for node in path(counter) {
                prop_assert_eq!(parent(node), previous);
                prop_assert!(is_on_path(node, counter));
                previous = node;
            }
            prop_assert_eq!(previous, counter);
        }

        #[test]
        fn is_on_path_agrees_with_walking_up(node in any::<u32>(), counter in any::<u32>()) {
            let mut ancestors = std::iter::successors(Some(counter), |&at| (at != 0).then(|| parent(at)));
            prop_assert_eq!(is_on_path(node, counter), ancestors.any(|at| at == node));
        }

        #[test]
        fn the_way_below_an_ancestor_is_the_end_of_the_whole_way(counter in 1..=u32::MAX, pick in any::<prop::sample::Index>()) {
            let whole: Vec<u32> = path(counter).collect();
            let at = pick.index(whole.len());
            prop_assert_eq!(below(whole[at], counter).collect::<Vec<_>>(), &whole[at + 1..]);
        }
    }
}
