//! A device that keeps its state: no counter is used twice, whatever becomes of the process.
#![allow(clippy::unwrap_used, reason = "a device that does not answer must fail the run")]

mod support;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use support::device::{Device, read_frame};
use support::{AES_BDK, TDES_BDK, key_of, opened};
use warifu_core::frame::SealedFrame;
use warifu_core::key_block::{
    Algorithm, Exportability, Header, Kbpk, KeyBlock, Material, Mode, OptionalBlock, PaddingLen, Protection,
    ProtectionCipher, Usage, Version,
};
use warifu_core::ksn::{AesKsn, TdesKsn};
use warifu_core::secret::SecretBytes;
use warifu_device_emu::dukpt::{aes, tdes};

const PAN: &str = "4111111111111111";

fn arguments<'a>(scheme: &'a str, state: &'a Path) -> Vec<&'a str> {
    let (bdk, ksn) = match scheme {
        "aes" => (AES_BDK, "1234567890123456"),
        _ => (TDES_BDK, "FFFF9876543210E00000"),
    };
    vec!["--scheme", scheme, "--bdk", bdk, "--ksn", ksn, "--state", state.to_str().unwrap()]
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("devices/kp-1.state");
    (folder, state)
}

/// Opens a frame and gives its counter.
fn counter(frame: &[u8]) -> u32 {
    let frame = SealedFrame::parse(frame).unwrap();
    let initial = match frame.ksn() {
        warifu_core::ksn::Ksn::Aes(ksn) => aes::initial_key(&key_of(AES_BDK), &AesKsn::parse(ksn.bytes()).unwrap()),
        warifu_core::ksn::Ksn::Tdes(ksn) => {
            tdes::initial_key(&key_of(TDES_BDK), &TdesKsn::parse(ksn.bytes()).unwrap()).unwrap()
        }
    };
    assert!(opened(&frame, &initial).pan().expose() == PAN.as_bytes());
    frame.ksn().raw_counter()
}

#[test]
fn a_restarted_device_goes_on_where_it_was() {
    for scheme in ["aes", "tdes"] {
        let (_folder, state) = folder();
        for counters in [1..=3, 4..=5, 6..=6] {
            let mut device = Device::start(&arguments(scheme, &state));
            let mut host = device.connect();
            for expected in counters {
                device.say(&format!("key {PAN} 3012 123"));
                assert_eq!(counter(&read_frame(&mut host)), expected);
            }
            assert_eq!(device.say("quit"), "ok quit");
            assert!(device.ended().success());
        }
    }
}

#[test]
fn a_device_needs_its_key_only_once() {
    let (_folder, state) = folder();
    Device::start(&arguments("aes", &state)).say("skip 41");
    let mut device =
        Device::start(&["--scheme", "aes", "--ksn", "1234567890123456", "--state", state.to_str().unwrap()]);
    let mut host = device.connect();
    device.say(&format!("key {PAN} 3012 123"));
    assert_eq!(counter(&read_frame(&mut host)), 42);
}

/// Killed at any moment while it works; whatever reached the wire before, nothing is used again.
#[test]
fn a_killed_device_never_repeats_a_counter() {
    let (_folder, state) = folder();
    let mut highest = 0;
    for round in 1..=25 {
        let mut device = Device::start(&arguments("aes", &state));
        let mut host = device.connect();
        (0..30).for_each(|_| device.tell(&format!("key {PAN} 3012 123")));
        for _ in 0..round % 7 {
            let now = counter(&read_frame(&mut host));
            assert!(now > highest, "counter {now} after {highest}");
            highest = now;
        }
        device.signal(Signal::KILL);
        device.ended();
        let mut rest = Vec::new();
        // What was on its way when the device died; the end may be a broken connection.
        let _ = host.read_to_end(&mut rest);
        for frame in rest.chunks_exact(68) {
            let now = counter(frame);
            assert!(now > highest, "counter {now} after {highest}");
            highest = now;
        }
    }
    assert!(highest >= 25);
}

#[test]
fn the_state_is_for_its_owner_alone_and_says_what_it_is() {
    let (_folder, state) = folder();
    let mut device = Device::start(&arguments("tdes", &state));
    device.say("skip 5");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o600);
    assert_eq!(mode(state.parent().unwrap()), 0o700);
    let text = fs::read_to_string(&state).unwrap();
    assert!(text.lines().next().unwrap().contains("KEYS OF AN EMULATED DEVICE IN CLEAR"));
    assert!(text.contains("\ndevice FFFF9876543210E00000\nnext 00000006\n"));
    assert_eq!(text.lines().count(), 4 + 21);
    // Counter 6 has register 1; register 0 led to the counters passed over, and is gone.
    assert_eq!(text.lines().nth(4), Some("-"));
    assert_ne!(text.lines().nth(5), Some("-"));
}

#[test]
fn a_state_others_may_read_or_that_is_damaged_is_refused() {
    let (_folder, state) = folder();
    drop(Device::start(&arguments("aes", &state)));
    let refused = || Device::try_start(&arguments("aes", &state)).err().unwrap();

    fs::set_permissions(&state, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refused().contains("must be 0600"));
    fs::set_permissions(&state, fs::Permissions::from_mode(0o600)).unwrap();

    let text = fs::read_to_string(&state).unwrap();
    for damaged in [
        text[..text.len() - 1].to_owned(),
        text[..text.len() - 33].to_owned(),
        text.replace("next 00000001", "next 00000000"),
        text.replace("next 00000001", "next 0001FFFF"),
        text.replace("scheme aes", "scheme tdes"),
        text.replace("warifu", "another"),
        String::new(),
    ] {
        fs::write(&state, damaged).unwrap();
        assert!(refused().contains("state file") || refused().contains("registers"));
    }

    fs::write(&state, text).unwrap();
    let mut other = arguments("aes", &state);
    other[5] = "1234567890123457";
    assert!(Device::try_start(&other).err().unwrap().contains("belongs to device 123456789012345600000000"));
    drop(Device::start(&arguments("aes", &state)));
}

/// A key block for the device of [`arguments`], under its update key unless another one is given.
fn update(kbpk: Option<&str>, usage: Usage, ik_id: Option<[u8; 8]>) -> String {
    let ours = AesKsn::parse(&hex::decode("123456789012345600000000").unwrap()).unwrap();
    let loaded = aes::Originator::load(&aes::initial_key(&key_of(AES_BDK), &ours), &ours);
    let kbpk = key_of(&kbpk.map_or_else(|| hex::encode(loaded.update_key().expose()), str::to_owned));
    let protection = Protection::new(Version::D, &Kbpk::new(ProtectionCipher::Aes, kbpk).unwrap()).unwrap();
    let mut header = Header::new(Version::D, usage, Algorithm::Aes, Mode::Derive, Exportability::Never).unwrap();
    if let Some(ik_id) = ik_id {
        header = header.with(OptionalBlock::initial_key_id(ik_id)).unwrap();
    }
    let next = AesKsn::parse(&[&ik_id.unwrap_or([9; 8])[..], &[0; 4]].concat()).unwrap();
    let initial = aes::initial_key(&key_of(AES_BDK), &next);
    let material = Material::new(SecretBytes::copied(initial.expose())).unwrap();
    let padding = vec![0x55; PaddingLen::Hiding.of(Version::D, Algorithm::Aes, &material)];
    KeyBlock::wrap(&header, &material, &protection, &padding).unwrap().to_string()
}

#[test]
fn a_device_changes_to_a_new_initial_key_and_only_by_its_own_update_key() {
    let (folder, state) = folder();
    let mut device = Device::start(&arguments("aes", &state));
    let mut host = device.connect();
    for expected in 1..=3 {
        device.say(&format!("key {PAN} 3012 123"));
        assert_eq!(counter(&read_frame(&mut host)), expected);
    }
    let good = update(None, Usage::InitialKey, Some([0xAB; 8]));
    let mut flipped = good.clone().into_bytes();
    let last = flipped.len() - 20;
    flipped[last] = if flipped[last] == b'0' { b'1' } else { b'0' };
    let refusals = [
        (update(Some(AES_BDK), Usage::InitialKey, Some([0xAB; 8])), "not authentic"),
        (String::from_utf8(flipped).unwrap(), "not authentic"),
        (update(None, Usage::Bdk, Some([0xAB; 8])), "usage"),
        (update(None, Usage::InitialKey, None), "names no initial key id"),
        (update(None, Usage::InitialKey, Some([0x12, 0x34, 0x56, 0x78, 0x90, 0x12, 0x34, 0x56])), "the device has"),
        ("D0112".to_owned(), "no key block"),
    ];
    for (block, why) in refusals {
        let answer = device.say(&format!("update {block}"));
        assert!(answer.starts_with("error") && answer.contains(why), "{answer}");
    }
    device.say(&format!("key {PAN} 3012 123"));
    assert_eq!(counter(&read_frame(&mut host)), 4, "a refused update changes nothing");

    let file = folder.path().join("update");
    fs::write(&file, good + "\n").unwrap();
    assert_eq!(device.say(&format!("update @{}", file.display())), "ok update device ABABABABABABABAB00000000");
    device.say(&format!("key {PAN} 3012 123"));
    let frame = read_frame(&mut host);
    assert_eq!((counter(&frame), &frame[..].windows(8).any(|part| part == [0xAB; 8])), (1, &true));
    assert!(
        device.say(&format!("update @{}", file.display())).contains("not for this device"),
        "its update key is new"
    );

    // Switched off and on, it is the new device, under its own name only.
    drop(device);
    assert!(Device::try_start(&arguments("aes", &state)).err().unwrap().contains("belongs to device ABAB"));
    let mut renamed = arguments("aes", &state);
    renamed[5] = "ABABABABABABABAB";
    let mut device = Device::start(&renamed);
    let mut host = device.connect();
    device.say(&format!("key {PAN} 3012 123"));
    assert_eq!(counter(&read_frame(&mut host)), 2);

    let (_folder, other) = self::folder();
    let mut tdes = Device::start(&arguments("tdes", &other));
    assert!(tdes.say(&format!("update @{}", file.display())).contains("a TDES device has no update key"));
}

#[test]
fn a_new_device_takes_the_block_that_names_it_and_no_other() {
    let (folder, _) = folder();
    let file = folder.path().join("block");
    let start = |ik_id| {
        fs::write(&file, update(Some(AES_BDK), Usage::InitialKey, ik_id)).unwrap();
        let block = file.to_str().unwrap();
        Device::try_start(&["--scheme", "aes", "--ksn", "5EA2C400C0FFEE01", "--ik-block", block, "--kbpk", AES_BDK])
    };
    let ours = [0x5E, 0xA2, 0xC4, 0x00, 0xC0, 0xFF, 0xEE, 0x01];
    let mut neighbour = ours;
    neighbour[7] = 0;
    assert!(start(None).err().unwrap().contains("does not say whose initial key it is"));
    assert!(start(Some(neighbour)).err().unwrap().contains("it is the initial key of 5EA2C400C0FFEE00"));
    start(Some(ours)).unwrap();
}

#[test]
fn two_devices_cannot_share_a_state() {
    let (_folder, state) = folder();
    let _device = Device::start(&arguments("aes", &state));
    assert!(Device::try_start(&arguments("aes", &state)).err().unwrap().contains("another emulator"));
}

#[test]
fn a_device_that_cannot_save_sends_nothing() {
    let (_folder, state) = folder();
    let mut device = Device::start(&arguments("aes", &state));
    let mut host = device.connect();
    device.say(&format!("key {PAN} 3012 123"));
    assert_eq!(counter(&read_frame(&mut host)), 1);
    // A folder in its way keeps the new state from being written.
    let in_the_way = state.with_file_name("kp-1.state.new");
    fs::create_dir(&in_the_way).unwrap();
    let answer = device.say(&format!("key {PAN} 3012 123"));
    assert_eq!(answer, "error the state of the device could not be saved, so nothing was sent");
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(device.say(&format!("key {PAN} 3012 123")), "ok frame 68 bytes counter 3");
    assert_eq!(counter(&read_frame(&mut host)), 3);
}

#[test]
fn an_exhausted_device_stays_exhausted() {
    let (_folder, state) = folder();
    let mut last = arguments("tdes", &state);
    last[5] = "FFFF9876543210FFF000";
    let mut device = Device::start(&last);
    assert!(device.say("skip 1048575").starts_with("error the device's keys are exhausted"));
    let mut host = device.connect();
    let mut answers = Vec::new();
    loop {
        let answer = device.say(&format!("key {PAN} 3012"));
        if !answer.starts_with("ok") {
            assert!(answer.starts_with("error the device's keys are exhausted"), "{answer}");
            break;
        }
        answers.push(counter(&read_frame(&mut host)));
    }
    let ones = (0..12).map(|bit| 0x1F_F000 | 1 << bit);
    assert_eq!(answers, ones.collect::<Vec<u32>>(), "nine ones and one more");
    drop(device);
    let mut device = Device::start(&last);
    assert!(device.say("status").contains("next exhausted"));
    assert!(device.say(&format!("key {PAN} 3012")).starts_with("error the device's keys are exhausted"));
}
