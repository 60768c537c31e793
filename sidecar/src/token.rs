//! The pod's own credential: a token that the kubelet renews in a file. Read again while it is used, never
//! printed, and the only credential that leaves this process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use tokio::time::Instant;

/// How old what was read may be; the kubelet renews a token long before it ends.
const FRESH: Duration = Duration::from_secs(5);
/// Largest file in bytes; real tokens have about a thousand.
const LARGEST: usize = 16 << 10;

#[derive(Debug)]
struct Read {
    value: HeaderValue,
    at: Instant,
}

/// The file.
#[derive(Debug)]
pub(crate) struct Token {
    file: PathBuf,
    read: ArcSwapOption<Read>,
}

impl Token {
    pub(crate) fn new(file: PathBuf) -> Self {
        Self {
            file,
            read: ArcSwapOption::empty(),
        }
    }

    /// `Bearer …`; `None` if there is no token.
    pub(crate) async fn bearer(&self) -> Option<HeaderValue> {
        if let Some(read) = self.read.load().as_ref()
            && read.at.elapsed() < FRESH
        {
            return Some(read.value.clone());
        }
        let text = tokio::fs::read(&self.file).await.ok()?;
        let value = bearer(text.trim_ascii())?;
        let at = Instant::now();
        self.read.store(Some(Arc::new(Read {
            value: value.clone(),
            at,
        })));
        Some(value)
    }
}

fn bearer(token: &[u8]) -> Option<HeaderValue> {
    if token.is_empty() || token.len() > LARGEST {
        return None;
    }
    let mut value = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Token;

    #[tokio::test(start_paused = true)]
    async fn a_token_that_was_renewed_is_used_soon_and_none_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        let token = Token::new(file.clone());
        assert_eq!(token.bearer().await, None);
        std::fs::write(&file, "one\n").expect("written");
        let value = token.bearer().await.expect("a token");
        assert_eq!(value, "Bearer one");
        assert!(!format!("{value:?}").contains("one"));
        std::fs::write(&file, "two").expect("written");
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(token.bearer().await.expect("a token"), "Bearer two");
        std::fs::write(&file, "").expect("written");
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(token.bearer().await, None);
    }
}
