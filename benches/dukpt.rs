//! DUKPT in software: what one record costs, by scheme, key length and state of the cache.
//!
//! Each group also measures its floor, the fewest cipher operations the standard leaves, in the same run.

#![allow(missing_docs, reason = "criterion's main function")]

use std::convert::Infallible;
use std::hint::black_box;

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use warifu_core::cipher::{aes_cbc_decrypt, tdes_cbc_decrypt};
use warifu_core::dukpt::cache::TreeCache;
use warifu_core::dukpt::{aes as aes_dukpt, tdes};
use warifu_core::key::{KeyBytes, KeyLen, KeyType, KeyUsage, TdesKey};
use warifu_core::ksn::{AesKsn, Ksn, Scheme, TdesKsn};

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

criterion_group!(benches, aes_one_record, tdes_one_record);
criterion_main!(benches);
