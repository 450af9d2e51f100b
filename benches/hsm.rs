//! A frame opened on SoftHSM: what each decryption mode costs, with the device's tree kept and without. And a card number
//! sealed anew, of which a rotation makes one for each token.
//!
//! SoftHSM is a test tool; what carries over to another module is the number of calls, which is printed first.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench that cannot go on must fail, and says what it saw"
)]
#![allow(unsafe_code, reason = "the environment is set once for SoftHSM, which takes its configuration from it")]
#![allow(missing_docs, reason = "criterion's main function")]

#[path = "../hsm/tests/support/mod.rs"]
mod support;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use support::device::Device;
use support::slot;
use warifu_core::card::Pan;
use warifu_core::frame::SealedFrame;
use warifu_core::merchant::MerchantId;
use warifu_core::token::Token;
use warifu_hsm::pkcs11::provision::VaultKeys;
use warifu_hsm::pkcs11::{Slot, SlotConfig};
use warifu_hsm::{BdkSpec, DecryptionMode, Hsm, VaultGeneration};

/// Devices of a large processor, all in use.
const DEVICES: u16 = 10_000;
/// Nodes enough for all of them.
const NODES: usize = 100_000;

/// Eight one-bits, about what a random legal counter has.
const FAR_COUNTER: u32 = 0x0001_5555;

/// Of each device in turn its next counter.
fn in_turn(spec: &BdkSpec) -> impl FnMut() -> SealedFrame + use<> {
    let mut devices: Vec<_> = (0..DEVICES).map(|serial| (Device::new(spec, serial), 0)).collect();
    let (scheme, mut turn) = (spec.scheme, 0);
    move || {
        turn = (turn + 1) % devices.len();
        let (device, counter) = &mut devices[turn];
        *counter = scheme.next_counter(*counter).map_or(1, |next| next.get());
        device.frame(*counter)
    }
}

fn consecutive(spec: &BdkSpec) -> impl FnMut() -> SealedFrame + use<> {
    let device = Device::new(spec, 1);
    let scheme = spec.scheme;
    let mut counter = 0;
    move || {
        // A bench may outlive the million counters of one TDES device: start again.
        counter = scheme.next_counter(counter).map_or(1, |next| next.get());
        device.frame(counter)
    }
}

fn measure(
    c: &mut Criterion,
    slot: &Slot,
    kept: &str,
    specs: &[BdkSpec],
    first: usize,
    frames: impl Fn(&BdkSpec) -> Box<dyn FnMut() -> SealedFrame>,
) {
    let mut group = c.benchmark_group(format!("SoftHSM: open a frame, {kept}"));
    group.throughput(Throughput::Elements(1));
    for spec in specs {
        let mut hsm = slot.session(std::slice::from_ref(spec)).expect("the slot is open");
        let mut next = frames(spec);
        // The first frames fill the cache.
        for _ in 0..first {
            hsm.open(&spec.id, &next()).expect("a good frame");
        }
        hsm.take_calls();
        for _ in 0..64 {
            hsm.open(&spec.id, &next()).expect("a good frame");
        }
        let calls = hsm.take_calls();
        println!("{}, {kept}, 64 frames: {calls}", spec.id);
        group.bench_function(spec.id.as_str(), |b| {
            b.iter_batched_ref(
                &mut next,
                |frame| hsm.open(&spec.id, frame).expect("a good frame"),
                BatchSize::SmallInput,
            );
        });
        // What the module's own calls take of that, where there are any: keys kept on the host need none.
        if calls.total() == 0 {
            continue;
        }
        group.bench_function(format!("{}, its calls alone", spec.id.as_str()), |b| {
            b.iter_custom(|frames| {
                hsm.take_time();
                for _ in 0..frames {
                    hsm.open(&spec.id, &next()).expect("a good frame");
                }
                hsm.take_time()
            });
        });
    }
    group.finish();
}

fn open_a_frame(c: &mut Criterion) {
    let slot = slot::shared();
    measure(c, &slot, "tree kept, consecutive counters", &slot::specs(), 3, |spec| Box::new(consecutive(spec)));
    drop(slot);
    let keeps_nothing = SlotConfig { cache_nodes: 1, ..slot::config(slot::SHARED) };
    let slot = Slot::open(keeps_nothing).expect("the slot opens again");
    measure(c, &slot, "nothing kept, 8 one-bits", &slot::specs(), 3, |spec| {
        let devices = [Device::new(spec, 1), Device::new(spec, 2)];
        let mut turn = 0usize;
        // Two devices in turn: not even the initial key stays.
        Box::new(move || {
            turn += 1;
            devices[turn % 2].frame(FAR_COUNTER)
        })
    });
    drop(slot);
    let keeps_all = SlotConfig { cache_nodes: NODES, ..slot::config(slot::SHARED) };
    let slot = Slot::open(keeps_all).expect("the slot opens again");
    let hardware: Vec<_> = slot::specs().into_iter().filter(|spec| spec.mode == DecryptionMode::Hardware).collect();
    let first = 2 * usize::from(DEVICES);
    measure(c, &slot, "tree kept, 10 000 devices in turn", &hardware[..1], first, |spec| Box::new(in_turn(spec)));
}

/// What a rotation of the vault does with each token.
fn seal_anew(c: &mut Criterion) {
    let slot = slot::shared();
    let (old, new) = (VaultGeneration::FIRST, VaultGeneration::FIRST.next());
    VaultKeys::create(&slot, new).expect("the slot makes keys");
    let mut hsm = slot.session(&[]).expect("the slot is open");
    let [from, to] = [old, new].map(|generation| hsm.create_vault_key(generation).expect("a vault key"));
    let (shop, pan) = (MerchantId::parse("shop-1").unwrap(), Pan::parse(b"4012888888881881").unwrap());
    let token = (0_u64..).find_map(|number| Token::draw(number.to_be_bytes(), None)).unwrap();
    let sealed = hsm.seal(&from, &shop, &token, &pan).expect("a sealed card number");
    let mut group = c.benchmark_group("SoftHSM: seal a card number anew");
    group.throughput(Throughput::Elements(1));
    hsm.take_calls();
    hsm.reseal(&from, &to, &shop, &token, &sealed).expect("it opens");
    println!("seal anew: {}", hsm.take_calls());
    group.bench_function("reseal", |b| b.iter(|| hsm.reseal(&from, &to, &shop, &token, &sealed).expect("it opens")));
    group.bench_function("reseal, its calls alone", |b| {
        b.iter_custom(|cards| {
            hsm.take_time();
            for _ in 0..cards {
                hsm.reseal(&from, &to, &shop, &token, &sealed).expect("it opens");
            }
            hsm.take_time()
        });
    });
    group.finish();
}

criterion_group!(benches, open_a_frame, seal_anew);
criterion_main!(benches);
