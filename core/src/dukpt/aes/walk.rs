//! The ways of many records at once: their keys are derived side by side.

use super::{DeriveError, at_counter, data, node_data, strong_enough};
use crate::dukpt::is_on_path;
use crate::dukpt::lanes::{Batch, Errand, Path, Trusted};
use crate::key::{KeyBytes, KeyLen, KeyType, KeyUsage};
use crate::ksn::AesKsn;

/// The way of one record down its tree: from a node of it, the initial key or a later one that was kept, to the counter
/// of its KSN.
#[derive(Clone, Copy)]
pub struct Walk<'a> {
    ancestor: &'a KeyBytes,
    at: u32,
    ksn: AesKsn,
}

impl<'a> Walk<'a> {
    /// The whole way, from the initial key.
    pub fn whole(ik: &'a KeyBytes, ksn: AesKsn) -> Self {
        Self { ancestor: ik, at: 0, ksn }
    }

    /// The rest of the way, from the node at counter `at`. `None` when that node does not lie on it.
    pub fn below(node: &'a KeyBytes, at: u32, ksn: AesKsn) -> Option<Self> {
        is_on_path(at, ksn.raw_counter()).then_some(Self { ancestor: node, at, ksn })
    }

    fn key_len(&self) -> KeyLen {
        self.ancestor.key_len()
    }

    fn errand(&self) -> Errand<'a> {
        Errand {
            key: self.ancestor.padded(),
            from: self.at,
            tail: at_counter(self.ksn.ik_id(), self.ksn.raw_counter()),
        }
    }
}

/// The derivation key of each record, in their order; each as [`super::derivation_key`] gives it.
pub fn derivation_keys(walks: &[Walk<'_>]) -> Vec<KeyBytes> {
    derive(Trusted::best(), walks, None)
}

/// [`derivation_keys`] on one path, or the widest below it that this processor has: for tests and benches.
pub fn derivation_keys_on(path: Path, walks: &[Walk<'_>]) -> Vec<KeyBytes> {
    derive(Trusted::at_most(path), walks, None)
}

/// The key of one use of each record, in their order; each as [`super::working_key`] gives it.
///
/// # Errors
/// When one of them would be stronger than its derivation key, and then no key is derived.
pub fn working_keys(walks: &[Walk<'_>], usage: KeyUsage, key_type: KeyType) -> Result<Vec<KeyBytes>, DeriveError> {
    derive_working(Trusted::best(), walks, usage, key_type)
}

/// [`working_keys`] on one path, or the widest below it that this processor has: for tests and benches.
///
/// # Errors
/// As [`working_keys`].
pub fn working_keys_on(
    path: Path,
    walks: &[Walk<'_>],
    usage: KeyUsage,
    key_type: KeyType,
) -> Result<Vec<KeyBytes>, DeriveError> {
    derive_working(Trusted::at_most(path), walks, usage, key_type)
}

fn derive_working(
    path: Trusted,
    walks: &[Walk<'_>],
    usage: KeyUsage,
    key_type: KeyType,
) -> Result<Vec<KeyBytes>, DeriveError> {
    walks.iter().try_for_each(|walk| strong_enough(walk.key_len(), key_type))?;
    Ok(derive(path, walks, Some((usage, key_type))))
}

/// Keys of one length at a time; almost always all are of one.
fn derive(path: Trusted, walks: &[Walk<'_>], last: Option<(KeyUsage, KeyType)>) -> Vec<KeyBytes> {
    let new_len = |walk: &Walk<'_>| last.map_or(walk.key_len(), |(_, key_type)| key_type.key_len());
    // Made where they stay, so that nothing secret is moved.
    let mut keys: Vec<KeyBytes> = walks.iter().map(|walk| KeyBytes::filled(new_len(walk), |_| {})).collect();
    let last = last.map(|(usage, key_type)| (data(usage, key_type, 0).head, key_type.key_len()));
    let batch = |len| Batch { len, node_head: node_data(len, [0; 8], 0).head, last };
    let errand = |number: usize| walks[number].errand();
    let Some(first) = walks.first().map(Walk::key_len) else { return keys };
    if walks.iter().all(|walk| walk.key_len() == first) {
        path.run(batch(first), 0..walks.len(), errand, &mut keys);
    } else {
        for len in [KeyLen::K128, KeyLen::K192, KeyLen::K256] {
            let numbers: Vec<usize> = (0..walks.len()).filter(|&number| walks[number].key_len() == len).collect();
            path.run(batch(len), numbers.into_iter(), errand, &mut keys);
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dukpt::aes::{derivation_key, path, working_key};

    const LENS: [KeyLen; 3] = [KeyLen::K128, KeyLen::K192, KeyLen::K256];
    const TYPES: [KeyType; 6] =
        [KeyType::Tdea2, KeyType::Tdea3, KeyType::Aes128, KeyType::Aes192, KeyType::Aes256, KeyType::Hmac256];

    fn key(seed: [u8; 32], len: KeyLen) -> KeyBytes {
        KeyBytes::copied(&seed[..len.bytes()]).unwrap()
    }

    /// Counters short and long, legal and not, the root among them.
    fn any_counter() -> impl Strategy<Value = u32> {
        prop_oneof![0u32..64, any::<u32>(), Just(u32::MAX), (any::<u32>(), any::<u32>()).prop_map(|(a, b)| a & b)]
    }

    #[test]
    fn a_walk_starts_on_its_way_only() {
        let node = key([7; 32], KeyLen::K128);
        let ksn = AesKsn::new([1; 12]).with_counter(0b1011);
        let starts = (0..16).filter(|&at| Walk::below(&node, at, ksn).is_some());
        assert_eq!(starts.collect::<Vec<_>>(), [0, 0b1000, 0b1010, 0b1011]);
    }

    #[test]
    fn a_batch_with_one_key_too_weak_is_refused_whole() {
        let (short, long) = (key([7; 32], KeyLen::K128), key([7; 32], KeyLen::K256));
        let ksn = AesKsn::new([1; 12]);
        let walks = [Walk::whole(&long, ksn), Walk::whole(&short, ksn)];
        let refused = working_keys(&walks, KeyUsage::DataEncryption, KeyType::Aes256).err();
        let error = DeriveError::WorkingKeyStronger { derivation_key: KeyLen::K128, wanted: KeyType::Aes256 };
        assert_eq!(refused, Some(error));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn every_path_derives_many_records_as_one_by_one(
            records in prop::collection::vec(
                (any::<[u8; 32]>(), 0usize..4, any::<[u8; 12]>(), any_counter(), any::<prop::sample::Index>()), 0..=40),
            same in any::<bool>(), len in 0usize..3, key_type in 0usize..6,
        ) {
            let pick = |own: usize| LENS[if same { len } else { own % 3 }];
            let iks: Vec<_> = records.iter().map(|(seed, own, ..)| key(*seed, pick(*own))).collect();
            let ksns: Vec<_> =
                records.iter().map(|(_, _, id, counter, _)| AesKsn::new(*id).with_counter(*counter)).collect();
            // Every start on the way, from the root to the node itself.
            let starts: Vec<_> = records.iter().map(|(_, _, _, counter, at)| {
                let way: Vec<u32> = std::iter::once(0).chain(path(*counter)).collect();
                *at.get(&way)
            }).collect();
            let nodes: Vec<_> = iks.iter().zip(&ksns).zip(&starts)
                .map(|((ik, ksn), at)| derivation_key(ik, &ksn.with_counter(*at))).collect();
            let walks: Vec<_> = nodes.iter().zip(&ksns).zip(&starts)
                .map(|((node, ksn), at)| Walk::below(node, *at, *ksn).unwrap()).collect();

            let expected: Vec<_> = iks.iter().zip(&ksns).map(|(ik, ksn)| derivation_key(ik, ksn)).collect();
            let key_type = TYPES[key_type];
            let uses: Result<Vec<_>, _> = expected.iter().zip(&ksns)
                .map(|(node, ksn)| working_key(node, ksn, KeyUsage::DataEncryption, key_type)).collect();
            for path in Path::ALL.into_iter().filter(|path| path.is_available()) {
                let derived = derivation_keys_on(path, &walks);
                prop_assert_eq!(derived.len(), expected.len());
                prop_assert!(derived.iter().zip(&expected).all(|(ours, theirs)| ours.ct_eq(theirs)), "{:?}", path);

                match (working_keys_on(path, &walks, KeyUsage::DataEncryption, key_type), &uses) {
                    (Ok(derived), Ok(uses)) => {
                        prop_assert!(derived.iter().zip(uses).all(|(ours, theirs)| ours.ct_eq(theirs)), "{:?}", path);
                    }
                    (derived, uses) => prop_assert_eq!(derived.err(), uses.as_ref().err().copied()),
                }
            }
        }
    }
}
