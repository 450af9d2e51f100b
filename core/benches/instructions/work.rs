//! What is counted, and the budget of each: instructions for one record, as Rust 1.95 compiles them.

use std::convert::Infallible;
use std::hint::black_box;

use warifu_core::account_data::AccountData;
use warifu_core::cipher::{aes_cbc_decrypt, tdes_cbc_decrypt};
use warifu_core::dukpt::cache::TreeCache;
use warifu_core::dukpt::tdes::batch::{self, Record};
use warifu_core::dukpt::{aes, lanes, tdes};
use warifu_core::frame::{Entry, SealedFrame, native_header};
use warifu_core::key::{KeyBytes, KeyLen, KeyType, KeyUsage, TdesKey};
use warifu_core::ksn::{AesKsn, Ksn, Scheme, TdesKsn};
use warifu_core::secret::SecretBytes;

/// The work of nothing: what the stops themselves take.
pub(crate) const NOTHING: &str = "nothing";

/// Something to count.
pub(crate) struct Work {
    pub(crate) name: &'static str,
    /// Records it works on.
    pub(crate) records: u64,
    /// Instructions for each of them.
    pub(crate) budget: u64,
    /// Once to warm up, once to count.
    pub(crate) run: Box<dyn FnMut()>,
}

/// Bytes of a record.
const RECORD: usize = 48;
/// Records side by side.
const MANY: u16 = 64;
/// Records one after another, where each takes tens of thousands of instructions.
const FEW: u16 = 8;
/// A counter as far down the tree as a random one is on average: eight one-bits.
const AES_COUNTER: u32 = 0x0500_8A56;
const TDES_COUNTER: u32 = 0x0005_8A56;

type Row = (&'static str, Option<lanes::Path>, u64);
const ONE_AES: [(KeyLen, Row); 3] = [
    (KeyLen::K128, ("aes-128, one record", Some(lanes::Path::AesNi), 1453)),
    (KeyLen::K192, ("aes-192, one record", Some(lanes::Path::AesNi), 1871)),
    (KeyLen::K256, ("aes-256, one record", Some(lanes::Path::AesNi), 2258)),
];
const KEPT_AES: [(KeyLen, Row); 3] = [
    (KeyLen::K128, ("aes-128, the next record, tree kept", Some(lanes::Path::AesNi), 822)),
    (KeyLen::K192, ("aes-192, the next record, tree kept", Some(lanes::Path::AesNi), 966)),
    (KeyLen::K256, ("aes-256, the next record, tree kept", Some(lanes::Path::AesNi), 1066)),
];
const MANY_AES: [Row; 3] = [
    ("aes-128, 64 records, portable", Some(lanes::Path::Portable), 3669),
    ("aes-128, 64 records, AES-NI", Some(lanes::Path::AesNi), 628),
    ("aes-128, 64 records, VAES 256", Some(lanes::Path::Vaes256), 403),
];
/// As many records as the path has lanes.
const MANY_TDES: [(&str, batch::Path, u16, u64); 2] = [
    ("tdes, 64 records, portable", batch::Path::Portable, 64, 11_111),
    ("tdes, 256 records, AVX2", batch::Path::Avx2, 256, 3459),
];

/// Names of what this processor cannot do.
pub(crate) fn not_here() -> Vec<&'static str> {
    let aes = ONE_AES.iter().chain(&KEPT_AES).map(|(_, row)| row).chain(&MANY_AES);
    let aes = aes.filter(|row| !here(row)).map(|(name, ..)| *name);
    aes.chain(MANY_TDES.iter().filter(|(_, path, ..)| !path.is_available()).map(|(name, ..)| *name)).collect()
}

fn here((_, path, _): &Row) -> bool {
    path.is_none_or(lanes::Path::is_available)
}

/// Everything that can be counted on this processor.
pub(crate) fn all() -> Vec<Work> {
    let mut all = vec![work(NOTHING, 1, 0, || ())];
    all.extend(ONE_AES.into_iter().filter(|(_, row)| here(row)).map(|(len, row)| one_aes(len, row)));
    all.extend(KEPT_AES.into_iter().filter(|(_, row)| here(row)).map(|(len, row)| kept_aes(len, row)));
    all.extend(MANY_AES.into_iter().filter(here).map(many_aes));
    all.extend([one_tdes(), kept_tdes()]);
    all.extend(MANY_TDES.into_iter().filter(|(_, path, ..)| path.is_available()).map(many_tdes));
    all.push(reading());
    all
}

fn work(name: &'static str, records: u16, budget: u64, run: impl FnMut() + 'static) -> Work {
    Work { name, records: records.into(), budget, run: Box::new(run) }
}

fn key(len: KeyLen) -> KeyBytes {
    KeyBytes::filled(len, |bytes| bytes.iter_mut().zip(1u8..).for_each(|(byte, value)| *byte = value))
}

fn open_aes(node: &KeyBytes, ksn: &AesKsn, len: KeyLen, data: &mut [u8; RECORD]) {
    let data_key = aes::working_key(node, ksn, KeyUsage::DataEncryption, KeyType::aes(len)).expect("strong enough");
    aes_cbc_decrypt(&data_key, &[0; 16], data).expect("whole blocks");
}

fn open_tdes(node: &KeyBytes, data: &mut [u8; RECORD]) {
    tdes_cbc_decrypt(&tdes::working_key(node, TdesKey::DataRequest), &[0; 8], data).expect("whole blocks");
}

fn one_aes(len: KeyLen, (name, _, budget): Row) -> Work {
    let (ik, ksn, mut data) = (key(len), AesKsn::new([0x12; 12]).with_counter(AES_COUNTER), [0; RECORD]);
    work(name, 1, budget, move || open_aes(&aes::derivation_key(black_box(&ik), &ksn), &ksn, len, &mut data))
}

fn one_tdes() -> Work {
    let (ik, ksn, mut data) = (key(KeyLen::K128), TdesKsn::new([0x12; 10]).with_counter(TDES_COUNTER), [0; RECORD]);
    work("tdes, one record", 1, 75_349, move || open_tdes(&tdes::transaction_key(black_box(&ik), &ksn), &mut data))
}

/// Many counters one after another, so that the average is that of the tree and not of one place in it.
fn kept_aes(len: KeyLen, (name, _, budget): Row) -> Work {
    let (ik, device, mut data) = (key(len), AesKsn::new([0x12; 12]), [0; RECORD]);
    let (mut cache, mut counter) = (TreeCache::new(1024), 0);
    work(name, MANY, budget, move || {
        for _ in 0..MANY {
            counter = Scheme::Aes.next_counter(counter).map_or(1, |next| next.get());
            let ksn = device.with_counter(counter);
            let node = cache.key(&Ksn::Aes(ksn), || initial(&ik)).expect("cannot fail");
            open_aes(&node, &ksn, len, &mut data);
        }
    })
}

fn kept_tdes() -> Work {
    let (ik, device, mut data) = (key(KeyLen::K128), TdesKsn::new([0x12; 10]), [0; RECORD]);
    let (mut cache, mut counter) = (TreeCache::new(1024), 0);
    work("tdes, the next record, tree kept", FEW, 44_602, move || {
        for _ in 0..FEW {
            counter = Scheme::Tdes.next_counter(counter).map_or(1, |next| next.get());
            let node = cache.key(&Ksn::Tdes(device.with_counter(counter)), || initial(&ik)).expect("cannot fail");
            open_tdes(&node, &mut data);
        }
    })
}

fn initial(ik: &KeyBytes) -> Result<KeyBytes, Infallible> {
    Ok(KeyBytes::filled(ik.key_len(), |bytes| bytes.copy_from_slice(ik.expose())))
}

/// Legal counters as far apart as the tree allows.
fn counters(scheme: Scheme, many: u16) -> impl Iterator<Item = u32> {
    let apart = scheme.max_counter() / u32::from(many);
    (0..u32::from(many)).map(move |place| scheme.next_counter(place * apart).map_or(1, |counter| counter.get()))
}

fn many_aes((name, path, budget): Row) -> Work {
    let path = path.unwrap_or(lanes::Path::Portable);
    let (ik, device) = (key(KeyLen::K128), AesKsn::new([0x12; 12]));
    let ksns: Vec<AesKsn> = counters(Scheme::Aes, MANY).map(|counter| device.with_counter(counter)).collect();
    work(name, MANY, budget, move || {
        let walks: Vec<aes::Walk<'_>> = ksns.iter().map(|ksn| aes::Walk::whole(black_box(&ik), *ksn)).collect();
        let keys = aes::working_keys_on(path, &walks, KeyUsage::DataEncryption, KeyType::aes(KeyLen::K128));
        black_box(keys).expect("strong enough");
    })
}

fn many_tdes((name, path, many, budget): (&'static str, batch::Path, u16, u64)) -> Work {
    let (ik, device) = (key(KeyLen::K128), TdesKsn::new([0x12; 10]));
    let ksns: Vec<TdesKsn> = counters(Scheme::Tdes, many).map(|counter| device.with_counter(counter)).collect();
    let mut sections: Vec<[SecretBytes; 1]> = ksns.iter().map(|_| [SecretBytes::copied(&[0; RECORD])]).collect();
    work(name, many, budget, move || {
        let records = ksns.iter().zip(&mut sections).map(|(ksn, sections)| Record {
            walk: batch::Walk::from_root(black_box(&ik), *ksn),
            key: TdesKey::DataRequest,
            sections,
        });
        batch::open(path, &mut records.collect::<Vec<_>>()).expect("whole blocks");
    })
}

/// A keyed card: its frame read, and what the frame held when it was opened.
fn reading() -> Work {
    let clear = warifu_core::account_data::pad_7816(b"4111111111111111=2712=123", 16);
    let len = u16::try_from(clear.expose().len()).expect("two blocks");
    let ksn = Ksn::Aes(AesKsn::new([0x12; 12]).with_counter(AES_COUNTER));
    let mut bytes = native_header(Some(KeyLen::K128), Entry::Keyed, &ksn, len);
    bytes.extend(vec![0; usize::from(len) + 16]);
    let clear = [clear];
    work("a keyed card: frame and account data read", 1, 2_093, move || {
        let frame = SealedFrame::parse(black_box(&bytes)).expect("a whole frame");
        black_box(AccountData::open(&frame, &clear)).expect("a well-formed card");
    })
}
