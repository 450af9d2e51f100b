//! What a sealed frame opens to: one card, as typed, swiped or dipped.
//!
//! [`AccountData`] is a secret made of secrets. It knows nothing of keys and ciphers: it takes the clear
//! sections of a frame, proves that they are card data and not the noise of a wrong key, and checks that all
//! that was sent of the card agrees: the tracks with each other, and with what the device showed in clear.
//!
//! The native clear bodies, before ISO/IEC 7816-4 padding:
//!
//! | entry | body |
//! |---|---|
//! | keyed | ASCII `PAN=YYMM=`, then the security code if there is one |
//! | swiped | track 1 `%...?`, track 2 `;...?`, or both in this order, without LRC characters |
//! | dipped | BER-TLV with 5A or 57, or both; 5F24, 5F20, 5F34 and further EMV data |

mod chip;
mod keyed;
mod padding;
mod stripe;

pub use padding::{pad_7816, unpad_7816};

use zeroize::Zeroize;

use crate::card::{CardError, Expiry, Pan, SecurityCode};
use crate::frame::{Entry, SealedFrame, Section, SectionKind, Shown};
use crate::secret::SecretBytes;

/// One card in clear. A secret.
///
/// ```compile_fail
/// fn print(card: &warifu_core::account_data::AccountData) {
///     println!("{card:?}"); // Account data has no Debug.
/// }
/// ```
pub struct AccountData {
    pan: Pan,
    expiry: Option<Expiry>,
    entry: Entry,
    service_code: Option<[u8; 3]>,
    security_code: Option<SecurityCode>,
    name: Option<SecretBytes>,
    track1: Option<Track>,
    track2: Option<Track>,
    track3: Option<Track>,
    chip: Option<SecretBytes>,
}

/// A track as the reader read it, and where its end sentinel is.
struct Track {
    read: SecretBytes,
    end: usize,
}

/// Clear sections that are no card. Constant texts: nothing of the input is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountDataError {
    /// No sentinel, wrong LRC character, wrong padding, fill that is not empty: most likely the wrong key.
    #[error("the frame opens to noise: it was sealed under another key, or changed on the way")]
    Noise,
    /// Clear text of the right kind that is no card data.
    #[error("the frame opens to malformed card data")]
    Malformed,
    /// Two tracks, or a track and its mask, of different cards.
    #[error("the parts of the frame do not belong to one card")]
    Mismatch,
    /// A number, date or code that is none.
    #[error("the frame opens to an impossible card: {0}")]
    Card(#[from] CardError),
    /// Not one clear section for each of the frame, or not of its length: a fault of the caller.
    #[error("the clear sections are not those of the frame")]
    Sections,
}

/// What is known of the card so far: filled section by section, each new part checked against the rest.
#[derive(Default)]
struct Draft {
    pan: Option<Pan>,
    expiry: Option<Expiry>,
    service_code: Option<[u8; 3]>,
    security_code: Option<SecurityCode>,
    name: Option<SecretBytes>,
    track1: Option<Track>,
    track2: Option<Track>,
    track3: Option<Track>,
    chip: Option<SecretBytes>,
}

impl AccountData {
    /// Opens the clear sections of a frame: in the order of [`SealedFrame::sections`], each the whole
    /// decrypted ciphertext with its padding or fill.
    pub fn open(frame: &SealedFrame, sections: &[SecretBytes]) -> Result<Self, AccountDataError> {
        let described = frame.sections();
        let same_length = |(section, clear): (&Section, &SecretBytes)| section.ciphertext.len() == clear.len();
        if described.len() != sections.len() || !described.iter().zip(sections).all(same_length) {
            return Err(AccountDataError::Sections);
        }
        let mut draft = Draft::default();
        for (section, clear) in described.iter().zip(sections) {
            draft.read(frame, section, clear.expose())?;
        }
        draft.finish(frame)
    }

    /// The card number.
    pub fn pan(&self) -> &Pan {
        &self.pan
    }

    /// The expiry date, if the card or the clerk gave one.
    pub fn expiry(&self) -> Option<Expiry> {
        self.expiry
    }

    /// The security code, if it was keyed.
    pub fn security_code(&self) -> Option<&SecurityCode> {
        self.security_code.as_ref()
    }

    /// The three digits of the service code, if a track or chip gave one.
    pub fn service_code(&self) -> Option<[u8; 3]> {
        self.service_code
    }

    /// The cardholder's name as on the card, without the blanks behind it.
    pub fn cardholder_name(&self) -> Option<&[u8]> {
        self.name.as_ref().map(SecretBytes::expose)
    }

    /// Track 1 from start to end sentinel.
    pub fn track1(&self) -> Option<&[u8]> {
        self.track1.as_ref().map(Track::between_sentinels)
    }

    /// Track 2 from start to end sentinel.
    pub fn track2(&self) -> Option<&[u8]> {
        self.track2.as_ref().map(Track::between_sentinels)
    }

    /// Track 3 from start to end sentinel, where the device encrypted it.
    pub fn track3(&self) -> Option<&[u8]> {
        self.track3.as_ref().map(Track::between_sentinels)
    }

    /// Tracks 1, 2 and 3 as the reader read them: with the LRC character where it sent one.
    pub fn tracks_as_read(&self) -> [Option<&[u8]>; 3] {
        [&self.track1, &self.track2, &self.track3].map(|track| track.as_ref().map(|track| track.read.expose()))
    }

    /// The chip's data for the acquirer, as BER-TLV.
    pub fn chip(&self) -> Option<&[u8]> {
        self.chip.as_ref().map(SecretBytes::expose)
    }

    /// How the card came in.
    pub fn entry(&self) -> Entry {
        self.entry
    }
}

impl Drop for AccountData {
    fn drop(&mut self) {
        // Everything else wipes itself.
        self.expiry.zeroize();
        self.service_code.zeroize();
    }
}

impl Track {
    fn between_sentinels(&self) -> &[u8] {
        self.read.expose().get(..self.end).unwrap_or_default()
    }
}

impl Draft {
    fn read(&mut self, frame: &SealedFrame, section: &Section, clear: &[u8]) -> Result<(), AccountDataError> {
        if section.kind == SectionKind::Native {
            let body = unpad_7816(clear, frame.key().block_len())?;
            return match frame.entry() {
                Entry::Keyed => self.read_keyed(body),
                Entry::Swiped => self.read_native_stripe(body),
                Entry::Dipped => self.read_chip(body),
            };
        }
        let (meant, fill) = clear.split_at_checked(section.clear_len).ok_or(AccountDataError::Sections)?;
        // Readers fill the last block with zeros; an unauthenticated frame is held to it.
        if fill.iter().any(|byte| *byte != 0) {
            return Err(AccountDataError::Noise);
        }
        // Where a reader does not say how long the text is, the fill is in it still. No text ends in a zero.
        let filled = meant.iter().rev().take(frame.key().block_len() - 1).take_while(|byte| **byte == 0).count();
        let meant = meant.get(..meant.len() - filled).unwrap_or_default();
        match section.kind {
            SectionKind::Native => Err(AccountDataError::Sections),
            SectionKind::Track1 => self.read_track1(meant),
            SectionKind::Track2 if frame.entry() == Entry::Keyed => self.read_keyed_track(meant),
            SectionKind::Track2 => self.read_track2(meant),
            // In a keyed frame the place of track 3 holds address data, which nobody here asks for.
            SectionKind::Track3 if frame.entry() == Entry::Keyed => Ok(()),
            SectionKind::Track3 => self.read_track3(meant),
            SectionKind::JoinedTracks { track1_len, track2_len } => {
                self.read_joined_tracks(meant, [track1_len, track2_len])
            }
            SectionKind::Keyed => self.read_keyed(meant),
        }?;
        self.agrees_with(section.shown)
    }

    /// Takes a card number, or checks that it is the one known already.
    fn take_pan(&mut self, digits: &[u8]) -> Result<(), AccountDataError> {
        let pan = Pan::parse(digits)?;
        if self.pan.as_ref().is_some_and(|known| !known.ct_eq(&pan)) {
            return Err(AccountDataError::Mismatch);
        }
        self.pan = Some(pan);
        Ok(())
    }

    /// Takes an expiry date, or checks that it is the one known already.
    fn take_expiry(&mut self, yymm: &[u8]) -> Result<(), AccountDataError> {
        let expiry = Expiry::parse_yymm(yymm)?;
        if self.expiry.is_some_and(|known| known != expiry) {
            return Err(AccountDataError::Mismatch);
        }
        self.expiry = Some(expiry);
        Ok(())
    }

    fn agrees_with(&self, shown: Shown) -> Result<(), AccountDataError> {
        let other_pan = matches!((&shown.pan, &self.pan), (Some(mask), Some(pan)) if !mask.agrees_with(pan));
        let other_expiry = matches!((shown.expiry, self.expiry), (Some(shown), Some(read)) if shown != read);
        if other_pan || other_expiry { Err(AccountDataError::Mismatch) } else { Ok(()) }
    }

    fn finish(self, frame: &SealedFrame) -> Result<AccountData, AccountDataError> {
        Ok(AccountData {
            pan: self.pan.ok_or(AccountDataError::Malformed)?,
            expiry: self.expiry,
            entry: frame.entry(),
            service_code: self.service_code,
            security_code: self.security_code,
            name: self.name,
            track1: self.track1,
            track2: self.track2,
            track3: self.track3,
            chip: self.chip,
        })
    }
}
