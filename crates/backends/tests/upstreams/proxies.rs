//! A proxy that is odd: its password, its address, its silence.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use mesh_backends::{AttemptError, Backends, ClientOptions, HealthEffect, ProxyCause};
use mesh_testkit::proxy::{Says, ScriptedProxy};

use crate::trust::{NAME, World, fails, through, works};
use crate::world::{clients, key_file};

/// What the proxy was told last to admit us.
fn said(proxy: &ScriptedProxy) -> Option<String> {
    let heads = proxy.heads();
    let fields = heads
        .last()?
        .lines()
        .filter_map(|line| line.split_once(": "));
    let mut found = fields.filter(|(name, _)| name.eq_ignore_ascii_case("proxy-authorization"));
    found.next().map(|(_, value)| value.to_owned())
}

#[tokio::test]
async fn a_proxy_is_told_the_password_as_it_is_written_whatever_is_in_it() {
    let world = World::new(NAME).await;
    let proxy = ScriptedProxy::start(world.front.address())
        .await
        .expect("a proxy");
    let backends = clients();
    works(&backends, world.behind(&proxy)).await;
    assert_eq!(said(&proxy), None);
    for key in [
        "mesh:pa%41ss",
        "mesh:%ff%00%",
        "mesh:a:b@c/d?e#f[g]{h}|i^j`k\\l\"m",
        "me%41sh@corp:two words",
        "mesh:",
        ":token",
    ] {
        let (_folder, file) = key_file(key);
        let mut declared = world.behind(&proxy);
        if let Some(proxy) = &mut declared.proxy {
            proxy.credentials = Some(file);
        }
        works(&backends, declared).await;
        let expected = format!("Basic {}", BASE64_STANDARD.encode(key));
        assert_eq!(said(&proxy), Some(expected), "{key}");
    }
}

#[tokio::test]
async fn a_proxy_whose_address_nobody_can_use_is_told_and_nothing_goes_around_it() {
    let world = World::new("localhost").await;
    let backends = clients();
    let direct = world.proven_by(&world.authority.pem());
    for host in ["${PROXY_HOST}", "{{ proxy }}", "a\"b", "a`b", "proxy{"] {
        let host = host.replace(' ', "");
        let declared = through(direct.clone(), &format!("http://{host}:3128"));
        let failed = fails(&backends, declared).await;
        assert!(matches!(failed, AttemptError::Unusable(_)), "{host}");
        assert_eq!(failed.health(), HealthEffect::Marked("Unusable"));
    }
    assert_eq!((world.front.connections(), world.upstream.count()), (0, 0));
    works(&backends, direct).await;
}

#[tokio::test]
async fn a_proxy_that_never_answers_is_told_as_the_proxy() {
    let world = World::new(NAME).await;
    let proxy = ScriptedProxy::start(world.front.address())
        .await
        .expect("a proxy");
    let declared = world.behind(&proxy);
    proxy.says(Says::Endless);
    let failed = fails(&clients(), declared.clone()).await;
    assert_eq!(failed, AttemptError::Proxy(ProxyCause::Unreachable));
    proxy.says(Says::Silence);
    let hurried = Backends::new(ClientOptions {
        connect_timeout: Duration::from_millis(300),
        ..ClientOptions::default()
    })
    .expect("clients");
    let failed = fails(&hurried, declared).await;
    assert_eq!(failed, AttemptError::Proxy(ProxyCause::TimedOut));
    assert_eq!(
        (failed.outcome(), failed.health()),
        ("proxy", HealthEffect::Failure)
    );
    assert_eq!(world.front.connections(), 0);
}
