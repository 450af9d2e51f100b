//! The life of a key in custody: which state it is in, where it may be used, and how it is told from another key
//! without showing it.
//!
//! States are those of NIST SP 800-57 part 1 §7; "compromised" is `deactivated` here, with its reason in the audit log.

use std::fmt;

use crate::cipher::{aes_cbc_encrypt, tdes_cbc_encrypt};
use crate::key::{KeyBytes, KeyLen};
use crate::ksn::Scheme;
use crate::mac::aes_cmac;

/// Where a key is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// In the slot, not yet used.
    PreActive,
    /// In use: frames of its devices are opened.
    Active,
    /// Stopped for now.
    Suspended,
    /// Stopped for good: expired, replaced or compromised. It still exists.
    Deactivated,
    /// It does not exist any more.
    Destroyed,
}

/// A move the life of a key does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key that is {} cannot become {}; it can become: {}", from.name(), to.name(), names(from.next()))]
pub struct IllegalMove {
    /// Where it is.
    pub from: State,
    /// Where it should have gone.
    pub to: State,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::PreActive, Self::Active, Self::Suspended, Self::Deactivated, Self::Destroyed];

    /// Its name in the registry.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PreActive => "pre-active",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deactivated => "deactivated",
            Self::Destroyed => "destroyed",
        }
    }

    /// The inverse of [`State::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Where it can go from here. A key that was in use is destroyed only after it was taken out of use for good, so
    /// that nobody destroys by mistake what devices still encrypt under.
    pub const fn next(self) -> &'static [Self] {
        match self {
            Self::PreActive => &[Self::Active, Self::Destroyed],
            Self::Active => &[Self::Suspended, Self::Deactivated],
            Self::Suspended => &[Self::Active, Self::Deactivated],
            Self::Deactivated => &[Self::Destroyed],
            Self::Destroyed => &[],
        }
    }

    /// Moves, if the life of a key has that move.
    pub fn become_state(self, to: Self) -> Result<Self, IllegalMove> {
        if self.next().contains(&to) { Ok(to) } else { Err(IllegalMove { from: self, to }) }
    }
}

fn names(states: &[State]) -> String {
    match states {
        [] => "nothing".to_owned(),
        _ => states.iter().map(|state| state.name()).collect::<Vec<_>>().join(", "),
    }
}

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A base derivation key: devices' keys come from it.
    Bdk,
    /// A key block protection key: what leaves for another party is sealed under it.
    Kbpk,
}

impl Purpose {
    /// Its name in the registry.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bdk => "bdk",
            Self::Kbpk => "kbpk",
        }
    }

    /// What tells a key of this purpose, whose bytes are at hand, from every other one.
    ///
    /// # Panics
    /// As [`KeyProof::tdes`].
    pub fn proof(self, scheme: Scheme, key: &KeyBytes) -> KeyProof {
        match self {
            Self::Bdk => KeyProof::of(scheme, key),
            Self::Kbpk => KeyProof::kbpk(key),
        }
    }

    /// The inverse of [`Purpose::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Bdk, Self::Kbpk].into_iter().find(|purpose| purpose.name() == name)
    }
}

/// Where a key, and a server, belong. They are never mixed: a key that was ever on a test bench protects nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Environment {
    /// Test cards only.
    Test,
    /// Real cards.
    Live,
}

impl Environment {
    /// Its name in configuration and registry.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Live => "live",
        }
    }

    /// The inverse of [`Environment::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Test, Self::Live].into_iter().find(|environment| environment.name() == name)
    }
}

/// The second form of a TDES base derivation key, xor `C0C0C0C000000000C0C0C0C000000000`: it gives the right half of an
/// initial key (X9.24-1:2009 A.6).
///
/// # Panics
/// If the key has not 16 bytes, which the caller knows by its type.
pub fn masked_tdes_bdk(bdk: &KeyBytes) -> KeyBytes {
    const MASK: [u8; 16] = [0xC0, 0xC0, 0xC0, 0xC0, 0, 0, 0, 0, 0xC0, 0xC0, 0xC0, 0xC0, 0, 0, 0, 0];
    assert_eq!(bdk.key_len(), KeyLen::K128, "a TDES base derivation key has 16 bytes");
    KeyBytes::filled(KeyLen::K128, |bytes| {
        bytes.iter_mut().zip(bdk.expose()).zip(MASK).for_each(|((byte, key), mask)| *byte = key ^ mask);
    })
}

/// Bytes of a [`KeyProof`].
pub const PROOF_LEN: usize = 16;
/// What a check key is derived with. DUKPT's own derivation data begin with 01 (X9.24-3:2017 §6.3.2), so no key of
/// a device is ever derived with these.
pub const AES_PROOF_DATA: [u8; 16] = *b"warifu key check";
/// What is encrypted under both forms of a TDES base derivation key. No initial key is made of it: a key serial number
/// ends in five zero bits there (X9.24-1:2009 A.6), these bytes do not.
pub const TDES_PROOF_DATA: [u8; 8] = *b"warifu/k";

/// What a key block protection key, whose work is making CMACs, makes one of. The keys of blocks come from eight bytes
/// that begin with a counter (X9.143:2021 7.2), never from these.
pub const KBPK_PROOF_DATA: [u8; 16] = *b"warifu kbpk chk.";

/// Tells a base derivation key from every other one, and can be computed by a slot whose key may do nothing but its
/// work, which the usual check value cannot: that would need a key which also encrypts or signs.
///
/// AES: a check key is derived from [`AES_PROOF_DATA`] as DUKPT derives; the CMAC of a block of zeros under it. TDES:
/// [`TDES_PROOF_DATA`] encrypted under one form of the key and the other. A protection key: its CMAC of
/// [`KBPK_PROOF_DATA`]. It is as long as a MAC because nobody has to type it, and somebody might search for a key of his own
/// with the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyProof(pub [u8; PROOF_LEN]);

impl KeyProof {
    /// Of a base derivation key whose bytes are at hand.
    ///
    /// # Panics
    /// As [`KeyProof::tdes`].
    pub fn of(scheme: Scheme, bdk: &KeyBytes) -> Self {
        match scheme {
            Scheme::Aes => Self::aes(bdk),
            Scheme::Tdes => Self::tdes(bdk),
        }
    }

    /// Of an AES base derivation key whose bytes are at hand.
    pub fn aes(bdk: &KeyBytes) -> Self {
        let check_key = KeyBytes::filled(KeyLen::K128, |bytes| {
            bytes.copy_from_slice(&AES_PROOF_DATA);
            aes_cbc_encrypt(bdk, &[0; 16], bytes).expect("one whole block");
        });
        Self(aes_cmac(&check_key, &[0; 16]))
    }

    /// Of a TDES base derivation key whose bytes are at hand.
    ///
    /// # Panics
    /// If it has not 16 bytes, which the caller knows by its type.
    pub fn tdes(bdk: &KeyBytes) -> Self {
        let [left, right] = [bdk, &masked_tdes_bdk(bdk)].map(|key| {
            let mut block = TDES_PROOF_DATA;
            tdes_cbc_encrypt(key, &[0; 8], &mut block).expect("one whole block under a key of 16 bytes");
            block
        });
        Self::of_tdes_blocks(&left, &right)
    }

    /// Of a key block protection key whose bytes are at hand.
    pub fn kbpk(kbpk: &KeyBytes) -> Self {
        Self(aes_cmac(kbpk, &KBPK_PROOF_DATA))
    }

    /// From the two blocks of a TDES key.
    pub fn of_tdes_blocks(left: &[u8; 8], right: &[u8; 8]) -> Self {
        let mut proof = [0; PROOF_LEN];
        proof[..8].copy_from_slice(left);
        proof[8..].copy_from_slice(right);
        Self(proof)
    }

    /// Reads its hex digits, of either case.
    pub fn parse(text: &str) -> Option<Self> {
        let mut proof = [0; PROOF_LEN];
        if text.len() != 2 * PROOF_LEN {
            return None;
        }
        for (byte, digits) in proof.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            for digit in digits {
                *byte = *byte << 4 | u8::try_from(char::from(*digit).to_digit(16)?).ok()?;
            }
        }
        Some(Self(proof))
    }
}

impl fmt::Display for KeyProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

impl fmt::Debug for KeyProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyProof({self})")
    }
}

/// Keys that were published in standards, manuals and samples, which anybody can therefore have. A live server refuses them
/// whatever they are registered as.
pub fn is_published(purpose: Purpose, scheme: Scheme, len: KeyLen, proof: KeyProof) -> bool {
    const KNOWN: [u128; 8] = [
        // X9.24-1 and every sample of TDES DUKPT.
        0x0123_4567_89AB_CDEF_FEDC_BA98_7654_3210,
        // X9.24-3:2017 annex B.
        0xFEDC_BA98_7654_3210_F1F1_F1F1_F1F1_F1F1,
        // What people type: counting, in bytes and in nibbles, and one byte again and again.
        0x0001_0203_0405_0607_0809_0A0B_0C0D_0E0F,
        0x0102_0304_0506_0708_090A_0B0C_0D0E_0F10,
        0x0123_4567_89AB_CDEF_0123_4567_89AB_CDEF,
        0x1111_1111_1111_1111_1111_1111_1111_1111,
        0,
        u128::MAX,
    ];
    // Those of X9.143 and TR-31.
    const BLOCKS: [&[u8]; 3] = [
        &[0x89, 0xE8, 0x8C, 0xF7, 0x93, 0x14, 0x44, 0xF3, 0x34, 0xBD, 0x75, 0x47, 0xFC, 0x3F, 0x38, 0x0C],
        &[0xDD, 0x75, 0x15, 0xF2, 0xBF, 0xC1, 0x7F, 0x85, 0xCE, 0x48, 0xF3, 0xCA, 0x25, 0xCB, 0x21, 0xF6],
        &[
            0x88, 0xE1, 0xAB, 0x2A, 0x2E, 0x3D, 0xD3, 0x8C, 0x1F, 0xA3, 0xD0, 0x24, 0x16, 0x1D, 0x25, 0x31, 0x70, 0x6A,
            0xC3, 0x3E, 0x3B, 0xAC, 0x46, 0xE2, 0x08, 0xDD, 0x4E, 0xF4, 0x21, 0x42, 0x71, 0xC5,
        ],
    ];
    // Short ones are repeated for the longer lengths, as X9.24-3 does.
    let of = |known: &[u8]| {
        let key = KeyBytes::filled(len, |bytes| {
            bytes.iter_mut().zip(known.iter().cycle()).for_each(|(byte, known)| *byte = *known);
        });
        purpose.proof(scheme, &key)
    };
    // The longer keys of FIPS 197, and the same from one on: they count on.
    let counting = [0_u8, 1].map(|from| (from..from + 32).collect::<Vec<_>>());
    KNOWN.iter().any(|known| of(&known.to_be_bytes()) == proof)
        || BLOCKS.iter().any(|known| of(known) == proof)
        || counting.iter().any(|known| of(known) == proof)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8, len: KeyLen) -> KeyBytes {
        KeyBytes::filled(len, |bytes| bytes.iter_mut().zip(seed..).for_each(|(byte, value)| *byte = value))
    }

    #[test]
    fn a_destroyed_key_never_comes_back_and_an_active_one_is_not_destroyed() {
        assert!(State::ALL.iter().all(|to| State::Destroyed.become_state(*to).is_err()));
        let error = State::Active.become_state(State::Destroyed).expect_err("not a move");
        assert_eq!(
            error.to_string(),
            "a key that is active cannot become destroyed; it can become: suspended, deactivated"
        );
    }

    #[test]
    fn names_read_back() {
        assert!(State::ALL.iter().all(|state| State::from_name(state.name()) == Some(*state)));
        let proof = KeyProof::aes(&key(1, KeyLen::K256));
        assert_eq!(KeyProof::parse(&proof.to_string()), Some(proof));
        assert_eq!(KeyProof::parse(&proof.to_string().to_lowercase()), Some(proof));
        for wrong in
            ["", "00", "0011223344556677", "00112233445566778899AABBCCDDEEFG", "ÄÖ112233445566778899AABBCCDDEE"]
        {
            assert_eq!(KeyProof::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_proof_tells_keys_lengths_and_schemes_apart() {
        let aes = [KeyLen::K128, KeyLen::K192, KeyLen::K256].map(|len| KeyProof::aes(&key(1, len)));
        let all = [aes[0], aes[1], aes[2], KeyProof::aes(&key(2, KeyLen::K128)), KeyProof::tdes(&key(1, KeyLen::K128))];
        for (at, one) in all.iter().enumerate() {
            assert!(all.iter().skip(at + 1).all(|other| other != one));
        }
    }

    /// Made with OpenSSL: `enc -aes-128-ecb` of the data, then `mac CMAC` of sixteen zeros; `enc -des-ede` twice.
    #[test]
    fn proofs_agree_with_another_implementation() {
        let bdk = KeyBytes::copied(&hex::decode("0123456789ABCDEFFEDCBA9876543210").unwrap()).unwrap();
        assert_eq!(KeyProof::aes(&bdk).to_string(), "1108D47E1E1F8D0A0AB86FAB33EE39BE");
        assert_eq!(KeyProof::tdes(&bdk).to_string(), "16833F54A423990AEFD49921908F4502");
        assert_eq!(KeyProof::kbpk(&bdk).to_string(), "947222B558D56339996677C99477EB9A");
    }

    #[test]
    fn published_keys_are_known_for_each_purpose_and_length() {
        let digits = "0123456789ABCDEFFEDCBA98765432100123456789ABCDEFFEDCBA9876543210";
        for len in [KeyLen::K128, KeyLen::K192, KeyLen::K256] {
            let known = KeyBytes::copied(&hex::decode(digits).unwrap()[..len.bytes()]).unwrap();
            for purpose in [Purpose::Bdk, Purpose::Kbpk] {
                assert!(is_published(purpose, Scheme::Aes, len, purpose.proof(Scheme::Aes, &known)));
                assert!(!is_published(purpose, Scheme::Aes, len, purpose.proof(Scheme::Aes, &key(7, len))));
                for counting in [0, 1] {
                    assert!(is_published(purpose, Scheme::Aes, len, purpose.proof(Scheme::Aes, &key(counting, len))));
                }
                let zeros = KeyBytes::filled(len, |_| ());
                assert!(is_published(purpose, Scheme::Aes, len, purpose.proof(Scheme::Aes, &zeros)));
            }
        }
        let known = KeyBytes::copied(&hex::decode(&digits[..32]).unwrap()).unwrap();
        assert!(is_published(Purpose::Bdk, Scheme::Tdes, KeyLen::K128, KeyProof::tdes(&known)));
    }
}
