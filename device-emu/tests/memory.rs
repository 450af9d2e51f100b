//! The claim that clear data is gone when a frame leaves: the memory of a running device is searched for it.
#![allow(clippy::unwrap_used, reason = "memory that cannot be read must fail the run")]

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;

use support::device::{Device, read_bytes, read_frame};
use support::{AES_BDK, TDES_BDK, key_of, opened};
use warifu_core::dukpt as host;
use warifu_core::frame::SealedFrame;
use warifu_core::key::{KeyBytes, KeyType, KeyUsage, TdesKey};
use warifu_core::ksn::{AesKsn, TdesKsn};
use warifu_device_emu::dukpt::{aes, tdes};
use warifu_device_emu::format::Format;

/// Everything a process can write to, heap, stacks, data: each run of pages that are not all zeros.
fn memory(pid: u32) -> Vec<Vec<u8>> {
    const PAGE: usize = 4096;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut runs: Vec<Vec<u8>> = Vec::new();
    for line in maps.lines().filter(|line| line.split(' ').nth(1).unwrap().starts_with("rw")) {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        memory.read_exact_at(&mut bytes, start).unwrap();
        runs.push(Vec::new());
        for page in bytes.chunks(PAGE) {
            match (page == [0; PAGE], runs.last_mut()) {
                (false, Some(run)) => run.extend(page),
                _ => runs.push(Vec::new()),
            }
        }
    }
    runs.retain(|run| !run.is_empty());
    assert!(runs.len() > 5 && runs.iter().map(Vec::len).sum::<usize>() > 100_000, "that is not a whole process");
    runs
}

fn hits(memory: &[Vec<u8>], needle: &[u8]) -> usize {
    memory.iter().map(|bytes| bytes.windows(needle.len()).filter(|window| *window == needle).count()).sum()
}

/// The number as it is typed, packed as on a chip (aligned either way), and written in hex.
fn forms(pan: &str) -> Vec<Vec<u8>> {
    let even = &pan[..pan.len() / 2 * 2];
    let odd = &pan[1..pan.len().div_ceil(2) * 2 - 1];
    vec![pan.into(), hex::decode(even).unwrap(), hex::decode(odd).unwrap(), hex::encode(pan).into_bytes()]
}

/// Nothing of the number is left, not even the part that no mask shows.
fn assert_gone(device: &Device, pan: &str, when: &str) {
    let memory = memory(device.id());
    for form in forms(pan) {
        assert_eq!(hits(&memory, &form), 0, "{when}: the number in memory, {} bytes a form", form.len());
    }
    let hidden = &pan[6..pan.len() - 4];
    assert_eq!(hits(&memory, hidden.as_bytes()), 0, "{when}: the hidden digits in memory");
}

/// The search finds what is there: digits typed and not yet done with.
#[test]
fn a_number_that_is_being_typed_is_found() {
    let mut device = Device::start(&["--scheme", "aes", "--bdk", AES_BDK, "--ksn", "1234567890123456"]);
    let found = |device: &Device, pan: &str| hits(&memory(device.id()), pan.as_bytes());
    device.say("status");
    device.type_only("key 4929310987651234 3012");
    let start = std::time::Instant::now();
    while found(&device, "4929310987651234") == 0 {
        assert!(start.elapsed() < support::device::LIMIT, "the search does not find what is there");
    }
    assert!(device.say(" 7391").starts_with("ok frame"));
    assert_gone(&device, "4929310987651234", "once the line is done with");
}

/// A card taken while nobody listens: its frame waits, no byte has left, and the clear data is gone already.
#[test]
fn clear_data_is_gone_before_the_first_byte_leaves() {
    let ways = [
        ("key 4929310987651234 2911 7391", "4929310987651234"),
        ("swipe 5386018723451239 2911 CANARY/NAME", "5386018723451239"),
        ("dip 3569981476239871 2911 CANARY/NAME", "3569981476239871"),
    ];
    for (scheme, bdk, ksn) in [("aes", AES_BDK, "1234567890123456"), ("tdes", TDES_BDK, "FFFF9876543210E00000")] {
        let mut device = Device::start(&["--scheme", scheme, "--bdk", bdk, "--ksn", ksn]);
        for (command, pan) in ways {
            assert!(device.say(command).starts_with("ok frame"));
            assert_gone(&device, pan, command.split(' ').next().unwrap());
        }
        let memory_now = memory(device.id());
        for rest in [b"=2911=7391".as_slice(), b"7391", b"CANARY/NAME", b"=2911"] {
            assert_eq!(hits(&memory_now, rest), 0, "{scheme}: {} bytes of card data", rest.len());
        }
        let mut stream = device.connect();
        for (_, pan) in ways {
            let frame = SealedFrame::parse(&read_frame(&mut stream)).unwrap();
            let initial = initial_key(scheme);
            assert!(opened(&frame, &initial).pan().expose() == pan.as_bytes());
            assert_gone(&device, pan, "afterwards");
        }
    }
}

fn initial_key(scheme: &str) -> KeyBytes {
    match scheme {
        "aes" => aes::initial_key(&key_of(AES_BDK), &aes_ksn(0)),
        _ => tdes::initial_key(&key_of(TDES_BDK), &tdes_ksn(0)).unwrap(),
    }
}

fn aes_ksn(counter: u32) -> AesKsn {
    AesKsn::parse(&hex::decode("123456789012345600000000").unwrap()).unwrap().with_counter(counter)
}

fn tdes_ksn(counter: u32) -> TdesKsn {
    TdesKsn::parse(&hex::decode("FFFF9876543210E00000").unwrap()).unwrap().with_counter(counter)
}

#[test]
fn vendor_formats_leave_no_clear_data_either() {
    for format in Format::ALL.into_iter().filter(|format| *format != Format::Native) {
        let name = format.name();
        let arguments = ["--scheme", "tdes", "--bdk", TDES_BDK, "--ksn", "FFFF9876543210E00000", "--format", name];
        let mut device = Device::start(&arguments);
        let mut stream = device.connect();
        let mut taken = 0;
        for (command, pan) in [
            ("key 4929310987651234 2911 7391", "4929310987651234"),
            ("swipe 5386018723451239 2911", "5386018723451239"),
        ] {
            let answer = device.say(command);
            let Some(rest) = answer.strip_prefix("ok frame ") else { continue };
            read_bytes(&mut stream, rest.split(' ').next().unwrap().parse().unwrap());
            assert_gone(&device, pan, name);
            taken += 1;
        }
        assert!(taken > 0, "{name} takes no card");
    }
}

/// Cards refused, and faults on the way, do not keep anything either.
#[test]
fn refused_and_spoiled_cards_are_forgotten_too() {
    let mut device = Device::start(&["--scheme", "aes", "--bdk", AES_BDK, "--ksn", "1234567890123456"]);
    for line in [
        "key 4929310987651234 2913 7391",
        "key 4929310987651234 2911 73911",
        "4929310987651234",
        "swipe 4929310987651234 2911 A^B",
    ] {
        assert!(device.say(line).starts_with("error"));
        assert_gone(&device, "4929310987651234", "refused");
    }
    device.say("flip 100000");
    assert!(device.say("key 4929310987651234 2911 7391").starts_with("error"));
    assert_gone(&device, "4929310987651234", "not sent");
    (0..4).for_each(|_| assert!(device.say("key 4929310987651234 2911 7391").starts_with("ok")));
    assert!(device.say("key 4929310987651234 2911 7391").starts_with("error"));
    assert_gone(&device, "4929310987651234", "queue full");
}

/// Forward secrecy: whoever takes a device apart finds no key that opens what it has sent.
#[test]
fn used_keys_and_the_initial_key_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ik");
    for (scheme, ksn) in [("aes", "1234567890123456"), ("tdes", "FFFF9876543210E00000")] {
        let initial = initial_key(scheme);
        writeln!(File::create(&file).unwrap(), "{}", hex::encode(initial.expose())).unwrap();
        let state = folder.path().join(scheme);
        let arguments =
            ["--scheme", scheme, "--ik-file", file.to_str().unwrap(), "--ksn", ksn, "--state", state.to_str().unwrap()];
        let mut device = Device::start(&arguments);
        let mut stream = device.connect();
        for counter in 1..=6 {
            device.say("key 4929310987651234 2911 7391");
            read_frame(&mut stream);
            let memory = memory(device.id());
            let saved = fs::read(&state).unwrap();
            let gone = |key: &KeyBytes, which: &str| {
                assert_eq!(hits(&memory, key.expose()), 0, "{scheme} counter {counter}: {which} in memory");
                for written in [hex::encode(key.expose()), hex::encode_upper(key.expose())] {
                    assert_eq!(hits(&memory, written.as_bytes()), 0, "{scheme} counter {counter}: {which} in hex");
                    assert_eq!(hits(std::slice::from_ref(&saved), written.as_bytes()), 0, "{which} in the state");
                }
            };
            gone(&initial, "the initial key");
            for used in 1..=counter {
                match scheme {
                    "aes" => {
                        let node = host::aes::derivation_key(&initial, &aes_ksn(used));
                        for usage in [KeyUsage::DataEncryption, KeyUsage::MacGeneration] {
                            let key = host::aes::working_key(&node, &aes_ksn(used), usage, KeyType::Aes128).unwrap();
                            gone(&key, "a working key");
                        }
                        gone(&node, "a derivation key");
                    }
                    _ => {
                        let transaction = host::tdes::transaction_key(&initial, &tdes_ksn(used));
                        for which in [TdesKey::DataRequest, TdesKey::DataRequestVariant, TdesKey::MacRequest] {
                            gone(&host::tdes::working_key(&transaction, which), "a working key");
                        }
                        gone(&transaction, "a transaction key");
                    }
                }
            }
            // The key of the next counter is there: the search finds keys.
            let next = match scheme {
                "aes" => host::aes::derivation_key(&initial, &aes_ksn(counter + 1)),
                _ => host::tdes::transaction_key(&initial, &tdes_ksn(counter + 1)),
            };
            assert!(hits(&memory, next.expose()) > 0, "the next key is in its register");
        }
    }
}
