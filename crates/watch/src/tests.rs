use kube::core::Status;
use kube::runtime::watcher;

use super::{Place, Progress, Teller, refusal};

fn error(code: u16) -> watcher::Error {
    let status = Status {
        code,
        ..Status::default()
    };
    watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
}

#[test]
fn a_kind_that_is_not_served_is_told_apart_from_an_api_server_that_is_away() {
    assert!(refusal(&error(404)).is_some_and(|why| why.contains("custom resource")));
    assert!(refusal(&error(403)).is_some_and(|why| why.contains("rights")));
    assert!(refusal(&error(500)).is_none());
}

#[test]
fn a_kind_that_need_not_be_served_is_not_waited_for_where_it_is_not() {
    for (optional, served, waits) in [(true, 404, false), (true, 403, true), (false, 404, true)] {
        let (sender, changed) = tokio::sync::watch::channel(0);
        let teller = Teller {
            kind: String::from("ServiceCIDR"),
            number: 0,
            optional,
            changed: std::sync::Arc::new(sender),
            places: super::Places::default(),
            listener: None,
        };
        super::lock(&teller.places).insert(teller.key(), Place::default());
        teller.failed(&error(served));
        let places = std::sync::Arc::clone(&teller.places);
        let progress = Progress { changed, places };
        assert_eq!(!progress.missing().is_empty(), waits, "{optional} {served}");
    }
}

#[test]
fn what_was_listed_once_is_never_missing_again_but_may_be_lost() {
    let progress = |listed, refused: Option<&str>| {
        let (_, changed) = tokio::sync::watch::channel(0);
        let place = Place {
            listed,
            refused: refused.map(str::to_owned),
        };
        let places = super::Places::default();
        super::lock(&places).insert((String::from("Pod"), 0), place);
        Progress { changed, places }
    };
    let never = progress(false, None);
    assert!(never.missing()[0].contains("Pod") && never.lost().is_empty());
    let gone = progress(true, Some(": why"));
    assert!(gone.missing().is_empty() && gone.lost()[0].ends_with(": why"));
    let good = progress(true, None);
    assert!(good.missing().is_empty() && good.lost().is_empty());
}
