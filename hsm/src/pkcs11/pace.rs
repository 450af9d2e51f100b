//! How fast a slot is: each operation of the service by itself, and whole frames in several sessions at once. With public
//! test keys, as [`super::trial`].

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cryptoki_sys::{CKA_DECRYPT, CKA_ENCRYPT, CKA_SIGN, CKA_VALUE, CKK_AES, CKK_GENERIC_SECRET};
use warifu_core::dukpt::aes::DerivationData;
use warifu_core::key::{KeyLen, KeyUsage};
use warifu_core::ksn::AesKsn;

use super::mac::MacCheck;
use super::mechanism::Mechanism;
use super::session::{HsmSession, SessionObject};
use super::slot::Slot;
use super::template::{Attribute, Exposure, Life, aes_session_key, secret_key};
use super::{derive, provision, self_test, sign};
use crate::HsmError;
use crate::doctor::Timing;

/// Times each operation is made.
const TIMES: usize = 200;
/// For how long frames are opened in so many sessions.
const SPELL: Duration = Duration::from_millis(500);
/// A device whose keys nobody uses.
const KSN: AesKsn = AesKsn::new([0x12, 0x34, 0x56, 0x78, 0x90, 0x12, 0x34, 0x56, 0, 0, 0, 0]);
/// What a keyed card comes to on the wire: three blocks.
const SEALED: [u8; 48] = [0; 48];

/// Keys of one session to measure with.
struct Keys {
    bdk: SessionObject,
    way: MacCheck,
    mac: SessionObject,
    fingerprint: SessionObject,
    vault: SessionObject,
    data: SessionObject,
}

impl Keys {
    fn make(session: &HsmSession) -> Result<Self, HsmError> {
        let key = |key_type, uses: &[u64]| {
            let mut template = secret_key(key_type, Life::Session, Exposure::Never, uses).to_vec();
            template.push(Attribute::bytes(CKA_VALUE, &[0x0B; 32]));
            session.create(&template).map(|handle| session.own(handle))
        };
        let way = MacCheck::of(session)?;
        Ok(Self {
            way,
            bdk: self_test::test_bdk(session, &self_test::test_key(KeyLen::K128))?,
            mac: key(CKK_AES, &[way.purpose()])?,
            fingerprint: key(CKK_GENERIC_SECRET, &[CKA_SIGN])?,
            vault: key(CKK_AES, &[CKA_ENCRYPT, CKA_DECRYPT])?,
            data: key(CKK_AES, &[CKA_DECRYPT])?,
        })
    }

    fn derive(&self, session: &HsmSession, counter: u32) -> Result<SessionObject, HsmError> {
        let data = DerivationData::node(KeyLen::K128, KSN.ik_id(), counter);
        let template = aes_session_key(KeyLen::K128, Exposure::Never, &[cryptoki_sys::CKA_DERIVE]);
        let derived = session.derive(Mechanism::AesEcbEncryptData(data.blocks()), *self.bdk, &template)?;
        Ok(session.own(derived))
    }

    /// What the next frame of a known device asks for in `hardware` mode: a node, the MAC, the card, its fingerprint.
    fn open_a_frame(&self, session: &HsmSession, counter: u32) -> Result<(), HsmError> {
        let node = self.derive(session, counter)?;
        let ksn = KSN.with_counter(counter);
        let working_key = |usage, purpose| derive::working_key(session, *node, &ksn, usage, KeyLen::K128, purpose);
        let mac_key = working_key(KeyUsage::MacGeneration, self.way.purpose())?;
        self.way.check(session, *mac_key, &SEALED, &[0; 16])?;
        let data_key = working_key(KeyUsage::DataEncryption, CKA_DECRYPT)?;
        session.decrypt(Mechanism::AesCbc(&[0; 16]), *data_key, &SEALED, &mut [0; 48])?;
        session.sign(Mechanism::Sha256Hmac, *self.fingerprint, b"4012345678909", &mut [0; 32])?;
        drop((node, mac_key, data_key));
        session.sweep()
    }
}

/// Each operation by itself, in one session.
pub(crate) fn operations(slot: &Slot) -> Result<Vec<Timing>, HsmError> {
    let session = slot.plain_session()?;
    let timings = time_each(&session);
    let swept = session.sweep();
    let timings = timings?;
    swept.map(|()| timings)
}

fn time_each(session: &HsmSession) -> Result<Vec<Timing>, HsmError> {
    let keys = Keys::make(session)?;
    let (public, private) = provision::signing_session_pair(session)?;
    let (_public, private) = (session.own(public), session.own(private));
    let gcm = Mechanism::AesGcm { nonce: &[0; 12], aad: &[] };
    let timings = vec![
        time("derive a key, destroy it", || {
            drop(keys.derive(session, 1)?);
            session.sweep()
        })?,
        time("verify a MAC", || keys.way.check(session, *keys.mac, &SEALED, &[0; 16]).map(drop))?,
        time("decrypt 48 bytes", || {
            session.decrypt(Mechanism::AesCbc(&[0; 16]), *keys.data, &SEALED, &mut [0; 48]).map(drop)
        })?,
        time("fingerprint", || session.sign(Mechanism::Sha256Hmac, *keys.fingerprint, b"4012345678909", &mut [0; 32]))?,
        time("seal a card number", || session.encrypt(gcm, *keys.vault, &[0; 16], &mut [0; 32]))?,
        time("sign", || sign::sign(session, *private, b"warifu").map(drop))?,
        time("64 random bytes", || session.generate_random(&mut [0; 64]))?,
        time("the next frame of a known device", || keys.open_a_frame(session, 1))?,
    ];
    Ok(timings)
}

fn time(operation: &'static str, mut make: impl FnMut() -> Result<(), HsmError>) -> Result<Timing, HsmError> {
    // The first ones may load something.
    for _ in 0..TIMES / 10 {
        make()?;
    }
    let mut times = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        let begun = Instant::now();
        make()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(Timing { operation, median: times[TIMES / 2], p99: times[TIMES * 99 / 100] })
}

/// Frames a second, opened in so many sessions at once, each on a thread of its own.
pub(crate) fn frames_a_second(slot: &Slot, sessions: usize) -> Result<f64, HsmError> {
    let (ready, over) = (Barrier::new(sessions), AtomicBool::new(false));
    let opened = thread::scope(|scope| {
        let threads: Vec<_> = (0..sessions).map(|_| scope.spawn(|| open_frames(slot, &ready, &over))).collect();
        let counted = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or(Err(HsmError::SelfTest("it made a thread of this program panic"))));
        counted.collect::<Vec<_>>()
    });
    opened.into_iter().sum()
}

/// One thread's share. Whoever fails does not keep the others waiting.
fn open_frames(slot: &Slot, ready: &Barrier, over: &AtomicBool) -> Result<f64, HsmError> {
    let made = slot.plain_session().and_then(|session| {
        let keys = Keys::make(&session)?;
        keys.open_a_frame(&session, 1)?;
        Ok((session, keys))
    });
    ready.wait();
    let (session, keys) = made?;
    let begun = Instant::now();
    let mut frames = 0_u32;
    let mut outcome = Ok(());
    while outcome.is_ok() && begun.elapsed() < SPELL && !over.load(Ordering::Relaxed) {
        frames += 1;
        outcome = keys.open_a_frame(&session, frames);
    }
    if outcome.is_err() {
        over.store(true, Ordering::Relaxed);
    }
    let rate = f64::from(frames) / begun.elapsed().as_secs_f64();
    drop(keys);
    outcome.and(session.sweep()).map(|()| rate)
}
