//! Block ciphers behind one interface. A call takes many blocks, so that it costs nothing next to
//! the work, and so that ciphers can use the processor's parallel instructions.

use super::twofish::Twofish;
use crate::qapi::QCryptoCipherAlgo;
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use cipher::{
    Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit, typenum::Unsigned,
};

/// A keyed block cipher. Buffers are whole blocks.
pub(super) trait Blocks: Send + Sync {
    /// Bytes of a block.
    fn block_len(&self) -> usize;

    /// Encrypts each block by itself.
    fn encrypt(&self, data: &mut [u8]);

    /// Decrypts each block by itself.
    fn decrypt(&self, data: &mut [u8]);

    /// Encrypts a chain of blocks that begins with `iv`, one after the other.
    fn encrypt_chain(&self, iv: &[u8], data: &mut [u8]);
}

/// A cipher of the RustCrypto traits.
struct Of<C>(C);

impl<C> Blocks for Of<C>
where
    C: BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser + Send + Sync,
{
    fn block_len(&self) -> usize {
        C::BlockSize::USIZE
    }

    fn encrypt(&self, data: &mut [u8]) {
        self.0.encrypt_blocks(Array::slice_as_chunks_mut(data).0);
    }

    fn decrypt(&self, data: &mut [u8]) {
        self.0.decrypt_blocks(Array::slice_as_chunks_mut(data).0);
    }

    fn encrypt_chain(&self, iv: &[u8], data: &mut [u8]) {
        let mut before = Array::<u8, C::BlockSize>::default();
        before.copy_from_slice(iv);
        for block in Array::<u8, C::BlockSize>::slice_as_chunks_mut(data).0 {
            for (byte, old) in block.iter_mut().zip(&before) {
                *byte ^= old;
            }
            self.0.encrypt_block(block);
            before.clone_from(block);
        }
    }
}

/// Length of the key in bytes.
pub(super) fn key_len(cipher: QCryptoCipherAlgo) -> usize {
    use QCryptoCipherAlgo as A;
    match cipher {
        A::Des => 8,
        A::Aes128 | A::Cast5128 | A::Serpent128 | A::Twofish128 | A::Sm4 => 16,
        A::Aes192 | A::Serpent192 | A::Twofish192 | A::TripleDes => 24,
        A::Aes256 | A::Serpent256 | A::Twofish256 => 32,
    }
}

/// The cipher with this key.
///
/// # Errors
/// `InvalidInput` for a key of the wrong length, `Unsupported` for DES.
pub(super) fn keyed(cipher: QCryptoCipherAlgo, key: &[u8]) -> Result<Box<dyn Blocks>> {
    use QCryptoCipherAlgo as A;
    fn of<C>(key: &[u8]) -> Result<Box<dyn Blocks>>
    where
        C: KeyInit
            + BlockCipherEncrypt
            + BlockCipherDecrypt
            + BlockSizeUser
            + Send
            + Sync
            + 'static,
    {
        let keyed = C::new_from_slice(key).map_err(|_| wrong_key(key.len()))?;
        Ok(Box::new(Of(keyed)))
    }
    if key.len() != key_len(cipher) {
        return Err(wrong_key(key.len()));
    }
    match cipher {
        A::Aes128 => of::<aes::Aes128>(key),
        A::Aes192 => of::<aes::Aes192>(key),
        A::Aes256 => of::<aes::Aes256>(key),
        A::Cast5128 => of::<cast5::Cast5>(key),
        A::Serpent128 | A::Serpent192 | A::Serpent256 => of::<serpent::Serpent>(key),
        A::Twofish128 | A::Twofish192 | A::Twofish256 => Ok(Box::new(Twofish::new(key))),
        A::Sm4 => of::<sm4::Sm4>(key),
        A::Des | A::TripleDes => {
            Err(Error::unsupported(format!("Algorithm '{cipher}' not supported")))
        }
    }
}

fn wrong_key(len: usize) -> Error {
    Error::invalid(format!("a key of {len} bytes does not fit the cipher"))
}
