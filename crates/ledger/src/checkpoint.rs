//! What is signed: how many entries there are and the root of their tree (C2SP `tlog-checkpoint`). Who keeps one elsewhere
//! can tell whether anything before it was changed or taken away.

use crate::note::{NoteError, PublicKey, Signer};
use crate::tree::{Frontier, Hash};

/// The state of a log that its key vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Entries since the log began.
    pub size: u64,
    /// Root of their tree.
    pub root: Hash,
}

impl Checkpoint {
    /// Of this tree.
    pub fn of(tree: &Frontier) -> Self {
        Self {
            size: tree.size(),
            root: tree.root(),
        }
    }

    /// As a signed note. The key's name is the log's origin.
    pub fn sign(&self, signer: &Signer) -> String {
        let (origin, root) = (signer.public().name(), self.root.to_base64());
        signer.sign(&format!("{origin}\n{}\n{root}\n", self.size))
    }

    /// Reads a signed note.
    ///
    /// # Errors
    /// If the key has not signed it, or it is no checkpoint of the log of that name.
    pub fn open(note: &str, key: &PublicKey) -> Result<Self, NoteError> {
        let mut lines = key.open(note)?.lines();
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next())
        else {
            return Err(NoteError::Form);
        };
        let number: u64 = size.parse().map_err(|_| NoteError::Form)?;
        let root = Hash::from_base64(root).ok_or(NoteError::Form)?;
        if origin != key.name() || number.to_string() != size {
            return Err(NoteError::Form);
        }
        Ok(Self { size: number, root })
    }
}

#[cfg(test)]
mod tests {
    use super::Checkpoint;
    use crate::note::{NoteError, Signer};
    use crate::tree::{Frontier, Hash};

    #[test]
    fn a_checkpoint_is_read_as_it_was_signed_and_only_of_its_own_log() {
        let signer = Signer::generate("inferencemesh.dev/ledger/1").expect("a key");
        let mut tree = Frontier::default();
        tree.push(Hash::leaf(b"x"));
        let note = Checkpoint::of(&tree).sign(&signer);
        assert!(
            note.starts_with("inferencemesh.dev/ledger/1\n1\n"),
            "{note}"
        );
        assert_eq!(
            Checkpoint::open(&note, signer.public()),
            Ok(Checkpoint::of(&tree))
        );
        let root = tree.root().to_base64();
        let origin = "inferencemesh.dev/ledger/1";
        for text in [
            format!("inferencemesh.dev/ledger/2\n1\n{root}\n"),
            format!("{origin}\n01\n{root}\n"),
            format!("{origin}\n-1\n{root}\n"),
            format!("{origin}\n1\n{}\n", &root[4..]),
            format!("{origin}\n1\n"),
        ] {
            let note = signer.sign(&text);
            assert_eq!(
                Checkpoint::open(&note, signer.public()),
                Err(NoteError::Form)
            );
        }
    }
}
