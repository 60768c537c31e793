//! The proof that one entry is in a log, as a file that stands for itself (C2SP `tlog-proof`): the entry, its number, the
//! hashes that lead to the root, and the signed checkpoint of that root. Whoever has the log's public key needs nothing
//! else; the entry stands in the line `extra`.

use std::fmt::{self, Write};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::checkpoint::Checkpoint;
use crate::entry::Line;
use crate::note::{NoteError, PublicKey};
use crate::tree::{Hash, included};

/// The first line.
const TITLE: &str = "c2sp.org/tlog-proof@v1";

/// An entry and how it hangs together with a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The entry.
    pub line: Line,
    /// Its number.
    pub number: u64,
    /// The hashes that lead to the root, the nearest first.
    pub path: Vec<Hash>,
    /// The checkpoint, a signed note.
    pub checkpoint: String,
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Not a proof.
    #[error("not a proof of this log's kind: {0}")]
    Form(&'static str),
    /// The checkpoint does not hold.
    #[error("the checkpoint: {0}")]
    Note(#[from] NoteError),
    /// The hashes do not lead from the entry to the root.
    #[error("the entry is not in the log of that checkpoint")]
    NotIncluded,
}

impl Proof {
    /// Says whether it proves that the entry is in the log of this key.
    ///
    /// # Errors
    /// If it does not.
    pub fn verify(&self, key: &PublicKey) -> Result<Checkpoint, ProofError> {
        let checkpoint = Checkpoint::open(&self.checkpoint, key)?;
        let place = (self.number, checkpoint.size);
        if included(self.line.leaf(), place, &self.path, checkpoint.root) {
            Ok(checkpoint)
        } else {
            Err(ProofError::NotIncluded)
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = STANDARD.encode(self.line.bytes());
        write!(f, "{TITLE}\nextra {entry}\nindex {}\n", self.number)?;
        for hash in &self.path {
            writeln!(f, "{}", hash.to_base64())?;
        }
        f.write_char('\n')?;
        f.write_str(&self.checkpoint)
    }
}

impl FromStr for Proof {
    type Err = ProofError;

    fn from_str(text: &str) -> Result<Self, ProofError> {
        let form = ProofError::Form;
        let (head, checkpoint) = text
            .split_once("\n\n")
            .ok_or_else(|| form("it has no checkpoint"))?;
        let mut lines = head.lines();
        if lines.next() != Some(TITLE) {
            return Err(form("it does not begin as one"));
        }
        let entry = lines.next().and_then(|line| line.strip_prefix("extra "));
        let entry = entry.and_then(|text| STANDARD.decode(text).ok());
        let line = entry
            .and_then(|bytes| Line::take(&bytes).ok())
            .ok_or_else(|| form("it holds no entry"))?;
        let number = lines.next().and_then(|line| line.strip_prefix("index "));
        let number = number
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| form("it has no index"))?;
        let path: Option<Vec<Hash>> = lines.map(Hash::from_base64).collect();
        Ok(Self {
            line,
            number,
            path: path.ok_or_else(|| form("a hash is none"))?,
            checkpoint: checkpoint.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Proof, ProofError};
    use crate::checkpoint::Checkpoint;
    use crate::entry::tests::lost;
    use crate::note::Signer;
    use crate::tree::{Frontier, Leaves};
    use crate::{Line, NoteError};

    #[test]
    fn a_proof_stands_for_itself_and_for_one_entry_at_one_place() {
        let signer = Signer::generate("inferencemesh.dev/ledger/1").expect("a key");
        let lines: Vec<Line> = (0..7)
            .map(|count| Line::try_from(&lost(count)).expect("a line"))
            .collect();
        let (mut tree, mut leaves) = (Frontier::default(), Leaves::new(Frontier::default()));
        for line in &lines {
            tree.push(line.leaf());
            leaves.push(line.leaf());
        }
        for number in 0..7 {
            let proof = Proof {
                line: lines[number].clone(),
                number: number as u64,
                path: leaves.proof(number as u64, 7).expect("a path"),
                checkpoint: Checkpoint::of(&tree).sign(&signer),
            };
            let text = proof.to_string();
            let read: Proof = text.parse().expect("a proof");
            assert_eq!(read, proof);
            assert_eq!(read.verify(signer.public()), Ok(Checkpoint::of(&tree)));
            let elsewhere = Proof {
                number: (number as u64 + 1) % 7,
                ..proof.clone()
            };
            assert_eq!(
                elsewhere.verify(signer.public()),
                Err(ProofError::NotIncluded)
            );
            let other = Proof {
                line: lines[(number + 1) % 7].clone(),
                ..proof
            };
            assert_eq!(other.verify(signer.public()), Err(ProofError::NotIncluded));
            let stranger = Signer::generate("inferencemesh.dev/ledger/2").expect("a key");
            let refused = read.verify(stranger.public());
            assert_eq!(refused, Err(ProofError::Note(NoteError::Unsigned)));
            for wrong in [
                "",
                "a\n\nb",
                &text.replace("index", "place"),
                &text[1..],
                &text.replace("extra ", "extra !"),
            ] {
                assert!(
                    matches!(wrong.parse::<Proof>(), Err(ProofError::Form(_))),
                    "{wrong}"
                );
            }
        }
    }
}
