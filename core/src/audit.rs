//! The audit tree: a Merkle tree over records, hashed as RFC 6962 (section 2.1) does.
//!
//! A leaf is `SHA-256(00 ‖ record)`, a node `SHA-256(01 ‖ left ‖ right)`. The tree is kept as its frontier, the
//! roots of its complete subtrees, so appending needs no older record.

use std::fmt;

use sha2::{Digest, Sha256};

/// A hash of a leaf, a node or the whole tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; 32]);

/// What a record's bytes hash to.
pub fn leaf_hash(record: &[u8]) -> Hash {
    Hash(Sha256::new().chain_update([0x00]).chain_update(record).finalize().into())
}

fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Hash(Sha256::new().chain_update([0x01]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// A growing tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// Roots of the complete subtrees, largest first: one for each one-bit of `size`.
    frontier: Vec<Hash>,
}

impl Tree {
    /// Appends a leaf.
    pub fn append(&mut self, leaf: Hash) {
        let mut root = leaf;
        // Each trailing one-bit of the size is a subtree as large as the new one: they become one.
        for _ in 0..self.size.trailing_ones() {
            let left = self.frontier.pop().expect("one root for each one-bit of the size");
            root = node_hash(&left, &root);
        }
        self.frontier.push(root);
        self.size += 1;
    }

    /// The roots of its complete subtrees, largest first: with its size, all that is needed to go on.
    pub fn frontier(&self) -> &[Hash] {
        &self.frontier
    }

    /// Takes up a tree where it was left, or `None` if there is not one root for each one-bit of the size.
    pub fn resume(size: u64, frontier: Vec<Hash>) -> Option<Self> {
        (usize::try_from(size.count_ones()) == Ok(frontier.len())).then_some(Self { size, frontier })
    }

    /// How many leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The tree head; that of an empty tree is the hash of nothing (RFC 6962 2.1).
    pub fn root(&self) -> Hash {
        let mut roots = self.frontier.iter().rev();
        match roots.next() {
            None => Hash(Sha256::digest([]).into()),
            Some(last) => roots.fold(*last, |right, left| node_hash(left, &right)),
        }
    }
}

/// What the audit key signs: which log, how many records, their root, when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeHead {
    /// The log: one for each server process and data store.
    pub log: String,
    /// How many records.
    pub size: u64,
    /// Their root.
    pub root: Hash,
    /// When it was signed, in milliseconds since 1970 UTC.
    pub at_ms: u64,
}

impl TreeHead {
    /// The bytes that are signed: every field, delimited, under a name of their own.
    pub fn signed_bytes(&self) -> Vec<u8> {
        format!("warifu audit tree head v1\n{}\n{}\n{}\n{}\n", self.log, self.size, self.root, self.at_ms).into_bytes()
    }
}

impl Hash {
    /// Parses 64 hex digits.
    pub fn parse(hex: &str) -> Option<Self> {
        let bytes = hex.as_bytes();
        if bytes.len() != 64 {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(bytes.chunks_exact(2)) {
            let text = std::str::from_utf8(pair).ok()?;
            // from_str_radix alone would take a sign.
            if !pair.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            *byte = u8::from_str_radix(text, 16).ok()?;
        }
        Some(Self(hash))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 6962 2.1 as it is written: split at the largest power of two below n.
    fn by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash(Sha256::digest([]).into()),
            [one] => *one,
            many => {
                let split = many.len().next_power_of_two() / 2;
                node_hash(&by_definition(&many[..split]), &by_definition(&many[split..]))
            }
        }
    }

    proptest! {
        #[test]
        fn the_frontier_gives_the_tree_of_the_definition(records in prop::collection::vec(any::<[u8; 3]>(), 0..70)) {
            let leaves: Vec<Hash> = records.iter().map(|record| leaf_hash(record)).collect();
            let mut tree = Tree::default();
            leaves.iter().for_each(|leaf| tree.append(*leaf));
            prop_assert_eq!(tree.root(), by_definition(&leaves));
            prop_assert_eq!(Hash::parse(&tree.root().to_string()), Some(tree.root()));
            prop_assert_eq!(Tree::resume(tree.size(), tree.frontier().to_vec()), Some(tree.clone()));
            prop_assert_eq!(Tree::resume(tree.size() ^ 1, tree.frontier().to_vec()), None);
        }
    }

    #[test]
    fn the_published_roots_come_out() {
        // Test data of the certificate-transparency reference implementation (RFC 6962 trees of 1, 2 and 8 leaves).
        let leaves: [&[u8]; 8] = [
            b"",
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
        ];
        let expected = [
            (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
            (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
            (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
        ];
        let mut tree = Tree::default();
        for leaf in leaves {
            tree.append(leaf_hash(leaf));
            if let Some((_, root)) = expected.iter().find(|(size, _)| *size == tree.size()) {
                assert_eq!(tree.root().to_string(), *root);
            }
        }
    }
}
