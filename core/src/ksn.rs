//! Key serial numbers and their counters: which device, which transaction.
//!
//! A KSN is public. Parsing accepts any well-shaped KSN; [`Ksn::counter`] tells whether its counter is one
//! a conforming device can send.

use std::fmt;

/// An AES DUKPT key serial number: 8-byte initial key id, 32-bit counter (X9.24-3:2017 6.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AesKsn([u8; 12]);

/// A TDES DUKPT key serial number, left-padded to 10 bytes with `FF`: key set and device id,
/// then a 21-bit counter (X9.24-1:2009 A.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TdesKsn([u8; 10]);

/// Either kind.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ksn {
    /// AES DUKPT.
    Aes(AesKsn),
    /// TDES DUKPT.
    Tdes(TdesKsn),
}

/// Which DUKPT a key or frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// ANSI X9.24-3.
    Aes,
    /// ANSI X9.24-1.
    Tdes,
}

/// Bits of a TDES counter.
const TDES_COUNTER_MASK: u32 = 0x001F_FFFF;
/// Most one-bits of a legal TDES counter (X9.24-1:2009 A.3).
const TDES_MAX_ONES: u32 = 10;
/// Most one-bits of a legal AES counter (X9.24-3:2017 6.2).
const AES_MAX_ONES: u32 = 16;

/// A counter some conforming device can send. Whoever holds one holds a usable one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Counter(u32);

/// A counter no conforming device sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CounterError {
    /// Counter 0 belongs to the initial key.
    #[error("counter 0 belongs to the initial key, not to a transaction")]
    Zero,
    /// More one-bits than the scheme allows: a conforming device skips it.
    #[error("counter {counter:#X} has {ones} one-bits, more than the {allowed} a device may use")]
    TooManyOnes {
        /// The counter.
        counter: u32,
        /// How many of its bits are one.
        ones: u32,
        /// How many may be.
        allowed: u32,
    },
    /// Wider than the 21 bits of a TDES counter.
    #[error("counter {0:#X} is wider than the 21 bits of a TDES counter")]
    TooWide(u32),
}

/// Bytes that are no KSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KsnError {
    /// AES DUKPT has 12 bytes.
    #[error("an AES DUKPT key serial number has 12 bytes, not {0}")]
    AesLength(usize),
    /// TDES DUKPT has 8 to 10 bytes.
    #[error("a TDES DUKPT key serial number has 8 to 10 bytes, not {0}")]
    TdesLength(usize),
}

impl Scheme {
    /// Most one-bits a legal counter has.
    pub const fn max_ones(self) -> u32 {
        match self {
            Self::Aes => AES_MAX_ONES,
            Self::Tdes => TDES_MAX_ONES,
        }
    }

    /// Largest counter value.
    pub const fn max_counter(self) -> u32 {
        match self {
            Self::Aes => u32::MAX,
            Self::Tdes => TDES_COUNTER_MASK,
        }
    }

    /// The next counter a conforming device uses after `counter`, or `None` when the device is exhausted.
    ///
    /// While there are too many ones, adding the lowest one-bit skips every illegal value at once
    /// (X9.24-3:2017 6.5).
    pub fn next_counter(self, counter: u32) -> Option<Counter> {
        let mut next = counter.checked_add(1)?;
        while next.count_ones() > self.max_ones() {
            next = next.checked_add(next & next.wrapping_neg())?;
        }
        (next <= self.max_counter()).then_some(Counter(next))
    }
}

impl Counter {
    /// Checks a raw counter against the rules of its scheme.
    pub fn new(scheme: Scheme, raw: u32) -> Result<Self, CounterError> {
        let ones = raw.count_ones();
        match raw {
            0 => Err(CounterError::Zero),
            _ if raw > scheme.max_counter() => Err(CounterError::TooWide(raw)),
            _ if ones > scheme.max_ones() => {
                Err(CounterError::TooManyOnes { counter: raw, ones, allowed: scheme.max_ones() })
            }
            _ => Ok(Self(raw)),
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl AesKsn {
    /// Takes the 12 bytes.
    pub const fn new(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    /// Parses 12 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, KsnError> {
        bytes.try_into().map(Self).map_err(|_| KsnError::AesLength(bytes.len()))
    }

    /// The AES parts of a 10-byte KSN, as hosts of the older kind send it: its low 21 bits are the counter; the whole
    /// with its counter cleared, less its last 20 bits, is the initial key id.
    pub fn from_ksn80(bytes: &[u8; 10]) -> Self {
        let legacy = TdesKsn(*bytes);
        let wide = legacy.with_counter(0).0.iter().fold(0u128, |number, byte| number << 8 | u128::from(*byte));
        let [.., a, b, c, d, e, f, g, h] = (wide >> 20).to_be_bytes();
        Self([a, b, c, d, e, f, g, h, 0, 0, 0, 0]).with_counter(legacy.raw_counter())
    }

    /// The initial key id: 4-byte BDK id, 4-byte derivation id.
    pub fn ik_id(&self) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        [a, b, c, d, e, f, g, h]
    }

    /// The counter as sent, legal or not.
    pub fn raw_counter(&self) -> u32 {
        let [.., a, b, c, d] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }

    /// The same device at another counter.
    pub fn with_counter(&self, counter: u32) -> Self {
        let mut bytes = self.0;
        bytes[8..].copy_from_slice(&counter.to_be_bytes());
        Self(bytes)
    }

    /// The 12 bytes.
    pub const fn bytes(&self) -> &[u8; 12] {
        &self.0
    }
}

impl TdesKsn {
    /// Takes the 10 bytes.
    pub const fn new(bytes: [u8; 10]) -> Self {
        Self(bytes)
    }

    /// Parses 8 to 10 bytes, padding short ones with `FF` on the left.
    pub fn parse(bytes: &[u8]) -> Result<Self, KsnError> {
        if !(8..=10).contains(&bytes.len()) {
            return Err(KsnError::TdesLength(bytes.len()));
        }
        let mut padded = [0xFF; 10];
        padded[10 - bytes.len()..].copy_from_slice(bytes);
        Ok(Self(padded))
    }

    /// The counter as sent, legal or not: the low 21 bits.
    pub fn raw_counter(&self) -> u32 {
        let [.., a, b, c] = self.0;
        u32::from_be_bytes([0, a, b, c]) & TDES_COUNTER_MASK
    }

    /// The same device at another counter (its low 21 bits).
    pub fn with_counter(&self, counter: u32) -> Self {
        let mut bytes = self.0;
        let [_, a, b, c] = (counter & TDES_COUNTER_MASK).to_be_bytes();
        bytes[7] = (bytes[7] & 0xE0) | a;
        bytes[8] = b;
        bytes[9] = c;
        Self(bytes)
    }

    /// The 10 bytes.
    pub const fn bytes(&self) -> &[u8; 10] {
        &self.0
    }
}

impl Ksn {
    /// Parses a KSN of a known scheme.
    pub fn parse(scheme: Scheme, bytes: &[u8]) -> Result<Self, KsnError> {
        match scheme {
            Scheme::Aes => AesKsn::parse(bytes).map(Self::Aes),
            Scheme::Tdes => TdesKsn::parse(bytes).map(Self::Tdes),
        }
    }

    /// Which DUKPT.
    pub const fn scheme(&self) -> Scheme {
        match self {
            Self::Aes(_) => Scheme::Aes,
            Self::Tdes(_) => Scheme::Tdes,
        }
    }

    /// The counter as sent, legal or not.
    pub fn raw_counter(&self) -> u32 {
        match self {
            Self::Aes(ksn) => ksn.raw_counter(),
            Self::Tdes(ksn) => ksn.raw_counter(),
        }
    }

    /// The counter, if a conforming device can have sent it.
    pub fn counter(&self) -> Result<Counter, CounterError> {
        Counter::new(self.scheme(), self.raw_counter())
    }

    /// The KSN with its counter cleared: the same for every frame of one device.
    pub fn device(&self) -> Self {
        match self {
            Self::Aes(ksn) => Self::Aes(ksn.with_counter(0)),
            Self::Tdes(ksn) => Self::Tdes(ksn.with_counter(0)),
        }
    }

    /// [`Ksn::device`] as a number no other device has: 64 bits for AES, for TDES 80 below a one.
    pub(crate) fn device_number(&self) -> u128 {
        match self {
            Self::Aes(ksn) => u64::from_be_bytes(ksn.ik_id()).into(),
            Self::Tdes(ksn) => ksn.with_counter(0).0.iter().fold(1, |number, byte| number << 8 | u128::from(*byte)),
        }
    }

    /// The bytes: 12 for AES, 10 for TDES.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Aes(ksn) => ksn.bytes(),
            Self::Tdes(ksn) => ksn.bytes(),
        }
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
}

impl fmt::Display for Ksn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, self.bytes())
    }
}

impl fmt::Debug for Ksn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ksn({self})")
    }
}

impl fmt::Debug for AesKsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for TdesKsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}
