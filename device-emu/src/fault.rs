//! Faults on demand: what goes wrong between a device and its host, asked for by name.
//!
//! Architecture invariant: faults touch only bytes that are already sealed.

use std::time::Duration;

/// What is to go wrong.
#[derive(Debug, Default)]
pub struct Faults {
    flip: Option<Flip>,
    cut: Option<usize>,
    pace: Duration,
}

/// Bits to turn over in one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flip {
    /// Which byte, from 0.
    pub offset: usize,
    /// Which bits of it.
    pub mask: u8,
}

/// A fault that does not fit its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset} lies beyond the frame of {len} bytes; nothing was sent")]
pub struct FaultError {
    /// The byte asked for.
    pub offset: usize,
    /// How many there are.
    pub len: usize,
}

impl Faults {
    /// Turns bits over in the next frame.
    pub fn flip_next(&mut self, flip: Flip) {
        self.flip = Some(flip);
    }

    /// Sends only the first `len` bytes of the next frame.
    pub fn cut_next(&mut self, len: usize) {
        self.cut = Some(len);
    }

    /// From now on waits this long before each byte; zero sends as fast as the wire takes it.
    pub fn slow_down(&mut self, pace: Duration) {
        self.pace = pace;
    }

    /// How long to wait before each byte.
    pub fn pace(&self) -> Duration {
        self.pace
    }

    /// A new frame as it goes out: with the faults asked for, each of which happens once.
    pub fn spoiled(&mut self, frame: &[u8]) -> Result<Vec<u8>, FaultError> {
        let (flip, cut) = (self.flip.take(), self.cut.take());
        let mut bytes = flip.map_or_else(|| Ok(frame.to_vec()), |flip| flip.applied(frame))?;
        bytes.truncate(cut.unwrap_or(usize::MAX));
        Ok(bytes)
    }
}

impl Flip {
    /// A copy of the frame with the bits turned over.
    pub fn applied(self, frame: &[u8]) -> Result<Vec<u8>, FaultError> {
        let mut bytes = frame.to_vec();
        let byte = bytes.get_mut(self.offset).ok_or(FaultError { offset: self.offset, len: frame.len() })?;
        *byte ^= self.mask;
        Ok(bytes)
    }
}

/// Bytes that are no frame, the same every time (a linear feedback shift register).
pub fn garbage(len: usize) -> Vec<u8> {
    std::iter::successors(Some(0x5EED_u32), |word| Some(word >> 1 ^ if word & 1 == 0 { 0 } else { 0x8020_0003 }))
        .map(|word| word.to_be_bytes()[3])
        .take(len)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_happens_once() {
        let mut faults = Faults::default();
        faults.flip_next(Flip { offset: 1, mask: 0x0F });
        faults.cut_next(2);
        assert_eq!(faults.spoiled(&[1, 2, 3]), Ok(vec![1, 0x0D]));
        assert_eq!(faults.spoiled(&[1, 2, 3]), Ok(vec![1, 2, 3]));
    }

    #[test]
    fn a_flip_beyond_the_frame_is_refused() {
        let mut faults = Faults::default();
        faults.flip_next(Flip { offset: 3, mask: 1 });
        assert_eq!(faults.spoiled(&[1, 2, 3]), Err(FaultError { offset: 3, len: 3 }));
        assert_eq!(faults.spoiled(&[1, 2, 3]), Ok(vec![1, 2, 3]));
    }

    #[test]
    fn garbage_is_as_long_as_asked_for() {
        assert_eq!(garbage(0), Vec::<u8>::new());
        assert_eq!(garbage(500).len(), 500);
    }
}
