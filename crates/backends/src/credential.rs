//! Keys, found where the declaration says at the moment they are used: a rotated file counts with
//! the next request. A key is `Sensitive`, and no error holds one.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use mesh_core::{Credential, Sensitive};

use crate::AttemptError;

/// Keys of Secrets, found beforehand by whoever may read them: a request never waits for that.
pub type Keys = HashMap<Credential, Sensitive<String>>;

/// Largest key in bytes, wherever it is kept. Who keeps keys beforehand keeps no more than one byte beyond it.
pub const LARGEST_KEY: usize = 16 << 10;

/// Gets the key.
pub(crate) fn resolve(
    credential: &Credential,
    secrets: &Keys,
) -> Result<Sensitive<String>, AttemptError> {
    let key = match credential {
        Credential::Env(name) => match std::env::var(name) {
            Ok(key) => key,
            Err(std::env::VarError::NotPresent) => {
                return missing(format!("environment variable {name} is not set"));
            }
            Err(std::env::VarError::NotUnicode(_)) => {
                return missing(format!("environment variable {name} is not text"));
            }
        },
        Credential::File(path) => read(path, LARGEST_KEY as u64).or_else(missing)?,
        Credential::Secret { .. } => match secrets.get(credential) {
            Some(key) if key.expose().len() > LARGEST_KEY => {
                return missing(format!("{} is too large", place(credential)));
            }
            Some(key) => key.expose().clone(),
            None => return missing(format!("{} could not be read", place(credential))),
        },
    };
    let key = key.trim();
    if key.is_empty() {
        return missing(format!("{} is empty", place(credential)));
    }
    if !key
        .bytes()
        .all(|byte| byte.is_ascii_graphic() || byte == b' ')
    {
        return missing(format!(
            "{} holds characters that a header cannot carry",
            place(credential)
        ));
    }
    Ok(Sensitive::new(key.to_owned()))
}

/// A file of at most so many bytes; the error names it and shows nothing of it.
pub(crate) fn read(path: &Path, limit: u64) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_string(&mut text));
    match read {
        Ok(size) if size as u64 <= limit => Ok(text),
        Ok(_) => Err(format!("file {} is too large", path.display())),
        Err(error) => Err(format!(
            "file {} could not be read: {}",
            path.display(),
            error.kind()
        )),
    }
}

fn place(credential: &Credential) -> String {
    match credential {
        Credential::Env(name) => format!("environment variable {name}"),
        Credential::File(path) => format!("file {}", path.display()),
        Credential::Secret {
            namespace,
            name,
            key,
        } => format!("entry {key} of Secret {namespace}/{name}"),
    }
}

fn missing<T>(what: String) -> Result<T, AttemptError> {
    Err(AttemptError::Credentials { what })
}

#[cfg(test)]
mod tests {
    use mesh_core::{Credential, Sensitive};

    use super::{Keys, LARGEST_KEY, resolve};
    use crate::AttemptError;

    #[test]
    fn a_key_file_is_read_again_when_it_changes_and_its_text_is_trimmed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let credential = Credential::File(path.clone());
        for key in ["first", "second"] {
            std::fs::write(&path, format!(" {key}\n")).expect("written");
            assert_eq!(
                resolve(&credential, &Keys::new()).expect("a key").expose(),
                key
            );
        }
    }

    #[test]
    fn a_key_that_cannot_be_used_is_named_by_its_place_and_never_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let credential = Credential::File(path.clone());
        let said = |credential: &Credential| match resolve(credential, &Keys::new()) {
            Err(error @ AttemptError::Credentials { .. }) => format!("{error} {error:?}"),
            other => panic!("{other:?}"),
        };
        assert!(said(&credential).contains(&path.display().to_string()));
        assert!(said(&Credential::Env(String::from("MESH_NOT_SET"))).contains("MESH_NOT_SET"));
        for content in [
            "",
            "\n",
            "ca\nnary",
            "canary\u{e9}",
            &"canary".repeat(10_000),
        ] {
            std::fs::write(&path, content).expect("written");
            assert!(!said(&credential).contains("canary"));
        }
    }

    #[test]
    fn an_entry_that_is_larger_than_a_key_is_none() {
        let credential = Credential::Secret {
            namespace: String::from("team"),
            name: String::from("cloud"),
            key: String::from("apiKey"),
        };
        let of = |size: usize| {
            let kept = Sensitive::new("k".repeat(size));
            resolve(&credential, &Keys::from([(credential.clone(), kept)]))
        };
        assert!(of(LARGEST_KEY).is_ok());
        let said = of(LARGEST_KEY + 1)
            .expect_err("it is too large")
            .to_string();
        assert!(
            said.contains("entry apiKey of Secret team/cloud is too large"),
            "{said}"
        );
    }
}
