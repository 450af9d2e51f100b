//! Devices on real wires: whole outputs come out, whatever the wire does to them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::fs::File;
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use support::certificates::Certificates;
use support::{SOON, config};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use warifu_sdk::{CommModule, Connection, Device, DeviceError, Format};

/// A module without a server: devices do not need one.
fn module() -> CommModule {
    CommModule::start(config("127.0.0.1:1".parse().unwrap(), &Certificates::new())).unwrap()
}

async fn attach(module: &CommModule, connection: &str) -> Device {
    module.attach(Connection::parse(connection).unwrap(), Format::Native).await.unwrap()
}

/// A well-framed native output of the AES-256 suite whose ciphertext holds every byte value.
fn frame(seed: u8) -> Vec<u8> {
    let mut frame = vec![b'W', b'F', 1, 3, 2, 0, 1, 0];
    frame.extend([seed; 12]);
    frame.extend((0..=255_u8).map(|byte| byte ^ seed));
    frame.extend([seed; 16]);
    frame
}

async fn collect(device: &mut Device) -> Vec<u8> {
    device.collect_waiting(SOON).await.unwrap().as_bytes().to_vec()
}

/// One byte at a time; then noise and two outputs in one piece; then one output in two pieces.
async fn plays_every_trick(mut wire: impl AsyncWrite + Unpin, device: &mut Device) {
    for byte in frame(0x80) {
        wire.write_all(&[byte]).await.unwrap();
        wire.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(collect(device).await, frame(0x80));
    let merged = [&[0, 0xFF, b'W', b'W', b'F', 9][..], &frame(0x81), &frame(0x82)].concat();
    wire.write_all(&merged).await.unwrap();
    assert_eq!(collect(device).await, frame(0x81));
    assert_eq!(collect(device).await, frame(0x82));
    let split = frame(0x83);
    wire.write_all(&split[..100]).await.unwrap();
    wire.flush().await.unwrap();
    let nothing_yet = device.collect_waiting(Duration::from_millis(50)).await;
    assert!(matches!(nothing_yet, Err(DeviceError::NoCard { noise: 0, .. })), "{nothing_yet:?}");
    wire.write_all(&split[100..]).await.unwrap();
    assert_eq!(collect(device).await, split);
}

#[tokio::test]
async fn a_tcp_device_is_read_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let module = module();
    let mut device = attach(&module, &format!("tcp:{}", listener.local_addr().unwrap())).await;
    plays_every_trick(listener.accept().await.unwrap().0, &mut device).await;
}

#[tokio::test]
async fn a_unix_socket_device_is_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kp1.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let module = module();
    let mut device = attach(&module, &format!("unix:{}", path.display())).await;
    plays_every_trick(listener.accept().await.unwrap().0, &mut device).await;
}

/// The device's end of a pty, and the path of the other.
fn pty() -> (File, String) {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let path = ptsname(&controller, Vec::new()).unwrap().into_string().unwrap();
    (File::from(controller), path)
}

/// Unplugged in the same test and then let go at once: a pty that went away may come back as another test's.
#[tokio::test]
async fn a_serial_device_is_read_raw_and_whole_until_it_is_unplugged() {
    let (controller, path) = pty();
    let module = module();
    let mut device = attach(&module, &format!("serial:{path}@115200")).await;
    assert_eq!(device.name(), format!("serial:{path}@115200"));
    // Ends with the controller closed.
    plays_every_trick(tokio::fs::File::from_std(controller), &mut device).await;
    let gone = async {
        while !matches!(device.collect_waiting(Duration::from_millis(5)).await, Err(DeviceError::Gone { .. })) {}
    };
    tokio::time::timeout(SOON, gone).await.expect("the loss is noticed");
}

#[tokio::test]
async fn a_device_that_comes_back_is_read_again_and_its_torn_output_is_not_mixed_in() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let module = module();
    let mut device = attach(&module, &format!("tcp:{}", listener.local_addr().unwrap())).await;
    let (mut wire, _) = listener.accept().await.unwrap();
    wire.write_all(&frame(0x80)[..150]).await.unwrap();
    drop(wire);
    let (mut wire, _) = listener.accept().await.unwrap();
    wire.write_all(&frame(0x81)).await.unwrap();
    assert_eq!(collect(&mut device).await, frame(0x81));
}

#[tokio::test]
async fn an_output_broken_off_is_dropped_after_two_seconds_of_silence() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let module = module();
    let mut device = attach(&module, &format!("tcp:{}", listener.local_addr().unwrap())).await;
    let (mut wire, _) = listener.accept().await.unwrap();
    wire.write_all(&frame(0x80)[..150]).await.unwrap();
    // From here on waiting costs no time.
    tokio::time::pause();
    let broken_off = device.collect_waiting(Duration::from_secs(3)).await.unwrap_err();
    assert!(matches!(broken_off, DeviceError::NoCard { noise: 150, .. }), "{broken_off}");
    assert!(broken_off.to_string().contains("150 bytes came that are no native output"), "{broken_off}");
    wire.write_all(&frame(0x81)).await.unwrap();
    assert_eq!(collect(&mut device).await, frame(0x81));
}

#[tokio::test]
async fn a_wrong_baud_rate_or_format_is_noticed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let module = module();
    let mut device = attach(&module, &format!("tcp:{}", listener.local_addr().unwrap())).await;
    let (mut wire, _) = listener.accept().await.unwrap();
    let babble = tokio::spawn(async move { while wire.write_all(&[0xAA; 4096]).await.is_ok() {} });
    let noise = device.collect_waiting(SOON).await.unwrap_err();
    assert!(matches!(noise, DeviceError::Noise { .. }), "{noise}");
    babble.abort();
}

#[tokio::test]
async fn outputs_nobody_collects_are_bounded_and_can_be_discarded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let module = module();
    let mut device = attach(&module, &format!("tcp:{}", listener.local_addr().unwrap())).await;
    let (mut wire, _) = listener.accept().await.unwrap();
    for seed in 0x80..0x80 + 40 {
        wire.write_all(&frame(seed)).await.unwrap();
    }
    // The first one collected tells that some were dropped, and the newest are kept in order.
    let mut last = Vec::new();
    let mut count = 0;
    while last != frame(0x80 + 39) {
        last = collect(&mut device).await;
        count += 1;
    }
    assert!(count <= 40);
    wire.write_all(&frame(0x01)).await.unwrap();
    wire.write_all(&frame(0x02)).await.unwrap();
    assert_eq!(collect(&mut device).await, frame(0x01));
    device.discard_waiting();
    wire.write_all(&frame(0x03)).await.unwrap();
    let next = collect(&mut device).await;
    assert!(next == frame(0x02) || next == frame(0x03), "an older output came back");
}

#[tokio::test]
async fn an_old_swipe_does_not_pay_a_new_order() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let module = module();
    let mut device = attach(&module, &format!("tcp:{}", listener.local_addr().unwrap())).await;
    let (mut wire, _) = listener.accept().await.unwrap();
    // One write arrives as one piece: when the second is here, so is the third.
    wire.write_all(&[frame(0x81), frame(0x82), frame(0x83)].concat()).await.unwrap();
    assert_eq!(collect(&mut device).await, frame(0x81));
    assert_eq!(collect(&mut device).await, frame(0x82));
    let old = device.collect(Duration::from_millis(50)).await;
    assert!(matches!(old, Err(DeviceError::NoCard { .. })), "{old:?}");
    let show = async { wire.write_all(&frame(0x84)).await.unwrap() };
    let (new, ()) = tokio::join!(device.collect(SOON), show);
    assert_eq!(new.unwrap().as_bytes(), frame(0x84));
}

#[tokio::test]
async fn a_device_that_is_not_there_cannot_be_attached_and_the_wire_stays_free() {
    let module = module();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("late.sock");
    let connection = format!("unix:{}", path.display());
    let parsed = Connection::parse(&connection).unwrap();
    for _ in 0..2 {
        let error = module.attach(parsed.clone(), Format::Native).await.err().unwrap();
        assert!(matches!(error, DeviceError::CannotOpen { .. }), "{error}");
    }
    let _listener = UnixListener::bind(&path).unwrap();
    attach(&module, &connection).await;
}
