//! No key stays behind on the stack of whoever derived with it: the stack of a thread that did is searched.
#![allow(clippy::unwrap_used, reason = "memory that cannot be read must fail the run")]
#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::thread;

use warifu_core::dukpt::cache::TreeCache;
use warifu_core::dukpt::{aes, tdes};
use warifu_core::frame::{Entry, SealedFrame, native_header};
use warifu_core::key::{KeyBytes, KeyLen, KeyType, KeyUsage, TdesKey};
use warifu_core::ksn::{AesKsn, Ksn, TdesKsn};
use warifu_core::opening::{self, OpeningError};

/// The memory a thread's local variable is in, once the thread has done its `work` far below.
fn stack_after(work: impl FnOnce() + Send + 'static) -> Vec<u8> {
    let (tell, told) = mpsc::channel();
    let (release, wait) = mpsc::channel::<()>();
    let thread = thread::Builder::new().stack_size(256 * 1024);
    let thread = thread
        .spawn(move || {
            let local = 0u8;
            let at = u64::try_from(std::ptr::from_ref(black_box(&local)).addr()).unwrap();
            far_below(work);
            tell.send(at).unwrap();
            wait.recv().unwrap();
        })
        .unwrap();
    let at = told.recv().unwrap();
    let stack = mapping_of(at);
    release.send(()).unwrap();
    thread.join().unwrap();
    stack
}

/// So that what the thread does next does not overwrite what `work` left.
#[inline(never)]
fn far_below(work: impl FnOnce()) {
    let room = [0u8; 32 * 1024];
    black_box(&room);
    black_box(work)();
    black_box(&room);
}

fn mapping_of(at: u64) -> Vec<u8> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let bounds = maps.lines().map(|line| {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        [start, end].map(|at| u64::from_str_radix(at, 16).unwrap())
    });
    let [start, end] = bounds.into_iter().find(|[start, end]| (*start..*end).contains(&at)).unwrap();
    let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
    File::open("/proc/self/mem").unwrap().read_exact_at(&mut bytes, start).unwrap();
    bytes
}

fn hits(stack: &[u8], needle: &KeyBytes) -> usize {
    stack.windows(needle.expose().len()).filter(|window| *window == needle.expose()).count()
}

/// An initial key of one test alone: the stack of a thread that is gone may be given to another.
#[inline(never)]
fn ik(seed: u8) -> KeyBytes {
    let seed = black_box(seed);
    KeyBytes::filled(KeyLen::K128, |bytes| bytes.iter_mut().zip(seed..).for_each(|(byte, value)| *byte = value))
}

fn tdes_ksn(counter: u32) -> TdesKsn {
    TdesKsn::new([0x5E; 10]).with_counter(counter)
}

fn aes_ksn(counter: u32) -> AesKsn {
    AesKsn::new([0x5E; 12]).with_counter(counter)
}

#[test]
fn the_search_finds_a_key_that_was_left() {
    let stack = stack_after(|| {
        let mut left = [0; 16];
        left.copy_from_slice(ik(0x11).expose());
        black_box(&left);
    });
    assert!(hits(&stack, &ik(0x11)) > 0);
}

#[test]
fn the_cache_leaves_no_initial_key_behind() {
    for ksn in [Ksn::Tdes(tdes_ksn(0)), Ksn::Aes(aes_ksn(0))] {
        let stack = stack_after(move || {
            let mut cache = TreeCache::new(40);
            drop(cache.key(&ksn, || Ok::<_, ()>(ik(0x31))).unwrap());
        });
        assert_eq!(hits(&stack, &ik(0x31)), 0, "{ksn:?}");
    }
}

#[test]
fn the_cache_leaves_no_node_behind() {
    let ksns = |counter| [Ksn::Tdes(tdes_ksn(counter)), Ksn::Aes(aes_ksn(counter))];
    let node = |ksn: &Ksn| match ksn {
        Ksn::Tdes(ksn) => tdes::transaction_key(&ik(0x51), ksn),
        Ksn::Aes(ksn) => aes::derivation_key(&ik(0x51), ksn),
    };
    // In the larger one the nodes stay, in the smaller one the second takes the place of the first.
    for (max_nodes, [above, ksn]) in
        [40, 1].into_iter().flat_map(|max_nodes| [0, 1].map(|scheme| (max_nodes, [4, 6].map(|at| ksns(at)[scheme]))))
    {
        let stack = stack_after(move || {
            let mut cache = TreeCache::new(max_nodes);
            drop(cache.key(&ksn, || Ok::<_, ()>(ik(0x51))).unwrap());
        });
        assert_eq!([node(&above), node(&ksn)].map(|node| hits(&stack, &node)), [0, 0], "{ksn:?} of {max_nodes}");
    }
}

#[test]
fn opening_a_frame_leaves_no_working_key_behind() {
    let (aes, tdes) = (aes_ksn(2), tdes_ksn(2));
    let working = |usage| aes::working_key(&ik(0x71), &aes, usage, KeyType::Aes128).unwrap();
    let frames = [
        (
            native_header(Some(KeyLen::K128), Entry::Keyed, &Ksn::Aes(aes), 32),
            &[7; 16][..],
            [KeyUsage::MacGeneration, KeyUsage::DataEncryption].map(working),
        ),
        (
            native_header(None, Entry::Keyed, &Ksn::Tdes(tdes), 32),
            &[7; 8][..],
            [TdesKey::MacRequest, TdesKey::DataRequest].map(|key| tdes::working_key(&ik(0x71), key)),
        ),
    ];
    for (header, mac, keys) in frames {
        let frame = SealedFrame::parse(&[&header[..], &[7; 32], mac].concat()).unwrap();
        let stack = stack_after(move || {
            assert_eq!(opening::open(&frame, &ik(0x71)).err(), Some(OpeningError::WrongMac));
        });
        assert_eq!(keys.map(|key| hits(&stack, &key)), [0, 0]);
    }
}
