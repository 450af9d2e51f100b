//! Sealing: clear bytes become ciphertext where they lie, and MACs are put under the result.
//!
//! Architecture invariant: clear bytes are never copied. A message is made in one buffer of its final, padded
//! length and encrypted in place, so that encrypting it is also wiping it; chaining, too, is done in that buffer
//! (a library's CBC keeps each block, before it is encrypted, in a variable of its own).

use aes::{Aes128Enc, Aes192Enc, Aes256Enc};
use cipher::array::Array;
use cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use cmac::{Cmac, Mac};
use des::{Des, TdesEde2};
use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::secret::SecretBytes;

/// How a message is brought to whole cipher blocks of this many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// ISO/IEC 7816-4: one byte 80, then zeros; always at least one byte.
    Marked(usize),
    /// Zeros, as the readers of this trade do; none if the length fits.
    Zero(usize),
}

/// A clear message in one buffer, and how much of it is meant.
pub struct Message {
    bytes: SecretBytes,
    clear_len: usize,
}

impl Message {
    /// Puts the parts behind each other, filled up to whole blocks.
    pub fn joined(parts: &[&[u8]], fill: Fill) -> Self {
        let clear_len: usize = parts.iter().map(|part| part.len()).sum();
        let (total, mark) = match fill {
            Fill::Marked(block) => ((clear_len / block + 1) * block, 0x80),
            Fill::Zero(block) => (clear_len.next_multiple_of(block), 0),
        };
        let bytes = SecretBytes::filled(total, |bytes| {
            let mut rest = &mut *bytes;
            for part in parts {
                let (into, after) = rest.split_at_mut(part.len());
                into.copy_from_slice(part);
                rest = after;
            }
            if let Some(first) = rest.first_mut() {
                *first = mark;
            }
        });
        Self { bytes, clear_len }
    }

    /// Length of the clear message without its fill.
    pub fn clear_len(&self) -> usize {
        self.clear_len
    }

    /// Encrypts in place with AES-CBC, zero IV; what comes out may be seen by anyone.
    pub fn sealed_aes(mut self, key: &KeyBytes) -> Vec<u8> {
        let bytes = self.bytes.expose_mut();
        match key.key_len() {
            KeyLen::K128 => chain(&keyed::<Aes128Enc>(key), bytes),
            KeyLen::K192 => chain(&keyed::<Aes192Enc>(key), bytes),
            KeyLen::K256 => chain(&keyed::<Aes256Enc>(key), bytes),
        }
        bytes.to_vec()
    }

    /// Encrypts in place with two-key TDES-CBC, zero IV; what comes out may be seen by anyone.
    ///
    /// # Panics
    /// With a key that has not 16 bytes: it is a working key of TDES DUKPT.
    pub fn sealed_tdes(mut self, key: &KeyBytes) -> Vec<u8> {
        let bytes = self.bytes.expose_mut();
        chain(&keyed::<TdesEde2>(key), bytes);
        bytes.to_vec()
    }
}

/// AES-CMAC (SP 800-38B) over what is on the wire.
pub fn aes_cmac(key: &KeyBytes, message: &[u8]) -> [u8; 16] {
    fn tag<M: Mac + KeyInit>(key: &KeyBytes, message: &[u8]) -> [u8; 16] {
        let mut mac = <M as KeyInit>::new_from_slice(key.expose()).expect("chosen by the key's length");
        mac.update(message);
        let mut tag = [0; 16];
        tag.copy_from_slice(&mac.finalize().into_bytes());
        tag
    }
    match key.key_len() {
        KeyLen::K128 => tag::<Cmac<Aes128Enc>>(key, message),
        KeyLen::K192 => tag::<Cmac<Aes192Enc>>(key, message),
        KeyLen::K256 => tag::<Cmac<Aes256Enc>>(key, message),
    }
}

/// Retail MAC (X9.19): DES-CBC under the left half, the last block then decrypted under the right half and
/// encrypted under the left. A short last block is filled with zeros.
///
/// # Panics
/// With a key that has not 16 bytes: it is a working key of TDES DUKPT.
pub fn retail_mac(key: &KeyBytes, message: &[u8]) -> [u8; 8] {
    let (left, right) = key.expose().split_at(8);
    let [left, right] = [left, right].map(|half| Des::new_from_slice(half).expect("half of 16 bytes is a DES key"));
    let mut tag = cipher::Block::<Des>::default();
    for part in message.chunks(8) {
        tag.iter_mut().zip(part).for_each(|(byte, other)| *byte ^= other);
        left.encrypt_block(&mut tag);
    }
    right.decrypt_block(&mut tag);
    left.encrypt_block(&mut tag);
    tag.into()
}

fn keyed<C: KeyInit>(key: &KeyBytes) -> C {
    C::new_from_slice(key.expose()).expect("the cipher was chosen by the key's length")
}

fn chain<C: BlockCipherEncrypt>(cipher: &C, bytes: &mut [u8]) {
    let (blocks, _) = Array::<u8, C::BlockSize>::slice_as_chunks_mut(bytes);
    for at in 0..blocks.len() {
        let (before, from) = blocks.split_at_mut(at);
        if let Some(previous) = before.last() {
            from[0].iter_mut().zip(previous).for_each(|(byte, other)| *byte ^= other);
        }
        cipher.encrypt_block(&mut from[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(hex: &str) -> KeyBytes {
        KeyBytes::copied(&hex::decode(hex).unwrap()).unwrap()
    }

    /// SP 800-38A F.2.1, first two blocks, of which the second is not whole here.
    #[test]
    fn cbc_agrees_with_sp_800_38a() {
        let clear = hex::decode("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51").unwrap();
        // The published IV goes into the first block, since the IV here is zero.
        let first: Vec<u8> = clear.iter().take(16).zip(0u8..).map(|(byte, iv)| byte ^ iv).collect();
        let sealed = Message::joined(&[&first, &clear[16..]], Fill::Zero(16))
            .sealed_aes(&key("2b7e151628aed2a6abf7158809cf4f3c"));
        assert_eq!(hex::encode(sealed), "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2");
    }

    /// SP 800-38B D.1, examples 1 and 2.
    #[test]
    fn cmac_agrees_with_sp_800_38b() {
        let key = key("2b7e151628aed2a6abf7158809cf4f3c");
        assert_eq!(hex::encode(aes_cmac(&key, &[])), "bb1d6929e95937287fa37d129b756746");
        let message = hex::decode("6bc1bee22e409f96e93d7e117393172a").unwrap();
        assert_eq!(hex::encode(aes_cmac(&key, &message)), "070a16b46b4d4144f79bdd9dd04a287c");
    }

    /// MagneSafe V5 manual 99875475, appendix D: set security level.
    #[test]
    fn the_retail_mac_agrees_with_a_published_one() {
        let key = key("042666B4918430A368DE9628D03984C9");
        assert_eq!(hex::encode_upper(retail_mac(&key, &[0x15, 0x05, 0x04])), "2F38A60E3F6AD6AD");
    }

    #[test]
    fn a_marked_message_always_has_its_mark_and_a_zero_filled_one_may_have_none() {
        let marked = Message::joined(&[b"12345678"], Fill::Marked(8));
        assert_eq!(marked.bytes.expose(), b"12345678\x80\0\0\0\0\0\0\0");
        assert_eq!(marked.clear_len(), 8);
        let zero = Message::joined(&[b"1234", b"5678"], Fill::Zero(8));
        assert_eq!(zero.bytes.expose(), b"12345678");
        assert_eq!(Message::joined(&[b"123456789"], Fill::Zero(8)).bytes.len(), 16);
    }
}
