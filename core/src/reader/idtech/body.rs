//! Puts the ciphertexts of an ID TECH output together as a frame.

use super::super::{Hints, Layout, Parsed};
use crate::frame::{Entry, FrameError, FrameKey, SealedFrame, Section, SectionKind, Shown};
use crate::ksn::{Ksn, TdesKsn};

/// The sections found so far, and their ciphertexts behind each other.
#[derive(Default)]
pub(super) struct Body {
    bytes: Vec<u8>,
    sections: Vec<Section>,
}

impl Body {
    /// Adds one message.
    pub(super) fn add(&mut self, kind: SectionKind, ciphertext: &[u8], clear_len: usize, shown: Shown) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(ciphertext);
        self.sections.push(Section { kind, ciphertext: start..self.bytes.len(), clear_len, shown });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sections.is_empty()
    }

    /// The frame, if there is anything in it. ID TECH frames have no MAC this build could check.
    pub(super) fn seal(
        self,
        layout: Layout,
        entry: Entry,
        key: FrameKey,
        ksn: TdesKsn,
        serial: Option<String>,
    ) -> Result<Parsed, FrameError> {
        let frame = SealedFrame::assemble(self.bytes, Ksn::Tdes(ksn), entry, key, self.sections, None)?;
        Ok(Parsed { frame, hints: Hints { layout, serial } })
    }
}
