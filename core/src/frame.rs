//! What leaves a device: ciphertext, the key serial number that opens it, and a MAC where the device makes one.
//!
//! A [`SealedFrame`] is what every reader format parses to, and all an HSM needs to open it. It holds only
//! what was on the wire, so it may be printed, stored and cloned.
//!
//! The native format, version 1, all integers big-endian:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 2 | `WF` |
//! | 2 | 1 | version, 01 |
//! | 3 | 1 | suite: 01 AES-128, 02 AES-192, 03 AES-256, 10 TDES |
//! | 4 | 1 | entry: 01 keyed, 02 swiped, 03 dipped |
//! | 5 | 1 | reserved, 00 |
//! | 6 | 2 | length n of the ciphertext, 1 to 32 whole cipher blocks |
//! | 8 | k | KSN: 12 bytes (AES), 10 (TDES) |
//! | 8+k | n | ciphertext: CBC, zero IV (the key is used for this one message), ISO/IEC 7816-4 padding |
//! | 8+k+n | m | MAC over all bytes before it: AES-CMAC, 16 bytes; TDES retail MAC (X9.19), 8 bytes |
//!
//! AES suites use the data-encryption (3000) and MAC-generation (2000) working keys of the suite's length;
//! TDES uses the data-request and MAC-request keys.

use std::ops::Range;

use crate::card::{Expiry, MaskedPan};
use crate::key::{KeyLen, TdesKey};
use crate::ksn::{AesKsn, Ksn, TdesKsn};

/// First two bytes of a native frame.
pub const MAGIC: [u8; 2] = *b"WF";
/// The native version this build reads and writes.
pub const VERSION: u8 = 1;
/// Bytes before the KSN.
pub const HEADER_LEN: usize = 8;
/// Longest ciphertext, in cipher blocks.
pub const MAX_BLOCKS: usize = 32;

/// How the card came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// Typed on a keypad.
    Keyed,
    /// Magnetic stripe.
    Swiped,
    /// Contact chip.
    Dipped,
}

/// Which keys a frame was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKey {
    /// AES DUKPT working keys of this length; data under usage 3000, MAC under 2000.
    Aes(KeyLen),
    /// This key of the TDES transaction, as TDES-CBC.
    Tdes(TdesKey),
    /// This 16-byte key of the TDES transaction, used as an AES-128 key (some ID TECH readers).
    TdesAsAes(TdesKey),
}

impl FrameKey {
    /// Cipher block length in bytes.
    pub const fn block_len(self) -> usize {
        match self {
            Self::Aes(_) | Self::TdesAsAes(_) => 16,
            Self::Tdes(_) => 8,
        }
    }
}

/// What a section of ciphertext opens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SectionKind {
    /// The native body: its form follows from [`Entry`], padded by ISO/IEC 7816-4.
    Native,
    /// Track 1, from `%` to `?` or the LRC character.
    Track1,
    /// Track 2, from `;` to `?` or the LRC character.
    Track2,
    /// Track 3.
    Track3,
    /// Tracks 1, 2 and 3 after each other in one message; those of length zero are not there. What is left behind
    /// track 2 is track 3.
    JoinedTracks {
        /// Clear length of track 1.
        track1_len: usize,
        /// Clear length of track 2.
        track2_len: usize,
    },
    /// `PAN=YYMM=[CVV]`.
    Keyed,
}

/// One CBC message with a zero IV.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it opens to.
    pub kind: SectionKind,
    /// Where its ciphertext lies in the frame's bytes; a whole number of cipher blocks.
    pub ciphertext: Range<usize>,
    /// How many bytes of the clear text are meant; the rest is fill.
    pub clear_len: usize,
    /// What the device shows of the card beside it: what comes out must agree with it.
    pub shown: Shown,
}

/// What a device shows of a card in clear, no more than anybody may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The masked number.
    pub pan: Option<MaskedPan>,
    /// The expiry date.
    pub expiry: Option<Expiry>,
}

/// The MAC of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameMac {
    /// AES-CMAC under the MAC-generation key, the last 16 bytes over all before them.
    AesCmac,
    /// X9.19 retail MAC under the MAC-request key, the last 8 bytes over all before them.
    Retail,
}

#[allow(clippy::len_without_is_empty, reason = "no MAC is empty")]
impl FrameMac {
    /// Length of the MAC in bytes.
    pub const fn tag_len(self) -> usize {
        match self {
            Self::AesCmac => 16,
            Self::Retail => 8,
        }
    }
}

/// One device output, parsed and not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedFrame {
    bytes: Vec<u8>,
    ksn: Ksn,
    entry: Entry,
    key: FrameKey,
    sections: Vec<Section>,
    mac: Option<FrameMac>,
}

/// Bytes that are no frame. Constant texts: nothing of the input is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than the frame says, or than the shortest frame has.
    #[error("the frame ends too early")]
    Truncated,
    /// Bytes after the end.
    #[error("the frame is longer than its own length says")]
    Trailing,
    /// Not the start of the format.
    #[error("the frame does not start as this format does")]
    Start,
    /// A version this build does not read.
    #[error("frame version {0} is not known")]
    Version(u8),
    /// A suite, entry or reserved byte out of its list.
    #[error("the frame header has an unknown value")]
    Header,
    /// Ciphertext that is no whole number of blocks, or too long.
    #[error("the ciphertext length is not possible")]
    CiphertextLength,
    /// A check character, sum or CRC of the vendor's format is wrong.
    #[error("the frame's check value is wrong")]
    Check,
    /// The frame carries card data in clear: refused, never processed.
    #[error("the frame carries card data in clear")]
    Clear,
    /// The frame has nothing to open.
    #[error("the frame carries no ciphertext")]
    Empty,
    /// The frame has no key serial number.
    #[error("the frame carries no key serial number")]
    NoKsn,
    /// The frame uses a feature this build does not open (fixed key, RSA, session id...).
    #[error("the frame uses an unsupported feature")]
    Unsupported,
}

impl SealedFrame {
    /// Puts a frame together; used by the parsers of each format. Every section must lie inside `bytes`,
    /// be a whole number of blocks, not empty, and no shorter than its clear length.
    pub fn assemble(
        bytes: Vec<u8>,
        ksn: Ksn,
        entry: Entry,
        key: FrameKey,
        sections: Vec<Section>,
        mac: Option<FrameMac>,
    ) -> Result<Self, FrameError> {
        if sections.is_empty() {
            return Err(FrameError::Empty);
        }
        let whole = |section: &Section| {
            let length = section.ciphertext.len();
            length > 0
                && length.is_multiple_of(key.block_len())
                && section.clear_len <= length
                && section.ciphertext.end <= bytes.len()
        };
        if !sections.iter().all(whole) || mac.is_some_and(|mac| bytes.len() <= mac.tag_len()) {
            return Err(FrameError::CiphertextLength);
        }
        Ok(Self { bytes, ksn, entry, key, sections, mac })
    }

    /// Parses a native frame.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        let [m0, m1, version, suite, entry, reserved, n0, n1, ..] = *bytes else {
            return Err(FrameError::Truncated);
        };
        if [m0, m1] != MAGIC {
            return Err(FrameError::Start);
        }
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let key = suite_key(suite).ok_or(FrameError::Header)?;
        let entry = Entry::from_code(entry).ok_or(FrameError::Header)?;
        if reserved != 0 {
            return Err(FrameError::Header);
        }
        let clear_len = usize::from(u16::from_be_bytes([n0, n1]));
        if clear_len == 0 || !clear_len.is_multiple_of(key.block_len()) || clear_len > MAX_BLOCKS * key.block_len() {
            return Err(FrameError::CiphertextLength);
        }
        let (ksn_len, mac) = match key {
            FrameKey::Aes(_) => (12, FrameMac::AesCmac),
            FrameKey::Tdes(_) | FrameKey::TdesAsAes(_) => (10, FrameMac::Retail),
        };
        let start = HEADER_LEN + ksn_len;
        let total = start + clear_len + mac.tag_len();
        match bytes.len() {
            len if len < total => return Err(FrameError::Truncated),
            len if len > total => return Err(FrameError::Trailing),
            _ => {}
        }
        let ksn_bytes = &bytes[HEADER_LEN..start];
        let ksn = match key {
            FrameKey::Aes(_) => AesKsn::parse(ksn_bytes).map(Ksn::Aes),
            FrameKey::Tdes(_) | FrameKey::TdesAsAes(_) => TdesKsn::parse(ksn_bytes).map(Ksn::Tdes),
        }
        .map_err(|_| FrameError::NoKsn)?;
        let shown = Shown::default();
        let section = Section { kind: SectionKind::Native, ciphertext: start..start + clear_len, clear_len, shown };
        Self::assemble(bytes.to_vec(), ksn, entry, key, vec![section], Some(mac))
    }

    /// Which device and transaction.
    pub fn ksn(&self) -> Ksn {
        self.ksn
    }

    /// How the card came in.
    pub fn entry(&self) -> Entry {
        self.entry
    }

    /// Which keys open it.
    pub fn key(&self) -> FrameKey {
        self.key
    }

    /// The messages in it, in the order the device wrote them.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The ciphertext of one of its sections.
    pub fn ciphertext(&self, section: &Section) -> &[u8] {
        &self.bytes[section.ciphertext.clone()]
    }

    /// What is covered by the MAC, and the MAC, if the device makes one.
    pub fn mac(&self) -> Option<(FrameMac, &[u8], &[u8])> {
        let mac = self.mac?;
        let (covered, tag) = self.bytes.split_at(self.bytes.len() - mac.tag_len());
        Some((mac, covered, tag))
    }

    /// The bytes as they came.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The header, KSN and length of a native frame before its ciphertext: what a device writes first.
pub fn native_header(key_len: Option<KeyLen>, entry: Entry, ksn: &Ksn, ciphertext_len: u16) -> Vec<u8> {
    let suite = match key_len {
        Some(KeyLen::K128) => 0x01,
        Some(KeyLen::K192) => 0x02,
        Some(KeyLen::K256) => 0x03,
        None => 0x10,
    };
    let [n0, n1] = ciphertext_len.to_be_bytes();
    let mut header = Vec::with_capacity(HEADER_LEN + 12 + usize::from(ciphertext_len) + 16);
    header.extend([MAGIC[0], MAGIC[1], VERSION, suite, entry.code(), 0, n0, n1]);
    header.extend(ksn.bytes());
    header
}

fn suite_key(suite: u8) -> Option<FrameKey> {
    Some(match suite {
        0x01 => FrameKey::Aes(KeyLen::K128),
        0x02 => FrameKey::Aes(KeyLen::K192),
        0x03 => FrameKey::Aes(KeyLen::K256),
        0x10 => FrameKey::Tdes(TdesKey::DataRequest),
        _ => return None,
    })
}

impl Entry {
    /// The byte of the native header.
    pub const fn code(self) -> u8 {
        match self {
            Self::Keyed => 1,
            Self::Swiped => 2,
            Self::Dipped => 3,
        }
    }

    /// The inverse of [`Entry::code`].
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Keyed),
            2 => Some(Self::Swiped),
            3 => Some(Self::Dipped),
            _ => None,
        }
    }

    /// Its lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keyed => "keyed",
            Self::Swiped => "swiped",
            Self::Dipped => "dipped",
        }
    }
}
