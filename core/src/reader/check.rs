//! The check values vendors put into their outputs. They catch accidents, not intent.

/// Exclusive-or of all bytes.
pub(super) fn lrc(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |lrc, byte| lrc ^ byte)
}

/// Sum of all bytes modulo 256.
pub(super) fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte))
}

/// CRC-16 with polynomial 1021, initial FFFF, no reflection ("CCITT-FALSE").
pub(super) fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_usual_check_value_comes_out() {
        assert_eq!(super::crc16(b"123456789"), 0x29B1);
    }
}
