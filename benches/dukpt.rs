//! DUKPT in software: what one record costs, by scheme, key length and state of the cache.
//!
//! The AES group also measures its floor, the fewest cipher operations the standard leaves, and the TDES group the same
//! derivation written on the `des` crate, in the same run.

#![allow(missing_docs, clippy::print_stderr, reason = "criterion's main function, and ratios it does not print")]

use std::convert::Infallible;
use std::hint::black_box;
use std::time::{Duration, Instant};

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use cbc::cipher::array::Array;
use cbc::cipher::{BlockModeDecrypt, KeyIvInit};
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use des::{Des, TdesEde2};
use warifu_core::cipher::{aes_cbc_decrypt, tdes_cbc_decrypt};
use warifu_core::dukpt::cache::TreeCache;
use warifu_core::dukpt::tdes::batch::{self, Path, Record, Walk};
use warifu_core::dukpt::{aes as aes_dukpt, tdes};
use warifu_core::key::{KeyBytes, KeyLen, KeyType, KeyUsage, TdesKey};
use warifu_core::ksn::{AesKsn, Ksn, Scheme, TdesKsn};
use warifu_core::secret::SecretBytes;

const RECORD: usize = 48;

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
    for len in [KeyLen::K128, KeyLen::K192, KeyLen::K256] {
        let ik = key(len);
        let base = AesKsn::new([0x12; 12]);
        let open = |derivation_key: &KeyBytes, ksn: &AesKsn, data: &mut [u8; RECORD]| {
            let data_key = aes_dukpt::working_key(derivation_key, ksn, KeyUsage::DataEncryption, KeyType::aes(len))
                .expect("no stronger than its parent");
            aes_cbc_decrypt(&data_key, &[0; 16], data).expect("whole blocks");
        };
        let mut random = counters(Scheme::Aes);
        group.bench_function(format!("aes-{} uncached, random counters", len.bits()), |b| {
            b.iter_batched_ref(
                || (base.with_counter(random.next().expect("endless")), [0u8; RECORD]),
                |(ksn, data)| open(&aes_dukpt::derivation_key(black_box(&ik), ksn), ksn, data),
                BatchSize::SmallInput,
            );
        });
        let mut cache = TreeCache::new(1024);
        let mut counter = 0;
        group.bench_function(format!("aes-{} warm cache, consecutive counters", len.bits()), |b| {
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
    }
    // The floor of one AES-128 record at the 8 one-bits a random legal counter has on average, rounded up: nine
    // chained key expansions with one block each, and the record.
    group.bench_function("aes-128 floor: 10 chained expansions and blocks, 3 blocks decrypted", |b| {
        b.iter(|| {
            let mut block = aes::Block::from([7u8; 16]);
            for _ in 0..10 {
                aes::Aes128Enc::new(&black_box(block)).encrypt_block(&mut block);
            }
            let data_key = KeyBytes::copied(&block).expect("16 bytes");
            let mut data = [0u8; RECORD];
            aes_cbc_decrypt(&data_key, &[0; 16], &mut data).expect("whole blocks");
            black_box(data)
        });
    });
    group.finish();
}

/// How many records, with as many random counters, every figure of TDES is the mean of.
const RECORDS: usize = 512;

fn tdes_records(c: &mut Criterion) {
    let mut group = c.benchmark_group("tdes: IK to data key to 48 bytes decrypted");
    group.throughput(Throughput::Elements(1));
    let ik = key(KeyLen::K128);
    let device = TdesKsn::new([0x12; 10]);
    let ksns: Vec<TdesKsn> = counters(Scheme::Tdes).take(RECORDS).map(|counter| device.with_counter(counter)).collect();
    let mut sections: Vec<[SecretBytes; 1]> = ksns.iter().map(|_| [SecretBytes::copied(&[0; RECORD])]).collect();

    let reference = measured(&mut group, "the same written on the des crate, random counters", || {
        for (ksn, [section]) in ksns.iter().zip(&mut sections) {
            on_the_des_crate(black_box(&ik), ksn, section.expose_mut());
        }
    });
    let compare = |name: &str, ns: f64| {
        eprintln!("{name}: {ns:.0} ns a record, {:.1} times as fast as the des crate", reference / ns)
    };
    let open = |transaction_key: &KeyBytes, data: &mut [u8]| {
        let data_key = tdes::working_key(transaction_key, TdesKey::DataRequest);
        tdes_cbc_decrypt(&data_key, &[0; 8], data).expect("whole blocks");
    };
    let name = "uncached, random counters";
    let one = measured(&mut group, name, || {
        for (ksn, [section]) in ksns.iter().zip(&mut sections) {
            open(&tdes::transaction_key(black_box(&ik), ksn), section.expose_mut());
        }
    });
    compare(name, one);
    for path in Path::ALL {
        if !path.is_available() {
            eprintln!("not measured: this processor does not have the path {path:?}");
            continue;
        }
        for size in [64, RECORDS] {
            let name = format!("{size} at once, path {path:?}, random counters");
            let each = measured(&mut group, &name, || {
                for (ksns, sections) in ksns.chunks(size).zip(sections.chunks_mut(size)) {
                    let mut records: Vec<Record<'_>> = ksns
                        .iter()
                        .zip(sections)
                        .map(|(ksn, sections)| Record {
                            walk: Walk::from_root(black_box(&ik), *ksn),
                            key: TdesKey::DataRequest,
                            sections,
                        })
                        .collect();
                    batch::open(path, &mut records).expect("whole blocks");
                }
            });
            compare(&name, each);
        }
    }

    let mut cache = TreeCache::new(1024);
    let mut counter = 0;
    group.bench_function("warm cache, consecutive counters", |b| {
        b.iter_batched_ref(
            || {
                // A bench outlives the million counters of one TDES device: start again with the next.
                counter = Scheme::Tdes.next_counter(counter).map_or(1, |counter| counter.get());
                (device.with_counter(counter), [0u8; RECORD])
            },
            |(ksn, data)| open(&cache.key(&Ksn::Tdes(*ksn), || initial(&ik)).expect("cannot fail"), data),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// Measures work on [`RECORDS`] records and reports it by the record. Returns the median of the samples, in
/// nanoseconds.
fn measured(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut work: impl FnMut()) -> f64 {
    let mut samples = Vec::new();
    group.bench_function(name, |b| {
        b.iter_custom(|records| {
            // Whole rounds only, so that every sample has the same counters.
            let rounds = records.div_ceil(u64::try_from(RECORDS).expect("a small number"));
            let start = Instant::now();
            for _ in 0..rounds {
                work();
            }
            let done = u32::try_from(rounds).expect("a few rounds") * u32::try_from(RECORDS).expect("a small number");
            let record = start.elapsed().as_secs_f64() / f64::from(done);
            samples.push(record * 1e9);
            Duration::from_secs_f64(record * f64::from(u32::try_from(records).expect("a few millions")))
        });
    });
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What [`warifu_core`] did before it had a DES of its own.
fn on_the_des_crate(ik: &KeyBytes, ksn: &TdesKsn, data: &mut [u8]) {
    const MASK: [u8; 16] = [0xC0, 0xC0, 0xC0, 0xC0, 0, 0, 0, 0, 0xC0, 0xC0, 0xC0, 0xC0, 0, 0, 0, 0];
    let one_way = |key: &[u8; 16], register: &[u8; 8]| -> [u8; 8] {
        let (left, right) = key.split_at(8);
        let mut block: [u8; 8] = std::array::from_fn(|at| register[at] ^ right[at]);
        Des::new_from_slice(left).expect("half a key").encrypt_block((&mut block).into());
        std::array::from_fn(|at| block[at] ^ right[at])
    };
    let mut key: [u8; 16] = ik.expose().try_into().expect("16 bytes");
    for counter in tdes::path(ksn.raw_counter()) {
        let [_, _, register @ ..] = *ksn.with_counter(counter).bytes();
        let masked = std::array::from_fn(|at| key[at] ^ MASK[at]);
        let (left, right) = (one_way(&masked, &register), one_way(&key, &register));
        key[..8].copy_from_slice(&left);
        key[8..].copy_from_slice(&right);
    }
    key[5] ^= 0xFF;
    key[13] ^= 0xFF;
    let variant = TdesEde2::new((&key).into());
    key.as_chunks_mut::<8>().0.iter_mut().for_each(|half| variant.encrypt_block(half.into()));
    let (blocks, _) = Array::slice_as_chunks_mut(data);
    cbc::Decryptor::<TdesEde2>::new((&key).into(), &[0; 8].into()).decrypt_blocks(blocks);
}

criterion_group!(benches, aes_one_record, tdes_records);
criterion_main!(benches);
