//! DUKPT in software: what one record and many records cost, by scheme, key length and state of the cache.
//!
//! Each figure is printed beside what it is measured against in the same run: the fewest cipher operations the standard
//! leaves, the same work one by one, or the same written on the `des` crate.

#![allow(missing_docs, reason = "criterion's main function")]
#![allow(clippy::print_stderr, reason = "a bench says what it leaves out")]

use std::path::PathBuf;

use criterion::{Criterion, criterion_group, criterion_main};

#[cfg(target_arch = "x86_64")]
#[path = "floor/aes.rs"]
mod aes_floor;
#[path = "dukpt/aes.rs"]
mod aes_records;
#[path = "report/figures.rs"]
mod figures;
#[path = "dukpt/records.rs"]
mod records;
#[path = "dukpt/tdes.rs"]
mod tdes_records;

/// Prints every figure of this bench beside what it is compared with.
#[allow(clippy::print_stdout, reason = "a bench reports")]
fn ratios(_: &mut Criterion) {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    // A first run in test mode leaves nothing to read.
    for (group, all) in figures::figures(&target.join("criterion")).unwrap_or_default() {
        for figure in &all {
            if let Some(against) = figure.against(&all) {
                println!("{group}: {}: {:.1} ns, {against}", figure.name, figure.median_ns);
            }
        }
    }
}

criterion_group!(benches, aes_records::one, aes_records::many, tdes_records::all, ratios);
criterion_main!(benches);
