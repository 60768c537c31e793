//! What is signed, and everything that is not.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{Authority, AuthorityError, Grant, LARGEST_REQUEST};
use crate::{Account, Request, account_of, validity};

const DAY: Duration = Duration::from_hours(24);
const YEAR: Duration = Duration::from_hours(24 * 365);

fn account() -> Account {
    Account::new("team", "app")
}

fn sign(csr: &str, hosts: &[String], lifetime: Duration) -> Result<String, AuthorityError> {
    let now = SystemTime::now();
    let account = account();
    let grant = Grant {
        account: &account,
        hosts,
        lifetime,
    };
    Authority::generate(now, YEAR)?.sign(csr, &grant, now)
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

#[test]
fn a_certificate_says_what_was_proven_and_lives_a_day() {
    let request = Request::new().expect("a request");
    let hosts = [String::from("mesh-gateway.mesh-system.svc")];
    let signed = der(&sign(&request.csr, &hosts, DAY).expect("signed"));
    assert_eq!(account_of(&signed), Some(account()));
    let (from, until) = validity(&signed).expect("times");
    let now = SystemTime::now();
    assert!(from < now && until > now + DAY - Duration::from_secs(5));
    assert!(until <= now + DAY);
    let (_, parsed) = X509Certificate::from_der(&signed).expect("a certificate");
    assert!(!parsed.is_ca());
    let names = parsed
        .subject_alternative_name()
        .expect("names")
        .expect("some");
    assert!(
        names
            .value
            .general_names
            .contains(&GeneralName::DNSName("mesh-gateway.mesh-system.svc"))
    );
    assert_eq!(names.value.general_names.len(), 2);
}

#[test]
fn names_and_rights_that_a_request_asks_for_are_ignored() {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![String::from("mesh-operator.mesh-system.svc")])
        .expect("params");
    let other = Account::new("mesh-system", "mesh-gateway").uri();
    params
        .subject_alt_names
        .push(SanType::URI(other.try_into().expect("a uri")));
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = params
        .serialize_request(&key)
        .expect("a request")
        .pem()
        .expect("PEM");
    let signed = der(&sign(&csr, &[], DAY).expect("signed"));
    assert_eq!(account_of(&signed), Some(account()));
    let (_, parsed) = X509Certificate::from_der(&signed).expect("a certificate");
    assert!(!parsed.is_ca());
    let names = parsed
        .subject_alternative_name()
        .expect("names")
        .expect("some");
    assert_eq!(names.value.general_names.len(), 1);
}

#[test]
fn a_certificate_does_not_outlive_its_authority() {
    let request = Request::new().expect("a request");
    let now = SystemTime::now();
    let authority = Authority::generate(now, Duration::from_hours(1)).expect("an authority");
    let account = account();
    let grant = Grant {
        account: &account,
        hosts: &[],
        lifetime: DAY,
    };
    let signed = der(&authority.sign(&request.csr, &grant, now).expect("signed"));
    let (_, until) = validity(&signed).expect("times");
    assert!(until <= authority.expires());
}

#[test]
fn what_is_no_request_or_not_signed_by_its_own_key_is_refused() {
    let request = Request::new().expect("a request").csr;
    let mut lines: Vec<String> = request.lines().map(str::to_owned).collect();
    // The end of the body is the signature.
    let last = lines.len() - 2;
    let turned: String = lines[last].chars().rev().collect();
    lines[last] = turned;
    for wrong in [
        String::new(),
        String::from(
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        ),
        lines.join("\n"),
        "x".repeat(LARGEST_REQUEST + 1),
    ] {
        let refused = sign(&wrong, &[], DAY).expect_err("refused");
        assert!(matches!(refused, AuthorityError::Request(_)), "{refused}");
    }
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .expect("a request")
        .pem()
        .expect("PEM");
    assert_eq!(sign(&csr, &[], DAY), Err(AuthorityError::Algorithm));
}

#[test]
fn an_authority_comes_back_from_its_secret_and_a_mixed_up_one_does_not() {
    let now = SystemTime::now();
    let (one, two) = (
        Authority::generate(now, YEAR).expect("an authority"),
        Authority::generate(now, YEAR).expect("an authority"),
    );
    let again = Authority::load(one.certificate(), &one.key()).expect("loaded");
    assert_eq!(again.expires(), one.expires());
    assert!(Authority::load(one.certificate(), &two.key()).is_err());
    assert!(Authority::load("", &one.key()).is_err());
    assert!(Authority::load(one.certificate(), "").is_err());
    let request = Request::new().expect("a request");
    let account = account();
    let grant = Grant {
        account: &account,
        hosts: &[],
        lifetime: DAY,
    };
    let leaf = one.sign(&request.csr, &grant, now).expect("signed");
    assert!(
        Authority::load(&leaf, &request.key).is_err(),
        "a member is no authority"
    );
}
