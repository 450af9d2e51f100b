//! DUKPT in software: what one record costs, by scheme, key length and state of the cache.
//!
//! Each group also measures its floor, the fewest cipher operations the standard leaves, in the same run.

#![allow(missing_docs, reason = "criterion's main function")]

use std::convert::Infallible;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use warifu_core::cipher::{aes_cbc_decrypt, tdes_cbc_decrypt};
use warifu_core::dukpt::aes::Walk;
use warifu_core::dukpt::cache::TreeCache;
use warifu_core::dukpt::lanes::Path;
use warifu_core::dukpt::{aes as aes_dukpt, tdes};
use warifu_core::key::{KeyBytes, KeyLen, KeyType, KeyUsage, TdesKey};
use warifu_core::ksn::{AesKsn, Ksn, Scheme, TdesKsn};

#[cfg(target_arch = "x86_64")]
#[path = "floor/aes.rs"]
mod aes_floor;
#[path = "report/figures.rs"]
mod figures;

const RECORD: usize = 48;
const LENS: [KeyLen; 3] = [KeyLen::K128, KeyLen::K192, KeyLen::K256];

fn key(len: KeyLen) -> KeyBytes {
    KeyBytes::filled(len, |bytes| bytes.iter_mut().zip(1u8..).for_each(|(byte, value)| *byte = value))
}

fn initial(ik: &KeyBytes) -> Result<KeyBytes, Infallible> {
    Ok(KeyBytes::filled(ik.key_len(), |bytes| bytes.copy_from_slice(ik.expose())))
}

/// Legal counters spread over the whole range, the same in every run: a 64-bit linear congruential generator
/// (constants of Knuth's MMIX).
fn counters(scheme: Scheme) -> impl Iterator<Item = u32> {
    let mut state = 0x5EED_u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let raw = u32::try_from(state >> 32).expect("the upper half of 64 bits") % scheme.max_counter();
        scheme.next_counter(raw).map_or(1, |counter| counter.get())
    })
}

fn aes_one_record(c: &mut Criterion) {
    let mut group = c.benchmark_group("aes: IK to data key to 48 bytes decrypted");
    group.throughput(Throughput::Elements(1));
    for len in LENS {
        let ik = key(len);
        let base = AesKsn::new([0x12; 12]);
        let bits = len.bits();
        let open = |derivation_key: &KeyBytes, ksn: &AesKsn, data: &mut [u8; RECORD]| {
            let data_key = aes_dukpt::working_key(derivation_key, ksn, KeyUsage::DataEncryption, KeyType::aes(len))
                .expect("no stronger than its parent");
            aes_cbc_decrypt(&data_key, &[0; 16], data).expect("whole blocks");
        };
        let mut random = counters(Scheme::Aes);
        group.bench_function(format!("aes-{bits} uncached, random counters"), |b| {
            b.iter_batched_ref(
                || (base.with_counter(random.next().expect("endless")), [0u8; RECORD]),
                |(ksn, data)| open(&aes_dukpt::derivation_key(black_box(&ik), ksn), ksn, data),
                BatchSize::SmallInput,
            );
        });
        let mut random = counters(Scheme::Aes);
        #[cfg(target_arch = "x86_64")]
        group.bench_function(format!("aes-{bits} uncached, floor"), |b| {
            b.iter_batched(
                || random.next().expect("endless").count_ones() + 1,
                |steps| aes_floor::record(len, steps),
                BatchSize::SmallInput,
            );
        });
        let mut cache = TreeCache::new(1024);
        let mut counter = 0;
        group.bench_function(format!("aes-{bits} warm cache, consecutive counters"), |b| {
            b.iter_batched_ref(
                || {
                    counter = Scheme::Aes.next_counter(counter).expect("not exhausted").get();
                    (base.with_counter(counter), [0u8; RECORD])
                },
                |(ksn, data)| {
                    let node = cache.key(&Ksn::Aes(*ksn), || initial(&ik)).expect("cannot fail");
                    open(&node, ksn, data);
                },
                BatchSize::SmallInput,
            );
        });
        #[cfg(target_arch = "x86_64")]
        group.bench_function(format!("aes-{bits} warm cache, floor"), |b| {
            b.iter_batched(|| 2, |steps| aes_floor::record(len, steps), BatchSize::SmallInput);
        });
    }
    group.finish();
}

/// Every figure is the time of one record.
fn aes_many_records(c: &mut Criterion) {
    let mut group = c.benchmark_group("aes: IK to data key, many records");
    group.throughput(Throughput::Elements(1));
    for len in LENS {
        let ik = key(len);
        let base = AesKsn::new([0x12; 12]);
        let ksns: Vec<AesKsn> = counters(Scheme::Aes).take(4096).map(|counter| base.with_counter(counter)).collect();
        let walks: Vec<Walk<'_>> = ksns.iter().map(|ksn| Walk::whole(&ik, *ksn)).collect();
        let (usage, key_type) = (KeyUsage::DataEncryption, KeyType::aes(len));
        let mut endless = ksns.iter().cycle();
        group.bench_function(format!("aes-{} many, one by one", len.bits()), |b| {
            b.iter(|| {
                let ksn = endless.next().expect("endless");
                aes_dukpt::working_key(&aes_dukpt::derivation_key(black_box(&ik), ksn), ksn, usage, key_type)
            });
        });
        for path in Path::ALL.into_iter().filter(|path| path.is_available()) {
            for size in [16, 64, 512] {
                let mut batches = walks.chunks(size).cycle();
                group.bench_function(format!("aes-{} many, {size} on {path:?}", len.bits()), |b| {
                    b.iter_custom(|records| {
                        let rounds = records.div_ceil(u64::try_from(size).expect("small"));
                        let started = Instant::now();
                        for _ in 0..rounds {
                            let batch = batches.next().expect("endless");
                            black_box(aes_dukpt::working_keys_on(path, batch, usage, key_type)).expect("strong enough");
                        }
                        let done = rounds * u64::try_from(size).expect("small");
                        let a_record =
                            started.elapsed().as_secs_f64() / f64::from(u32::try_from(done).unwrap_or(u32::MAX));
                        Duration::from_secs_f64(a_record * f64::from(u32::try_from(records).unwrap_or(u32::MAX)))
                    });
                });
            }
        }
    }
    group.finish();
}

fn tdes_one_record(c: &mut Criterion) {
    let mut group = c.benchmark_group("tdes: IK to data key to 48 bytes decrypted");
    group.throughput(Throughput::Elements(1));
    let ik = key(KeyLen::K128);
    let base = TdesKsn::new([0x12; 10]);
    let open = |transaction_key: &KeyBytes, data: &mut [u8; RECORD]| {
        let data_key = tdes::working_key(transaction_key, TdesKey::DataRequest);
        tdes_cbc_decrypt(&data_key, &[0; 8], data).expect("whole blocks");
    };
    let mut random = counters(Scheme::Tdes);
    group.bench_function("uncached, random counters", |b| {
        b.iter_batched_ref(
            || (base.with_counter(random.next().expect("endless")), [0u8; RECORD]),
            |(ksn, data)| open(&tdes::transaction_key(black_box(&ik), ksn), data),
            BatchSize::SmallInput,
        );
    });
    let mut cache = TreeCache::new(1024);
    let mut counter = 0;
    group.bench_function("warm cache, consecutive counters", |b| {
        b.iter_batched_ref(
            || {
                // A bench outlives the million counters of one TDES device: start again with the next.
                counter = Scheme::Tdes.next_counter(counter).map_or(1, |counter| counter.get());
                (base.with_counter(counter), [0u8; RECORD])
            },
            |(ksn, data)| open(&cache.key(&Ksn::Tdes(*ksn), || initial(&ik)).expect("cannot fail"), data),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

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

criterion_group!(benches, aes_one_record, aes_many_records, tdes_one_record, ratios);
criterion_main!(benches);
