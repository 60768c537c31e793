//! However text is cut into tokens, the caller sees the same.

use proptest::prelude::*;

use super::{Detokenizer, StopMatcher, Stopped};

fn detokenized(pieces: &[&[u8]]) -> (Vec<String>, String) {
    let mut detokenizer = Detokenizer::new();
    let texts = pieces.iter().map(|piece| detokenizer.push(piece)).collect();
    (texts, detokenizer.finish())
}

/// Pushes all pieces, then ends the text. Gives what went out and which stop ended it.
fn matched(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
    let mut matcher = StopMatcher::new(stops);
    let mut out = String::new();
    for piece in pieces {
        let Stopped { text, stop } = matcher.push(piece);
        out.push_str(&text);
        if stop.is_some() {
            assert_eq!(
                matcher.push("more"),
                Stopped {
                    text: String::new(),
                    stop
                }
            );
            assert_eq!(matcher.finish(), "");
            return (out, stop);
        }
    }
    (out + &matcher.finish(), None)
}

#[test]
fn half_a_character_waits_for_its_other_half() {
    let (texts, rest) = detokenized(&[b"a\xf0\x9f", b"\x99", b"\x82b", b"\xc3"]);
    assert_eq!(texts, ["a", "", "🙂b", ""]);
    assert_eq!(rest, "\u{fffd}");
    let (texts, rest) = detokenized(&[b"\xe4\xbd", b"x\xff", b"y"]);
    assert_eq!(
        (texts.concat().as_str(), rest.as_str()),
        ("\u{fffd}x\u{fffd}y", "")
    );
}

#[test]
fn a_stop_string_across_tokens_ends_the_text_before_it() {
    let (out, stop) = matched(&["\nUser:"], &["Hello", "\nU", "se", "r: hi"]);
    assert_eq!((out.as_str(), stop), ("Hello", Some(0)));
}

#[test]
fn the_beginning_of_a_stop_string_is_held_until_it_is_none() {
    let mut matcher = StopMatcher::new(&["</done>"]);
    assert_eq!(matcher.push("ok </do").text, "ok ");
    assert_eq!(matcher.push("nut>").text, "</donut>");
    assert_eq!(matcher.push(" </").text, " ");
    assert_eq!(matcher.finish(), "</");
}

#[test]
fn the_stop_string_complete_first_wins_and_the_longest_of_equals() {
    assert_eq!(matched(&["bcd", "c"], &["abcde"]), ("ab".into(), Some(1)));
    assert_eq!(matched(&["d", "bcd"], &["abcde"]), ("a".into(), Some(1)));
    assert_eq!(matched(&["x", "x"], &["ax"]), ("a".into(), Some(0)));
    assert_eq!(matched(&["aab"], &["aa", "aab"]), ("aa".into(), Some(0)));
    assert_eq!(matched(&[""], &["a", "b"]), ("ab".into(), None));
    assert_eq!(matched(&["ü🙂"], &["aü", "ü🙂z"]), ("aü".into(), Some(0)));
}

#[test]
fn a_long_stop_string_of_one_letter_costs_no_more_than_the_text() {
    let stop = "a".repeat(200_000);
    let piece = "a".repeat(1_000) + "b";
    let mut matcher = StopMatcher::new(&[stop]);
    let out: usize = (0..300).map(|_| matcher.push(&piece).text.len()).sum();
    assert_eq!(out, 300 * piece.len());
}

/// The meaning of [`StopMatcher`] without streaming: the match that ends first, the longest of those.
fn expected(stops: &[String], text: &str) -> (String, Option<usize>) {
    let found = |(index, stop): (usize, &String)| {
        let start = text.find(stop.as_str()).filter(|_| !stop.is_empty())?;
        Some((start + stop.len(), start, index))
    };
    match stops.iter().enumerate().filter_map(found).min() {
        Some((_, start, index)) => (text[..start].to_owned(), Some(index)),
        None => (text.to_owned(), None),
    }
}

fn cut(text: &str, lengths: &[usize]) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    let mut rest = letters.as_slice();
    let mut pieces = Vec::new();
    for &length in lengths.iter().cycle() {
        let (piece, after) = rest.split_at(length.min(rest.len()));
        pieces.push(piece.iter().collect());
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    pieces
}

proptest! {
    #[test]
    fn stops_are_found_the_same_however_the_text_arrives(
        text in "[abü]{0,24}",
        stops in prop::collection::vec("[abü]{0,5}", 0..4),
        lengths in prop::collection::vec(1_usize..5, 1..6),
    ) {
        let pieces = cut(&text, &lengths);
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let stop_refs: Vec<&str> = stops.iter().map(String::as_str).collect();
        prop_assert_eq!(matched(&stop_refs, &pieces), expected(&stops, &text));
    }

    #[test]
    fn bytes_give_the_same_text_in_any_pieces(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xf0), Just(0x9f), Just(0x99), Just(0xe2)], 0..40),
        size in 1_usize..6,
    ) {
        let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
        let (texts, rest) = detokenized(&pieces);
        prop_assert_eq!(texts.concat() + &rest, String::from_utf8_lossy(&bytes).into_owned());
    }
}
