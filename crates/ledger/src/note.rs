//! Signed notes (C2SP `signed-note`): a text and under it who signs it, with Ed25519. Keys are written as Go's `note`
//! writes them, so that its tools can verify ours.
//!
//! Only one signature is looked at, that of the key asked for; those of others, such as witnesses, may stand beside it.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::rand;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mesh_core::{Sensitive, hex};
use sha2::{Digest, Sha256};

/// The kind of key: Ed25519.
const ALGORITHM: u8 = 1;
/// What the text of a private key begins with.
const PRIVATE: &str = "PRIVATE+KEY+";
/// What the line of a signature begins with: an em dash.
const SIGNED_BY: &str = "\u{2014} ";

/// Why a key or a note cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not a key.
    #[error("not a key: expected <name>+<8 hex digits>+<base64>")]
    Key,
    /// There is no randomness, or the library refuses the key.
    #[error("no key can be made")]
    Make,
    /// Not a note.
    #[error("not a signed note")]
    Form,
    /// The key has not signed it.
    #[error("it is not signed by the key that was asked for")]
    Unsigned,
    /// The key stands under it and has not signed this text.
    #[error("the signature does not hold")]
    Signature,
}

/// Who verifies: a public key and the name of its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    id: [u8; 4],
    key: [u8; 32],
}

impl PublicKey {
    fn new(name: &str, key: [u8; 32]) -> Self {
        Self {
            name: name.to_owned(),
            id: id(name, &key),
            key,
        }
    }

    /// The name of who signs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text of a note that this key has signed, its last line's end included.
    ///
    /// # Errors
    /// If it is not a note, or not signed by this key.
    pub fn open<'a>(&self, note: &'a str) -> Result<&'a str, NoteError> {
        let middle = note.rfind("\n\n").ok_or(NoteError::Form)?;
        let (text, signatures) = (&note[..=middle], &note[middle + 2..]);
        if !signatures.ends_with('\n') || signatures.len() < 2 {
            return Err(NoteError::Form);
        }
        for line in signatures.lines() {
            let line = line.strip_prefix(SIGNED_BY).ok_or(NoteError::Form)?;
            let (name, signature) = line.split_once(' ').ok_or(NoteError::Form)?;
            let signature = STANDARD.decode(signature).map_err(|_| NoteError::Form)?;
            let (id, signature) = signature.split_at_checked(4).ok_or(NoteError::Form)?;
            if name != self.name || id != self.id {
                continue;
            }
            return UnparsedPublicKey::new(&ED25519, self.key)
                .verify(text.as_bytes(), signature)
                .map(|()| text)
                .map_err(|_| NoteError::Signature);
        }
        Err(NoteError::Unsigned)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = STANDARD.encode([&[ALGORITHM], self.key.as_slice()].concat());
        write!(f, "{}+{}+{key}", self.name, hex(&self.id))
    }
}

impl FromStr for PublicKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (name, id, key) = parts(text)?;
        let read = Self::new(name, key);
        if hex(&read.id) == id {
            Ok(read)
        } else {
            Err(NoteError::Key)
        }
    }
}

/// Who signs.
pub struct Signer {
    pair: Ed25519KeyPair,
    seed: Sensitive<[u8; 32]>,
    public: PublicKey,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// A new key.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn generate(name: &str) -> Result<Self, NoteError> {
        let mut seed = [0; 32];
        rand::fill(&mut seed).map_err(|_| NoteError::Make)?;
        Self::new(name, seed)
    }

    fn new(name: &str, seed: [u8; 32]) -> Result<Self, NoteError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| NoteError::Make)?;
        let key = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| NoteError::Make)?;
        Ok(Self {
            pair,
            seed: Sensitive::new(seed),
            public: PublicKey::new(name, key),
        })
    }

    /// Reads what [`private`](Self::private) gave.
    ///
    /// # Errors
    /// If it is not that.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let rest = text.strip_prefix(PRIVATE).ok_or(NoteError::Key)?;
        let (name, id, seed) = parts(rest)?;
        let signer = Self::new(name, seed)?;
        if hex(&signer.public.id) == id {
            Ok(signer)
        } else {
            Err(NoteError::Key)
        }
    }

    /// The private key as text.
    pub fn private(&self) -> Sensitive<String> {
        let seed = STANDARD.encode([&[ALGORITHM], self.seed.expose().as_slice()].concat());
        let PublicKey { name, id, .. } = &self.public;
        Sensitive::new(format!("{PRIVATE}{name}+{}+{seed}", hex(id)))
    }

    /// Who verifies what this signs.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// A note of this text, which ends with a line's end.
    pub fn sign(&self, text: &str) -> String {
        let signature = self.pair.sign(text.as_bytes());
        let signature = STANDARD.encode([self.public.id.as_slice(), signature.as_ref()].concat());
        format!("{text}\n{SIGNED_BY}{} {signature}\n", self.public.name)
    }
}

fn parts(text: &str) -> Result<(&str, &str, [u8; 32]), NoteError> {
    let mut parts = text.splitn(3, '+');
    let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(NoteError::Key);
    };
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(NoteError::Key);
    }
    let key = STANDARD.decode(key).map_err(|_| NoteError::Key)?;
    match key.split_first() {
        Some((&ALGORITHM, key)) => Ok((name, id, key.try_into().map_err(|_| NoteError::Key)?)),
        _ => Err(NoteError::Key),
    }
}

/// What tells keys of one name apart.
fn id(name: &str, key: &[u8; 32]) -> [u8; 4] {
    let mut hash = Sha256::new();
    hash.update(name.as_bytes());
    hash.update([b'\n', ALGORITHM]);
    hash.update(key);
    let hash: [u8; 32] = hash.finalize().into();
    [hash[0], hash[1], hash[2], hash[3]]
}

#[cfg(test)]
mod tests {
    use super::{NoteError, PublicKey, Signer};

    /// The example of the documentation of Go's package `note`.
    const KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const TEXT: &str = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
    const SIGNATURE: &str = "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn a_note_of_another_implementation_is_verified() {
        let key: PublicKey = KEY.parse().expect("a key");
        assert_eq!(key.to_string(), KEY);
        assert_eq!(key.open(&format!("{TEXT}\n{SIGNATURE}")), Ok(TEXT));
        let other = TEXT.replace("you", "we");
        assert_eq!(
            key.open(&format!("{other}\n{SIGNATURE}")),
            Err(NoteError::Signature)
        );
    }

    #[test]
    fn what_a_key_signs_its_public_half_verifies_and_no_other_does() {
        let (signer, other) = (
            Signer::generate("a.example/log").expect("a key"),
            Signer::generate("a.example/log").expect("a key"),
        );
        let again = Signer::parse(signer.private().expose()).expect("a key");
        assert_eq!(again.public(), signer.public());
        let note = again.sign("a\n\nb\n");
        assert_eq!(signer.public().open(&note), Ok("a\n\nb\n"));
        assert_eq!(other.public().open(&note), Err(NoteError::Unsigned));
        let note_of_other = other.sign("a\n\nb\n");
        let theirs = note_of_other.rsplit("\n\n").next().expect("signed");
        assert_eq!(
            signer.public().open(&format!("{note}{theirs}")),
            Ok("a\n\nb\n"),
            "others may sign too"
        );
        assert!(
            !format!("{signer:?}").contains(
                signer
                    .private()
                    .expose()
                    .rsplit('+')
                    .next()
                    .expect("a seed")
            )
        );
    }

    #[test]
    fn what_is_no_key_and_no_note_is_refused() {
        let wrong_id = KEY.replace("c74f20a3", "c74f20a4");
        for text in [
            "",
            "a",
            "a+b",
            "+c74f20a3+AA==",
            &wrong_id,
            &KEY[..KEY.len() - 4],
        ] {
            assert_eq!(text.parse::<PublicKey>(), Err(NoteError::Key), "{text}");
            assert!(Signer::parse(&format!("PRIVATE+KEY+{text}")).is_err());
        }
        let key: PublicKey = KEY.parse().expect("a key");
        let unended = format!("{TEXT}\n{}", SIGNATURE.trim_end());
        for note in ["", "\n\n", TEXT, "a\n\nb\n", "a\n\n\u{2014} x\n", &unended] {
            assert_eq!(key.open(note), Err(NoteError::Form), "{note}");
        }
    }
}
