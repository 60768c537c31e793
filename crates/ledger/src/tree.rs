//! The tree of hashes over all entries (RFC 6962, section 2.1), and the proof that one entry is in it (section 2.1.1).
//!
//! Of a tree that grows only its right edge is kept: the hashes of the perfect subtrees that it is made of, the largest
//! first. That is enough to go on and for the root; and it stands for entries that are gone.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// A hash; base64 where it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Of one entry.
    pub fn leaf(bytes: &[u8]) -> Self {
        Self::of(&[&[0], bytes])
    }

    /// Of two subtrees.
    pub fn node(left: &Self, right: &Self) -> Self {
        Self::of(&[&[1], &left.0, &right.0])
    }

    /// Of nothing.
    pub fn empty() -> Self {
        Self::of(&[])
    }

    fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// Reads base64, in the one spelling that is written.
    pub fn from_base64(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }

    /// As it is written.
    pub fn to_base64(self) -> String {
        STANDARD.encode(self.0)
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_base64())
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_base64(&text)
            .ok_or_else(|| serde::de::Error::custom("expected a hash in base64"))
    }
}

/// The right edge of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    nodes: Vec<Hash>,
}

impl Frontier {
    /// From what [`nodes`](Self::nodes) gave of a tree of `size`; none if these cannot belong together.
    pub fn new(size: u64, nodes: Vec<Hash>) -> Option<Self> {
        let fits = usize::try_from(size.count_ones()).ok()? == nodes.len();
        fits.then_some(Self { size, nodes })
    }

    /// How many entries.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its hashes, of the largest subtree first.
    pub fn nodes(&self) -> &[Hash] {
        &self.nodes
    }

    /// Adds an entry by its hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.nodes.pop() {
                hash = Hash::node(&left, &hash);
            }
        }
        self.nodes.push(hash);
        self.size += 1;
    }

    /// The root.
    pub fn root(&self) -> Hash {
        let joined = self.nodes.iter().rev().copied();
        joined
            .reduce(|right, left| Hash::node(&left, &right))
            .unwrap_or_else(Hash::empty)
    }

    /// The hash of the entries `start..end`, if it is one of its subtrees.
    fn subtree(&self, start: u64, end: u64) -> Option<Hash> {
        let mut at = 0;
        for (bit, node) in (0..u64::BITS)
            .rev()
            .filter(|bit| self.size >> bit & 1 == 1)
            .zip(&self.nodes)
        {
            let next = at + (1 << bit);
            if (at, next) == (start, end) {
                return Some(*node);
            }
            at = next;
        }
        None
    }
}

/// The tree over entries of which the oldest may be gone.
#[derive(Debug)]
pub struct Leaves {
    before: Frontier,
    leaves: Vec<Hash>,
}

impl Leaves {
    /// Follows those that `before` stands for.
    pub fn new(before: Frontier) -> Self {
        Self {
            before,
            leaves: Vec::new(),
        }
    }

    /// Adds an entry by its hash.
    pub fn push(&mut self, leaf: Hash) {
        self.leaves.push(leaf);
    }

    /// The hashes that lead from entry `number` to the root of the first `size` entries, the nearest first; none if that
    /// entry is gone or not there yet.
    pub fn proof(&self, number: u64, size: u64) -> Option<Vec<Hash>> {
        let known = self.before.size + self.leaves.len() as u64;
        if number < self.before.size || number >= size || size > known {
            return None;
        }
        let (mut start, mut end, mut path) = (0, size, Vec::new());
        while end - start > 1 {
            let middle = start + split(end - start);
            let other = if number < middle {
                (middle, end)
            } else {
                (start, middle)
            };
            path.push(self.hash(other.0, other.1)?);
            (start, end) = if number < middle {
                (start, middle)
            } else {
                (middle, end)
            };
        }
        path.reverse();
        Some(path)
    }

    fn hash(&self, start: u64, end: u64) -> Option<Hash> {
        if end <= self.before.size {
            return self.before.subtree(start, end);
        }
        if end - start == 1 {
            let at = usize::try_from(start.checked_sub(self.before.size)?).ok()?;
            return self.leaves.get(at).copied();
        }
        let middle = start + split(end - start);
        Some(Hash::node(
            &self.hash(start, middle)?,
            &self.hash(middle, end)?,
        ))
    }
}

/// True if `path` leads from this leaf, as entry `number`, to the root of a tree of `size` entries.
pub fn included(leaf: Hash, (number, size): (u64, u64), path: &[Hash], root: Hash) -> bool {
    if number >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (number, size - 1, leaf);
    for step in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = Hash::node(step, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = Hash::node(&hash, step);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && hash == root
}

/// The largest power of two below `count`, which is 2 or more.
fn split(count: u64) -> u64 {
    1 << (u64::BITS - 1 - (count - 1).leading_zeros())
}

#[cfg(test)]
mod tests {
    use ct_merkle::mem_backed_tree::MemoryBackedTree;
    use mesh_core::hex;

    use super::{Frontier, Hash, Leaves, included};

    /// Entries of the tests of Certificate Transparency's reference implementation, and the roots of 1 to 8 of them.
    const ENTRIES: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"@ABC",
        b"PQRSTUVW",
        b"`abcdefghijklmno",
    ];
    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    #[test]
    fn roots_are_those_of_the_reference_implementation() {
        let mut tree = Frontier::default();
        let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex(&tree.root().0), nothing);
        for (entry, root) in ENTRIES.iter().zip(ROOTS) {
            tree.push(Hash::leaf(entry));
            assert_eq!(hex(&tree.root().0), root);
        }
    }

    #[test]
    fn roots_and_proofs_are_those_of_another_implementation() {
        let mut other = MemoryBackedTree::<sha2::Sha256, Vec<u8>>::new();
        let (mut tree, mut all) = (Frontier::default(), Leaves::new(Frontier::default()));
        for number in 0..70_u8 {
            other.push(vec![number; 3]);
            tree.push(Hash::leaf(&[number; 3]));
            all.push(Hash::leaf(&[number; 3]));
            assert_eq!(tree.root().0.as_slice(), other.root().as_bytes().as_slice());
            for entry in 0..=u64::from(number) {
                let path = all.proof(entry, tree.size()).expect("a proof");
                let told: Vec<u8> = path.iter().flat_map(|hash| hash.0).collect();
                let expected = other.prove_inclusion(usize::try_from(entry).expect("small"));
                assert_eq!(told, expected.as_bytes(), "{entry} of {number}");
            }
        }
    }

    fn leaf(number: u64) -> Hash {
        Hash::leaf(&number.to_be_bytes())
    }

    fn edge(size: u64) -> Frontier {
        let mut tree = Frontier::default();
        (0..size).for_each(|number| tree.push(leaf(number)));
        tree
    }

    /// The tree over `size` entries of which the first `gone` are gone.
    fn rest(gone: u64, size: u64) -> Leaves {
        let before = Frontier::new(gone, edge(gone).nodes().to_vec()).expect("fits");
        let mut rest = Leaves::new(before);
        (gone..size).for_each(|number| rest.push(leaf(number)));
        rest
    }

    #[test]
    fn a_tree_whose_oldest_entries_are_gone_gives_the_same_proofs_of_the_others() {
        let sizes = (1..40).flat_map(|size| (0..size).map(move |gone| (gone, size)));
        for (gone, size) in sizes {
            let (whole, rest, root) = (rest(0, size), rest(gone, size), edge(size).root());
            assert!((0..gone).all(|number| rest.proof(number, size).is_none()));
            assert_eq!(rest.proof(size, size), None);
            for number in gone..size {
                let path = rest.proof(number, size).expect("a proof");
                assert_eq!(Some(&path), whole.proof(number, size).as_ref());
                assert!(included(leaf(number), (number, size), &path, root));
                assert!(!included(leaf(number + 1), (number, size), &path, root));
                assert!(!included(leaf(number), (number, size + 64), &path, root));
            }
        }
    }

    #[test]
    fn hashes_that_cannot_be_the_edge_of_that_size_are_refused() {
        assert_eq!(Frontier::new(3, vec![Hash::empty()]), None);
        assert_eq!(Frontier::new(0, vec![Hash::empty()]), None);
        assert_eq!(Frontier::new(0, Vec::new()), Some(Frontier::default()));
    }
}
