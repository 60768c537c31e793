//! The built binary, as somebody meets it who has no cluster at hand.

#[cfg(test)]
mod tests {
    use std::process::Command;

    fn refused(name: &str, value: &str, words: &str) {
        let done = Command::new(env!("CARGO_BIN_EXE_mesh-gateway"))
            .env("KUBECONFIG", "/nonexistent/kubeconfig")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .env("MESH_LISTEN", "127.0.0.1:0")
            .env("MESH_TLS_LISTEN", "127.0.0.1:0")
            .env("MESH_ADMIN_LISTEN", "127.0.0.1:0")
            .env(name, value)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    }

    #[test]
    fn without_a_cluster_it_ends_and_says_what_to_set() {
        refused("MESH_LOG", "info", "set KUBECONFIG");
    }

    #[test]
    fn settings_that_mean_nothing_are_refused_by_name() {
        refused("MESH_TOKEN_REVIEW", "soon", "--token-review");
        refused(
            "MESH_CLUSTER_CIDRS",
            "10.0.0.0/8,example.com",
            "`example.com` is not a network",
        );
    }
}
