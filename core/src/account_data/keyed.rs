//! A card typed on a keypad.

use super::{AccountDataError, Draft};
use crate::card::{MIN_PAN_LEN, SecurityCode};
use crate::track::Number;

impl Draft {
    /// Reads `PAN=YYMM=` and a security code, if there is one behind it. The date may be missing.
    pub(super) fn read_keyed(&mut self, text: &[u8]) -> Result<(), AccountDataError> {
        // Twelve digits do not come out of a wrong key.
        if !text.get(..MIN_PAN_LEN).is_some_and(|start| start.iter().all(u8::is_ascii_digit)) {
            return Err(AccountDataError::Noise);
        }
        let mut fields = text.split(|c| *c == b'=');
        let (Some(pan), Some(expiry), Some(code), None) = (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(AccountDataError::Malformed);
        };
        self.take_pan(pan)?;
        if !expiry.is_empty() {
            self.take_expiry(expiry)?;
        }
        if !code.is_empty() {
            self.security_code = Some(SecurityCode::parse(code)?);
        }
        Ok(())
    }

    /// Reads the track-like form some readers give a keyed card, `;PAN=YYMM?`, with or without an LRC
    /// character. Where a security code is sent in it, it stands behind a further separator.
    pub(super) fn read_keyed_track(&mut self, text: &[u8]) -> Result<(), AccountDataError> {
        let framed = Number::Two.frame(text).map_err(|_| AccountDataError::Noise)?;
        let mut fields = framed.body.splitn(3, |c| matches!(c, b'=' | b':'));
        self.take_pan(fields.next().ok_or(AccountDataError::Malformed)?)?;
        if let Some(expiry) = fields.next().filter(|expiry| !expiry.is_empty()) {
            self.take_expiry(expiry)?;
        }
        if let Some(code) = fields.next().filter(|code| !code.is_empty()) {
            self.security_code = Some(SecurityCode::parse(code)?);
        }
        Ok(())
    }
}
