//! Paths of the contract that are not built yet, and paths that are nobody's.

use crate::respond::Error;

pub(crate) async fn responses() -> Error {
    not_supported("the Responses API; use /v1/chat/completions")
}

pub(crate) async fn messages() -> Error {
    not_supported("the Anthropic surface; use /v1/chat/completions")
}

pub(crate) async fn decisions() -> Error {
    not_supported("stored decisions; use POST /mesh/v1/explain")
}

pub(crate) async fn console() -> Error {
    not_supported("the console")
}

pub(crate) async fn not_found() -> Error {
    Error::NotFound
}

pub(crate) async fn method_not_allowed() -> Error {
    Error::MethodNotAllowed
}

const fn not_supported(what: &'static str) -> Error {
    Error::NotSupported { what }
}
