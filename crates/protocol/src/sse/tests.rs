//! Promises of the event stream reader and writer.

use proptest::prelude::*;

use super::{Error, Limits, Reader, SseEvent, comment, data, event};

const WIDE: Limits = Limits::of(1 << 16);

fn read_all(bytes: &[u8]) -> Vec<SseEvent> {
    read_pieces(bytes, &[], WIDE).expect("within bounds")
}

/// Reads `bytes` cut at `cuts` (positions modulo the length).
fn read_pieces(bytes: &[u8], cuts: &[usize], limits: Limits) -> Result<Vec<SseEvent>, Error> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    let (mut reader, mut events) = (Reader::new(limits), Vec::new());
    for pair in cuts.windows(2) {
        reader.read(&bytes[pair[0]..pair[1]], &mut events)?;
    }
    events.extend(reader.finish()?);
    Ok(events)
}

fn texts(events: &[SseEvent]) -> Vec<&str> {
    events.iter().map(|event| event.data.as_str()).collect()
}

#[test]
fn data_lines_are_joined_and_one_space_after_the_colon_is_not_text() {
    let events = read_all(b"data: a\ndata:b\ndata:  c\ndata\n\n");
    assert_eq!(texts(&events), ["a\nb\n c\n"]);
}

#[test]
fn all_three_line_ends_end_lines() {
    for end in ["\n", "\r", "\r\n"] {
        let text = format!("data: a{end}data: b{end}{end}data: c{end}{end}");
        assert_eq!(texts(&read_all(text.as_bytes())), ["a\nb", "c"], "{end:?}");
    }
}

#[test]
fn fields_are_read_and_comments_unknown_fields_and_events_without_data_are_not() {
    let events = read_all(
        b"\xEF\xBB\xBF: hello\nevent: error\nid: 7\nretry: 250\nfoo: bar\ndata: x\n\nevent: lost\n\ndata\n\nretry: 2x\ndata: y\n\n",
    );
    assert_eq!(events.len(), 2);
    assert_eq!(
        (
            events[0].event.as_str(),
            events[0].id.as_deref(),
            events[0].retry
        ),
        ("error", Some("7"), Some(250))
    );
    assert_eq!(events[1].data, "y");
    assert_eq!(
        (events[1].event.as_str(), events[1].retry),
        ("", None),
        "nothing is left over from the event before"
    );
}

#[test]
fn a_last_event_without_its_blank_line_still_counts() {
    assert_eq!(
        texts(&read_all(b"data: a\n\ndata: [DONE]")),
        ["a", "[DONE]"]
    );
    assert_eq!(
        texts(&read_all(b"data: a\n\ndata: [DONE]\n")),
        ["a", "[DONE]"]
    );
    assert!(read_all(b": only a comment").is_empty());
}

#[test]
fn hostile_streams_are_stopped_at_their_bounds_however_they_come() {
    let limits = Limits {
        line: 100,
        event: 150,
    };
    let endless_line = vec![b'x'; 1000];
    let many_lines = b"data: 0123456789\n".repeat(100);
    let name = [b"event: ".as_slice(), &[b'n'; 93], b"\n"].concat();
    let names_only = name.repeat(1000);
    for cuts in [&[][..], &[1, 2, 3], &(0..1000).collect::<Vec<_>>()[..]] {
        assert_eq!(
            read_pieces(&endless_line, cuts, limits),
            Err(Error::Line { limit: 100 })
        );
        assert_eq!(
            read_pieces(&many_lines, cuts, limits),
            Err(Error::Event { limit: 150 })
        );
        // Names replace each other, so an endless row of them holds no memory.
        assert_eq!(read_pieces(&names_only, cuts, limits), Ok(Vec::new()));
    }
}

#[test]
fn debug_output_of_an_event_never_holds_text() {
    assert!(!format!("{:?}", read_all(b"data: canary\n\n")).contains("canary"));
}

#[test]
fn no_text_can_forge_an_event() {
    let mut bytes = Vec::new();
    data("a\n\ndata: forged\r\revent: x\r\n", &mut bytes);
    event("na\nme", "t", &mut bytes);
    comment("c\ndata: forged", &mut bytes);
    let events = read_all(&bytes);
    assert_eq!(
        texts(&events),
        ["a\n\ndata: forged\n\nevent: x\n", "t"],
        "line ends are all written as newlines"
    );
    assert_eq!(events[1].event, "name");
}

/// Bytes that hit every branch of the reader often.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"data: ".to_vec()),
        Just(b"data".to_vec()),
        Just(b"event: e".to_vec()),
        Just(b"id: 1".to_vec()),
        Just(b"retry: 10".to_vec()),
        Just(b": c".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n\n".to_vec()),
        Just("käse €😀".as_bytes().to_vec()),
        Just(b"\xEF\xBB\xBF".to_vec()),
        Just(b"\xFF\xC3".to_vec()),
        prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_split_of_the_bytes_gives_the_same_events(
        bytes in stream(),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
        line in 1_usize..80,
        event in 1_usize..80,
    ) {
        prop_assert_eq!(read_pieces(&bytes, &cuts, WIDE), read_pieces(&bytes, &[], WIDE));
        let every: Vec<usize> = (0..=bytes.len()).collect();
        prop_assert_eq!(read_pieces(&bytes, &every, WIDE), read_pieces(&bytes, &[], WIDE));
        let tight = Limits { line, event };
        prop_assert_eq!(read_pieces(&bytes, &cuts, tight), read_pieces(&bytes, &[], tight));
    }

    #[test]
    fn what_is_written_is_read_back(text in "[a-z :\n€]{1,40}", name in "[a-z]{0,8}") {
        let mut bytes = Vec::new();
        event(&name, &text, &mut bytes);
        let events = read_all(&bytes);
        prop_assert_eq!(texts(&events), if text.is_empty() { vec![] } else { vec![text.as_str()] });
    }
}
