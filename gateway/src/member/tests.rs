//! What the gateway is without an operator.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_backends::PodTls;
use mesh_core::BackendId;
use mesh_identity::{Account, Authority, Signer, Trust};
use mesh_runtime::Shutdown;

use super::{Identity, Membership};

const DAY: Duration = Duration::from_hours(24);

fn options(folder: &std::path::Path) -> Identity {
    Identity {
        tls_listen: ([127, 0, 0, 1], 0).into(),
        // Nobody is there.
        sign_url: String::from("https://localhost:1"),
        trust: folder.join("trust"),
        token_file: folder.join("token"),
        folder: folder.to_path_buf(),
    }
}

#[tokio::test]
async fn it_is_nobody_until_its_certificate_is_signed_and_then_stays_who_it_is() {
    mesh_runtime::install_crypto_provider();
    let folder = tempfile::tempdir().expect("a folder");
    let shutdown = Shutdown::new();
    let nobody = Membership::start(&options(folder.path()), "mesh-system", &shutdown);
    assert!(nobody.missing().is_some());
    assert!(shutdown.finish(Duration::from_secs(5)).await);

    // What an earlier container of this pod was given.
    let authority = Authority::generate(SystemTime::now(), DAY * 365).expect("an authority");
    let signer = Signer::new(Trust::new(), HashMap::new(), DAY);
    signer.authority.store(Some(Arc::new(authority)));
    let account = Account::new("mesh-system", "mesh-gateway");
    let (chain, key) = signer
        .own(&account, &[], SystemTime::now())
        .expect("signed");
    std::fs::write(folder.path().join("identity.pem"), chain + "\n" + &key).expect("written");
    let shutdown = Shutdown::new();
    let again = Membership::start(&options(folder.path()), "mesh-system", &shutdown);
    let mut changed = again.member.changed();
    let known = tokio::time::timeout(Duration::from_secs(10), changed.wait_for(|seen| *seen > 0));
    assert!(known.await.expect("in time").is_ok());
    assert_eq!(again.missing(), None);
    assert_eq!(again.generation(), 1);
    assert!(again.config(&BackendId::foreign("team", "small")).is_some());
    assert!(again.server().is_ok());
    assert!(shutdown.finish(Duration::from_secs(5)).await);
}
