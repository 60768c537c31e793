//! Which endpoint a body without one is meant for: `explain` and `mesh why` take the bodies of all of them.

use mesh_protocol::Surface;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::Error;

/// What the query `surface=…` says, else what the body looks like.
///
/// # Errors
/// [`Error::InvalidRequest`] if the query names none of ours.
pub fn surface_asked(query: Option<&str>, body: &[u8]) -> Result<Surface, Error> {
    let wanted = query.and_then(|query| {
        let mut pairs = query.split('&');
        pairs.find_map(|pair| pair.strip_prefix("surface="))
    });
    match wanted {
        Some("chat") => Ok(Surface::Chat),
        Some("completions") => Ok(Surface::Completions),
        Some("embeddings") => Ok(Surface::Embeddings),
        Some(_) => {
            let message = "`surface` must be chat, completions or embeddings";
            Err(Error::invalid("surface", message))
        }
        None => Ok(surface_of(body)),
    }
}

/// What a body without an endpoint looks like, for `explain` and `mesh why`. Anything unclear counts
/// as chat: reading it will say what is missing.
pub fn surface_of(body: &[u8]) -> Surface {
    #[derive(Deserialize)]
    struct Shape {
        messages: Option<IgnoredAny>,
        prompt: Option<IgnoredAny>,
        input: Option<IgnoredAny>,
    }
    match serde_json::from_slice(body) {
        Ok(Shape {
            messages: None,
            prompt: Some(_),
            ..
        }) => Surface::Completions,
        Ok(Shape {
            messages: None,
            prompt: None,
            input: Some(_),
        }) => Surface::Embeddings,
        _ => Surface::Chat,
    }
}
