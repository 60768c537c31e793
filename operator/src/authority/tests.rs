//! A life of an authority, by a clock of our own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Secret;
use mesh_identity::{Account, Member, Signer, Trust};
use rustls::pki_types::UnixTime;

use super::{Kept, Lifetimes, advance, delayed, replaced};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const LIVES: Lifetimes = Lifetimes {
    authority: Duration::from_hours(24 * 30),
    certificate: DAY,
};
/// Keys of an API server; nobody asks for tokens here.
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"one","alg":"ES256","x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}]}"#;

fn now() -> SystemTime {
    SystemTime::now()
}

fn unix(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(
        time.duration_since(SystemTime::UNIX_EPOCH)
            .expect("after 1970"),
    )
}

/// The certificate of a pod, signed by whoever signs at that time.
fn pod(kept: &Kept, at: SystemTime) -> Arc<Member> {
    let signer = Signer::new(Trust::new(), HashMap::new(), LIVES.certificate);
    signer
        .authority
        .store(Some(Arc::new(kept.signer().expect("usable"))));
    let account = Account::new("team", "app");
    let (chain, key) = signer.own(&account, &[], at).expect("signed");
    let member = Member::new();
    member.install(&chain, &key).expect("installed");
    member
}

fn trusts(kept: &Kept, member: &Member, at: SystemTime) -> bool {
    let trust = Trust::new();
    trust.set(&kept.trusted(), KEYS, "issuer").expect("trust");
    trust.vouches_for(&member.chain(), unix(at))
}

fn moved(kept: &Kept, at: SystemTime) -> Kept {
    advance(Some(kept), at, LIVES)
        .expect("usable")
        .expect("something to do")
}

fn still(kept: &Kept, at: SystemTime) {
    assert_eq!(advance(Some(kept), at, LIVES).expect("usable"), None);
}

#[test]
fn an_authority_is_replaced_so_that_no_certificate_is_ever_without_trust() {
    let begun = now();
    let first = advance(None, begun, LIVES).expect("made").expect("made");
    still(&first, begun);
    still(&first, begun + DAY * 19);

    let due = begun + DAY * 20;
    let both = moved(&first, due);
    assert!(
        trusts(&both, &pod(&first, due), due),
        "who signs is still the first"
    );
    let before = pod(&both, due);
    still(&both, due + HOUR / 2);

    // An hour later everybody trusts the second, so it may sign.
    let switched = due + HOUR;
    let second = moved(&both, switched);
    let after = pod(&second, switched);
    assert!(
        trusts(&both, &after, switched),
        "who has heard only of the first news"
    );
    assert!(!trusts(&first, &after, switched));
    assert!(
        trusts(&second, &before, switched),
        "what the first signed lives on"
    );
    still(&second, switched + DAY);

    let over = switched + DAY + HOUR;
    let alone = moved(&second, over);
    assert!(!trusts(&alone, &before, over));
    assert!(trusts(&alone, &pod(&alone, over), over));
    still(&alone, over);
}

#[test]
fn what_is_kept_comes_back_from_its_secret_and_half_of_it_is_refused() {
    let begun = now();
    let first = advance(None, begun, LIVES).expect("made").expect("made");
    let both = moved(&first, begun + DAY * 20);
    let second = moved(&both, begun + DAY * 21);
    let asked = replaced(&second, begun + DAY * 22, LIVES).expect("made");
    for kept in [&first, &both, &second, &asked] {
        let secret = Secret {
            data: Some(kept.data()),
            ..Secret::default()
        };
        let again = Kept::read(&secret).expect("read");
        assert_eq!(&again, kept);
        for missing in ["ca.crt", "ca.key"] {
            let mut broken = secret.clone();
            broken.data.as_mut().expect("data").remove(missing);
            assert!(Kept::read(&broken).is_err(), "{missing}");
        }
        let mut mixed = secret.clone();
        let other = advance(None, begun, LIVES).expect("made").expect("made");
        let key = other.data().remove("ca.key").expect("a key");
        mixed
            .data
            .as_mut()
            .expect("data")
            .insert(String::from("ca.key"), key);
        assert!(Kept::read(&mixed).is_err());
    }
    assert!(Kept::read(&Secret::default()).is_err());
    let shown = format!("{first:?}");
    assert!(
        !shown.contains("PRIVATE") && !shown.contains("BEGIN"),
        "{shown}"
    );
}

const MINUTE: Duration = Duration::from_mins(1);

#[test]
fn a_secret_that_was_deleted_is_replaced_in_minutes_and_nobody_is_cut_off() {
    let begun = now();
    let first = advance(None, begun, LIVES).expect("made").expect("made");
    let before = pod(&first, begun);
    let deleted = begun + HOUR;
    let both = replaced(&first, deleted, LIVES).expect("made");
    assert!(both.moving() && trusts(&both, &before, deleted));
    assert!(
        trusts(&first, &pod(&both, deleted), deleted),
        "the old one signs as yet"
    );
    still(&both, deleted + MINUTE * 4);
    // Deleted again: another one yet, and the time begins anew.
    let again = replaced(&both, deleted + MINUTE * 4, LIVES).expect("made");
    still(&again, deleted + MINUTE * 8);

    let switched = deleted + MINUTE * 9 + Duration::from_secs(1);
    let second = moved(&again, switched);
    let after = pod(&second, switched);
    assert!(trusts(&again, &after, switched) && !trusts(&both, &after, switched));
    assert!(trusts(&second, &before, switched));
    let trust = Trust::new();
    trust.set(&second.trusted(), KEYS, "issuer").expect("trust");
    assert!(
        trust.superseded(&before.chain(), unix(switched)),
        "members hear of it"
    );
    assert!(!trust.superseded(&after.chain(), unix(switched)));
    still(&second, switched + MINUTE * 9);

    let over = switched + MINUTE * 10;
    let alone = moved(&second, over);
    assert!(!alone.moving() && !trusts(&alone, &before, over) && trusts(&alone, &after, over));
    still(&alone, over);
}

#[test]
fn what_nobody_was_told_of_waits_as_if_it_had_just_begun() {
    let begun = now();
    let first = advance(None, begun, LIVES).expect("made").expect("made");
    assert_eq!(delayed(&first, begun + DAY, LIVES), None, "nothing moves");
    let deleted = begun + HOUR;
    let both = replaced(&first, deleted, LIVES).expect("made");
    // A moment is no matter; the operator may have been killed and come back after a day.
    assert_eq!(delayed(&both, deleted + MINUTE / 4, LIVES), None);
    let back = deleted + DAY;
    let again = delayed(&both, back, LIVES).expect("it waits anew");
    assert_eq!(again.trusted(), both.trusted(), "for the same one");
    still(&again, back + MINUTE * 4);

    let switched = back + MINUTE * 6;
    let second = moved(&again, switched);
    let before = pod(&again, back);
    assert_eq!(delayed(&second, switched + MINUTE / 2, LIVES), None);
    let later = switched + DAY;
    let kept = delayed(&second, later, LIVES).expect("it waits anew");
    still(&kept, later + MINUTE * 9);
    assert!(trusts(&kept, &before, later - HOUR), "trusted until then");
    assert!(!moved(&kept, later + MINUTE * 11).moving());
}
