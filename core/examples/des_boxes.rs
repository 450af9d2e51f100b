//! Searches circuits for the S-boxes of DES, and prints them as the Rust of `core/src/dukpt/des/boxes.rs`.
//!
//! `cargo run --release -p warifu-core --example des_boxes -- SECONDS > boxes.rs`, with the seconds for each box. What it
//! finds depends on how far it comes in them; the tests of `boxes.rs`, which are written by hand, check any outcome.
//!
//! A function of six inputs is a truth table, one bit for each input; a circuit is a list of them. To make a wanted
//! table, as far as it is cared about: take a gate that has it; else join two gates; else join three by two gates; else
//! choose an input, make both halves of the table and select between them. Every gate made stays at hand for all
//! that is made later. Which output and which input comes first is drawn at random, again and again, and the smallest
//! circuit is kept: Shannon's expansion with sharing, in the manner M. Kwan described in 2000 (eprint 2000/051).
//!
//! All gates used give 0 for all inputs 0, so only such tables are made. Where an output has a 1 there, its
//! complement is made, with one inversion at the end.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is the circuits")]

use std::time::{Duration, Instant};

/// FIPS 46-3, appendix 1: rows of S1 to S8.
const BOXES: [[u8; 64]; 8] = [
    [
        14, 4, 13, 1, 2, 15, 11, 8, 3, 10, 6, 12, 5, 9, 0, 7, 0, 15, 7, 4, 14, 2, 13, 1, 10, 6, 12, 11, 9, 5, 3, 8, 4,
        1, 14, 8, 13, 6, 2, 11, 15, 12, 9, 7, 3, 10, 5, 0, 15, 12, 8, 2, 4, 9, 1, 7, 5, 11, 3, 14, 10, 0, 6, 13,
    ],
    [
        15, 1, 8, 14, 6, 11, 3, 4, 9, 7, 2, 13, 12, 0, 5, 10, 3, 13, 4, 7, 15, 2, 8, 14, 12, 0, 1, 10, 6, 9, 11, 5, 0,
        14, 7, 11, 10, 4, 13, 1, 5, 8, 12, 6, 9, 3, 2, 15, 13, 8, 10, 1, 3, 15, 4, 2, 11, 6, 7, 12, 0, 5, 14, 9,
    ],
    [
        10, 0, 9, 14, 6, 3, 15, 5, 1, 13, 12, 7, 11, 4, 2, 8, 13, 7, 0, 9, 3, 4, 6, 10, 2, 8, 5, 14, 12, 11, 15, 1, 13,
        6, 4, 9, 8, 15, 3, 0, 11, 1, 2, 12, 5, 10, 14, 7, 1, 10, 13, 0, 6, 9, 8, 7, 4, 15, 14, 3, 11, 5, 2, 12,
    ],
    [
        7, 13, 14, 3, 0, 6, 9, 10, 1, 2, 8, 5, 11, 12, 4, 15, 13, 8, 11, 5, 6, 15, 0, 3, 4, 7, 2, 12, 1, 10, 14, 9, 10,
        6, 9, 0, 12, 11, 7, 13, 15, 1, 3, 14, 5, 2, 8, 4, 3, 15, 0, 6, 10, 1, 13, 8, 9, 4, 5, 11, 12, 7, 2, 14,
    ],
    [
        2, 12, 4, 1, 7, 10, 11, 6, 8, 5, 3, 15, 13, 0, 14, 9, 14, 11, 2, 12, 4, 7, 13, 1, 5, 0, 15, 10, 3, 9, 8, 6, 4,
        2, 1, 11, 10, 13, 7, 8, 15, 9, 12, 5, 6, 3, 0, 14, 11, 8, 12, 7, 1, 14, 2, 13, 6, 15, 0, 9, 10, 4, 5, 3,
    ],
    [
        12, 1, 10, 15, 9, 2, 6, 8, 0, 13, 3, 4, 14, 7, 5, 11, 10, 15, 4, 2, 7, 12, 9, 5, 6, 1, 13, 14, 0, 11, 3, 8, 9,
        14, 15, 5, 2, 8, 12, 3, 7, 0, 4, 10, 1, 13, 11, 6, 4, 3, 2, 12, 9, 5, 15, 10, 11, 14, 1, 7, 6, 0, 8, 13,
    ],
    [
        4, 11, 2, 14, 15, 0, 8, 13, 3, 12, 9, 7, 5, 10, 6, 1, 13, 0, 11, 7, 4, 9, 1, 10, 14, 3, 5, 12, 2, 15, 8, 6, 1,
        4, 11, 13, 12, 3, 7, 14, 10, 15, 6, 8, 0, 5, 9, 2, 6, 11, 13, 8, 1, 4, 10, 7, 9, 5, 0, 15, 14, 2, 3, 12,
    ],
    [
        13, 2, 8, 4, 6, 15, 11, 1, 10, 9, 3, 14, 5, 0, 12, 7, 1, 15, 13, 8, 10, 3, 7, 4, 12, 5, 6, 11, 0, 14, 9, 2, 7,
        11, 4, 1, 9, 12, 14, 2, 0, 6, 10, 13, 15, 3, 5, 8, 2, 1, 14, 7, 4, 10, 8, 13, 15, 12, 9, 0, 3, 5, 6, 11,
    ],
];

/// What each input is for the 64 values of all of them; `INPUTS[0]` is the first bit of the six, the highest.
const INPUTS: [u64; 6] = [
    0xFFFF_FFFF_0000_0000,
    0xFFFF_0000_FFFF_0000,
    0xFF00_FF00_FF00_FF00,
    0xF0F0_F0F0_F0F0_F0F0,
    0xCCCC_CCCC_CCCC_CCCC,
    0xAAAA_AAAA_AAAA_AAAA,
];

/// The four tables of a box, first (highest) output bit first, each complemented where it is 1 at 0.
fn wanted(sbox: &[u8; 64]) -> [(u64, bool); 4] {
    std::array::from_fn(|output| {
        let table = (0..64).fold(0, |table, value: usize| {
            let row = (value >> 4 & 2) | (value & 1);
            let column = value >> 1 & 15;
            table | u64::from(sbox[row * 16 + column] >> (3 - output) & 1) << value
        });
        if table & 1 == 1 { (!table, true) } else { (table, false) }
    })
}

#[derive(Clone, Copy)]
enum Op {
    Input,
    And,
    Or,
    Xor,
    AndNot,
}

impl Op {
    fn of(self, a: u64, b: u64) -> u64 {
        match self {
            Self::Input => a,
            Self::And => a & b,
            Self::Or => a | b,
            Self::Xor => a ^ b,
            Self::AndNot => a & !b,
        }
    }
}

#[derive(Clone, Copy)]
struct Gate {
    op: Op,
    a: usize,
    b: usize,
}

/// Gates and their tables; the inputs are the first six.
#[derive(Clone)]
struct Circuit {
    gates: Vec<Gate>,
    tables: Vec<u64>,
}

/// A table, as far as it is cared about.
#[derive(Clone, Copy)]
struct Want {
    table: u64,
    care: u64,
}

impl Want {
    fn met_by(self, table: u64) -> bool {
        (table ^ self.table) & self.care == 0
    }
}

impl Circuit {
    fn new() -> Self {
        Self { gates: (0..6).map(|a| Gate { op: Op::Input, a, b: 0 }).collect(), tables: INPUTS.to_vec() }
    }

    fn len(&self) -> usize {
        self.gates.len()
    }

    fn add(&mut self, op: Op, a: usize, b: usize) -> usize {
        let table = op.of(self.tables[a], self.tables[b]);
        // The same table twice would be a gate wasted.
        if let Some(known) = self.tables.iter().position(|&known| known == table) {
            return known;
        }
        self.gates.push(Gate { op, a, b });
        self.tables.push(table);
        self.len() - 1
    }

    fn known(&self, want: Want) -> Option<usize> {
        self.tables.iter().position(|&table| want.met_by(table))
    }

    /// Two gates that joined are what is wanted; looked for from a random place on.
    fn pair(&self, want: Want, from: usize) -> Option<(Op, usize, usize)> {
        let count = self.len();
        for at in 0..count {
            let a = (at + from) % count;
            let first = self.tables[a];
            for b in 0..a {
                let second = self.tables[b];
                for (op, table) in [(Op::Xor, first ^ second), (Op::And, first & second), (Op::Or, first | second)] {
                    if want.met_by(table) {
                        return Some((op, a, b));
                    }
                }
                if want.met_by(first & !second) {
                    return Some((Op::AndNot, a, b));
                }
                if want.met_by(second & !first) {
                    return Some((Op::AndNot, b, a));
                }
            }
        }
        None
    }

    /// A gate, and what it must be joined with.
    fn remainder(&self, want: Want, c: usize) -> [Option<(Want, Op, bool)>; 5] {
        let Want { table, care } = want;
        let gate = self.tables[c];
        let inside = table & care & !gate == 0;
        let around = gate & care & !table == 0;
        let apart = table & care & gate == 0;
        [
            Some((Want { table: table ^ gate, care }, Op::Xor, false)),
            inside.then_some((Want { table, care: care & gate }, Op::And, false)),
            around.then_some((Want { table, care: care & !gate }, Op::Or, false)),
            // The gate and not the rest.
            inside.then_some((Want { table: !table, care: care & gate }, Op::AndNot, true)),
            // The rest and not the gate.
            apart.then_some((Want { table, care: care & !gate }, Op::AndNot, false)),
        ]
    }

    fn join(&mut self, op: Op, gate: usize, rest: usize, gate_first: bool) -> usize {
        if gate_first { self.add(op, gate, rest) } else { self.add(op, rest, gate) }
    }

    fn triple(&mut self, want: Want, from: usize) -> Option<usize> {
        for at in 0..self.len() {
            let c = (at + from) % self.len();
            for (rest, op, gate_first) in self.remainder(want, c).into_iter().flatten() {
                if rest.table & rest.care & 1 == 1 {
                    continue;
                }
                if let Some((inner, a, b)) = self.pair(rest, from) {
                    let made = self.add(inner, a, b);
                    return Some(self.join(op, c, made, gate_first));
                }
            }
        }
        None
    }
}

/// A 64-bit linear congruential generator (constants of Knuth's MMIX).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }

    fn shuffled<const N: usize>(&mut self) -> [usize; N] {
        let mut order = std::array::from_fn(|at| at);
        for at in (1..N).rev() {
            order.swap(at, self.below(at + 1));
        }
        order
    }
}

/// Makes the wanted table with gates added to `circuit`, at most `limit` gates in all; says which gate it is.
fn make(circuit: &mut Circuit, want: Want, inputs: &[usize], limit: usize, random: &mut Random) -> Option<usize> {
    if let Some(gate) = circuit.known(want) {
        return Some(gate);
    }
    if circuit.len() >= limit {
        return None;
    }
    let from = random.below(circuit.len());
    if let Some((op, a, b)) = circuit.pair(want, from) {
        return Some(circuit.add(op, a, b));
    }
    if circuit.len() + 1 >= limit {
        return None;
    }
    if let Some(gate) = circuit.triple(want, from) {
        return Some(gate);
    }
    if circuit.len() + 3 > limit || inputs.is_empty() {
        return None;
    }
    // Close to the leaves every input is tried, else one at random.
    let tried: Vec<usize> = if inputs.len() <= 4 { inputs.to_vec() } else { vec![inputs[random.below(inputs.len())]] };
    let mut best: Option<(Circuit, usize)> = None;
    for input in tried {
        let left: Vec<usize> = inputs.iter().copied().filter(|&other| other != input).collect();
        let forms: &[usize] = if inputs.len() <= 3 { &[0, 1, 2] } else { &[[0], [1], [2]][random.below(3)] };
        for &form in forms {
            let bound = best.as_ref().map_or(limit, |(best, _)| best.len() - 1);
            let mut trial = circuit.clone();
            if let Some(gate) = select(&mut trial, want, input, form, &left, bound, random)
                && trial.len() <= bound
            {
                best = Some((trial, gate));
            }
        }
    }
    let (found, gate) = best?;
    *circuit = found;
    Some(gate)
}

/// Selects by an input: `one ^ (other & x)`, `one ^ (other & !x)` or `one ^ (other | x)`.
fn select(
    circuit: &mut Circuit,
    want: Want,
    input: usize,
    form: usize,
    left: &[usize],
    limit: usize,
    random: &mut Random,
) -> Option<usize> {
    let Want { table, care } = want;
    let x = INPUTS[input];
    let inner = limit.checked_sub(2)?;
    let (first, side) = match form {
        0 => (Want { table, care: care & !x }, x),
        1 => (Want { table, care: care & x }, !x),
        _ => (Want { table: !table, care: care & x }, !x),
    };
    let one = make(circuit, first, left, inner, random)?;
    let rest = Want { table: table ^ circuit.tables[one], care: care & side };
    let other = make(circuit, rest, left, inner, random)?;
    let selected = match form {
        0 => circuit.add(Op::And, other, input),
        1 => circuit.add(Op::AndNot, other, input),
        _ => circuit.add(Op::Or, other, input),
    };
    Some(circuit.add(Op::Xor, selected, one))
}

/// One random attempt at a whole box, in at most `limit` gates.
fn attempt(wanted: &[(u64, bool); 4], limit: usize, random: &mut Random) -> Option<(Circuit, [usize; 4])> {
    let mut circuit = Circuit::new();
    let mut outputs = [0; 4];
    for output in random.shuffled::<4>() {
        let inputs = random.shuffled::<6>();
        let want = Want { table: wanted[output].0, care: u64::MAX };
        outputs[output] = make(&mut circuit, want, &inputs, limit, random)?;
    }
    Some((circuit, outputs))
}

/// Without the gates nothing came to use.
fn pruned(circuit: &Circuit, outputs: &mut [usize; 4]) -> Circuit {
    let mut used = vec![false; circuit.len()];
    outputs.iter().for_each(|&output| used[output] = true);
    for at in (6..circuit.len()).rev() {
        if used[at] {
            used[circuit.gates[at].a] = true;
            used[circuit.gates[at].b] = true;
        }
    }
    let mut kept = Circuit::new();
    let mut place: Vec<usize> = (0..6).collect();
    for (Gate { op, a, b }, used) in circuit.gates.iter().copied().zip(used).skip(6) {
        place.push(if used { kept.add(op, place[a], place[b]) } else { 0 });
    }
    outputs.iter_mut().for_each(|output| *output = place[*output]);
    kept
}

fn print(number: u64, circuit: &Circuit, outputs: [usize; 4], wanted: &[(u64, bool); 4]) {
    let name =
        |gate: usize| if gate < 6 { ["a", "b", "c", "d", "e", "f"][gate].to_owned() } else { format!("g{}", gate - 5) };
    println!("\n/// S{number}, {} gates.\n#[inline(always)]", circuit.len() - 6);
    println!("pub(super) fn s{number}<W: Word>([a, b, c, d, e, f]: [W; 6]) -> [W; 4] {{");
    for (at, Gate { op, a, b }) in circuit.gates.iter().enumerate().skip(6) {
        let (a, b) = (name(*a), name(*b));
        let made = match op {
            Op::Input => continue,
            Op::And => format!("{a} & {b}"),
            Op::Or => format!("{a} | {b}"),
            Op::Xor => format!("{a} ^ {b}"),
            Op::AndNot => format!("{a} & !{b}"),
        };
        println!("    let {} = {made};", name(at));
    }
    let shown: Vec<String> = outputs
        .iter()
        .zip(wanted)
        .map(|(gate, (_, inverted))| format!("{}{}", if *inverted { "!" } else { "" }, name(*gate)))
        .collect();
    println!("    [{}]\n}}", shown.join(", "));
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5);
    println!(
        "//! The S-boxes of DES (FIPS 46-3, appendix 1) as circuits: six wires in, four out, for any number of lanes at once."
    );
    println!("//!");
    println!("//! Written by `core/examples/des_boxes.rs`, which searched them; never edited by hand.\n");
    println!("use super::word::Word;");
    for (number, sbox) in (1..).zip(&BOXES) {
        let wanted = wanted(sbox);
        let mut random = Random(number * 77);
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut best: Option<(Circuit, [usize; 4])> = None;
        let mut limit = 200;
        let mut tries = 0u64;
        while best.is_none() || Instant::now() < end {
            tries += 1;
            if let Some((circuit, mut outputs)) = attempt(&wanted, limit, &mut random) {
                let circuit = pruned(&circuit, &mut outputs);
                if best.as_ref().is_none_or(|(best, _)| circuit.len() < best.len()) {
                    limit = circuit.len() - 1;
                    best = Some((circuit, outputs));
                }
            }
        }
        let (circuit, outputs) = best.expect("the loop ends with one");
        eprintln!("S{number}: {} gates, {tries} tries", circuit.len() - 6);
        print(number, &circuit, outputs, &wanted);
    }
}
