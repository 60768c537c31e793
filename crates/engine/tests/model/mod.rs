//! Finds the real model that the tests need, and the golden files made from it.

use std::env;
use std::path::PathBuf;

/// The file of SmolLM2-135M-Instruct (Q4_1): `MESH_TEST_MODEL`, else the cache of `cargo xtask`. `None`, with the reason
/// printed, where it is absent on a laptop; with `CI=true` absence is a failure.
pub(crate) fn path() -> Option<PathBuf> {
    let cache = ".cache/inference-mesh/models/SmolLM2-135M-Instruct.Q4_1.gguf";
    let path = match env::var_os("MESH_TEST_MODEL") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env::var_os("HOME")?).join(cache),
    };
    if path.is_file() {
        return Some(path);
    }
    assert!(
        env::var("CI").as_deref() != Ok("true"),
        "the test model is absent: {}",
        path.display()
    );
    println!(
        "skipped: no test model at {}; `cargo xtask test` fetches it, MESH_TEST_MODEL names another place",
        path.display()
    );
    None
}

/// A file beside the tests.
pub(crate) fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    std::fs::read(&path).unwrap()
}
