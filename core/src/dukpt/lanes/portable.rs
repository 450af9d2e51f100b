//! The same by the `aes` crate, on every processor; what the other paths are proved against.
//!
//! Round keys are wiped on drop, which the compiler checks through the `ZeroizeOnDrop` bounds.

use aes::{Aes128Dec, Aes128Enc, Aes192Dec, Aes192Enc, Aes256Dec, Aes256Enc};
use cipher::array::Array;
use cipher::consts::U16;
use cipher::{BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockSizeUser, InnerIvInit, KeyInit};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::{Block, Data, Key};
use crate::dukpt::below;
use crate::key::KeyLen;

pub(super) fn derive(len: KeyLen, key: &Key, data: Data, new_len: KeyLen, derived: &mut Key) {
    match len {
        KeyLen::K128 => derive_by(&cipher::<Aes128Enc>(len, key), data, new_len, derived),
        KeyLen::K192 => derive_by(&cipher::<Aes192Enc>(len, key), data, new_len, derived),
        KeyLen::K256 => derive_by(&cipher::<Aes256Enc>(len, key), data, new_len, derived),
    }
}

pub(super) fn derive_two(len: KeyLen, key: &Key, data: [Data; 2], new_len: KeyLen, derived: [&mut Key; 2]) {
    data.into_iter().zip(derived).for_each(|(data, derived)| derive(len, key, data, new_len, derived));
}

pub(super) fn walk(len: KeyLen, key: &mut Key, data: Data, from: u32, to: u32) {
    match len {
        KeyLen::K128 => walk_by::<Aes128Enc>(len, key, data, from, to),
        KeyLen::K192 => walk_by::<Aes192Enc>(len, key, data, from, to),
        KeyLen::K256 => walk_by::<Aes256Enc>(len, key, data, from, to),
    }
}

pub(super) fn chain(len: KeyLen, key: &Key, state: &mut Block, message: &[Block]) {
    match len {
        KeyLen::K128 => chain_by(&cipher::<Aes128Enc>(len, key), state, message),
        KeyLen::K192 => chain_by(&cipher::<Aes192Enc>(len, key), state, message),
        KeyLen::K256 => chain_by(&cipher::<Aes256Enc>(len, key), state, message),
    }
}

pub(super) fn cbc_decrypt(len: KeyLen, key: &Key, iv: &Block, blocks: &mut [Block]) {
    match len {
        KeyLen::K128 => cbc_decrypt_by(cipher::<Aes128Dec>(len, key), iv, blocks),
        KeyLen::K192 => cbc_decrypt_by(cipher::<Aes192Dec>(len, key), iv, blocks),
        KeyLen::K256 => cbc_decrypt_by(cipher::<Aes256Dec>(len, key), iv, blocks),
    }
}

fn cipher<C: KeyInit + ZeroizeOnDrop>(len: KeyLen, key: &Key) -> C {
    C::new_from_slice(&key[..len.bytes()]).expect("the cipher was chosen by the key's length")
}

/// Encrypts straight into the place of the new key; only a cut block passes through a buffer.
fn derive_by<C>(cipher: &C, data: Data, new_len: KeyLen, derived: &mut Key)
where
    C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16> + ZeroizeOnDrop,
{
    let (new, beyond) = derived.split_at_mut(new_len.bytes());
    beyond.fill(0);
    for (input, output) in data.blocks().iter().zip(new.chunks_mut(16)) {
        if let Ok(whole) = <&mut Array<u8, U16>>::try_from(&mut *output) {
            cipher.encrypt_block_b2b(input.into(), whole);
        } else {
            let mut block = Zeroizing::new([0; 16]);
            cipher.encrypt_block_b2b(input.into(), (&mut *block).into());
            output.copy_from_slice(&block[..output.len()]);
        }
    }
}

fn walk_by<C>(len: KeyLen, key: &mut Key, data: Data, from: u32, to: u32)
where
    C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16> + KeyInit + ZeroizeOnDrop,
{
    for counter in below(from, to) {
        derive_by(&cipher::<C>(len, key), data.at(counter), len, key);
    }
}

fn chain_by<C>(cipher: &C, state: &mut Block, message: &[Block])
where
    C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16> + ZeroizeOnDrop,
{
    for block in message {
        state.iter_mut().zip(block).for_each(|(chained, byte)| *chained ^= byte);
        cipher.encrypt_block(state.into());
    }
}

fn cbc_decrypt_by<C>(cipher: C, iv: &Block, blocks: &mut [Block])
where
    C: BlockCipherDecrypt + BlockSizeUser<BlockSize = U16> + ZeroizeOnDrop,
    cbc::Decryptor<C>: ZeroizeOnDrop,
{
    cbc::Decryptor::inner_iv_init(cipher, iv.into()).decrypt_blocks(Array::cast_slice_from_core_mut(blocks));
}
