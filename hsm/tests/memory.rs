//! In `hardware` mode no key of a frame is ever in this process: proved by reading all of its memory.
//!
//! Two processes, because who derives the keys to look for has them in memory. The first makes a token, a base
//! derivation key and frames, and writes down what must not be found, each byte inverted. The second opens the frames
//! as a server would, then reads itself. Both are this binary.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test with a main of its own")]
#![allow(unsafe_code, reason = "shared with tests that set SoftHSM's environment; this one does not")]

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use support::device::{BODY, PAN, seal_with};
use support::slot::{PIN, SO_PIN};
use warifu_core::dukpt::aes;
use warifu_core::frame::SealedFrame;
use warifu_core::key::{KeyBytes, KeyLen, KeyType, KeyUsage};
use warifu_core::ksn::{AesKsn, Scheme};
use warifu_core::merchant::BdkId;
use warifu_hsm::pkcs11::{self, Pin, SOFTHSM_MISSING, Slot, SlotConfig, provision};
use warifu_hsm::{BdkSpec, DecryptionMode, Hsm};

const PART: &str = "WARIFU_MEMORY_TEST_PART";
const LABEL: &str = "memory";
const NEEDLES: &str = "needles";
const FRAMES: &str = "frames";
/// Put into memory to be found, so that finding nothing else means something.
const CONTROL: &[u8] = b"a text that is in the memory of this process";

fn main() {
    match std::env::var(PART).as_deref() {
        Ok("prepare") => prepare(Path::new(".")),
        Ok("serve") => serve(Path::new(".")),
        _ => run_both(),
    }
}

fn run_both() {
    let root = if Path::new("/dev/shm").is_dir() { Path::new("/dev/shm").into() } else { std::env::temp_dir() };
    let directory = tempfile::TempDir::with_prefix_in("warifu-test-memory-", root).unwrap();
    let (tokens, configuration) = (directory.path().join("tokens"), directory.path().join("softhsm2.conf"));
    std::fs::create_dir(&tokens).unwrap();
    std::fs::write(&configuration, pkcs11::softhsm_configuration(&tokens)).unwrap();
    for part in ["prepare", "serve"] {
        let status = Command::new(std::env::current_exe().unwrap())
            .env(PART, part)
            .env("SOFTHSM2_CONF", &configuration)
            .current_dir(directory.path())
            .status()
            .unwrap();
        assert!(status.success(), "the part {part:?} failed");
    }
    println!("test hardware_mode_leaves_no_key_and_no_card_in_memory ... ok");
}

fn open_slot() -> Slot {
    let module = pkcs11::find_softhsm().unwrap_or_else(|| panic!("{SOFTHSM_MISSING}"));
    let pin = Pin::copied(PIN);
    let config = SlotConfig {
        module,
        module_arguments: None,
        token_label: LABEL.to_owned(),
        pin,
        cache_nodes: 100,
        accept_non_p2pe: false,
    };
    Slot::open(config).unwrap()
}

fn spec(len: KeyLen) -> BdkSpec {
    let id = BdkId::parse(&format!("memory-{}", len.bits())).unwrap();
    BdkSpec { id, scheme: Scheme::Aes, len, mode: DecryptionMode::Hardware, proof: None }
}

fn lengths() -> [KeyLen; 3] {
    [KeyLen::K128, KeyLen::K192, KeyLen::K256]
}

/// A test key of its own: the slot's self-test knows the usual one.
fn bdk(len: KeyLen) -> KeyBytes {
    KeyBytes::filled(len, |bytes| {
        bytes.iter_mut().zip(1u8..).for_each(|(byte, at)| *byte = at.wrapping_mul(0x9D) ^ 0x5A);
    })
}

fn inverted(needle: &[u8]) -> String {
    hex::encode(needle.iter().map(|byte| !byte).collect::<Vec<_>>())
}

fn prepare(directory: &Path) {
    let module = pkcs11::find_softhsm().unwrap_or_else(|| panic!("{SOFTHSM_MISSING}"));
    provision::init_token(&module, None, LABEL, &Pin::copied(SO_PIN), &Pin::copied(PIN)).unwrap();
    let slot = open_slot();
    provision::create_service_keys(&slot).unwrap();
    let (mut needles, mut frames) = (vec![inverted(PAN.as_bytes()), inverted(BODY)], Vec::new());
    for len in lengths() {
        let bdk = bdk(len);
        provision::import_bdk(&slot, &spec(len), &bdk).unwrap();
        for counter in [3, 4, 5, 6, 0x1234] {
            let ksn = AesKsn::new([0x4D, 0x45, 0x4D, 0x4F, 0, 0, 0, 1, 0, 0, 0, 0]).with_counter(counter);
            let ik = aes::initial_key(&bdk, ksn.ik_id());
            needles.push(inverted(ik.expose()));
            for at in aes::path(counter) {
                needles.push(inverted(aes::derivation_key(&ik, &ksn.with_counter(at)).expose()));
            }
            let node = aes::derivation_key(&ik, &ksn);
            let key = |usage| aes::working_key(&node, &ksn, usage, KeyType::aes(len)).unwrap();
            let (data_key, mac_key) = (key(KeyUsage::DataEncryption), key(KeyUsage::MacGeneration));
            needles.extend([inverted(data_key.expose()), inverted(mac_key.expose())]);
            frames.push(format!("{} {}", spec(len).id, hex::encode(seal_with(&ksn, &data_key, &mac_key, BODY))));
        }
        needles.push(inverted(bdk.expose()));
    }
    slot.close().unwrap();
    std::fs::write(directory.join(NEEDLES), needles.join("\n")).unwrap();
    std::fs::write(directory.join(FRAMES), frames.join("\n")).unwrap();
}

fn serve(directory: &Path) {
    let slot = open_slot();
    let mut hsm = slot.session(&lengths().map(spec)).unwrap();
    let mut opened = 0;
    for line in std::fs::read_to_string(directory.join(FRAMES)).unwrap().lines() {
        let (id, frame) = line.split_once(' ').unwrap();
        let frame = SealedFrame::parse(&hex::decode(frame).unwrap()).unwrap();
        drop(hsm.open(&BdkId::parse(id).unwrap(), &frame).unwrap());
        opened += 1;
    }
    assert_eq!(opened, 15);
    assert!(hsm.cached_nodes() > 3, "the tree nodes looked for are alive in the slot");

    let mut needles: Vec<Vec<u8>> = std::fs::read_to_string(directory.join(NEEDLES))
        .unwrap()
        .lines()
        .map(|line| hex::decode(line).unwrap())
        .collect();
    needles.sort();
    needles.dedup();
    assert!(needles.len() > 40, "{}", needles.len());
    // On the heap, where a key would be too.
    let planted = std::hint::black_box(CONTROL.to_vec());
    let control: Vec<u8> = CONTROL.iter().map(|byte| !byte).collect();
    assert!(hits(&[control]) > 0, "the search does not find what is there");
    drop(planted);
    assert_eq!(hits(&needles), 0, "a key or card number is in memory");
    drop(hsm);
    slot.close().unwrap();
}

/// How often inverted needles are found in this process's memory.
fn hits(needles: &[Vec<u8>]) -> usize {
    let memory = File::open("/proc/self/mem").unwrap();
    let mut found = 0;
    for line in std::fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let mut fields = line.split_ascii_whitespace();
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        // Code and constants of files cannot hold a key; what can be written can.
        if !rights.starts_with("rw") {
            continue;
        }
        let mut region = vec![0; usize::try_from(end - start).unwrap()];
        if memory.read_exact_at(&mut region, start).is_err() {
            continue;
        }
        // In place, so that this buffer is no second copy for the search to find later.
        region.iter_mut().for_each(|byte| *byte = !*byte);
        for needle in needles {
            found += region.windows(needle.len()).filter(|window| window == needle).count();
        }
        region.fill(0);
    }
    found
}
