//! Many keys side by side, four in each 128-bit piece of a register: the kernels, for any width of register.
//!
//! The schedule works on words of the same place: a register holds that word of four keys in its columns, so one
//! `aesenclast` is SubWord for all of them. The round keys are then transposed, and each encrypts the block of its own
//! lane. As in `schedule`, only last words feed each other, and nothing is permuted between two of them: RotWord, and the
//! ShiftRows that `aesenclast` does besides, pile up in the order of the bytes and have come round after four rounds,
//! when the word is added again. `order` knows it.

/// The kernels for one width: its register, how many 128-bit pieces that has, and its instructions by what they do.
macro_rules! kernels {
    (
        $features:literal, $Vector:ident of $PIECES:literal, $ABREAST:literal abreast by $operations:ident,
        $load:ident, $store:ident, $spread:ident, $word:ident,
        xor: $xor:ident, shuffle: $shuffle:ident,
        low_words: $low_words:ident, high_words: $high_words:ident,
        low_halves: $low_halves:ident, high_halves: $high_halves:ident,
        even_words: $even_words:ident, odd_words: $odd_words:ident,
        enc: $enc:ident, enclast: $enclast:ident
    ) => {
        use std::ptr;

        use crate::dukpt::lanes::x86::memory;
        use crate::dukpt::lanes::x86::order::{enter, leave, places};
        use crate::dukpt::lanes::{Block, Lanes};
        use crate::key::KeyLen;

        /// Keys side by side.
        pub(super) const LANES: usize = $ABREAST * 4 * $PIECES;

        /// Registers that share no instruction: while one waits for its last word, another is at work.
        type Abreast = [$Vector; $ABREAST];

        /// The same block of all lanes: a quarter of the lanes each or, transposed, a word each.
        type Four = [Abreast; 4];

        /// Replaces the key of each lane by the encryption under it of the lane's data, with `change` added to their
        /// head and each counter in turn for their tail's end: a row of the lanes' counters for every step.
        #[target_feature(enable = $features)]
        pub(super) fn derive(len: KeyLen, lanes: &mut Lanes, change: &Block, counters: &[u32]) {
            let (rows, _) = counters.as_chunks::<LANES>();
            let data = add(load(&lanes.data), [spread(change); 4]);
            let mut low = load(&lanes.low);
            if len == KeyLen::K128 {
                for row in rows {
                    let mut state = add(low, add(data, tails(row)));
                    let last = rounds_128(low, |_, key| state = encrypt(state, key));
                    low = encrypt_last(state, last);
                }
                return store(low, &mut lanes.low);
            }
            let mut high = load(&lanes.high);
            let second = [spread(&[0, 1 ^ 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); 4];
            for row in rows {
                let first = add(low, add(data, tails(row)));
                let mut states = [first, add(first, second)];
                let each = |_, key| states = [encrypt(states[0], key), encrypt(states[1], key)];
                let last = match len {
                    KeyLen::K192 => rounds_192(low, high, each),
                    _ => rounds_256(low, high, each),
                };
                [low, high] = [encrypt_last(states[0], last), encrypt_last(states[1], last)];
            }
            store(low, &mut lanes.low);
            store(high, &mut lanes.high);
        }

        /// The lanes' counters, each at the end of its block.
        #[inline]
        #[target_feature(enable = $features)]
        fn tails(row: &[u32; LANES]) -> Four {
            const PLACES: [[Block; $PIECES]; 4] =
                [places(0), places($PIECES), places(2 * $PIECES), places(3 * $PIECES)];
            let (quads, _) = row.as_chunks::<4>();
            let tail = |set: usize, at: usize| {
                let quad = $spread(memory::load_words(&quads[$PIECES * set + at * $PIECES / 4]));
                // SAFETY: the bytes of a whole register are readable there, and the instruction asks for no alignment.
                let places = unsafe { $load(ptr::from_ref::<[Block; $PIECES]>(&PLACES[at]).cast()) };
                $shuffle(quad, places)
            };
            [each(|set| tail(set, 0)), each(|set| tail(set, 1)), each(|set| tail(set, 2)), each(|set| tail(set, 3))]
        }

        /// The keys of the rounds 1 to 9 in turn; returns those of the last.
        #[inline]
        #[target_feature(enable = $features)]
        fn rounds_128(key: Four, mut each: impl FnMut(usize, Four)) -> Four {
            let mut trail = Trail::<1, 0>::to(key);
            each(1, trail.grow::<1>(trail.last(), 0x01));
            each(2, trail.grow::<2>(trail.last(), 0x02));
            each(3, trail.grow::<3>(trail.last(), 0x04));
            each(4, trail.grow::<4>(trail.last(), 0x08));
            each(5, trail.grow::<5>(trail.last(), 0x10));
            each(6, trail.grow::<6>(trail.last(), 0x20));
            each(7, trail.grow::<7>(trail.last(), 0x40));
            each(8, trail.grow::<8>(trail.last(), 0x80));
            each(9, trail.grow::<9>(trail.last(), 0x1B));
            trail.grow::<10>(trail.last(), 0x36)
        }

        /// The keys of the rounds 1 to 11 in turn; returns those of the last.
        #[inline]
        #[target_feature(enable = $features)]
        fn rounds_192(low: Four, high: Four, mut each: impl FnMut(usize, Four)) -> Four {
            let [a, b, c, d] = transposed(low);
            let [e, f, _, _] = transposed(high);
            let mut words = [a, b, c, d, e, f];
            for (step, constant) in [0x01, 0x04, 0x10, 0x40].into_iter().enumerate() {
                let [.., e, f] = words;
                words = next_six(words, constant);
                let [a, b, c, d, g, h] = words;
                each(3 * step + 1, transposed([e, f, a, b]));
                each(3 * step + 2, transposed([c, d, g, h]));
                words = next_six(words, constant << 1);
                if step < 3 {
                    let [a, b, c, d, ..] = words;
                    each(3 * step + 3, transposed([a, b, c, d]));
                }
            }
            let [a, b, c, d, ..] = words;
            transposed([a, b, c, d])
        }

        /// The keys of the rounds 1 to 13 in turn; returns those of the last. Even and odd ones feed each other.
        #[inline]
        #[target_feature(enable = $features)]
        fn rounds_256(low: Four, high: Four, mut each: impl FnMut(usize, Four)) -> Four {
            let mut even = Trail::<2, 1>::to(low);
            let mut odd = Trail::<2, 0>::to(high);
            each(1, high);
            each(2, even.grow::<1>(odd.last(), 0x01));
            each(3, odd.grow::<1>(even.last(), 0));
            each(4, even.grow::<2>(odd.last(), 0x02));
            each(5, odd.grow::<2>(even.last(), 0));
            each(6, even.grow::<3>(odd.last(), 0x04));
            each(7, odd.grow::<3>(even.last(), 0));
            each(8, even.grow::<4>(odd.last(), 0x08));
            each(9, odd.grow::<4>(even.last(), 0));
            each(10, even.grow::<5>(odd.last(), 0x10));
            each(11, odd.grow::<5>(even.last(), 0));
            each(12, even.grow::<6>(odd.last(), 0x20));
            each(13, odd.grow::<6>(even.last(), 0));
            even.grow::<7>(odd.last(), 0x40)
        }

        /// The last words of the latest four round keys, which is all that feeds the next. That of round `n` is `n`
        /// RotWords and `PACE * n - LEAD` ShiftRows behind.
        struct Trail<const PACE: usize, const LEAD: usize> {
            /// Oldest first.
            words: Four,
            /// The latest, in order.
            last: Abreast,
            /// The right halves, words 2 and 3, of the latest two keys: lanes 0 and 1 of four, then 2 and 3.
            right: [[Abreast; 2]; 2],
        }

        impl<const PACE: usize, const LEAD: usize> Trail<PACE, LEAD> {
            /// As if `key` had been made by three rounds above it.
            #[inline]
            #[target_feature(enable = $features)]
            fn to(key: Four) -> Self {
                let right = [high_halves(key[0], key[1]), high_halves(key[2], key[3])];
                let left = [low_halves(key[0], key[1]), low_halves(key[2], key[3])];
                let (a, b) = (even_words(left[0], left[1]), odd_words(left[0], left[1]));
                let (c, d) = (even_words(right[0], right[1]), odd_words(right[0], right[1]));
                let (inner, outer) = (xor(b, c), xor(c, d));
                let words = [
                    Self::enter::<1>(xor(xor(a, b), outer)),
                    Self::enter::<2>(xor(b, d)),
                    Self::enter::<3>(outer),
                    Self::enter::<0>(d),
                ];
                let above = [low_words(inner, outer), high_words(inner, outer)];
                Self { words, last: d, right: [above, right] }
            }

            /// The word that feeds the next key.
            fn last(&self) -> Abreast {
                self.words[3]
            }

            /// The keys of round `ROUND`, fed by `word`.
            #[inline]
            #[target_feature(enable = $features)]
            fn grow<const ROUND: usize>(&mut self, word: Abreast, constant: i32) -> Four {
                let [oldest, second, third, above] = self.words;
                let constant = splat(constant << (ROUND % 4 * 8));
                let word = enclast(word, xor(oldest, constant));
                self.words = [second, third, above, word];

                // Word 2 is the last words of this key and of the one before; the left half is the right halves of
                // this key and of the one before that.
                let d = Self::leave::<ROUND>(word);
                let c = xor(d, self.last);
                let right = [low_words(c, d), high_words(c, d)];
                let [before, latest] = self.right;
                let left = [xor(right[0], before[0]), xor(right[1], before[1])];
                (self.last, self.right) = (d, [latest, right]);
                [
                    low_halves(left[0], right[0]),
                    high_halves(left[0], right[0]),
                    low_halves(left[1], right[1]),
                    high_halves(left[1], right[1]),
                ]
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn enter<const ROUND: usize>(word: Abreast) -> Abreast {
                shuffle(word, spread(const { &enter(ROUND, PACE * ROUND + 4 - LEAD) }))
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn leave<const ROUND: usize>(word: Abreast) -> Abreast {
                shuffle(word, spread(const { &leave(ROUND, PACE * ROUND + 4 - LEAD) }))
            }
        }

        /// The next six words of AES-192. It is seldom used, so its chain is the plain one.
        #[inline]
        #[target_feature(enable = $features)]
        fn next_six([a, b, c, d, e, f]: [Abreast; 6], constant: i32) -> [Abreast; 6] {
            // ShiftRows backwards after RotWord, which is three of both undone.
            let word = enclast(shuffle(f, spread(const { &enter(3, 3) })), splat(constant));
            let b = xor(a, b);
            let c = xor(b, c);
            let d = xor(c, d);
            let e = xor(d, e);
            let f = xor(e, f);
            [xor(a, word), xor(b, word), xor(c, word), xor(d, word), xor(e, word), xor(f, word)]
        }

        /// From lanes to words and back: in each 128-bit piece, rows become columns.
        #[inline]
        #[target_feature(enable = $features)]
        fn transposed([a, b, c, d]: Four) -> Four {
            let (ab_low, ab_high) = (low_words(a, b), high_words(a, b));
            let (cd_low, cd_high) = (low_words(c, d), high_words(c, d));
            [
                low_halves(ab_low, cd_low),
                high_halves(ab_low, cd_low),
                low_halves(ab_high, cd_high),
                high_halves(ab_high, cd_high),
            ]
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn add([a, b, c, d]: Four, [e, f, g, h]: Four) -> Four {
            [xor(a, e), xor(b, f), xor(c, g), xor(d, h)]
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn encrypt([a, b, c, d]: Four, [e, f, g, h]: Four) -> Four {
            [enc(a, e), enc(b, f), enc(c, g), enc(d, h)]
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn encrypt_last([a, b, c, d]: Four, [e, f, g, h]: Four) -> Four {
            [enclast(a, e), enclast(b, f), enclast(c, g), enclast(d, h)]
        }

        /// The same 16 bytes in every 128-bit piece.
        #[inline]
        #[target_feature(enable = $features)]
        fn spread(bytes: &Block) -> Abreast {
            [$spread(memory::load(bytes)); $ABREAST]
        }

        /// The same word in every column.
        #[inline]
        #[target_feature(enable = $features)]
        fn splat(word: i32) -> Abreast {
            [$word(word); $ABREAST]
        }

        /// The blocks of the lanes.
        #[inline]
        #[target_feature(enable = $features)]
        fn load(blocks: &[Block]) -> Four {
            let (vectors, _) = blocks.as_chunks::<$PIECES>();
            // SAFETY: the bytes of a whole register are readable there, and the instruction asks for no alignment.
            let load = |at: usize| unsafe { $load(ptr::from_ref::<[Block; $PIECES]>(&vectors[at]).cast()) };
            [
                each(|set| load(4 * set)),
                each(|set| load(4 * set + 1)),
                each(|set| load(4 * set + 2)),
                each(|set| load(4 * set + 3)),
            ]
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn store([a, b, c, d]: Four, blocks: &mut [Block]) {
            let (vectors, _) = blocks.as_chunks_mut::<$PIECES>();
            for (set, places) in vectors.chunks_mut(4).take($ABREAST).enumerate() {
                for (vector, place) in [a[set], b[set], c[set], d[set]].into_iter().zip(places) {
                    // SAFETY: the bytes of a whole register are writable there, and the instruction asks for no
                    // alignment.
                    unsafe { $store(ptr::from_mut::<[Block; $PIECES]>(place).cast(), vector) }
                }
            }
        }

        crate::dukpt::lanes::x86::abreast::$operations! {
            $features, $Vector,
            xor: $xor, shuffle: $shuffle, low_words: $low_words, high_words: $high_words, low_halves: $low_halves,
            high_halves: $high_halves, even_words: $even_words, odd_words: $odd_words, enc: $enc, enclast: $enclast
        }
    };
}
pub(super) use kernels;
