//! One entry as a line for a person.

use mesh_ledger::{Event, Line};
use serde_json::Value;

/// The cells of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) time: String,
    pub(super) by: String,
    pub(super) event: String,
    pub(super) decision: String,
    pub(super) what: String,
}

impl Row {
    pub(super) fn of(line: &Line) -> Self {
        let row = match line.entry() {
            Ok(entry) => Self {
                time: entry.time.to_string(),
                by: entry.gateway.clone(),
                event: name(&entry.event).to_owned(),
                decision: entry.decision().unwrap_or_default().to_owned(),
                what: what(&entry.event),
            },
            // Of a later release: what can be told of it.
            Err(_) => Self::of_later(line),
        };
        row.harmless()
    }

    fn of_later(line: &Line) -> Self {
        let entry: Value = serde_json::from_slice(line.bytes()).unwrap_or_default();
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        Self {
            time: text("time"),
            by: text("gateway"),
            event: text("event"),
            decision: String::new(),
            what: entry.to_string(),
        }
    }

    /// Without what a terminal would obey.
    fn harmless(self) -> Self {
        let clean = |text: String| text.replace(char::is_control, "\u{fffd}");
        Self {
            time: clean(self.time),
            by: clean(self.by),
            event: clean(self.event),
            decision: clean(self.decision),
            what: clean(self.what),
        }
    }
}

fn name(event: &Event) -> &'static str {
    match event {
        Event::Decided { .. } => "decided",
        Event::Sending(_) => "sending",
        Event::Ended(_) => "ended",
        Event::Lost { .. } => "lost",
        Event::Removed { .. } => "removed",
    }
}

fn what(event: &Event) -> String {
    match event {
        Event::Decided {
            decision,
            caller,
            surface,
            bytes,
        } => {
            let text = |name: &str| decision[name].as_str().unwrap_or_default();
            let plan: Vec<&str> = decision["plan"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|one| one["backend"].as_str())
                .collect();
            let plan = if plan.is_empty() {
                String::from("nobody")
            } else {
                plan.join(", ")
            };
            format!(
                "{}, {bytes} bytes by {surface} of {} ({}): {plan}",
                text("privacy"),
                caller.subject,
                caller.namespace
            )
        }
        Event::Sending(sending) => format!(
            "{} bytes, {}, to {} ({}), model {}, attempt {}",
            sending.bytes,
            sending.level,
            sending.backend,
            sending.class,
            sending.model,
            sending.attempt
        ),
        Event::Ended(ended) => {
            let tokens = ended
                .tokens
                .map(|tokens| format!(", {} tokens in, {} out", tokens.input, tokens.output));
            format!(
                "{}: {} after {} ms{}",
                ended.backend,
                ended.outcome,
                ended.milliseconds,
                tokens.unwrap_or_default()
            )
        }
        Event::Lost { count, since } => format!("{count} entries since {since}"),
        Event::Removed { before } => format!("entries before {before}"),
    }
}

#[cfg(test)]
mod tests {
    use mesh_ledger::Line;

    use super::Row;

    fn row(text: &str) -> Row {
        Row::of(&Line::take(text.as_bytes()).expect("a line"))
    }

    #[test]
    fn an_entry_is_one_line_for_a_person_and_nothing_a_terminal_obeys() {
        let head = r#"{"v":1,"time":"2027-01-31T12:00:00Z","gateway":"g","event":"#;
        let told = row(&format!(
            "{head}{}",
            r#""decided","decision":{"decision":"01J","privacy":"confidential","plan":[{"backend":"big"},{"backend":"floor"}]},"caller":{"namespace":"team","subject":"a\u001b[2Jb"},"surface":"openai_chat","bytes":12}"#
        ));
        assert_eq!(told.decision, "01J");
        assert_eq!(
            told.what,
            "confidential, 12 bytes by openai_chat of a\u{fffd}[2Jb (team): big, floor"
        );
        let told = row(&format!(
            "{head}{}",
            r#""sending","decision":"01J","attempt":1,"backend":"big","model":"m","class":"CloudDomestic","bytes":9,"level":"confidential"}"#
        ));
        assert_eq!(
            told.what,
            "9 bytes, confidential, to big (CloudDomestic), model m, attempt 1"
        );
        let told = row(&format!(
            "{head}{}",
            r#""ended","decision":"01J","attempt":1,"backend":"big","outcome":"ok","tokens":{"input":1,"output":2},"milliseconds":7}"#
        ));
        assert_eq!(told.what, "big: ok after 7 ms, 1 tokens in, 2 out");
        let later =
            row(r#"{"v":9,"time":"2027-01-31T12:00:00Z","gateway":"g","event":"erased","x":1}"#);
        assert_eq!(
            (later.event.as_str(), later.time.as_str()),
            ("erased", "2027-01-31T12:00:00Z")
        );
        assert!(later.what.contains("\"x\":1"));
    }
}
