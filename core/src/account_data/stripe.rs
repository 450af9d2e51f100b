//! A card swiped: its tracks in clear.

use super::{AccountDataError, Draft, Track};
use crate::secret::SecretBytes;
use crate::track::{Framed, Number, Track1, Track2, TrackError};

impl Draft {
    /// Track 1 and track 2 behind each other, each ended by its end sentinel; either may be missing.
    pub(super) fn read_native_stripe(&mut self, body: &[u8]) -> Result<(), AccountDataError> {
        let end = body.iter().position(|c| *c == b'?').ok_or(AccountDataError::Noise)?;
        let (first, second) = body.split_at_checked(end + 1).ok_or(AccountDataError::Noise)?;
        match (first, second) {
            ([b'%', ..], []) => self.read_track1(first),
            ([b'%', ..], _) => {
                self.read_track1(first)?;
                self.read_track2(second)
            }
            ([b';', ..], []) => self.read_track2(first),
            _ => Err(AccountDataError::Malformed),
        }
    }

    /// Tracks 1, 2 and 3 as one text, cut by the lengths the reader gave: not every reader sends an LRC character,
    /// and one may look like anything. What has no length was not read.
    pub(super) fn read_joined_tracks(
        &mut self,
        text: &[u8],
        [track1_len, track2_len]: [usize; 2],
    ) -> Result<(), AccountDataError> {
        // Text that ends in zeros before its lengths do is no track.
        let (track1, rest) = text.split_at_checked(track1_len).ok_or(AccountDataError::Noise)?;
        let (track2, track3) = rest.split_at_checked(track2_len).ok_or(AccountDataError::Noise)?;
        if !track1.is_empty() {
            self.read_track1(track1)?;
        }
        if !track2.is_empty() {
            self.read_track2(track2)?;
        }
        if track3.is_empty() { Ok(()) } else { self.read_track3(track3) }
    }

    pub(super) fn read_track1(&mut self, text: &[u8]) -> Result<(), AccountDataError> {
        let framed = frame(Number::One, text)?;
        let track = Track1::parse(framed.track).map_err(|_| AccountDataError::Malformed)?;
        self.take_pan(track.pan)?;
        self.take_dates(track.expiry, track.service_code)?;
        self.name = Some(SecretBytes::copied(track.name)).filter(|name| !name.is_empty());
        self.track1 = Some(Track { read: SecretBytes::copied(text), end: framed.track.len() });
        Ok(())
    }

    pub(super) fn read_track2(&mut self, text: &[u8]) -> Result<(), AccountDataError> {
        let framed = frame(Number::Two, text)?;
        let track = Track2::parse(framed.track).map_err(|_| AccountDataError::Malformed)?;
        self.take_pan(track.pan)?;
        self.take_dates(track.expiry, track.service_code)?;
        self.track2 = Some(Track { read: SecretBytes::copied(text), end: framed.track.len() });
        Ok(())
    }

    /// Track 3 is kept and not read: nothing here is decided by it.
    pub(super) fn read_track3(&mut self, text: &[u8]) -> Result<(), AccountDataError> {
        let framed = frame(Number::Three, text)?;
        self.track3 = Some(Track { read: SecretBytes::copied(text), end: framed.track.len() });
        Ok(())
    }

    pub(super) fn take_dates(
        &mut self,
        expiry: Option<&[u8; 4]>,
        service_code: Option<&[u8; 3]>,
    ) -> Result<(), AccountDataError> {
        if let Some(expiry) = expiry {
            self.take_expiry(expiry)?;
        }
        self.service_code = service_code.copied().or(self.service_code);
        Ok(())
    }
}

/// What has no sentinels, or a wrong LRC character, came out of a wrong key.
fn frame(number: Number, text: &[u8]) -> Result<Framed<'_>, AccountDataError> {
    number.frame(text).map_err(|error| match error {
        TrackError::Sentinel | TrackError::Lrc | TrackError::Characters => AccountDataError::Noise,
        TrackError::FormatCode | TrackError::Fields => AccountDataError::Malformed,
    })
}
