//! Counts the tokens of the floor's answer as they pass: the floor says them at the end of its answer, and nobody else
//! counts these. A stream is asked to say them; where the application did not ask, the event that does is left out.
//!
//! Holds back no more than an event that is not whole, and of an answer that is no stream nothing.

use bytes::{Bytes, BytesMut};
use mesh_core::{PrivacyLevel, SovereigntyClass};
use mesh_protocol::Usage;
use serde_json::Value;

use crate::metrics::Metrics;

/// What the end of a whole answer is searched in, in bytes.
const TAIL: usize = 8 << 10;
/// Largest event that is waited for, in bytes; a larger one passes as it comes.
const LARGEST: usize = 1 << 20;
/// How usage begins. Within a text its quotation marks would be escaped.
const USAGE: &[u8] = b"\"usage\"";
/// What every other event says then, as the worker writes it.
const LATER: &[u8] = b",\"usage\":null";
/// What stands between events.
const BETWEEN: &[u8] = b"\n\n";

/// Whose tokens are counted.
#[derive(Debug, Clone)]
pub(crate) struct Whose {
    pub(crate) metrics: Metrics,
    pub(crate) backend: String,
    pub(crate) class: SovereigntyClass,
    pub(crate) level: PrivacyLevel,
}

/// Counts one answer.
#[derive(Debug)]
pub(crate) struct Meter {
    whose: Whose,
    form: Form,
    usage: Option<Usage>,
}

#[derive(Debug)]
enum Form {
    /// The end of what came.
    Whole(BytesMut),
    /// What is not a whole event yet.
    Events {
        rest: BytesMut,
        /// The application did not ask for usage.
        hide: bool,
    },
}

impl Meter {
    /// For a whole answer.
    pub(crate) fn whole(whose: Whose) -> Self {
        Self {
            whose,
            form: Form::Whole(BytesMut::new()),
            usage: None,
        }
    }

    /// For a stream of events; `hide`: the application did not ask for usage.
    pub(crate) fn events(whose: Whose, hide: bool) -> Self {
        let rest = BytesMut::new();
        Self {
            whose,
            form: Form::Events { rest, hide },
            usage: None,
        }
    }

    /// What of a piece goes on now.
    pub(crate) fn piece(&mut self, piece: Bytes) -> Bytes {
        match &mut self.form {
            Form::Whole(tail) => {
                let new = &piece[piece.len().saturating_sub(TAIL)..];
                let over = (tail.len() + new.len()).saturating_sub(TAIL);
                drop(tail.split_to(over.min(tail.len())));
                tail.extend_from_slice(new);
                piece
            }
            Form::Events { rest, hide } => {
                rest.extend_from_slice(&piece);
                let mut on = BytesMut::new();
                while let Some(end) = find(rest, BETWEEN) {
                    let event = rest.split_to(end + BETWEEN.len());
                    let mut alone = false;
                    if let Some(said) = said(&event) {
                        alone = said.1;
                        self.usage = Some(said.0);
                    }
                    match (*hide, alone) {
                        (false, _) => on.unsplit(event),
                        (true, false) => on.unsplit(without(event)),
                        (true, true) => {}
                    }
                }
                if rest.len() > LARGEST {
                    on.unsplit(rest.split());
                }
                on.freeze()
            }
        }
    }

    /// True while nothing is held back.
    pub(crate) fn between(&self) -> bool {
        match &self.form {
            Form::Whole(_) => true,
            Form::Events { rest, .. } => rest.is_empty(),
        }
    }

    /// The answer is complete: counts, and gives what was held back.
    pub(crate) fn end(&mut self) -> Bytes {
        let rest = match &mut self.form {
            Form::Whole(tail) => {
                self.usage = last(tail);
                Bytes::new()
            }
            Form::Events { rest, .. } => rest.split().freeze(),
        };
        if let Some(usage) = self.usage.take() {
            let whose = &self.whose;
            whose
                .metrics
                .used(&whose.backend, whose.class, whose.level, &usage);
        }
        rest
    }
}

/// What an event says of usage, and whether it says nothing else.
fn said(event: &[u8]) -> Option<(Usage, bool)> {
    find(event, USAGE)?;
    let data = event.trim_ascii().strip_prefix(b"data:")?;
    let mut event: Value = serde_json::from_slice(data).ok()?;
    let usage = serde_json::from_value(event.get_mut("usage")?.take()).ok()?;
    let alone = event["choices"].as_array().is_none_or(Vec::is_empty);
    Some((usage, alone))
}

/// An event without the word that usage comes later, which only those get who ask for usage.
fn without(mut event: BytesMut) -> BytesMut {
    if let Some(at) = find(&event, LATER) {
        let rest = event.split_off(at + LATER.len());
        event.truncate(at);
        event.extend_from_slice(&rest);
    }
    event
}

/// The usage that a whole answer ends with.
fn last(tail: &[u8]) -> Option<Usage> {
    let mut places = tail.windows(USAGE.len());
    let at = places.rposition(|window| window == USAGE)?;
    let rest = tail[at + USAGE.len()..].trim_ascii_start();
    let object = rest.strip_prefix(b":")?;
    let mut read = serde_json::Deserializer::from_slice(object).into_iter();
    read.next()?.ok()
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut places = text.windows(wanted.len());
    places.position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mesh_core::{PrivacyLevel, SovereigntyClass};
    use prometheus_client::registry::Registry;

    use super::{LARGEST, Meter, Whose};
    use crate::metrics::Metrics;

    const TEXT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a \\\"usage\\\": {\"}}]}\n\n";
    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    fn whose() -> (Whose, impl Fn(&str) -> Option<String>) {
        let metrics = Metrics::new();
        let mut registry = Registry::with_prefix("m");
        metrics.register(&mut registry);
        let shown = move |direction: &str| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).expect("metrics");
            let start = format!(
                "m_tokens_total{{backend=\"floor\",sovereignty_class=\"own_hardware\",privacy_level=\"internal\",direction=\"{direction}\"}} "
            );
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(&start).map(str::to_owned))
        };
        let whose = Whose {
            metrics,
            backend: String::from("floor"),
            class: SovereigntyClass::OwnHardware,
            level: PrivacyLevel::Internal,
        };
        (whose, shown)
    }

    /// Everything that comes out if the text goes in by pieces of this size.
    fn through(meter: &mut Meter, text: &str, size: usize) -> String {
        let pieces = text.as_bytes().chunks(size);
        let mut all: Vec<u8> = pieces
            .flat_map(|piece| meter.piece(Bytes::copy_from_slice(piece)))
            .collect();
        all.extend(meter.end());
        String::from_utf8(all).expect("UTF-8")
    }

    #[test]
    fn a_stream_is_counted_at_any_cut_and_only_what_was_not_asked_for_is_left_out() {
        let stream = format!("{TEXT}{TEXT}{USAGE}{DONE}");
        for size in [1, 2, 7, 50, stream.len()] {
            for (hide, came) in [
                (true, format!("{TEXT}{TEXT}{DONE}")),
                (false, stream.clone()),
            ] {
                let (whose, shown) = whose();
                let mut meter = Meter::events(whose, hide);
                assert_eq!(through(&mut meter, &stream, size), came, "{size}");
                assert_eq!(shown("input").as_deref(), Some("7"));
                assert_eq!(shown("output").as_deref(), Some("3"));
            }
        }
    }

    #[test]
    fn who_did_not_ask_for_usage_does_not_read_of_it() {
        let head = "data: {\"id\":\"a\",\"choices\":[{\"delta\":{\"content\":\"the \\\"usage\\\":null of it\"}}]";
        let (asked, plain) = (
            format!("{head},\"usage\":null}}\n\n"),
            format!("{head}}}\n\n"),
        );
        let stream = format!("{asked}{asked}{USAGE}{DONE}");
        for (hide, came) in [
            (true, format!("{plain}{plain}{DONE}")),
            (false, stream.clone()),
        ] {
            let (whose, shown) = whose();
            let mut meter = Meter::events(whose, hide);
            assert_eq!(through(&mut meter, &stream, 11), came);
            assert_eq!(shown("output").as_deref(), Some("3"));
        }
        let (whose, shown) = whose();
        let mut meter = Meter::events(whose, true);
        let odd = "data: [\"usage\"]\n\ndata: \"\\\"usage\\\"\"\n\n";
        assert_eq!(through(&mut meter, odd, 5), odd);
        assert_eq!(shown("output"), None);
    }

    #[test]
    fn an_event_goes_on_as_soon_as_it_is_whole() {
        let (whose, _) = whose();
        let mut meter = Meter::events(whose, true);
        let piece = Bytes::from(format!("{TEXT}data: {{"));
        assert_eq!(meter.piece(piece), TEXT);
        assert!(!meter.between());
        assert_eq!(meter.piece(Bytes::from("}\n\n")), "data: {}\n\n");
        assert!(meter.between());
        let large = Bytes::from(vec![b'x'; LARGEST + 1]);
        assert_eq!(meter.piece(large.clone()), large);
    }

    #[test]
    fn a_whole_answer_passes_untouched_and_what_it_says_last_is_counted() {
        let text = "x".repeat(20_000);
        let body = format!(
            "{{\"choices\":[{{\"message\":{{\"content\":\"{text} \\\"usage\\\": {{\"}}}}],\"usage\": {{\"prompt_tokens\": 7, \"completion_tokens\": 3, \"total_tokens\": 10}}, \"system_fingerprint\":\"f\"}}"
        );
        for size in [1, 100, body.len()] {
            let (whose, shown) = whose();
            let mut meter = Meter::whole(whose);
            assert_eq!(through(&mut meter, &body, size), body);
            assert_eq!(shown("input").as_deref(), Some("7"), "{size}");
            assert_eq!(shown("output").as_deref(), Some("3"));
        }
    }

    #[test]
    fn an_answer_that_says_no_usage_or_that_ends_too_early_counts_nothing() {
        let (whose, shown) = whose();
        let mut meter = Meter::events(whose.clone(), true);
        let stream = format!("{TEXT}{DONE}data: {{\"half");
        assert_eq!(through(&mut meter, &stream, 9), stream);
        let mut meter = Meter::whole(whose.clone());
        through(&mut meter, "{\"error\": {}}", 3);
        let mut dropped = Meter::events(whose, true);
        dropped.piece(Bytes::from(USAGE));
        drop(dropped);
        assert_eq!(shown("input"), None);
    }
}
