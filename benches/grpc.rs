//! A card made durable over the whole way: gRPC, mutual TLS, the actors, SoftHSM in hardware mode, the database.
//!
//! The server is its own process, as in service. With `WARIFU_TEST_POSTGRES` set (`scripts/with-postgres cargo bench
//! --bench grpc`) PostgreSQL is measured as well as SQLite; without it, that is said.

#![allow(missing_docs, reason = "criterion's main function")]
#![allow(clippy::print_stderr, reason = "a bench says what it leaves out")]

#[path = "../tests/stage/mod.rs"]
mod stage;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use stage::desk::keypad;
use stage::sealer::Sealer;
use stage::till::Till;
use stage::{Options, Server, database};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Callers at the same time: what a processor with some hundred tills sees at a busy hour.
const CALLERS: [usize; 2] = [1, 64];

/// Counts requests over the whole run, so that no request id comes twice.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// A server, and tills with a device each, as they stand side by side in a shop.
struct Shop {
    server: Server,
    till: Till,
    sealers: Vec<Sealer>,
}

impl Shop {
    /// Makes sure of so many devices.
    fn furnish(&mut self, callers: usize) {
        for number in self.sealers.len()..callers {
            let ksn = format!("12345678{:08X}00000000", 0xB000_0000 + number);
            self.server.add_device(&keypad(&format!("bench-{number}"), &ksn));
            self.sealers.push(Sealer::aes(&ksn));
        }
    }

    /// The time for `total` requests, shared by the callers. Sealing the cards is not counted.
    fn shared_time(&mut self, runtime: &Runtime, callers: usize, total: u64) -> Duration {
        let total = usize::try_from(total).expect("a count");
        let work: Vec<Vec<Vec<u8>>> = self.sealers[..callers]
            .iter_mut()
            .enumerate()
            .map(|(caller, sealer)| {
                let share = total / callers + usize::from(caller < total % callers);
                (0..share).map(|_| sealer.keyed("4111111111111111")).collect()
            })
            .collect();
        let till = &self.till;
        runtime.block_on(async {
            let started = Instant::now();
            let mut tasks: JoinSet<()> = work.into_iter().map(|frames| tokenize_all(till.clone(), frames)).collect();
            while let Some(done) = tasks.join_next().await {
                done.expect("every caller finishes");
            }
            started.elapsed()
        })
    }
}

async fn tokenize_all(till: Till, frames: Vec<Vec<u8>>) {
    for frame in frames {
        let request = format!("bench-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        till.tokenize(&request, &frame).await.expect("a token");
    }
}

fn tokenize(c: &mut Criterion, store: &str, options: &Options) {
    let folder = tempfile::Builder::new().prefix("warifu-bench-").tempdir().expect("a folder on disk");
    let server = Server::dev(&folder.path().join("server"), options);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let till = runtime.block_on(Till::of(&server));
    let mut shop = Shop { server, till, sealers: Vec::new() };
    let mut group = c.benchmark_group(format!("tokenize over gRPC and mTLS, SoftHSM hardware mode, {store}"));
    group.throughput(Throughput::Elements(1)).sample_size(10).measurement_time(Duration::from_secs(8));
    for callers in CALLERS {
        shop.furnish(callers);
        group.bench_function(format!("{callers} callers"), |b| {
            b.iter_custom(|requests| shop.shared_time(&runtime, callers, requests));
        });
    }
    group.finish();
}

fn durable(c: &mut Criterion) {
    tokenize(c, "SQLite", &Options::default());
    if std::env::var_os("WARIFU_TEST_POSTGRES").is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let url = runtime.block_on(database::fresh_postgres());
        tokenize(c, "PostgreSQL", &Options { store_url: Some(url), ..Options::default() });
    } else {
        eprintln!("PostgreSQL is NOT measured: run scripts/with-postgres cargo bench --bench grpc");
    }
}

criterion_group!(benches, durable);
criterion_main!(benches);
