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

/// The keys of the lanes, in the halves registers take, wiped on drop; and the public data they are to encrypt, with
/// counter 0.
pub(super) struct Lanes {
    pub(super) data: [Block; MOST_LANES],
    pub(super) low: [Block; MOST_LANES],
    pub(super) high: [Block; MOST_LANES],
}

impl Lanes {
    fn new() -> Self {
        Self { data: [[0; 16]; MOST_LANES], low: [[0; 16]; MOST_LANES], high: [[0; 16]; MOST_LANES] }
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
        numbers: impl ExactSizeIterator<Item = usize>,
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
    numbers: impl ExactSizeIterator<Item = usize>,
    errand: impl Fn(usize) -> Errand<'a>,
    places: &mut [KeyBytes],
) {
    let width = detected.lanes();
    let new_len = batch.last.map_or(batch.len, |(_, len)| len);
    let order = longest_first(numbers, |number| errand(number).nodes());
    let mut counters = vec![0; width * order.first().map_or(0, |(nodes, _)| rows(*nodes))];
    let mut lanes = Lanes::new();
    for group in order.chunks(width) {
        if group.len() < FEWEST {
            for (_, number) in group {
                alone(path, batch, &errand(*number), places[*number].padded_mut());
            }
            continue;
        }
        let mut ends = [0; MOST_LANES];
        for ((lane, (_, number)), end) in group.iter().enumerate().zip(&mut ends) {
            let errand = errand(*number);
            *end = errand.to();
            lanes.data[lane] = Data { head: batch.node_head, tail: errand.tail }.at(0).first_block();
        }
        let ends = &ends[..width];
        let longest = group.first().map_or(0, |(nodes, _)| rows(*nodes));
        let ways = &mut counters[..width * longest];
        climb(ends, ways);

        let mut started = 0;
        while let Some((left, _)) = group.get(started) {
            while let Some((nodes, number)) = group.get(started)
                && nodes == left
            {
                lanes.put(started, errand(*number).key);
                started += 1;
            }
            let row = |left: u32| width * (longest - rows(left));
            let until = group.get(started).map_or(ways.len(), |(nodes, _)| row(*nodes));
            detected.derive_lanes(batch.len, &mut lanes, &[0; 16], &ways[row(*left)..until]);
        }
        if let Some((head, _)) = batch.last {
            let change = Data { head: head ^ batch.node_head, tail: 0 }.first_block();
            detected.derive_lanes(batch.len, &mut lanes, &change, ends);
        }
        for (lane, (_, number)) in group.iter().enumerate() {
            lanes.take(lane, new_len, places[*number].padded_mut());
        }
    }
    detected.wipe_lanes();
}

/// Writes the ways that end at `ends`, a row of them for each step, from the last row up: a node's parent is above it.
/// A way shorter than the others has zeros above it.
fn climb(ends: &[u32], ways: &mut [u32]) {
    let mut below: Option<&[u32]> = None;
    for row in ways.rchunks_exact_mut(ends.len()) {
        match below {
            None => row.copy_from_slice(ends),
            Some(below) => row.iter_mut().zip(below).for_each(|(above, node)| *above = parent(*node)),
        }
        below = Some(row);
    }
}

/// The numbers with the nodes of their ways, by one pass that counts and one that places.
fn longest_first(numbers: impl ExactSizeIterator<Item = usize>, nodes: impl Fn(usize) -> u32) -> Vec<(u32, usize)> {
    let mut ends = [0; 33];
    let found: Vec<_> = numbers
        .map(|number| {
            let nodes = nodes(number);
            ends[rows(nodes)] += 1;
            (nodes, number)
        })
        .collect();
    let mut before = 0;
    for end in ends.iter_mut().rev() {
        before += std::mem::replace(end, before);
    }
    let mut order = vec![(0, 0); found.len()];
    for entry in found {
        let end = &mut ends[rows(entry.0)];
        order[*end] = entry;
        *end += 1;
    }
    order
}

fn rows(nodes: u32) -> usize {
    usize::try_from(nodes).expect("at most the 32 bits of a counter")
}
