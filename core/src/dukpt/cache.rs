//! The nodes of many devices' trees that the next transactions will need.
//!
//! A device counts upwards, so its next key hangs below a node of the way to its last one. Of each device the cache
//! therefore keeps that way, from the initial key down, without the nodes that have no children: at most 17. For
//! the next legal counter the node to hang it on is always there, and one step of derivation is enough.
//!
//! Architecture invariant: one cache belongs to one deriver thread, so it has no lock. It decides nothing: a counter
//! of any value and any order gives the key that derivation without a cache gives. What a node is, key bytes or a
//! handle into an HSM, it does not know; a node that leaves the cache is dropped, and a [`KeyBytes`] wiped by that.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap, VacantEntry};
use std::mem;
use std::ops::Deref;

use foldhash::fast::RandomState;

use super::{aes, below, is_on_path, tdes};
use crate::key::KeyBytes;
use crate::ksn::Ksn;

/// Most nodes kept of one device: the root and one for each one-bit a legal AES counter may have.
const MAX_DEPTH: usize = 17;

/// A bounded cache of tree nodes `N`. Devices are told apart by their KSN without its counter.
///
/// The hash is a fast one: seeded, but no match for whoever may choose the devices and watch the time. Nobody may, since
/// a frame gets here only when its device is registered, and registering is for operators.
pub struct TreeCache<N> {
    max_nodes: usize,
    nodes: usize,
    ways: HashMap<u128, Way<N>, RandomState>,
    /// Every device in `ways` once, in the order they are considered for eviction (second chance).
    turns: VecDeque<u128>,
}

/// The way to the last counter of one device, root first. There is room for one node more than are kept; it is never
/// grown, so no key is left behind by moving it.
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

/// A node, to be looked at in the cache. One that no later node can hang below, or that there is no room for, is dropped
/// with this.
pub struct Derived<'a, N> {
    /// The way to it.
    nodes: &'a mut Vec<Node<N>>,
    /// How many of them stay.
    kept: usize,
    /// How many there are in the whole cache, and may be.
    all: &'a mut usize,
    most: usize,
}

impl<N> Derived<'_, N> {
    fn last(&self) -> &Node<N> {
        self.nodes.last().expect("the root is on every way and never dropped alone")
    }

    /// The counters from this node down to another on its way.
    fn below(&self, counter: u32) -> impl Iterator<Item = u32> + use<N> {
        below(self.last().counter, counter)
    }

    /// Goes on to the next node of the way: a `place` for it, and what is then to `fill` it from this one, if it is not
    /// whole yet. A key that is filled where it stays is ready sooner than one that is moved, and leaves nothing behind.
    fn go_on(&mut self, counter: u32, place: impl FnOnce() -> N, fill: impl FnOnce(&N, &mut N)) {
        if let Some(loose) = self.nodes.get_mut(self.kept) {
            return replace(loose, counter, place(), fill);
        }
        let stays = has_children(counter) && self.kept < MAX_DEPTH && *self.all < self.most;
        // Not `push`, which has it made elsewhere and moved.
        self.nodes.extend(std::iter::once_with(|| Node { counter, key: place() }));
        *self.all += 1;
        if let [.., above, next] = &mut **self.nodes {
            fill(&above.key, &mut next.key);
        }
        // Not before it is filled: if that panics, a node that is none must not stay.
        self.kept += usize::from(stays);
    }
}

/// The next node in the place of one that does not stay; seldom, so it is out of the way of the others.
#[cold]
fn replace<N>(loose: &mut Node<N>, counter: u32, mut key: N, fill: impl FnOnce(&N, &mut N)) {
    fill(&loose.key, &mut key);
    // Not assigned, which would leave the bytes of `key` behind.
    mem::swap(&mut loose.key, &mut key);
    loose.counter = counter;
}

impl<N> Deref for Derived<'_, N> {
    type Target = N;

    fn deref(&self) -> &N {
        &self.last().key
    }
}

impl<N> Drop for Derived<'_, N> {
    fn drop(&mut self) {
        *self.all -= self.nodes.len() - self.kept;
        // Not `pop`, which would drop a copy and leave the bytes of the node itself behind.
        self.nodes.truncate(self.kept);
    }
}

impl<N> TreeCache<N> {
    /// An empty cache that will never keep more than `max_nodes` nodes, or one node if that is 0.
    pub fn new(max_nodes: usize) -> Self {
        Self { max_nodes: max_nodes.max(1), nodes: 0, ways: HashMap::default(), turns: VecDeque::new() }
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
        let mut way = self.nearest(ksn, |nodes| {
            nodes.push(Node { counter: 0, key: root()? });
            Ok(())
        })?;
        for counter in way.below(ksn.raw_counter()) {
            let node = step(&way, counter)?;
            way.go_on(counter, || node, |_, _| {});
        }
        Ok(way)
    }

    /// Drops all nodes of a device: it was retired, or its key changed.
    pub fn forget(&mut self, ksn: &Ksn) {
        let device = ksn.device_number();
        if let Some(way) = self.ways.remove(&device) {
            self.nodes -= way.nodes.len();
            self.turns.retain(|turn| *turn != device);
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = Self::new(self.max_nodes);
    }

    /// The last node of the way to the KSN's counter that is kept, or the root, which `plant` puts where it stays.
    #[inline(always)]
    fn nearest<E>(
        &mut self,
        ksn: &Ksn,
        plant: impl FnOnce(&mut Vec<Node<N>>) -> Result<(), E>,
    ) -> Result<Derived<'_, N>, E> {
        let (device, counter) = (ksn.device_number(), ksn.raw_counter());
        if self.nodes + MAX_DEPTH > self.max_nodes {
            self.make_room(device, counter);
        }
        let way = match self.ways.entry(device) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let way = Way::start(unknown, plant)?;
                self.nodes += 1;
                self.turns.push_back(device);
                way
            }
        };
        way.used_since_turn = Use::Used;
        self.nodes -= way.leave_for(counter);
        Ok(Derived { kept: way.nodes.len(), nodes: &mut way.nodes, all: &mut self.nodes, most: self.max_nodes })
    }

    /// Drops what of `device` is not on the way to `counter`, then as much of other devices as this one will need.
    fn make_room(&mut self, device: u128, counter: u32) {
        let kept = self.ways.get_mut(&device).map_or(0, |way| {
            self.nodes -= way.leave_for(counter);
            way.nodes.len()
        });
        let wanted = nodes_of_way(counter).min(MAX_DEPTH);
        let others = self.nodes - kept;
        self.evict((others + wanted).saturating_sub(self.max_nodes), device);
    }

    /// Drops whole devices until `surplus` nodes are gone, those not used since their last turn first, and never `but`.
    fn evict(&mut self, surplus: usize, but: u128) {
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
    // A call, which has all registers saved, would make finding a kept node dearer by a sixth.
    #[inline(always)]
    pub fn key<E>(&mut self, ksn: &Ksn, ik: impl FnOnce() -> Result<KeyBytes, E>) -> Result<Derived<'_, KeyBytes>, E> {
        let mut way = self.nearest(ksn, |nodes| plant(nodes, ik))?;
        for counter in way.below(ksn.raw_counter()) {
            let len = way.key_len();
            let place = || KeyBytes::zero(len);
            way.go_on(counter, place, |above, node| match ksn {
                Ksn::Aes(ksn) => aes::derive_child(above, ksn.ik_id(), counter, node),
                Ksn::Tdes(ksn) => tdes::derive_child(above, ksn, counter, node),
            });
        }
        Ok(way)
    }
}

/// The root in its place, for which the initial key is exchanged: moved, it would leave its bytes behind.
fn plant<E>(nodes: &mut Vec<Node<KeyBytes>>, ik: impl FnOnce() -> Result<KeyBytes, E>) -> Result<(), E> {
    match ik() {
        Ok(ref mut ik) => {
            nodes.push(Node { counter: 0, key: KeyBytes::zero(ik.key_len()) });
            if let [root] = &mut **nodes {
                mem::swap(&mut root.key, ik);
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

impl<N> Way<N> {
    /// The way of a device that was not known; out of the way of those that are.
    #[cold]
    fn start<E>(
        unknown: VacantEntry<'_, u128, Self>,
        plant: impl FnOnce(&mut Vec<Node<N>>) -> Result<(), E>,
    ) -> Result<&mut Self, E> {
        let mut nodes = Vec::with_capacity(MAX_DEPTH + 1);
        plant(&mut nodes)?;
        Ok(unknown.insert(Self { nodes, used_since_turn: Use::Used }))
    }

    /// Drops what is not on the way to `counter`, and says how many nodes that were.
    fn leave_for(&mut self, counter: u32) -> usize {
        let left = self.nodes.iter().rev().take_while(|node| !is_on_path(node.counter, counter)).count();
        // Not `pop`, which would drop a copy and leave the bytes of the node itself behind.
        self.nodes.truncate(self.nodes.len() - left);
        left
    }
}

/// How many nodes there are on the way to a counter, the root among them and a leaf not.
fn nodes_of_way(counter: u32) -> usize {
    1 + usize::try_from((counter & !1).count_ones()).expect("at most the 32 bits of a counter")
}

/// An odd counter is a leaf.
const fn has_children(counter: u32) -> bool {
    counter & 1 == 0
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::panic::{AssertUnwindSafe, catch_unwind};
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
                drop(key);
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
    fn a_node_that_was_not_filled_does_not_stay() {
        let (mut cache, at) = (TreeCache::new(17), ksn(Scheme::Tdes, 1, 0b10));
        // Too long for TDES DUKPT.
        let ik = || Ok::<_, Infallible>(KeyBytes::filled(KeyLen::K192, |_| {}));
        for attempt in 1..=2 {
            let panicked = catch_unwind(AssertUnwindSafe(|| cache.key(&at, ik).is_ok()));
            assert!(panicked.is_err() && cache.len() == 1, "attempt {attempt}");
        }
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
