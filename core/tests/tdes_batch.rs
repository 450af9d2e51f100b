//! TDES DUKPT three ways: one by one, in batches on every path of this processor, and as the `des` crate has it.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panic, and says what it could not run")]

#[path = "support/des_crate.rs"]
mod des_crate;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use warifu_core::cipher::{CipherError, tdes_cbc_decrypt, tdes_cbc_encrypt};
use warifu_core::dukpt::path;
use warifu_core::dukpt::tdes::batch::{self, Path, Record, Sealed, Walk};
use warifu_core::dukpt::tdes::{child_key, initial_key, parent, transaction_key, working_key};
use warifu_core::key::{KeyBytes, TdesKey};
use warifu_core::ksn::TdesKsn;
use warifu_core::secret::SecretBytes;

const KEYS: [TdesKey; 7] = [
    TdesKey::Pin,
    TdesKey::MacRequest,
    TdesKey::MacResponse,
    TdesKey::DataRequest,
    TdesKey::DataResponse,
    TdesKey::DataRequestVariant,
    TdesKey::DataResponseVariant,
];

/// A record as drawn: a device's key, a KSN, how far down its way it starts, a working key, lengths of its sections.
#[derive(Clone, Debug)]
struct Drawn {
    ik: [u8; 16],
    ksn: [u8; 10],
    below: prop::sample::Index,
    key: TdesKey,
    sections: Vec<Vec<u8>>,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let blocks = prop::collection::vec(any::<[u8; 8]>(), 0..5).prop_map(|blocks| blocks.concat());
    (any::<[u8; 16]>(), ksn(), any::<prop::sample::Index>(), 0..KEYS.len(), prop::collection::vec(blocks, 0..3))
        .prop_map(|(ik, ksn, below, key, sections)| Drawn { ik, ksn, below, key: KEYS[key], sections })
}

/// Counters of all shapes, the root's and the longest way's among them.
fn ksn() -> impl Strategy<Value = [u8; 10]> {
    let counter = prop_oneof![Just(0), Just(0x1F_FFFF), 0u32..64, any::<u32>()];
    (any::<[u8; 10]>(), counter).prop_map(|(device, counter)| *TdesKsn::new(device).with_counter(counter).bytes())
}

fn key(bytes: &[u8]) -> KeyBytes {
    KeyBytes::copied(bytes).unwrap()
}

fn secrets(sections: &[Vec<u8>]) -> Vec<SecretBytes> {
    sections.iter().map(|section| SecretBytes::copied(section)).collect()
}

/// The node a drawn record starts from, and its key.
fn start(drawn: &Drawn) -> (u32, KeyBytes) {
    let ksn = TdesKsn::new(drawn.ksn);
    let way: Vec<u32> = std::iter::once(0).chain(path(ksn.raw_counter())).collect();
    let node = way[drawn.below.index(way.len())];
    (node, transaction_key(&key(&drawn.ik), &ksn.with_counter(node)))
}

/// Everything a batch can be asked, on one path, against the `des` crate.
fn agrees(path: Path, drawn: &[Drawn]) {
    let starts: Vec<(u32, KeyBytes)> = drawn.iter().map(start).collect();
    let walks = || {
        drawn.iter().zip(&starts).map(|(drawn, (node, key))| Walk::below(key, *node, TdesKsn::new(drawn.ksn)).unwrap())
    };
    let expected: Vec<[u8; 16]> =
        drawn.iter().map(|drawn| des_crate::transaction_key(&drawn.ik, &TdesKsn::new(drawn.ksn))).collect();
    let transaction_keys = batch::transaction_keys(path, &walks().collect::<Vec<_>>());
    assert_eq!(transaction_keys.iter().map(KeyBytes::expose).collect::<Vec<_>>(), expected);

    let expected: Vec<[u8; 16]> =
        drawn.iter().zip(&expected).map(|(drawn, key)| des_crate::working_key(key, drawn.key)).collect();
    let asked: Vec<_> = transaction_keys.iter().zip(drawn).map(|(key, drawn)| (key, drawn.key)).collect();
    let working_keys = batch::working_keys(path, &asked);
    assert_eq!(working_keys.iter().map(KeyBytes::expose).collect::<Vec<_>>(), expected);

    let opened: Vec<Vec<Vec<u8>>> = drawn
        .iter()
        .zip(&expected)
        .map(|(drawn, key)| drawn.sections.iter().map(|section| des_crate::cbc_decrypt(key, section)).collect())
        .collect();
    let mut sections: Vec<_> = drawn.iter().map(|drawn| secrets(&drawn.sections)).collect();
    let mut messages: Vec<_> =
        working_keys.iter().zip(&mut sections).map(|(key, sections)| Sealed { key, sections }).collect();
    batch::cbc_decrypt(path, &mut messages).unwrap();
    assert_eq!(shown(&sections), opened);

    let mut sections: Vec<_> = drawn.iter().map(|drawn| secrets(&drawn.sections)).collect();
    let mut records: Vec<_> = walks()
        .zip(drawn)
        .zip(&mut sections)
        .map(|((walk, drawn), sections)| Record { walk, key: drawn.key, sections })
        .collect();
    batch::open(path, &mut records).unwrap();
    assert_eq!(shown(&sections), opened);
}

fn shown(sections: &[Vec<SecretBytes>]) -> Vec<Vec<Vec<u8>>> {
    sections.iter().map(|record| record.iter().map(|section| section.expose().to_vec()).collect()).collect()
}

#[test]
fn the_path_in_service_is_the_widest_of_this_processor() {
    for path in Path::ALL.into_iter().filter(|path| !path.is_available()) {
        eprintln!("NOT RUN HERE: this processor does not have the path {path:?}");
    }
    assert_eq!(Some(Path::best()), Path::available().next());
}

/// Key, clear and sealed block: NBS SP 500-20 (of the variable texts, the variable keys and the test of the S-boxes),
/// and FIPS 81, table B1.
const KNOWN: [[u64; 3]; 8] = [
    [0x0101_0101_0101_0101, 0x8000_0000_0000_0000, 0x95F8_A5E5_DD31_D900],
    [0x0101_0101_0101_0101, 0x4000_0000_0000_0000, 0xDD7F_121C_A501_5619],
    [0x0101_0101_0101_0101, 0x2000_0000_0000_0000, 0x2E86_5310_4F38_34EA],
    [0x8001_0101_0101_0101, 0x0000_0000_0000_0000, 0x95A8_D728_13DA_A94D],
    [0x4001_0101_0101_0101, 0x0000_0000_0000_0000, 0x0EEC_1487_DD8C_26D5],
    [0x7CA1_1045_4A1A_6E57, 0x01A1_D6D0_3977_6742, 0x690F_5B0D_9A26_939B],
    [0x0131_D961_9DC1_376E, 0x5CD5_4CA8_3DEF_57DA, 0x7A38_9D10_354B_D271],
    [0x0123_4567_89AB_CDEF, 0x4E6F_7720_6973_2074, 0x3FA4_0E8A_984D_4815],
];

/// Triple DES under one key three times is DES.
#[test]
fn the_known_answers_of_des_hold_alone_and_on_every_path() {
    let keys: Vec<KeyBytes> = KNOWN.iter().map(|[des, ..]| key(&[des.to_be_bytes(); 2].concat())).collect();
    for (key, [_, clear, sealed]) in keys.iter().zip(KNOWN) {
        let mut data = sealed.to_be_bytes();
        tdes_cbc_decrypt(key, &[0; 8], &mut data).unwrap();
        assert_eq!(data, clear.to_be_bytes());
    }
    for path in Path::available() {
        let sealed = KNOWN.iter().cycle().map(|[.., sealed]| [SecretBytes::copied(&sealed.to_be_bytes())]);
        // More than the widest path takes at once, so that none is done alone.
        let mut sections: Vec<_> = sealed.take(520).collect();
        let mut messages: Vec<_> =
            keys.iter().cycle().zip(&mut sections).map(|(key, sections)| Sealed { key, sections }).collect();
        batch::cbc_decrypt(path, &mut messages).unwrap();
        for ([section], [_, clear, _]) in sections.iter().zip(KNOWN.iter().cycle()) {
            assert_eq!(section.expose(), clear.to_be_bytes());
        }
    }
}

#[test]
fn every_size_of_batch_gives_what_the_des_crate_gives() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let all: Vec<Drawn> = (0..130).map(|_| drawn().new_tree(&mut runner).unwrap().current()).collect();
    for path in Path::available() {
        for size in 0..=130 {
            agrees(path, &all[130 - size..]);
        }
    }
}

#[test]
fn more_records_than_the_widest_has_lanes_are_all_done() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let all: Vec<Drawn> = (0..1100).map(|_| drawn().new_tree(&mut runner).unwrap().current()).collect();
    Path::available().for_each(|path| agrees(path, &all));
}

#[test]
fn a_section_that_is_not_of_whole_blocks_stops_the_batch_before_it_began() {
    let ik = key(&[7; 16]);
    let ksn = TdesKsn::new([1; 10]);
    let mut sound = [SecretBytes::copied(&[1; 8])];
    let mut broken = [SecretBytes::copied(&[1; 8]), SecretBytes::copied(&[1; 9])];
    let record = |sections| Record { walk: Walk::from_root(&ik, ksn), key: TdesKey::Pin, sections };
    let mut records = [record(&mut sound), record(&mut broken)];
    assert_eq!(batch::open(Path::best(), &mut records), Err(CipherError::NotWholeBlocks));
    assert_eq!(sound[0].expose(), [1; 8]);
    let mut messages = [Sealed { key: &ik, sections: &mut sound }, Sealed { key: &ik, sections: &mut broken }];
    assert_eq!(batch::cbc_decrypt(Path::best(), &mut messages), Err(CipherError::NotWholeBlocks));
    assert_eq!(sound[0].expose(), [1; 8]);
}

#[test]
fn a_walk_starts_only_on_its_way() {
    let ksn = TdesKsn::new([0; 10]).with_counter(0b1010);
    let node = key(&[7; 16]);
    for at in 0..32 {
        assert_eq!(Walk::below(&node, at, ksn).is_some(), [0, 0b1000, 0b1010].contains(&at));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn batches_give_what_the_des_crate_gives(drawn in prop::collection::vec(drawn(), 9..100)) {
        Path::available().for_each(|path| agrees(path, &drawn));
    }
}

proptest! {
    #[test]
    fn one_by_one_gives_what_the_des_crate_gives(record in drawn(), bdk in any::<[u8; 16]>()) {
        let ksn = TdesKsn::new(record.ksn);
        let initial = initial_key(&key(&bdk), &ksn);
        prop_assert_eq!(initial.expose(), des_crate::initial_key(&bdk, &ksn));
        let expected = des_crate::transaction_key(&record.ik, &ksn);
        let transaction = transaction_key(&key(&record.ik), &ksn);
        prop_assert_eq!(transaction.expose(), expected);
        let counter = ksn.raw_counter();
        if counter != 0 {
            let above = transaction_key(&key(&record.ik), &ksn.with_counter(parent(counter)));
            prop_assert!(child_key(&above, &ksn, counter).ct_eq(&transaction));
        }
        for working in KEYS {
            let made = working_key(&transaction, working);
            prop_assert_eq!(made.expose(), des_crate::working_key(&expected, working));
        }
    }

    #[test]
    fn decrypting_undoes_what_the_des_crate_encrypted(
        seed in any::<[u8; 24]>(), three in any::<bool>(), iv in any::<[u8; 8]>(),
        clear in prop::collection::vec(any::<[u8; 8]>(), 0..20),
    ) {
        let key = key(&seed[..if three { 24 } else { 16 }]);
        let clear = clear.concat();
        let mut data = clear.clone();
        tdes_cbc_encrypt(&key, &iv, &mut data).unwrap();
        tdes_cbc_decrypt(&key, &iv, &mut data).unwrap();
        prop_assert_eq!(data, clear);
    }
}
