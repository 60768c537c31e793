//! The built binary, as somebody meets it who has no cluster at hand.

#[cfg(test)]
mod tests {
    use std::process::Command;

    #[test]
    fn without_a_cluster_it_ends_and_says_what_to_set() {
        let done = Command::new(env!("CARGO_BIN_EXE_mesh-operator"))
            .args(["run", "--worker-image=w", "--worker-floor-image=f"])
            .env("KUBECONFIG", "/nonexistent/kubeconfig")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{said}");
        assert!(said.contains("set KUBECONFIG"), "{said}");
    }

    #[test]
    fn a_forbidden_place_at_port_0_is_refused_by_what_is_wrong_with_it() {
        let done = Command::new(env!("CARGO_BIN_EXE_mesh-operator"))
            .args(["run", "--worker-image=w", "--worker-floor-image=f"])
            .env("MESH_CANARY_FORBIDDEN", "db.example:5432,db.example:0")
            .env("KUBECONFIG", "/nonexistent/kubeconfig")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{said}");
        assert!(said.contains("a port is from 1 to 65535"), "{said}");
    }
}
