//! The nodes of many devices' trees that the next transactions will need.
//!
//! A device counts upwards, so its next key hangs below a node of the way to its last one. Of each device the cache
//! therefore keeps that way, from the initial key down, without the nodes that have no children: at most 17. For
//! the next legal counter the node to hang it on is always there, and one step of derivation is enough.
//!
//! Architecture invariant: one cache belongs to one deriver thread, so it has no lock. It decides nothing: a counter
//! of any value and any order gives the key that derivation without a cache gives. What a node is, key bytes or a
//! handle into an HSM, it does not know; a node that leaves the cache is dropped, and a [`KeyBytes`] wiped by that.

use std::collections::{HashMap, VecDeque};
use std::ops::Deref;

use super::{aes, below, is_on_path, tdes};
use crate::key::KeyBytes;
use crate::ksn::Ksn;

/// Most nodes kept of one device: the root and one for each one-bit a legal AES counter may have.
const MAX_DEPTH: usize = 17;

/// A bounded cache of tree nodes `N`. Devices are told apart by their KSN without its counter.
pub struct TreeCache<N> {
    max_nodes: usize,
    nodes: usize,
    ways: HashMap<Ksn, Way<N>>,
    /// Every device in `ways` once, in the order they are considered for eviction (second chance).
    turns: VecDeque<Ksn>,
}

/// The way to the last counter of one device, root first; never grown, so no key is left behind by moving it.
struct Way<N> {
    nodes: Vec<Node<N>>,
    used_since_turn: Use,
}

struct Node<N> {
    counter: u32,
    key: N,
}

#[derive(Clone, Copy)]
enum Use {
    Idle,
    Used,
}

/// A node: borrowed from the cache, or the caller's own because no later node can hang below it.
pub enum Derived<'a, N> {
    /// Stays in the cache.
    Kept(&'a N),
    /// Leaves with the caller.
    Fresh(N),
}

impl<N> Deref for Derived<'_, N> {
    type Target = N;

    fn deref(&self) -> &N {
        match self {
            Self::Kept(node) => node,
            Self::Fresh(node) => node,
        }
    }
}

impl<N> TreeCache<N> {
    /// An empty cache that will never hold more than `max_nodes` nodes, or one node if that is 0.
    pub fn new(max_nodes: usize) -> Self {
        Self { max_nodes: max_nodes.max(1), nodes: 0, ways: HashMap::new(), turns: VecDeque::new() }
    }

    /// How many nodes it holds.
    pub fn len(&self) -> usize {
        self.nodes
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.nodes == 0
    }

    /// The node of the KSN's counter, whatever its value. `root` gives the device's initial key and is asked only when
    /// nothing of the device is kept; `step` derives the child at a counter from its parent. The first error of
    /// either ends the call; what was derived before it stays.
    pub fn node<E>(
        &mut self,
        ksn: &Ksn,
        root: impl FnOnce() -> Result<N, E>,
        mut step: impl FnMut(&N, u32) -> Result<N, E>,
    ) -> Result<Derived<'_, N>, E> {
        let (device, counter) = (ksn.device(), ksn.raw_counter());
        let room = self.make_room(device, counter);
        let way = match self.ways.entry(device) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(unknown) => {
                let root = Node { counter: 0, key: root()? };
                let mut nodes = Vec::with_capacity(MAX_DEPTH);
                nodes.push(root);
                self.nodes += 1;
                self.turns.push_back(device);
                unknown.insert(Way { nodes, used_since_turn: Use::Used })
            }
        };
        way.used_since_turn = Use::Used;

        let mut loose: Option<N> = None;
        let deepest = way.deepest().counter;
        for at in below(deepest, counter) {
            let derived = step(loose.as_ref().unwrap_or(&way.deepest().key), at)?;
            if has_children(at) && way.nodes.len() < room {
                way.nodes.push(Node { counter: at, key: derived });
                self.nodes += 1;
            } else {
                loose = Some(derived);
            }
        }
        Ok(match loose {
            Some(node) => Derived::Fresh(node),
            None => Derived::Kept(&way.deepest().key),
        })
    }

    /// Drops all nodes of a device: it was retired, or its key changed.
    pub fn forget(&mut self, ksn: &Ksn) {
        let device = ksn.device();
        if let Some(way) = self.ways.remove(&device) {
            self.nodes -= way.nodes.len();
            self.turns.retain(|turn| *turn != device);
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = Self::new(self.max_nodes);
    }

    /// Drops what of `device` is not on the way to `counter`, then as much of other devices as this one will need.
    /// Returns how many nodes it may keep.
    fn make_room(&mut self, device: Ksn, counter: u32) -> usize {
        let kept = self.ways.get_mut(&device).map_or(0, |way| {
            let kept = way.nodes.partition_point(|node| is_on_path(node.counter, counter));
            self.nodes -= way.nodes.len() - kept;
            // Not `pop`, which would drop a copy and leave the bytes of the node itself behind.
            way.nodes.truncate(kept);
            kept
        });
        let wanted = (1 + super::path(counter & !1).count()).min(MAX_DEPTH); // The root, and all but a leaf.
        let others = self.nodes - kept;
        self.evict((others + wanted).saturating_sub(self.max_nodes), device);
        wanted.min(self.max_nodes - (self.nodes - kept))
    }

    /// Drops whole devices until `surplus` nodes are gone, those not used since their last turn first, and never `but`.
    fn evict(&mut self, surplus: usize, but: Ksn) {
        let goal = self.nodes.saturating_sub(surplus);
        while self.nodes > goal {
            let Some(device) = self.turns.pop_front() else { return };
            let Some(way) = self.ways.get_mut(&device) else { continue };
            if device == but {
                self.turns.push_back(device);
                if self.turns.len() == 1 {
                    return;
                }
            } else if let Use::Used = way.used_since_turn {
                way.used_since_turn = Use::Idle;
                self.turns.push_back(device);
            } else if let Some(gone) = self.ways.remove(&device) {
                self.nodes -= gone.nodes.len();
            }
        }
    }
}

impl TreeCache<KeyBytes> {
    /// The AES derivation key or TDES transaction key of the KSN's counter, equal to the one derived without a cache.
    /// `ik` is asked for the device's initial key when nothing of it is kept.
    pub fn key<E>(&mut self, ksn: &Ksn, ik: impl FnOnce() -> Result<KeyBytes, E>) -> Result<Derived<'_, KeyBytes>, E> {
        match ksn {
            Ksn::Aes(aes_ksn) => {
                let ik_id = aes_ksn.ik_id();
                self.node(ksn, ik, |parent, counter| Ok(aes::child_key(parent, ik_id, counter)))
            }
            Ksn::Tdes(tdes_ksn) => self.node(ksn, ik, |parent, counter| Ok(tdes::child_key(parent, tdes_ksn, counter))),
        }
    }
}

impl<N> Way<N> {
    fn deepest(&self) -> &Node<N> {
        self.nodes.last().expect("the root is on every way and never dropped alone")
    }
}

/// An odd counter is a leaf.
const fn has_children(counter: u32) -> bool {
    counter & 1 == 0
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::rc::Rc;

    use proptest::prelude::*;

    use super::*;
    use crate::key::KeyLen;
    use crate::ksn::{AesKsn, Scheme, TdesKsn};

    fn ik(device: u8) -> KeyBytes {
        KeyBytes::filled(KeyLen::K128, |bytes| bytes.fill(device))
    }

    fn ksn(scheme: Scheme, device: u8, counter: u32) -> Ksn {
        match scheme {
            Scheme::Aes => Ksn::Aes(AesKsn::new([device; 12]).with_counter(counter)),
            Scheme::Tdes => Ksn::Tdes(TdesKsn::new([device; 10]).with_counter(counter)),
        }
    }

    fn uncached(ksn: &Ksn, ik: &KeyBytes) -> KeyBytes {
        match ksn {
            Ksn::Aes(ksn) => aes::derivation_key(ik, ksn),
            Ksn::Tdes(ksn) => tdes::transaction_key(ik, ksn),
        }
    }

    /// A node that knows its counter and counts the living.
    struct Traced(u32, Rc<Cell<usize>>);

    impl Traced {
        fn new(counter: u32, alive: &Rc<Cell<usize>>) -> Self {
            alive.set(alive.get() + 1);
            Self(counter, Rc::clone(alive))
        }
    }

    impl Drop for Traced {
        fn drop(&mut self) {
            self.1.set(self.1.get() - 1);
        }
    }

    fn any_scheme() -> impl Strategy<Value = Scheme> {
        prop_oneof![Just(Scheme::Aes), Just(Scheme::Tdes)]
    }

    proptest! {
        /// Near counters (a window), far ones, illegal ones, 0, several devices of both schemes, caches from too
        /// small to roomy.
        #[test]
        fn any_order_of_counters_gives_the_keys_of_uncached_derivation(
            max_nodes in 0usize..60,
            asked in prop::collection::vec(
                (any_scheme(), 0u8..4, prop_oneof![0u32..64, any::<u32>(), 0x0010_0000u32..0x0010_0040]), 1..60),
        ) {
            let mut cache = TreeCache::new(max_nodes);
            for (scheme, device, counter) in asked {
                let ksn = ksn(scheme, device, counter);
                let key = cache.key(&ksn, || Ok::<_, Infallible>(ik(device))).unwrap();
                prop_assert!(key.ct_eq(&uncached(&ksn, &ik(device))));
                prop_assert!(cache.len() <= max_nodes.max(1));
            }
        }

        /// Every parent handed to `step` is the right one, the count of nodes is the count of live ones, and what
        /// leaves the cache is dropped.
        #[test]
        fn the_bound_is_on_live_nodes_and_every_step_starts_at_its_parent(
            max_nodes in 1usize..40,
            asked in prop::collection::vec((0u8..5, prop_oneof![0u32..256, any::<u32>()], any::<bool>()), 1..80),
        ) {
            let alive = Rc::new(Cell::new(0));
            let mut cache = TreeCache::new(max_nodes);
            for (device, counter, forget) in asked {
                let ksn = ksn(Scheme::Aes, device, counter);
                let found = cache.node(&ksn, || Ok::<_, Infallible>(Traced::new(0, &alive)), |above, at| {
                    assert_eq!(above.0, super::super::parent(at));
                    Ok(Traced::new(at, &alive))
                }).unwrap();
                prop_assert_eq!(found.0, counter);
                drop(found);
                prop_assert_eq!(alive.get(), cache.len());
                prop_assert!(cache.len() <= max_nodes);
                if forget {
                    cache.forget(&ksn);
                    prop_assert_eq!(alive.get(), cache.len());
                }
                prop_assert_eq!(cache.turns.len(), cache.ways.len());
            }
            cache.clear();
            prop_assert_eq!(alive.get(), 0);
        }

        #[test]
        fn after_the_first_every_next_legal_counter_costs_one_step(scheme in any_scheme(), start in any::<u32>()) {
            let first = scheme.next_counter(start & scheme.max_counter() >> 1).unwrap();
            let mut cache = TreeCache::new(17);
            let mut counter = Some(first);
            for turn in 0..200 {
                let Some(at) = counter else { break };
                let steps = Cell::new(0u32);
                cache.node(&ksn(scheme, 1, at.get()), || Ok::<_, Infallible>(()), |(), _| {
                    steps.set(steps.get() + 1);
                    Ok(())
                }).unwrap();
                prop_assert_eq!(steps.get(), if turn == 0 { at.get().count_ones() } else { 1 });
                counter = scheme.next_counter(at.get());
            }
        }
    }

    /// A node that tells where it was dropped: wiping is worth nothing at any other place than where the key lay.
    struct Placed(Rc<Cell<usize>>);

    impl Drop for Placed {
        fn drop(&mut self) {
            self.0.set(std::ptr::from_ref(self).addr());
        }
    }

    fn ask<'a>(
        cache: &'a mut TreeCache<Placed>,
        place: &Rc<Cell<usize>>,
        device: u8,
        counter: u32,
    ) -> Derived<'a, Placed> {
        let placed = || Ok::<_, Infallible>(Placed(Rc::clone(place)));
        cache.node(&ksn(Scheme::Aes, device, counter), placed, |_, _| placed()).unwrap()
    }

    /// Puts the nodes 0 and 2 of device 1 into a full cache, and looks where the last of them is dropped.
    #[track_caller]
    fn assert_dropped_in_place(leave: impl FnOnce(&mut TreeCache<Placed>, &Rc<Cell<usize>>)) {
        let place = Rc::new(Cell::new(0));
        let mut cache = TreeCache::new(2);
        let lay = std::ptr::from_ref(&*ask(&mut cache, &place, 1, 2)).addr();
        place.set(0);
        leave(&mut cache, &place);
        assert_eq!(place.get(), lay);
    }

    #[test]
    fn what_leaves_the_cache_is_dropped_where_it_lay() {
        assert_dropped_in_place(|cache, place| drop(ask(cache, place, 1, 4)));
        assert_dropped_in_place(|cache, place| drop(ask(cache, place, 2, 2)));
        assert_dropped_in_place(|cache, _| cache.forget(&ksn(Scheme::Aes, 1, 9)));
        assert_dropped_in_place(|cache, _| cache.clear());
    }

    #[test]
    fn devices_in_turn_keep_their_nodes_and_an_idle_one_goes_first() {
        let mut cache = TreeCache::new(4);
        let mut asked = Vec::new();
        for device in [1, 2, 3, 4, 1, 2, 3, 5, 1, 5] {
            cache
                .node(
                    &ksn(Scheme::Aes, device, 1),
                    || {
                        asked.push(device);
                        Ok::<_, Infallible>(())
                    },
                    |(), _| Ok(()),
                )
                .unwrap();
        }
        // All four were used since the last turn when 5 came, so the oldest, 1, went; the next to go was 2.
        assert_eq!(asked, [1, 2, 3, 4, 5, 1]);
        assert_eq!(cache.len(), 4);
    }

    #[test]
    fn an_error_is_passed_on_and_leaves_the_cache_sound() {
        let mut cache = TreeCache::new(17);
        let at = ksn(Scheme::Aes, 1, 0b1110);
        assert_eq!(cache.node(&at, || Err("no key"), |(), _| Ok(())).err(), Some("no key"));
        assert!(cache.is_empty());
        let broken = cache.node(&at, || Ok(()), |(), at| if at == 0b1110 { Err("slot gone") } else { Ok(()) });
        assert_eq!(broken.err(), Some("slot gone"));
        assert_eq!(cache.len(), 3);
        let mut steps = 0;
        cache
            .node(
                &at,
                || Err("kept"),
                |(), _| {
                    steps += 1;
                    Ok(())
                },
            )
            .unwrap();
        assert_eq!((steps, cache.len()), (1, 4));
    }
}
