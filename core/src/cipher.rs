//! CBC without padding, in place: what opens and closes the sections of a frame.
//!
//! Architecture invariant: no allocation and no copy of the data; every round key is wiped on drop, which the
//! compiler checks through the `ZeroizeOnDrop` bounds. How AES-CBC is decrypted is the affair of [`crate::dukpt::lanes`].

use aes::{Aes128, Aes192, Aes256};
use cipher::array::Array;
use cipher::{BlockCipherEncrypt, BlockModeEncrypt, KeyInit, KeyIvInit};
use des::{TdesEde2, TdesEde3};
use zeroize::ZeroizeOnDrop;

use crate::dukpt::des::Triple;
use crate::dukpt::lanes::Trusted;
use crate::key::{KeyBytes, KeyLen};

/// Data or a key the mode cannot take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CipherError {
    /// CBC without padding works on whole blocks only.
    #[error("the data is not a whole number of cipher blocks")]
    NotWholeBlocks,
    /// Triple DES has keys of 16 and 24 bytes.
    #[error("triple DES takes no key of 32 bytes")]
    TdesKeyLength,
}

/// Encrypts whole 16-byte blocks in place with AES-CBC (SP 800-38A 6.2) of the key's length.
pub fn aes_cbc_encrypt(key: &KeyBytes, iv: &[u8; 16], data: &mut [u8]) -> Result<(), CipherError> {
    match key.key_len() {
        KeyLen::K128 => encrypt::<Aes128>(key, iv, data),
        KeyLen::K192 => encrypt::<Aes192>(key, iv, data),
        KeyLen::K256 => encrypt::<Aes256>(key, iv, data),
    }
}

/// Decrypts whole 16-byte blocks in place with AES-CBC of the key's length.
#[inline]
pub fn aes_cbc_decrypt(key: &KeyBytes, iv: &[u8; 16], data: &mut [u8]) -> Result<(), CipherError> {
    let (blocks, rest) = data.as_chunks_mut::<16>();
    if !rest.is_empty() {
        return Err(CipherError::NotWholeBlocks);
    }
    Trusted::best().cbc_decrypt(key.key_len(), key.padded(), iv, blocks);
    Ok(())
}

/// Encrypts whole 8-byte blocks in place with triple-DES-CBC; 16-byte keys are two-key, 24-byte keys three-key.
pub fn tdes_cbc_encrypt(key: &KeyBytes, iv: &[u8; 8], data: &mut [u8]) -> Result<(), CipherError> {
    match key.key_len() {
        KeyLen::K128 => encrypt::<TdesEde2>(key, iv, data),
        KeyLen::K192 => encrypt::<TdesEde3>(key, iv, data),
        KeyLen::K256 => Err(CipherError::TdesKeyLength),
    }
}

/// Decrypts whole 8-byte blocks in place with triple-DES-CBC; 16-byte keys are two-key, 24-byte keys three-key.
///
/// By the engine of DUKPT, which does the blocks of a record side by side; encryption cannot gain from that.
pub fn tdes_cbc_decrypt(key: &KeyBytes, iv: &[u8; 8], data: &mut [u8]) -> Result<(), CipherError> {
    let triple = Triple::new(key.expose()).ok_or(CipherError::TdesKeyLength)?;
    let (blocks, []) = data.as_chunks_mut() else { return Err(CipherError::NotWholeBlocks) };
    triple.cbc_decrypt(iv, blocks);
    Ok(())
}

fn encrypt<C>(key: &KeyBytes, iv: &[u8], data: &mut [u8]) -> Result<(), CipherError>
where
    C: BlockCipherEncrypt + KeyInit + ZeroizeOnDrop,
    cbc::Encryptor<C>: ZeroizeOnDrop,
{
    let (blocks, rest) = Array::<u8, C::BlockSize>::slice_as_chunks_mut(data);
    if !rest.is_empty() {
        return Err(CipherError::NotWholeBlocks);
    }
    cbc::Encryptor::<C>::new_from_slices(key.expose(), iv)
        .expect("the cipher was chosen by the key's length, the IV by its type")
        .encrypt_blocks(blocks);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(len: KeyLen, seed: u8) -> KeyBytes {
        KeyBytes::filled(len, |bytes| bytes.iter_mut().zip(seed..).for_each(|(byte, value)| *byte = value))
    }

    /// SP 800-38A F.2.1 and F.2.5, first two blocks.
    #[test]
    fn aes_cbc_agrees_with_sp_800_38a() {
        let cases = [
            ("2b7e151628aed2a6abf7158809cf4f3c", "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2"),
            (
                "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
                "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d",
            ),
        ];
        for (key, sealed) in cases {
            let key = KeyBytes::copied(&hex::decode(key).unwrap()).unwrap();
            let iv: [u8; 16] = std::array::from_fn(|at| u8::try_from(at).unwrap());
            let clear = hex::decode("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51").unwrap();
            let mut data = clear.clone();
            aes_cbc_encrypt(&key, &iv, &mut data).unwrap();
            assert_eq!(hex::encode(&data), sealed);
            aes_cbc_decrypt(&key, &iv, &mut data).unwrap();
            assert_eq!(data, clear);
        }
    }

    #[test]
    fn triple_des_has_no_32_byte_key() {
        let key = key(KeyLen::K256, 0);
        assert_eq!(tdes_cbc_encrypt(&key, &[0; 8], &mut [0; 8]), Err(CipherError::TdesKeyLength));
        assert_eq!(tdes_cbc_decrypt(&key, &[0; 8], &mut [0; 8]), Err(CipherError::TdesKeyLength));
    }

    fn any_len() -> impl Strategy<Value = KeyLen> {
        prop_oneof![Just(KeyLen::K128), Just(KeyLen::K192), Just(KeyLen::K256)]
    }

    proptest! {
        #[test]
        fn decrypting_undoes_encrypting_and_part_blocks_are_refused_untouched(
            len in any_len(), seed in any::<u8>(), iv in any::<[u8; 16]>(), clear in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let key = key(len, seed % 128);
            let mut data = clear.clone();
            let done = aes_cbc_encrypt(&key, &iv, &mut data);
            if clear.len().is_multiple_of(16) {
                prop_assert_eq!(done, Ok(()));
                prop_assert_eq!(aes_cbc_decrypt(&key, &iv, &mut data), Ok(()));
            } else {
                prop_assert_eq!(done, Err(CipherError::NotWholeBlocks));
                prop_assert_eq!(aes_cbc_decrypt(&key, &iv, &mut data), Err(CipherError::NotWholeBlocks));
            }
            prop_assert_eq!(&data, &clear);

            if len != KeyLen::K256 {
                let iv = [7; 8];
                let done = tdes_cbc_encrypt(&key, &iv, &mut data);
                if clear.len().is_multiple_of(8) {
                    prop_assert_eq!(done, Ok(()));
                    prop_assert_eq!(tdes_cbc_decrypt(&key, &iv, &mut data), Ok(()));
                } else {
                    prop_assert_eq!(done, Err(CipherError::NotWholeBlocks));
                    prop_assert_eq!(tdes_cbc_decrypt(&key, &iv, &mut data), Err(CipherError::NotWholeBlocks));
                }
                prop_assert_eq!(&data, &clear);
            }
        }
    }
}
