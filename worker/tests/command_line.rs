//! The built binary, as somebody meets it who starts it by hand.

#[cfg(test)]
mod tests {
    use std::process::Command;

    #[test]
    fn a_guard_without_tls_guards_nothing_and_says_so() {
        let done = Command::new(env!("CARGO_BIN_EXE_mesh-worker"))
            .args(["guard", "--admin-listen", "127.0.0.1:0"])
            .env_remove("MESH_TLS_LISTEN")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{said}");
        assert!(said.contains("--tls-listen is missing"), "{said}");
    }
}
