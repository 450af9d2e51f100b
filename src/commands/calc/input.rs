//! What a file for `calc frame` may mean: an output's bytes, the same in hex, or the text a keyboard reader typed.

use std::io::Read;

use anyhow::{Context, Result, bail};
use warifu_core::reader::MAX_OUTPUT_LEN;

use super::digits;

/// Most bytes of an input: hex with white space around every byte, and then some.
const MAX_INPUT_LEN: usize = 6 * MAX_OUTPUT_LEN;
/// What some editors put before a text.
const BYTE_ORDER_MARK: char = '\u{FEFF}';

/// Reads a file, or standard input for `-`.
pub(super) fn read(file: &str) -> Result<Vec<u8>> {
    let mut input = Vec::new();
    let limit = u64::try_from(MAX_INPUT_LEN + 1).unwrap_or(u64::MAX);
    match file {
        "-" => std::io::stdin().lock().take(limit).read_to_end(&mut input).context("standard input")?,
        path => std::fs::File::open(path)
            .and_then(|file| file.take(limit).read_to_end(&mut input))
            .with_context(|| path.to_owned())?,
    };
    if input.len() > MAX_INPUT_LEN {
        bail!("refused: the input is longer than any output of a device");
    }
    Ok(input)
}

/// Every reading of an input, the nearest first: the bytes as they are, then without what an editor or a terminal put
/// around a text, then what its hex digits stand for. White space inside a text is the device's and stays.
pub(super) fn readings(input: &[u8]) -> Vec<Vec<u8>> {
    let mut readings = vec![input.to_vec()];
    if let Ok(text) = std::str::from_utf8(input) {
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).trim_ascii();
        if text.len() < input.len() {
            readings.push(text.as_bytes().to_vec());
        }
        readings.extend(digits::bytes("input", text));
    }
    readings.retain(|bytes| !bytes.is_empty());
    readings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_around_a_text_is_taken_off_and_nothing_inside() {
        let text = b"%B4111 11^X |?|0A";
        assert_eq!(readings(text), [text.to_vec()]);
        for (before, behind) in [("", "\r\n"), ("\u{FEFF}", ""), (" \t", "\n\n"), ("\u{FEFF}\r\n ", " ")] {
            let around = [before.as_bytes(), text, behind.as_bytes()].concat();
            assert_eq!(readings(&around), [around.clone(), text.to_vec()]);
        }
    }

    #[test]
    fn hex_is_also_what_it_stands_for() {
        let bytes = vec![0x02, 0x20, 0x0A];
        assert_eq!(readings(b"02200a"), [b"02200a".to_vec(), bytes.clone()]);
        for text in ["0x02200A", "\u{FEFF}0x02 20 0A\r\n", "  0X02\n20\n0A"] {
            assert_eq!(readings(text.as_bytes()).last(), Some(&bytes), "{text:?}");
        }
        assert_eq!(readings(&[0x02, 0xFF, 0x20]), [vec![0x02, 0xFF, 0x20]], "bytes are no text");
        assert_eq!(readings(b" \n"), [b" \n".to_vec()]);
    }
}
