//! Many records side by side: who shares the lanes with whom, and since when.
//!
//! Ways down the tree differ in length. Records go in order of length, as many at a time as there are lanes, so those
//! that run together are nearly of one length. They end together: a shorter way starts later.
//! All of this rests on counters, which are public.

use zeroize::Zeroizing;

use super::x86::Detected;
use super::{Block, Data, Key, Trusted};
use crate::dukpt::parent;
use crate::key::{KeyBytes, KeyLen};

/// Most lanes of any path.
pub(super) const MOST_LANES: usize = 32;

/// A step of all lanes lasts as long as that of so many records one by one.
const FEWEST: usize = 4;

/// What the errands of a batch have in common.
#[derive(Clone, Copy)]
pub(crate) struct Batch {
    /// Length of the keys they start from.
    pub(crate) len: KeyLen,
    /// Head of the derivation data of a node.
    pub(crate) node_head: u64,
    /// The key each ends with, if that is not the node itself: the head of its derivation data, and its length.
    pub(crate) last: Option<(u64, KeyLen)>,
}

/// One record: the way from a node of its tree down to another.
pub(crate) struct Errand<'a> {
    /// The node it starts from, and its counter.
    pub(crate) key: &'a Key,
    pub(crate) from: u32,
    /// Tail of the derivation data of the node it goes to, which ends with its counter.
    pub(crate) tail: u64,
}

impl Errand<'_> {
    fn to(&self) -> u32 {
        let [.., a, b, c, d] = self.tail.to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    fn nodes(&self) -> u32 {
        (self.to() ^ self.from).count_ones()
    }
}

/// The keys of the lanes, in the halves registers take, wiped on drop.
pub(super) struct Lanes {
    pub(super) low: [Block; MOST_LANES],
    pub(super) high: [Block; MOST_LANES],
}

impl Lanes {
    fn new() -> Self {
        Self { low: [[0; 16]; MOST_LANES], high: [[0; 16]; MOST_LANES] }
    }

    fn put(&mut self, lane: usize, key: &Key) {
        let (halves, _) = key.as_chunks::<16>();
        self.low[lane] = halves[0];
        self.high[lane] = halves[1];
    }

    /// Copies out a key, and zeros behind a short one.
    fn take(&self, lane: usize, len: KeyLen, key: &mut Key) {
        let (halves, _) = key.as_chunks_mut::<16>();
        halves[0] = self.low[lane];
        halves[1] = self.high[lane];
        key[len.bytes()..].fill(0);
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.low = [[0; 16]; MOST_LANES];
        self.high = [[0; 16]; MOST_LANES];
        zeroize::optimization_barrier(self);
    }
}

impl Trusted {
    /// Runs the errands of these numbers, and puts the key of each in the place of its number.
    pub(crate) fn run<'a>(
        self,
        batch: Batch,
        numbers: impl Iterator<Item = usize> + Clone,
        errand: impl Fn(usize) -> Errand<'a>,
        places: &mut [KeyBytes],
    ) {
        match self.0 {
            Some(detected) if batch.fits_lanes() => abreast(self, detected, batch, numbers, errand, places),
            _ => numbers.for_each(|number| alone(self, batch, &errand(number), places[number].padded_mut())),
        }
    }
}

impl Batch {
    /// A lane has a second block only under a key longer than one.
    fn fits_lanes(&self) -> bool {
        self.len != KeyLen::K128 || self.last.is_none_or(|(_, len)| len == KeyLen::K128)
    }
}

fn alone(path: Trusted, batch: Batch, errand: &Errand<'_>, place: &mut Key) {
    let mut node = Zeroizing::new(*errand.key);
    let data = Data { head: batch.node_head, tail: errand.tail };
    path.walk(batch.len, &mut node, data, errand.from, errand.to());
    match batch.last {
        Some((head, new_len)) => path.derive(batch.len, &node, Data { head, ..data }, new_len, place),
        None => place.copy_from_slice(&*node),
    }
}

fn abreast<'a>(
    path: Trusted,
    detected: Detected,
    batch: Batch,
    numbers: impl Iterator<Item = usize> + Clone,
    errand: impl Fn(usize) -> Errand<'a>,
    places: &mut [KeyBytes],
) {
    let width = detected.lanes();
    let new_len = batch.last.map_or(batch.len, |(_, len)| len);
    let order = longest_first(numbers, |number| errand(number).nodes());
    let mut lanes = Lanes::new();
    let mut plan = Plan::new(batch, width, order.first().map_or(0, |(nodes, _)| *nodes));
    for group in order.chunks(width) {
        if group.len() < FEWEST {
            for (_, number) in group {
                alone(path, batch, &errand(*number), places[*number].padded_mut());
            }
            continue;
        }
        for (lane, (_, number)) in group.iter().enumerate() {
            plan.set(lane, &errand(*number));
        }
        let mut started = 0;
        while let Some((left, _)) = group.get(started) {
            while let Some((nodes, number)) = group.get(started)
                && nodes == left
            {
                lanes.put(started, errand(*number).key);
                started += 1;
            }
            let until = group.get(started).map(|(nodes, _)| *nodes);
            detected.derive_lanes(batch.len, &mut lanes, plan.rows(*left, until));
        }
        for (lane, (_, number)) in group.iter().enumerate() {
            lanes.take(lane, new_len, places[*number].padded_mut());
        }
    }
}

/// The numbers with the nodes of their ways, by one pass that counts and one that places.
fn longest_first(numbers: impl Iterator<Item = usize> + Clone, nodes: impl Fn(usize) -> u32) -> Vec<(u32, usize)> {
    let mut ends = [0; 33];
    numbers.clone().for_each(|number| ends[rows(nodes(number))] += 1);
    let mut before = 0;
    for end in ends.iter_mut().rev() {
        before += std::mem::replace(end, before);
    }
    let mut order = vec![(0, 0); before];
    for number in numbers {
        let nodes = nodes(number);
        let end = &mut ends[rows(nodes)];
        order[*end] = (nodes, number);
        *end += 1;
    }
    order
}

/// The derivation data of every lane, a row for each step. The last row is that of the last keys, if there are any.
struct Plan {
    blocks: Vec<Block>,
    width: usize,
    /// Where the rows of nodes end.
    nodes_end: usize,
}

impl Plan {
    /// For ways of at most so many nodes.
    fn new(batch: Batch, width: usize, nodes: u32) -> Self {
        let nodes_end = rows(nodes) * width;
        let mut blocks = vec![Data { head: batch.node_head, tail: 0 }.first_block(); nodes_end];
        if let Some((head, _)) = batch.last {
            blocks.resize(nodes_end + width, Data { head, tail: 0 }.first_block());
        }
        Self { blocks, width, nodes_end }
    }

    /// Writes the way of a lane, from its end up: each node is the parent of the one below it.
    fn set(&mut self, lane: usize, errand: &Errand<'_>) {
        let id = errand.tail & !u64::from(u32::MAX);
        let (above, last) = self.blocks.split_at_mut(self.nodes_end);
        if let Some(block) = last.get_mut(lane) {
            set_tail(block, errand.tail);
        }
        let mut counter = errand.to();
        let mut at = above.len() + lane;
        for _ in 0..errand.nodes() {
            at -= self.width;
            set_tail(&mut above[at], id | u64::from(counter));
            counter = parent(counter);
        }
    }

    /// From `left` nodes before the end until `until` nodes before it, or to the very end.
    fn rows(&self, left: u32, until: Option<u32>) -> &[Block] {
        let before_end = |nodes| self.nodes_end - self.width * rows(nodes);
        &self.blocks[before_end(left)..until.map_or(self.blocks.len(), before_end)]
    }
}

fn rows(nodes: u32) -> usize {
    usize::try_from(nodes).expect("at most the 32 bits of a counter")
}

fn set_tail(block: &mut Block, tail: u64) {
    let (halves, _) = block.as_chunks_mut::<8>();
    halves[1] = tail.to_be_bytes();
}
