//! TDES records, one and many, beside the same derivation written on the `des` crate.

use std::hint::black_box;
use std::time::{Duration, Instant};

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use cbc::cipher::array::Array;
use cbc::cipher::{BlockModeDecrypt, KeyIvInit};
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput};
use des::{Des, TdesEde2};
use warifu_core::cipher::tdes_cbc_decrypt;
use warifu_core::dukpt::cache::TreeCache;
use warifu_core::dukpt::tdes;
use warifu_core::dukpt::tdes::batch::{self, Path, Record, Walk};
use warifu_core::key::{KeyBytes, KeyLen, TdesKey};
use warifu_core::ksn::{Ksn, Scheme, TdesKsn};
use warifu_core::secret::SecretBytes;

use crate::records::{RECORD, counters, initial, key};

/// Records of one round.
const RECORDS: usize = 512;

pub(crate) fn all(c: &mut Criterion) {
    let mut group = c.benchmark_group("tdes: IK to data key to 48 bytes decrypted");
    group.throughput(Throughput::Elements(1));
    let ik = key(KeyLen::K128);
    let device = TdesKsn::new([0x12; 10]);
    let ksns: Vec<TdesKsn> = counters(Scheme::Tdes).take(RECORDS).map(|counter| device.with_counter(counter)).collect();
    let mut sections: Vec<[SecretBytes; 1]> = ksns.iter().map(|_| [SecretBytes::copied(&[0; RECORD])]).collect();

    measured(&mut group, "tdes uncached, des crate", || {
        for (ksn, [section]) in ksns.iter().zip(&mut sections) {
            on_the_des_crate(black_box(&ik), ksn, section.expose_mut());
        }
    });
    let open = |transaction_key: &KeyBytes, data: &mut [u8]| {
        let data_key = tdes::working_key(transaction_key, TdesKey::DataRequest);
        tdes_cbc_decrypt(&data_key, &[0; 8], data).expect("whole blocks");
    };
    measured(&mut group, "tdes uncached, one record", || {
        for (ksn, [section]) in ksns.iter().zip(&mut sections) {
            open(&tdes::transaction_key(black_box(&ik), ksn), section.expose_mut());
        }
    });
    for path in Path::ALL {
        if !path.is_available() {
            eprintln!("not measured: this processor does not have the path {path:?}");
            continue;
        }
        for size in [64, RECORDS] {
            let name = format!("tdes uncached, {size} at once on {path:?}");
            measured(&mut group, &name, || {
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
        }
    }

    let mut cache = TreeCache::new(1024);
    let mut counter = 0;
    group.bench_function("tdes warm cache, consecutive counters", |b| {
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

/// Measures work on [`RECORDS`] records and reports it by the record.
fn measured(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut work: impl FnMut()) {
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
            Duration::from_secs_f64(record * f64::from(u32::try_from(records).expect("a few millions")))
        });
    });
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
