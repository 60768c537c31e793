//! What a token must be, and everything it must not.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};

use super::{AUDIENCE, Error, TokenVerifier};

const ISSUER: &str = "https://kubernetes.default.svc";

struct World {
    signing: EncodingKey,
    key_set: String,
    verifier: TokenVerifier,
}

fn key_set(key: &KeyPair) -> String {
    // An uncompressed point: 4, then x and y of 32 bytes each.
    let point = key.der_bytes();
    let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
    json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "one", "use": "sig", "alg": "ES256", "x": part(1..33), "y": part(33..65)}]}).to_string()
}

fn world() -> World {
    let key = KeyPair::generate().expect("a key");
    let key_set = key_set(&key);
    World {
        signing: EncodingKey::from_ec_der(&key.serialize_der()),
        verifier: TokenVerifier::new(&key_set, ISSUER, AUDIENCE).expect("a verifier"),
        key_set,
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": [AUDIENCE], "exp": now() + 600, "nbf": now() - 5, "iat": now() - 5,
        "sub": "system:serviceaccount:team:app",
        "kubernetes.io": {"namespace": "team", "serviceaccount": {"name": "app", "uid": "1"}, "pod": {"name": "app-1", "uid": "2"}},
    })
}

fn header() -> Header {
    Header {
        kid: Some(String::from("one")),
        ..Header::new(Algorithm::ES256)
    }
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = claims();
    change(&mut claims);
    claims
}

fn without(claim: &str) -> Value {
    let mut claims = claims();
    if let Some(all) = claims.as_object_mut() {
        all.remove(claim);
    }
    claims
}

#[test]
fn a_token_of_the_api_server_names_its_service_account_and_pod() {
    let world = world();
    let token = encode(&header(), &claims(), &world.signing).expect("a token");
    let account = world.verifier.verify(token.as_bytes()).expect("valid");
    assert_eq!(
        (
            account.namespace.as_str(),
            account.name.as_str(),
            account.pod.as_deref()
        ),
        ("team", "app", Some("app-1"))
    );
}

#[test]
fn what_does_not_hold_is_refused() {
    let world = world();
    let cases = [
        (
            with(|claims| claims["aud"] = json!(["https://kubernetes.default.svc"])),
            Error::Invalid,
        ),
        (
            with(|claims| claims["iss"] = json!("https://elsewhere")),
            Error::Invalid,
        ),
        (
            with(|claims| claims["exp"] = json!(now() - 120)),
            Error::Invalid,
        ),
        (
            with(|claims| claims["nbf"] = json!(now() + 600)),
            Error::Invalid,
        ),
        (without("exp"), Error::Invalid),
        (without("aud"), Error::Invalid),
        (without("kubernetes.io"), Error::Invalid),
        (
            with(|claims| claims["sub"] = json!("system:serviceaccount:mesh-system:app")),
            Error::Subject,
        ),
    ];
    for (claims, error) in cases {
        let token = encode(&header(), &claims, &world.signing).expect("a token");
        assert_eq!(
            world.verifier.verify(token.as_bytes()),
            Err(error),
            "{claims}"
        );
    }
}

#[test]
fn a_foreign_or_missing_signature_is_refused() {
    let world = world();
    let stranger = EncodingKey::from_ec_der(&KeyPair::generate().expect("a key").serialize_der());
    let forged = encode(&header(), &claims(), &stranger).expect("a token");
    assert_eq!(
        world.verifier.verify(forged.as_bytes()),
        Err(Error::Invalid)
    );
    let unknown = Header {
        kid: Some(String::from("two")),
        ..header()
    };
    let token = encode(&unknown, &claims(), &world.signing).expect("a token");
    assert_eq!(world.verifier.verify(token.as_bytes()), Err(Error::Key));
    // Signed with what everybody knows, as if it were a secret.
    let symmetric = Header {
        kid: Some(String::from("one")),
        ..Header::new(Algorithm::HS256)
    };
    let secret = EncodingKey::from_secret(world.key_set.as_bytes());
    let token = encode(&symmetric, &claims(), &secret).expect("a token");
    assert_eq!(world.verifier.verify(token.as_bytes()), Err(Error::Invalid));
    let none = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"one"}"#),
        URL_SAFE_NO_PAD.encode(claims().to_string())
    );
    assert_eq!(world.verifier.verify(none.as_bytes()), Err(Error::Form));
}

#[test]
fn bytes_that_are_no_token_are_refused() {
    let world = world();
    let long = vec![b'a'; super::LONGEST + 1];
    for bytes in [&b""[..], b"secret", b"a.b.c", b"\xff\xfe", &long] {
        assert_eq!(world.verifier.verify(bytes), Err(Error::Form));
    }
    for keys in [
        "",
        "{}",
        r#"{"keys": []}"#,
        r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "one"}]}"#,
    ] {
        assert_eq!(
            TokenVerifier::new(keys, ISSUER, AUDIENCE).err(),
            Some(Error::KeySet),
            "{keys}"
        );
    }
}
