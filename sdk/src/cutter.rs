//! Cuts a device's byte stream into its outputs.
//!
//! Where an output starts and ends follows from the format; what is in it stays closed.

use bytes::{Buf, BytesMut};
use warifu_core::device::Format;
use warifu_core::reader::{Extent, extent};

use crate::collected::Collected;

/// Most bytes held back while an output is not complete: twice the longest the server takes.
pub(crate) const CAPACITY: usize = 8 * 1024;

/// The bytes of one wire that are not yet an output.
pub(crate) struct Cutter {
    format: Format,
    held: BytesMut,
    noise: usize,
}

impl Cutter {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, held: BytesMut::with_capacity(CAPACITY), noise: 0 }
    }

    /// How many bytes [`Cutter::push`] takes now; never 0 once [`Cutter::next`] has said `None`.
    pub(crate) fn room(&self) -> usize {
        CAPACITY - self.held.len()
    }

    /// Takes bytes of the wire, at most [`Cutter::room`].
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next whole output, or `None` until more bytes come.
    pub(crate) fn next(&mut self) -> Option<Collected> {
        while !self.held.is_empty() {
            match extent(self.format, &self.held) {
                Extent::Frame { start, end } if start < end && end <= self.held.len() => {
                    self.skip(start);
                    return Some(Collected::from_bytes(self.held.split_to(end - start).freeze()));
                }
                Extent::NeedMore if self.room() > 0 => return None,
                Extent::Garbage { skip } => self.skip(skip.clamp(1, self.held.len())),
                // More bytes than any output has, and still no end.
                Extent::NeedMore | Extent::Frame { .. } => self.abandon(),
            }
        }
        None
    }

    /// Whether an output has begun and not ended.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.held.is_empty()
    }

    /// Drops an output that never ended.
    pub(crate) fn abandon(&mut self) {
        self.skip(self.held.len());
    }

    /// Bytes that belonged to no output since this was last asked; the line ends between keyboard outputs do not
    /// count.
    pub(crate) fn take_noise(&mut self) -> usize {
        std::mem::take(&mut self.noise)
    }

    fn skip(&mut self, count: usize) {
        self.noise += self.held[..count].iter().filter(|byte| !matches!(byte, b'\r' | b'\n')).count();
        self.held.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A well-framed native output of the AES-128 suite with `blocks` cipher blocks.
    fn frame(blocks: u8, fill: u8) -> Vec<u8> {
        let mut frame = vec![b'W', b'F', 1, 1, 1, 0, 0, 16 * blocks];
        frame.resize(8 + 12 + 16 * usize::from(blocks) + 16, fill);
        frame
    }

    fn cut(cutter: &mut Cutter, mut bytes: &[u8], step: usize) -> Vec<Vec<u8>> {
        let mut outputs = Vec::new();
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(step.min(bytes.len()).min(cutter.room()));
            cutter.push(now);
            while let Some(output) = cutter.next() {
                outputs.push(output.as_bytes().to_vec());
            }
            bytes = later;
        }
        outputs
    }

    proptest! {
        #[test]
        fn outputs_come_out_whole_however_the_wire_splits_and_merges_them(
            blocks in prop::collection::vec(1_u8..=8, 1..5),
            noise in prop::collection::vec(prop::collection::vec(0x20_u8..0x40, 0..20), 5),
            step in 1_usize..300,
        ) {
            let frames: Vec<_> = blocks.iter().map(|blocks| frame(*blocks, 0xA5)).collect();
            let mut wire = Vec::new();
            for (frame, noise) in frames.iter().zip(&noise) {
                wire.extend_from_slice(noise);
                wire.extend_from_slice(frame);
            }
            let mut cutter = Cutter::new(Format::Native);
            prop_assert_eq!(cut(&mut cutter, &wire, step), frames);
            prop_assert_eq!(cutter.take_noise(), noise.iter().take(blocks.len()).map(Vec::len).sum::<usize>());
        }

        #[test]
        fn any_bytes_in_any_format_leave_room_for_more(
            bytes in prop::collection::vec(any::<u8>(), 0..20_000),
            format in prop::sample::select(&Format::ALL[..]),
        ) {
            let mut cutter = Cutter::new(format);
            cut(&mut cutter, &bytes, 777);
            prop_assert!(cutter.room() > 0);
        }
    }

    #[test]
    fn an_output_that_never_ends_is_dropped_and_the_next_one_is_clean() {
        let mut cutter = Cutter::new(Format::Native);
        let whole = frame(2, 0);
        assert!(cut(&mut cutter, &whole[..30], 30).is_empty());
        assert!(cutter.is_waiting());
        cutter.abandon();
        assert_eq!(cut(&mut cutter, &whole, 1000), [whole]);
        assert_eq!(cutter.take_noise(), 30);
    }
}
