//! As many jobs at once as a word has bits, each in a lane of its own, their keys on wires from the first to the last.
//!
//! All lanes take every step. A lane that has none left takes it too, and keeps its key.

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::bitslice::{Direction, Schedule, Wires, cipher, is_set};
use super::job::{AT_ONCE, Job, is_sealed, variant};
use super::standard::initial_permutation;
use super::transpose::{Numbers, mask, permute, restore, spread};
use super::walk::PERMUTED_MASK;
use super::word::{MAX_WIDTH, Word};

/// Bits of a counter (X9.24-1:2009 A.3).
const COUNTER_BITS: usize = 21;

/// The wire of each bit of a counter in the register, lowest first.
const COUNTER_WIRES: [usize; COUNTER_BITS] = {
    let mut wires = [0; COUNTER_BITS];
    let mut bit = 0;
    while bit < COUNTER_BITS {
        while !is_set(initial_permutation(1 << bit), wires[bit]) {
            wires[bit] += 1;
        }
        bit += 1;
    }
    wires
};

/// Encryption, decryption, encryption with three keys; the other way round it is decrypted.
const ENCRYPT: [Direction; 3] = [Direction::Encrypt, Direction::Decrypt, Direction::Encrypt];
const DECRYPT: [Direction; 3] = [Direction::Decrypt, Direction::Encrypt, Direction::Decrypt];

/// Keys, and what is made of them, on wires.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Lanes<W: Word> {
    left: Wires<W>,
    right: Wires<W>,
    block: Wires<W>,
    made: Wires<W>,
    first: Schedule<W>,
    second: Schedule<W>,
    numbers: [Numbers; AT_ONCE],
}

/// Does the jobs, which must not be more than the lanes of `W`.
#[inline(always)]
pub(super) fn pass<W: Word>(jobs: &mut [Job<'_>]) {
    debug_assert!(jobs.len() <= 64 * W::WIDTH, "a lane for each job");
    let mut lanes = Lanes::<W> {
        left: [W::splat(0); 64],
        right: [W::splat(0); 64],
        block: [W::splat(0); 64],
        made: [W::splat(0); 64],
        first: Schedule::new(),
        second: Schedule::new(),
        numbers: [[0; 64 * MAX_WIDTH]; AT_ONCE],
    };
    lanes.read_keys(jobs);
    lanes.walk(jobs);
    lanes.become_working_keys(jobs);
    lanes.write_keys(jobs);
    lanes.decrypt(jobs);
}

impl<W: Word> Lanes<W> {
    /// A number of each job in the first [`Numbers`].
    #[inline(always)]
    fn each(&mut self, jobs: &[Job<'_>], number: impl Fn(&Job<'_>) -> u64) {
        for (place, job) in self.numbers[0].iter_mut().zip(jobs) {
            *place = number(job);
        }
    }

    #[inline(always)]
    fn read_keys(&mut self, jobs: &[Job<'_>]) {
        let half = |job: &Job<'_>, half: usize| u64::from_be_bytes(job.key.as_chunks().0[half]);
        self.each(jobs, |job| half(job, 0));
        permute(&self.numbers[0], &mut self.left);
        self.each(jobs, |job| half(job, 1));
        permute(&self.numbers[0], &mut self.right);
    }

    /// Non-reversible key generation (X9.24-1:2009 A.2) down the way of each lane.
    #[inline(always)]
    fn walk(&mut self, jobs: &[Job<'_>]) {
        let steps = jobs.iter().map(Job::steps).max().unwrap_or(0);
        if steps == 0 {
            return;
        }
        let [mut register, mut nodes, mut counters] = [[W::splat(0); 64]; 3];
        self.each(jobs, |job| job.register);
        permute(&self.numbers[0], &mut register);
        self.each(jobs, |job| u64::from(job.node));
        spread(&self.numbers[0], &mut nodes);
        self.each(jobs, |job| u64::from(job.counter));
        spread(&self.numbers[0], &mut counters);
        for _ in 0..steps {
            let moving = next_nodes(&mut nodes, &counters);
            for (bit, wire) in COUNTER_WIRES.into_iter().enumerate() {
                register[wire] = nodes[63 - bit];
            }
            self.step(&register, moving);
        }
    }

    /// One step for the lanes that are moving.
    #[inline(always)]
    fn step(&mut self, register: &Wires<W>, moving: W) {
        self.first.set(&self.left);
        for half in [Half::Right, Half::Left] {
            let mask = match half {
                Half::Right => 0,
                Half::Left => PERMUTED_MASK,
            };
            self.first.invert(mask);
            let around = |wire: usize, right: W| if is_set(mask, wire) { !right } else { right };
            for (wire, block) in self.block.iter_mut().enumerate() {
                *block = register[wire] ^ around(wire, self.right[wire]);
            }
            cipher(&mut self.block, &self.first, Direction::Encrypt);
            for wire in 0..64 {
                let made = self.block[wire] ^ around(wire, self.right[wire]);
                match half {
                    Half::Right => self.made[wire] = made,
                    Half::Left => self.left[wire] = selected(moving, made, self.left[wire]),
                }
            }
        }
        for wire in 0..64 {
            self.right[wire] = selected(moving, self.made[wire], self.right[wire]);
        }
    }

    /// The variant of each lane's working key and, for the data keys, both halves encrypted under the whole variant
    /// (X9.24-1:2009 A.4.1).
    #[inline(always)]
    fn become_working_keys(&mut self, jobs: &[Job<'_>]) {
        if jobs.iter().all(|job| job.working.is_none()) {
            return;
        }
        let mut variants = [W::splat(0); 64];
        self.each(jobs, |job| job.working.map_or(0, variant));
        permute(&self.numbers[0], &mut variants);
        for half in [&mut self.left, &mut self.right] {
            half.iter_mut().zip(&variants).for_each(|(wire, variant)| *wire = *wire ^ *variant);
        }
        let is_sealed = |lane: usize| jobs.get(lane).and_then(|job| job.working).is_some_and(is_sealed);
        if !(0..jobs.len()).any(is_sealed) {
            return;
        }
        let sealed: W = mask(is_sealed);
        self.schedule();
        for half in [Half::Right, Half::Left] {
            self.block = match half {
                Half::Right => self.right,
                Half::Left => self.left,
            };
            self.triple(ENCRYPT);
            let half = match half {
                Half::Right => &mut self.right,
                Half::Left => &mut self.left,
            };
            half.iter_mut().zip(&self.block).for_each(|(old, new)| *old = selected(sealed, *new, *old));
        }
    }

    /// Hands out the keys that are wanted.
    #[inline(always)]
    fn write_keys(&mut self, jobs: &mut [Job<'_>]) {
        if jobs.iter().all(|job| job.result.is_none()) {
            return;
        }
        for half in [Half::Left, Half::Right] {
            let (at, wires) = match half {
                Half::Left => (0, &self.left),
                Half::Right => (8, &self.right),
            };
            restore(wires, &mut self.numbers[0]);
            for (job, number) in jobs.iter_mut().zip(&self.numbers[0]) {
                if let Some(result) = job.result.as_deref_mut() {
                    result[at..at + 8].copy_from_slice(&number.to_be_bytes());
                }
            }
        }
    }

    /// Decrypts the sections, CBC. The last blocks first, so that the block before each is still as it was sent.
    #[inline(always)]
    fn decrypt(&mut self, jobs: &mut [Job<'_>]) {
        let blocks = jobs.iter().map(Job::blocks).max().unwrap_or(0);
        if blocks == 0 {
            return;
        }
        self.schedule();
        for from in (0..blocks).step_by(AT_ONCE).rev() {
            for (lane, job) in jobs.iter().enumerate() {
                job.sealed(from, |at, block| self.numbers[at][lane] = block);
            }
            for at in 0..AT_ONCE.min(blocks - from) {
                permute(&self.numbers[at], &mut self.block);
                self.triple(DECRYPT);
                restore(&self.block, &mut self.numbers[at]);
            }
            for (lane, job) in jobs.iter_mut().enumerate() {
                job.open(from, |at| self.numbers[at][lane]);
            }
        }
    }

    /// The schedules of both halves.
    #[inline(always)]
    fn schedule(&mut self) {
        self.first.set(&self.left);
        self.second.set(&self.right);
    }

    /// Triple DES of the block (FIPS 46-3, keying option 2).
    #[inline(always)]
    fn triple(&mut self, [one, two, three]: [Direction; 3]) {
        for (key, direction) in [(&self.first, one), (&self.second, two), (&self.first, three)] {
            cipher(&mut self.block, key, direction);
        }
    }
}

/// Which half of a key.
#[derive(Clone, Copy)]
enum Half {
    Left,
    Right,
}

/// One bit more of its counter for each lane's node, the highest missing. Returns which lanes had one.
#[inline(always)]
fn next_nodes<W: Word>(nodes: &mut Wires<W>, counters: &Wires<W>) -> W {
    let mut found = W::splat(0);
    for bit in (0..COUNTER_BITS).rev() {
        let wire = 63 - bit;
        let missing = counters[wire] & !nodes[wire] & !found;
        nodes[wire] = nodes[wire] | missing;
        found = found | missing;
    }
    found
}

/// One where the mask is set, else the other.
#[inline(always)]
fn selected<W: Word>(mask: W, one: W, other: W) -> W {
    other ^ mask & (one ^ other)
}
