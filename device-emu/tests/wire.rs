//! A device at the end of a wire, as its own process: connections, queue, faults, ending.
#![allow(clippy::unwrap_used, reason = "a device that does not answer must fail the run")]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use serde_json::Value;
use support::device::{Device, read_bytes, read_frame};
use support::{AES_BDK, TDES_BDK, opened, record, text};
use warifu_core::frame::{Entry, SealedFrame};
use warifu_device_emu::dukpt::aes;

const AES: [&str; 6] = ["--scheme", "aes", "--bdk", AES_BDK, "--ksn", "1234567890123456"];
const TDES: [&str; 6] = ["--scheme", "tdes", "--bdk", TDES_BDK, "--ksn", "FFFF9876543210E00000"];
const PAN: &str = "4111111111111111";

fn keypad(more: &[&str]) -> Device {
    Device::start(&[&AES, more].concat())
}

fn assert_opens(frame: &[u8], entry: Entry, counter: u32) {
    let ksn = warifu_core::ksn::AesKsn::parse(&hex::decode("123456789012345600000000").unwrap()).unwrap();
    let initial = aes::initial_key(&support::key_of(AES_BDK), &ksn);
    let frame = SealedFrame::parse(frame).unwrap();
    assert_eq!(frame.ksn().raw_counter(), counter);
    let account_data = opened(&frame, &initial);
    assert!(account_data.pan().expose() == PAN.as_bytes());
    assert_eq!(account_data.entry(), entry);
}

#[test]
fn three_ways_in_come_out_of_a_tcp_port() {
    let mut device = keypad(&[]);
    let mut host = device.connect();
    assert_eq!(device.say(&format!("key {PAN} 3012 123")), "ok frame 68 bytes counter 1");
    assert_opens(&read_frame(&mut host), Entry::Keyed, 1);
    assert_eq!(device.say(&format!("swipe {PAN} 3012 TARO/CARD")), "ok frame 132 bytes counter 2");
    assert_opens(&read_frame(&mut host), Entry::Swiped, 2);
    assert_eq!(device.say(&format!("dip {PAN} 3012")), "ok frame 148 bytes counter 3");
    assert_opens(&read_frame(&mut host), Entry::Dipped, 3);
}

#[test]
fn a_unix_socket_carries_the_same_and_is_gone_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kp");
    let listen = format!("unix:{}", path.display());
    let mut device = keypad(&["--listen", &listen]);
    assert_eq!(device.address, listen);
    let mut host = UnixStream::connect(&path).unwrap();
    device.say(&format!("key {PAN} 3012"));
    assert_opens(&read_frame(&mut host), Entry::Keyed, 1);
    device.signal(Signal::TERM);
    assert!(device.ended().success());
    assert!(!path.exists());
}

#[test]
fn a_socket_left_by_a_killed_device_is_taken_over_but_not_one_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}", folder.path().join("kp").display());
    let mut killed = keypad(&["--listen", &listen]);
    killed.signal(Signal::KILL);
    assert_eq!(killed.ended().signal(), Some(9));
    let _device = keypad(&["--listen", &listen]);
    let refused = Device::try_start(&[&AES, ["--listen", &listen].as_slice()].concat()).err().unwrap();
    assert!(refused.contains("cannot listen"), "{refused}");
}

fn open_serial(device: &Device) -> File {
    let path = device.address.strip_prefix("serial:").unwrap();
    let port = File::options().read(true).write(true).open(path).unwrap();
    let mut settings = tcgetattr(&port).unwrap();
    settings.make_raw();
    tcsetattr(&port, OptionalActions::Flush, &settings).unwrap();
    port
}

#[test]
fn a_pseudo_terminal_is_a_serial_port_that_can_be_closed_and_opened_again() {
    let mut device = keypad(&["--listen", "pty"]);
    device.say(&format!("key {PAN} 3012"));
    let mut port = open_serial(&device);
    port.write_all(b"\x03\x04 nothing a device cares for \x11\x13\r").unwrap();
    assert_opens(&read_frame(&mut port), Entry::Keyed, 1);
    device.until_status("peer connected");
    // Every byte value passes: nothing is eaten or changed as a control character.
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(device.say(&format!("raw {}", hex::encode(&all))), "ok raw 256 bytes");
    assert_eq!(read_bytes(&mut port, 256), all);
    drop(port);
    device.until_status("peer none");
    device.say(&format!("swipe {PAN} 3012"));
    let mut port = open_serial(&device);
    assert_opens(&read_frame(&mut port), Entry::Swiped, 2);
}

#[test]
fn more_than_a_pseudo_terminal_holds_gets_through() {
    let mut device = keypad(&["--listen", "pty"]);
    let mut port = open_serial(&device);
    device.say("garbage 60000");
    let first = read_bytes(&mut port, 60_000);
    device.say("garbage 60000");
    assert_eq!(read_bytes(&mut port, 60_000), first);
}

#[test]
fn frames_wait_for_a_host_until_the_queue_is_full_and_cost_no_counter_then() {
    let mut device = keypad(&[]);
    for counter in 1..=4 {
        assert_eq!(device.say(&format!("key {PAN} 3012 123")), format!("ok frame 68 bytes counter {counter}"));
    }
    assert!(device.say(&format!("key {PAN} 3012 123")).starts_with("error nobody is connected and 4 frames wait"));
    assert!(device.say("status").contains("next 5 peer none waiting 4"));
    let mut host = device.connect();
    for counter in 1..=4 {
        assert_opens(&read_frame(&mut host), Entry::Keyed, counter);
    }
    assert_eq!(device.say(&format!("key {PAN} 3012 123")), "ok frame 68 bytes counter 5");
    assert_opens(&read_frame(&mut host), Entry::Keyed, 5);
}

#[test]
fn a_burst_of_commands_all_gets_through_to_a_host_that_reads() {
    let mut device = keypad(&[]);
    let mut host = device.connect();
    device.until_status("peer connected");
    (0..200).for_each(|_| device.tell(&format!("key {PAN} 3012 123")));
    for counter in 1..=200 {
        assert_eq!(device.answer(), format!("ok frame 68 bytes counter {counter}"));
        assert_opens(&read_frame(&mut host), Entry::Keyed, counter);
    }
}

#[test]
fn a_new_host_takes_the_place_of_the_old_one() {
    let mut device = keypad(&[]);
    let mut old = device.connect();
    device.say(&format!("key {PAN} 3012"));
    assert_opens(&read_frame(&mut old), Entry::Keyed, 1);
    let mut new = device.connect();
    assert_eq!(old.read(&mut [0; 1]).unwrap(), 0, "the old connection is closed");
    device.say(&format!("key {PAN} 3012"));
    assert_opens(&read_frame(&mut new), Entry::Keyed, 2);
}

#[test]
fn a_frame_that_broke_off_comes_whole_to_the_next_host() {
    let mut device = keypad(&[]);
    device.say("slow 20");
    let mut first = device.connect();
    device.say(&format!("key {PAN} 3012 123"));
    assert_eq!(read_bytes(&mut first, 3), b"WF\x01");
    drop(first);
    assert_opens(&read_frame(&mut device.connect()), Entry::Keyed, 1);
}

#[test]
fn slow_bytes_come_one_by_one() {
    let mut device = keypad(&[]);
    let mut host = device.connect();
    device.until_status("peer connected");
    assert_eq!(device.say("slow 5"), "ok slow");
    let start = Instant::now();
    device.say("raw 0102030405060708090A");
    assert_eq!(read_bytes(&mut host, 10), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert!(start.elapsed() >= Duration::from_millis(50));
}

#[test]
fn faults_are_made_as_asked_and_the_next_frame_is_good() {
    let mut device = keypad(&[]);
    let mut host = device.connect();
    assert_eq!(device.say("replay"), "error no frame has been made yet");
    device.say(&format!("key {PAN} 3012 123"));
    let sent = read_frame(&mut host);

    assert_eq!(device.say("replay"), "ok frame 68 bytes counter 1");
    assert_eq!(read_frame(&mut host), sent);

    assert_eq!(device.say("flip-last 67 80"), "ok frame 68 bytes counter 1");
    let mut flipped = sent.clone();
    flipped[67] ^= 0x80;
    assert_eq!(read_frame(&mut host), flipped);
    assert_eq!(device.say("flip-last 68"), "error byte 68 lies beyond the frame of 68 bytes; nothing was sent");

    assert_eq!(device.say("flip 40"), "ok flip");
    device.say(&format!("key {PAN} 3012 123"));
    let changed = read_frame(&mut host);
    device.say("replay");
    let mut good = read_frame(&mut host);
    assert_opens(&good, Entry::Keyed, 2);
    good[40] ^= 1;
    assert_eq!(changed, good);

    assert_eq!(device.say("cut 10"), "ok cut");
    assert_eq!(device.say(&format!("key {PAN} 3012 123")), "ok frame 10 bytes counter 3");
    assert_eq!(read_bytes(&mut host, 10).len(), 10);

    assert_eq!(device.say("skip 1000"), "ok skip 1000 next 1004");
    assert_eq!(device.say("garbage 17"), "ok garbage 17 bytes");
    assert_eq!(read_bytes(&mut host, 17).len(), 17);
    device.say(&format!("key {PAN} 3012 123"));
    assert_opens(&read_frame(&mut host), Entry::Keyed, 1004);
}

#[test]
fn published_outputs_are_played_exactly() {
    let mut device = Device::start(&[&TDES, ["--format", "magtek-keyboard"].as_slice()].concat());
    let mut host = device.connect();
    let augusta = record("device_output", "dev-idtech-enh-augusta");
    let augusta = text(&augusta, "raw_hex");
    assert_eq!(device.say(&format!("raw {augusta}")), "ok raw 312 bytes");
    assert_eq!(hex::encode_upper(read_bytes(&mut host, 312)), augusta);
    let hogan = record("device_output", "dev-magtek-kb-hogan");
    let line = format!("{}\r", text(&hogan, "raw_text"));
    device.say(&format!("raw text:{}\\r", text(&hogan, "raw_text")));
    assert_eq!(read_bytes(&mut host, line.len()), line.as_bytes());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("line");
    std::fs::write(&file, &line).unwrap();
    device.say(&format!("raw @{}", file.display()));
    assert_eq!(read_bytes(&mut host, line.len()), line.as_bytes());
}

#[test]
fn nothing_typed_wrong_comes_back() {
    let mut device = keypad(&["--json"]);
    for line in
        ["key 4929310987651234", "4929310987651234", "key 4929310987651234x 3012", "key 4929310987651234 3012 73911"]
    {
        let answer: Value = serde_json::from_str(&device.say(line)).unwrap();
        let error = answer["error"].as_str().unwrap();
        assert!(!error.contains("4929") && !error.contains("73911"), "{error}");
    }
}

#[test]
fn answers_in_json_carry_the_same_facts() {
    let mut device = keypad(&["--json", "--name", "kp-7"]);
    let mut ask = |line: &str| -> Value { serde_json::from_str(&device.say(line)).unwrap() };
    let frame = ask(&format!("key {PAN} 3012 123"));
    assert_eq!(frame, serde_json::json!({"ok": "frame", "bytes": 68, "counter": 1}));
    let status = ask("status");
    assert_eq!(status["name"], "kp-7");
    assert_eq!(status["device"], "123456789012345600000000");
    assert_eq!(status["next"], 2);
    assert_eq!(status["connected"], false);
    assert_eq!(status["waiting"], 1);
}

#[test]
fn a_device_ends_with_its_commands_once_everything_is_delivered() {
    let mut device = keypad(&[]);
    device.say(&format!("key {PAN} 3012 123"));
    device.hush();
    assert_opens(&read_frame(&mut device.connect()), Entry::Keyed, 1);
    assert!(device.ended().success());
}

#[test]
fn a_serial_device_ends_only_after_its_last_frame_was_read() {
    let mut device = keypad(&["--listen", "pty"]);
    device.say(&format!("key {PAN} 3012 123"));
    device.hush();
    assert_opens(&read_frame(&mut open_serial(&device)), Entry::Keyed, 1);
    assert!(device.ended().success());
}

#[test]
fn a_device_told_to_stay_outlives_its_commands_and_a_signal_ends_it() {
    let mut device = keypad(&["--stay"]);
    device.say(&format!("key {PAN} 3012 123"));
    device.hush();
    assert_opens(&read_frame(&mut device.connect()), Entry::Keyed, 1);
    assert!(TcpStream::connect(device.address.strip_prefix("tcp:").unwrap()).is_ok());
    assert!(device.is_running());
    let start = Instant::now();
    device.signal(Signal::TERM);
    assert!(device.ended().success());
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn quit_ends_it_at_once() {
    let mut device = keypad(&[]);
    device.say(&format!("key {PAN} 3012 123"));
    assert_eq!(device.say("quit"), "ok quit");
    assert!(device.ended().success());
}

#[test]
fn quit_waits_two_seconds_for_a_host_that_does_not_read() {
    let mut device = keypad(&[]);
    let _host = device.connect();
    device.until_status("peer connected");
    device.say("slow 1000");
    device.say(&format!("key {PAN} 3012 123"));
    let start = Instant::now();
    device.say("quit");
    assert!(device.ended().success());
    assert!((Duration::from_secs(1)..Duration::from_secs(5)).contains(&start.elapsed()));
}

#[test]
fn a_device_whose_commands_cannot_be_read_fails() {
    let folder = tempfile::tempdir().unwrap();
    let mut device = keypad(&["--script", folder.path().to_str().unwrap()]);
    assert_eq!(device.ended().code(), Some(1));
}

#[test]
fn a_script_is_done_line_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, format!("# two cards\n\nkey {PAN} 3012 123\nskip 1\nswipe {PAN} 3012\n")).unwrap();
    let mut device = keypad(&["--script", script.to_str().unwrap()]);
    let mut host = device.connect();
    assert_opens(&read_frame(&mut host), Entry::Keyed, 1);
    assert_opens(&read_frame(&mut host), Entry::Swiped, 3);
    assert_eq!(device.answer(), "ok frame 68 bytes counter 1");
    assert_eq!(device.answer(), "ok skip 1 next 3");
    assert_eq!(device.answer(), "ok frame 132 bytes counter 3");
    assert!(device.ended().success());
}

#[test]
fn what_cannot_be_a_device_does_not_start() {
    let refused = |arguments: &[&str]| Device::try_start(arguments).err().unwrap();
    assert!(refused(&["--scheme", "aes", "--ksn", "1234567890123456"]).contains("a new device needs a key"));
    assert!(refused(&[&AES, ["--format", "idtech-binary"].as_slice()].concat()).contains("needs TDES DUKPT"));
    assert!(refused(&[&AES, ["--key-bits", "256"].as_slice()].concat()).contains("--key-bits"));
    assert!(refused(&[&AES, ["--format", "nothing"].as_slice()].concat()).contains("one of: native"));
    assert!(refused(&["--scheme", "aes", "--bdk", "00", "--ksn", "1234567890123456"]).contains("--bdk"));
    assert!(refused(&["--scheme", "tdes", "--bdk", TDES_BDK, "--ksn", "12"]).contains("--ksn"));
}
