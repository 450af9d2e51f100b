//! AES records, one and many.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput};
use warifu_core::cipher::aes_cbc_decrypt;
use warifu_core::dukpt::aes as aes_dukpt;
use warifu_core::dukpt::aes::Walk;
use warifu_core::dukpt::cache::TreeCache;
use warifu_core::dukpt::lanes::Path;
use warifu_core::key::{KeyBytes, KeyLen, KeyType, KeyUsage};
use warifu_core::ksn::{AesKsn, Ksn, Scheme};

#[cfg(target_arch = "x86_64")]
use crate::aes_floor;
use crate::records::{RECORD, counters, initial, key};

const LENS: [KeyLen; 3] = [KeyLen::K128, KeyLen::K192, KeyLen::K256];

pub(crate) fn one(c: &mut Criterion) {
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
pub(crate) fn many(c: &mut Criterion) {
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
