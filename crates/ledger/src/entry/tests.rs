use jiff::Timestamp;
use mesh_core::{DecisionId, PrivacyLevel, SovereigntyClass};

use super::{Ended, Entry, EntryError, Event, LARGEST_ENTRY, Line, Sending, Tokens};

/// A small entry that is told from others by its number.
pub(crate) fn lost(count: u64) -> Entry {
    let since = Timestamp::UNIX_EPOCH;
    Entry::new("gateway-1", since, Event::Lost { count, since })
}

fn sending() -> Entry {
    let sending = Sending {
        decision: DecisionId(String::from("01J")),
        attempt: 1,
        backend: String::from("team/big"),
        model: String::from("big"),
        class: SovereigntyClass::CloudDomestic,
        bytes: 12,
        level: PrivacyLevel::Confidential,
    };
    Entry::new("gateway-1", Timestamp::UNIX_EPOCH, Event::Sending(sending))
}

fn ended(tokens: Option<Tokens>) -> Entry {
    let ended = Ended {
        decision: DecisionId(String::from("01J")),
        attempt: 1,
        backend: String::from("team/big"),
        outcome: String::from("success"),
        tokens,
        milliseconds: 7,
    };
    Entry::new("gateway-1", Timestamp::UNIX_EPOCH, Event::Ended(ended))
}

#[test]
fn the_written_form_is_this_one() {
    let written = |entry: &Entry| {
        let line = Line::try_from(entry).expect("a line");
        assert_eq!(Line::take(line.bytes()).as_ref(), Ok(&line));
        assert_eq!(line.entry().as_ref(), Ok(entry));
        String::from_utf8(line.bytes().to_vec()).expect("text")
    };
    let head = r#"{"v":1,"time":"1970-01-01T00:00:00Z","gateway":"gateway-1","event":"#;
    let expected = r#""sending","decision":"01J","attempt":1,"backend":"team/big","model":"big","class":"CloudDomestic","bytes":12,"level":"confidential"}"#;
    assert_eq!(written(&sending()), format!("{head}{expected}"));
    let expected = r#""ended","decision":"01J","attempt":1,"backend":"team/big","outcome":"success","milliseconds":7}"#;
    assert_eq!(written(&ended(None)), format!("{head}{expected}"));
    let tokens = Some(Tokens {
        input: 1,
        output: 2,
    });
    assert!(written(&ended(tokens)).contains(r#""tokens":{"input":1,"output":2},"#));
    let expected = r#""lost","count":3,"since":"1970-01-01T00:00:00Z"}"#;
    assert_eq!(written(&lost(3)), format!("{head}{expected}"));
}

#[test]
fn what_is_no_entry_is_refused_and_one_of_a_later_release_is_kept() {
    let good = Line::try_from(&lost(1)).expect("a line");
    let good = str::from_utf8(good.bytes()).expect("text");
    let later = good
        .replace(r#""v":1"#, r#""v":2"#)
        .replace("lost", "gained");
    let kept = Line::take(later.as_bytes()).expect("kept");
    assert_eq!(kept.entry(), Err(EntryError::Version(2)));
    let none = good.replace(r#""v":1"#, r#""v":0"#);
    assert_eq!(Line::take(none.as_bytes()), Err(EntryError::Version(0)));
    let unknown = Line::take(good.replace("lost", "gained").as_bytes()).expect("kept");
    assert!(matches!(unknown.entry(), Err(EntryError::Form(_))));
    for text in [
        r#"{"v":1}"#,
        &format!("{good}{good}"),
        &good[..good.len() - 1],
    ] {
        let refused = Line::take(text.as_bytes());
        assert!(
            matches!(refused, Err(EntryError::Form(_))),
            "{text}: {refused:?}"
        );
    }
    let spaced = format!(" {good}");
    for bytes in [
        b"".as_slice(),
        b"{}",
        b"{\"v\":1,\n}",
        spaced.as_bytes(),
        b"\xff",
    ] {
        assert_eq!(Line::take(bytes), Err(EntryError::Line));
    }
    let large = vec![b' '; LARGEST_ENTRY + 1];
    assert_eq!(
        Line::take(&large),
        Err(EntryError::Large(LARGEST_ENTRY + 1))
    );
}
