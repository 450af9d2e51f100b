//! Words of bits that are computed on side by side: one `u64` anywhere, vectors of them where the processor has them.
//!
//! The only `unsafe` for DES: instructions that a processor must be known to have.

use std::ops::{BitAnd, BitOr, BitXor, Not};

use zeroize::Zeroize;

use super::engine::Path;
use super::job::Job;
use super::lanes;

/// The most `u64` any word has.
pub(super) const MAX_WIDTH: usize = 8;

/// Some `u64` side by side.
pub(super) trait Word:
    Copy + Zeroize + BitAnd<Output = Self> + BitOr<Output = Self> + BitXor<Output = Self> + Not<Output = Self>
{
    /// How many.
    const WIDTH: usize;

    /// The same in all.
    fn splat(word: u64) -> Self;

    /// Each shifted to the left.
    fn up<const BY: usize>(self) -> Self;

    /// Each shifted to the right.
    fn down<const BY: usize>(self) -> Self;

    /// From the first [`Self::WIDTH`] of a slice.
    fn load(words: &[u64]) -> Self;

    /// Into the first [`Self::WIDTH`] of a slice.
    fn store(self, words: &mut [u64]);
}

impl Word for u64 {
    const WIDTH: usize = 1;

    #[inline(always)]
    fn splat(word: u64) -> Self {
        word
    }

    #[inline(always)]
    fn up<const BY: usize>(self) -> Self {
        self << BY
    }

    #[inline(always)]
    fn down<const BY: usize>(self) -> Self {
        self >> BY
    }

    #[inline(always)]
    fn load(words: &[u64]) -> Self {
        words[0]
    }

    #[inline(always)]
    fn store(self, words: &mut [u64]) {
        words[0] = self;
    }
}

#[cfg(target_arch = "x86_64")]
use x86::Sse2;

/// What the compiler may use on every processor it builds for.
#[cfg(target_arch = "x86_64")]
pub(super) type Baseline = Sse2;
#[cfg(not(target_arch = "x86_64"))]
pub(super) type Baseline = u64;

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "instructions that a processor must be known to have")]
mod x86 {
    use std::arch::x86_64 as arch;

    use super::*;

    /// A shift amount as the instructions want it.
    const fn shift(by: usize) -> i64 {
        let mut amount = 0;
        let mut counted = 0;
        while counted < by {
            amount += 1;
            counted += 1;
        }
        amount
    }

    // Shifts take their amount from a register here, which the compiler, knowing it, turns into the other form.
    /// A vector of the processor as a [`Word`].
    macro_rules! vector {
        ($(#[$about:meta])* $name:ident, $inner:ident, $width:literal,
         $and:ident, $or:ident, $xor:ident, $splat:ident, $up:ident, $down:ident, $load:ident, $store:ident) => {
            $(#[$about])*
            #[derive(Clone, Copy)]
            pub(in super::super) struct $name(arch::$inner);

            impl BitAnd for $name {
                type Output = Self;
                #[inline(always)]
                fn bitand(self, other: Self) -> Self {
                    // SAFETY: as the type says, the processor has the instruction.
                    Self(unsafe { arch::$and(self.0, other.0) })
                }
            }

            impl BitOr for $name {
                type Output = Self;
                #[inline(always)]
                fn bitor(self, other: Self) -> Self {
                    // SAFETY: as the type says, the processor has the instruction.
                    Self(unsafe { arch::$or(self.0, other.0) })
                }
            }

            impl BitXor for $name {
                type Output = Self;
                #[inline(always)]
                fn bitxor(self, other: Self) -> Self {
                    // SAFETY: as the type says, the processor has the instruction.
                    Self(unsafe { arch::$xor(self.0, other.0) })
                }
            }

            impl Not for $name {
                type Output = Self;
                #[inline(always)]
                fn not(self) -> Self {
                    self ^ Self::splat(u64::MAX)
                }
            }

            impl Zeroize for $name {
                fn zeroize(&mut self) {
                    self.0.zeroize();
                }
            }

            impl Word for $name {
                const WIDTH: usize = $width;

                #[inline(always)]
                fn splat(word: u64) -> Self {
                    // SAFETY: as the type says, the processor has the instruction.
                    Self(unsafe { arch::$splat(word.cast_signed()) })
                }

                #[inline(always)]
                fn up<const BY: usize>(self) -> Self {
                    // SAFETY: as the type says, the processor has the instruction.
                    Self(unsafe { arch::$up(self.0, arch::_mm_set_epi64x(0, const { shift(BY) })) })
                }

                #[inline(always)]
                fn down<const BY: usize>(self) -> Self {
                    // SAFETY: as the type says, the processor has the instruction.
                    Self(unsafe { arch::$down(self.0, arch::_mm_set_epi64x(0, const { shift(BY) })) })
                }

                #[inline(always)]
                fn load(words: &[u64]) -> Self {
                    let words = &words[..$width];
                    // SAFETY: as the type says, the processor has the instruction; the slice is as long as the vector.
                    Self(unsafe { arch::$load(words.as_ptr().cast()) })
                }

                #[inline(always)]
                fn store(self, words: &mut [u64]) {
                    let words = &mut words[..$width];
                    // SAFETY: as the type says, the processor has the instruction; the slice is as long as the vector.
                    unsafe { arch::$store(words.as_mut_ptr().cast(), self.0) }
                }
            }
        };
    }

    vector!(
        /// 128 bits, which every x86-64 processor has.
        Sse2, __m128i, 2,
        _mm_and_si128, _mm_or_si128, _mm_xor_si128, _mm_set1_epi64x, _mm_sll_epi64, _mm_srl_epi64, _mm_loadu_si128, _mm_storeu_si128
    );
    vector!(
        /// 256 bits. Used by nothing but the function that [`pass`] calls after it saw AVX2.
        Avx2, __m256i, 4,
        _mm256_and_si256, _mm256_or_si256, _mm256_xor_si256, _mm256_set1_epi64x, _mm256_sll_epi64, _mm256_srl_epi64, _mm256_loadu_si256, _mm256_storeu_si256
    );
    vector!(
        /// 512 bits. Used by nothing but the function that [`pass`] calls after it saw AVX-512F.
        Avx512, __m512i, 8,
        _mm512_and_si512, _mm512_or_si512, _mm512_xor_si512, _mm512_set1_epi64, _mm512_sll_epi64, _mm512_srl_epi64, _mm512_loadu_si512, _mm512_storeu_si512
    );

    #[inline(never)]
    pub(super) fn sse2(jobs: &mut [Job<'_>]) {
        lanes::pass::<Sse2>(jobs);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn avx2(jobs: &mut [Job<'_>]) {
        lanes::pass::<Avx2>(jobs);
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(jobs: &mut [Job<'_>]) {
        lanes::pass::<Avx512>(jobs);
    }
}

/// Whether this processor has what a path takes.
pub(super) fn is_available(path: Path) -> bool {
    match path {
        Path::Portable => true,
        #[cfg(target_arch = "x86_64")]
        Path::Sse2 => true,
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => std::arch::is_x86_feature_detected!("avx2"),
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => std::arch::is_x86_feature_detected!("avx512f"),
        #[cfg(not(target_arch = "x86_64"))]
        Path::Sse2 | Path::Avx2 | Path::Avx512 => false,
    }
}

/// Does jobs, at most one for each lane of the path.
///
/// # Panics
/// When the processor does not have the path.
#[allow(unsafe_code, reason = "functions that a processor must be known to run")]
pub(super) fn pass(path: Path, jobs: &mut [Job<'_>]) {
    assert!(is_available(path), "this processor does not have {path:?}");
    match path {
        Path::Portable => portable(jobs),
        #[cfg(target_arch = "x86_64")]
        Path::Sse2 => x86::sse2(jobs),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has AVX2, as was just asserted.
        Path::Avx2 => unsafe { x86::avx2(jobs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has AVX-512F, as was just asserted.
        Path::Avx512 => unsafe { x86::avx512(jobs) },
        #[cfg(not(target_arch = "x86_64"))]
        Path::Sse2 | Path::Avx2 | Path::Avx512 => {}
    }
}

#[inline(never)]
fn portable(jobs: &mut [Job<'_>]) {
    lanes::pass::<u64>(jobs);
}
