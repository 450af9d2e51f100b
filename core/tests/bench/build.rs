//! Builds device outputs the public samples do not show, from the layouts their makers document.

use warifu_core::cipher::{aes_cbc_encrypt, tdes_cbc_encrypt};
use warifu_core::frame::FrameKey;
use warifu_core::key::TdesKey;
use warifu_core::ksn::TdesKsn;
use warifu_core::track::Number;

use super::{TEST_BDK, tdes_key};

/// The key serial number of every output built here.
pub(crate) const KSN: [u8; 10] = [0x62, 0x99, 0x49, 0, 0, 0x0B, 0, 0xC0, 0x01, 0x23];
/// The card in every output built here.
pub(crate) const TRACK1: &[u8] = b"%B4111111111111111^DERIVED/TEST^25121010000000000000?";
pub(crate) const TRACK2: &[u8] = b";4111111111111111=25121010000000000?";
pub(crate) const TRACK3: &[u8] = b";014111111111111111=7247240000000?";

/// A track and its LRC character as ID TECH readers mask them: first and last four digits, separators, name.
pub(crate) fn mask(track: &[u8]) -> Vec<u8> {
    let (head, visible): (&[u8], &[u8]) = match track[0] {
        b'%' => (b"%*4111********1111^DERIVED/TEST^", b"^?"),
        _ => (b";4111********1111=", b"=?"),
    };
    let masked = track[head.len()..].iter().map(|c| if visible.contains(c) { *c } else { b'*' });
    head.iter().copied().chain(masked).chain([b'*']).collect()
}

/// How an ID TECH output is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writing {
    Binary,
    UpperHex,
    LowerHex,
}

impl Writing {
    pub(crate) const ALL: [Self; 3] = [Self::Binary, Self::UpperHex, Self::LowerHex];

    fn bytes(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Binary => bytes.to_vec(),
            Self::UpperHex => hex::encode_upper(bytes).into_bytes(),
            Self::LowerHex => hex::encode(bytes).into_bytes(),
        }
    }
}

/// A part of the card data.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// Bytes, which are hex digits in text.
    Bytes(Vec<u8>),
    /// Characters in either writing.
    Characters(Vec<u8>),
}

pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Part {
    Part::Bytes(bytes.into())
}

pub(crate) fn characters(text: impl Into<Vec<u8>>) -> Part {
    Part::Characters(text.into())
}

/// An ID TECH frame around its card data.
pub(crate) fn idtech(writing: Writing, parts: &[Part]) -> Vec<u8> {
    let data: Vec<u8> = parts
        .iter()
        .flat_map(|part| match part {
            Part::Bytes(bytes) => writing.bytes(bytes),
            Part::Characters(text) => text.clone(),
        })
        .collect();
    let len = u16::try_from(data.len()).unwrap().to_le_bytes();
    let lrc = data.iter().fold(0, |lrc, byte| lrc ^ byte);
    let sum = data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    [writing.bytes(&[2, len[0], len[1]]), data, writing.bytes(&[lrc, sum, 3])].concat()
}

/// A NEO envelope around a binary frame.
pub(crate) fn vivotech(frame: &[u8]) -> Vec<u8> {
    let len = u16::try_from(frame.len()).unwrap().to_be_bytes();
    let objects = [&[0xE8, 0xDF, 0xEE, 0x23, 0x82, len[0], len[1]], frame, &[0x9F, 0x39, 1, 0x90]].concat();
    let len = u16::try_from(objects.len()).unwrap().to_be_bytes();
    let mut envelope = [b"ViVOtech2\0\x02\0", &len[..], &objects].concat();
    let crc = crc16(&envelope).to_be_bytes();
    envelope.extend(crc);
    envelope
}

/// A track with its LRC character.
pub(crate) fn with_lrc(number: Number, track: &[u8]) -> Vec<u8> {
    [track, &[number.lrc(track)]].concat()
}

/// Seals a text under a key of the transaction, filled with zeros.
pub(crate) fn seal(key: FrameKey, clear: &[u8]) -> Vec<u8> {
    let ksn = TdesKsn::new(KSN);
    let mut sealed = clear.to_vec();
    sealed.resize(clear.len().next_multiple_of(key.block_len()), 0);
    match key {
        FrameKey::Tdes(key) => tdes_cbc_encrypt(&tdes_key(TEST_BDK, &ksn, key), &[0; 8], &mut sealed).unwrap(),
        FrameKey::TdesAsAes(key) => aes_cbc_encrypt(&tdes_key(TEST_BDK, &ksn, key), &[0; 16], &mut sealed).unwrap(),
        FrameKey::Aes(_) => panic!("vendors' frames are TDES DUKPT"),
    }
    sealed
}

/// The CRC of MagTek lines and NEO envelopes, bit by bit.
pub(crate) fn crc16(bytes: &[u8]) -> u16 {
    let mut crc = 0xFFFFu16;
    for byte in bytes {
        for bit in (0..8).rev() {
            let carry = crc >> 15 == 1;
            crc <<= 1;
            if carry != (byte >> bit & 1 == 1) {
                crc ^= 0x1021;
            }
        }
    }
    crc
}

/// A MagneSafe line, with further fields behind the KSN.
pub(crate) fn magtek_line(masks: &str, status: &str, tracks: [&[u8]; 3], behind_ksn: &[&str]) -> String {
    let [t1, t2, t3] = tracks.map(hex::encode_upper);
    let mut fields = vec![masks, status, &t1, &t2, &t3, "A1050000", "", "B0C2472", "0000000000000000"];
    let ksn = hex::encode_upper(KSN);
    fields.push(&ksn);
    fields.extend(behind_ksn);
    let mut line = fields.join("|") + "|";
    let crc = crc16(line.as_bytes()).to_le_bytes();
    line += &hex::encode_upper(crc);
    line + "||0000"
}

/// What a MagneSafe report holds of one track.
#[derive(Clone, Default)]
pub(crate) struct ReportTrack {
    pub(crate) decode_status: u8,
    pub(crate) clear_len: u8,
    pub(crate) encrypted: Vec<u8>,
    pub(crate) masked: Vec<u8>,
}

/// A MagneSafe report of 856 bytes.
pub(crate) fn magtek_report(status: u16, tracks: &[ReportTrack; 3]) -> Vec<u8> {
    let mut report = vec![0; 856];
    for (place, track) in tracks.iter().enumerate() {
        report[place] = track.decode_status;
        report[3 + place] = u8::try_from(track.encrypted.len()).unwrap();
        report[505 + place] = u8::try_from(track.masked.len()).unwrap();
        report[852 + place] = track.clear_len;
        let area = place * 112;
        report[7 + area..][..track.encrypted.len()].copy_from_slice(&track.encrypted);
        report[508 + area..][..track.masked.len()].copy_from_slice(&track.masked);
    }
    report[344..348].copy_from_slice(&[0xA1, 5, 0, 0]);
    report[348] = 0x38;
    report[349..405].fill(0x5A);
    report[477..485].copy_from_slice(b"B0C24720");
    report[493..495].copy_from_slice(&status.to_be_bytes());
    report[495..505].copy_from_slice(&KSN);
    report
}

/// A report as a reader under encryption sends it.
pub(crate) fn good_report(key: TdesKey) -> Vec<u8> {
    let track = |clear: &[u8], masked: &[u8]| ReportTrack {
        decode_status: 0,
        clear_len: u8::try_from(clear.len()).unwrap(),
        encrypted: seal(FrameKey::Tdes(key), clear),
        masked: masked.to_vec(),
    };
    let tracks = [
        track(TRACK1, b"%B4111000010001111^DERIVED/TEST^25120000000000000000?"),
        track(TRACK2, b";4111000010001111=25120000000000000?"),
        ReportTrack::default(),
    ];
    magtek_report(0x0006, &tracks)
}

/// The bits and parts of an enhanced frame.
#[derive(Clone, Debug)]
pub(crate) struct Enhanced {
    pub(crate) encode_type: u8,
    pub(crate) status: u8,
    pub(crate) options: Option<Vec<u8>>,
    pub(crate) masks: [Option<Vec<u8>>; 3],
    pub(crate) tracks: [Option<Vec<u8>>; 3],
    pub(crate) key: FrameKey,
    pub(crate) field8: u8,
    pub(crate) field9: u8,
    pub(crate) session_id: bool,
    pub(crate) hash_len: usize,
    pub(crate) behind_ksn: Vec<u8>,
}

impl Default for Enhanced {
    /// Tracks 1 and 2, masked and encrypted, hashes, serial number and KSN.
    fn default() -> Self {
        Self {
            encode_type: 0x80,
            status: 0x1F,
            options: None,
            masks: [Some(mask(TRACK1)), Some(mask(TRACK2)), None],
            tracks: [Some(with_lrc(Number::One, TRACK1)), Some(with_lrc(Number::Two, TRACK2)), None],
            key: FrameKey::Tdes(TdesKey::DataRequest),
            field8: 0x80,
            field9: 0x98,
            session_id: false,
            hash_len: 20,
            behind_ksn: Vec::new(),
        }
    }
}

impl Enhanced {
    /// The whole frame. Mask and track bits are set for the parts that are there.
    pub(crate) fn write(&self, writing: Writing) -> Vec<u8> {
        let present = |parts: &[Option<Vec<u8>>; 3]| {
            parts.iter().enumerate().fold(0, |bits, (place, part)| bits | u8::from(part.is_some()) << place)
        };
        for (mask, track) in self.masks.iter().zip(&self.tracks) {
            assert!(mask.iter().zip(track).all(|(mask, track)| mask.len() == track.len()), "a mask of another length");
        }
        let len = |place: usize| {
            let part = self.tracks[place].as_ref().or(self.masks[place].as_ref());
            u8::try_from(part.map_or(0, Vec::len)).unwrap()
        };
        let session = u8::from(self.session_id) << 6;
        let mut parts = vec![raw([
            self.encode_type,
            self.status | u8::from(self.options.is_some()) << 6,
            len(0),
            len(1),
            len(2),
            self.field8 | present(&self.masks),
            self.field9 | present(&self.tracks) | session,
        ])];
        if let Some(options) = &self.options {
            parts.push(raw([&[u8::try_from(options.len()).unwrap()], &options[..]].concat()));
        }
        parts.extend(self.masks.iter().flatten().map(|mask| characters(mask.clone())));
        parts.extend(self.tracks.iter().flatten().map(|track| raw(seal(self.key, track))));
        parts.extend(self.session_id.then(|| raw([0x77; 8])));
        let hashes = (self.field9 >> 3 & 7).count_ones();
        parts.extend((0..hashes).map(|_| raw(vec![0; self.hash_len])));
        parts.extend((self.field8 & 0x80 != 0).then(|| raw(*b"T134000064")));
        parts.extend((self.field9 & 0x80 != 0).then(|| raw(KSN)));
        parts.push(raw(self.behind_ksn.clone()));
        idtech(writing, &parts)
    }
}
