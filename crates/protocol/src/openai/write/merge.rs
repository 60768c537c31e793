//! Fragments of a streamed answer put together: tool calls by their index, log-probabilities by
//! appending, fields we do not know by the rule that strings grow and identities stay.

use serde_json::{Map, Value};

/// Fields that name a thing: said once, repeated by some servers with every fragment.
const ONCE: &[&str] = &[
    "id",
    "type",
    "name",
    "role",
    "index",
    "format",
    "signature",
    "status",
];

/// Adds the fields of a fragment to what has come so far.
pub(super) fn fields(whole: &mut Map<String, Value>, fragment: Map<String, Value>) {
    for (name, value) in fragment {
        match whole.get_mut(&name) {
            None | Some(Value::Null) => {
                whole.insert(name, value);
            }
            Some(present) => field(present, &name, value),
        }
    }
}

fn field(present: &mut Value, name: &str, value: Value) {
    match (present, value) {
        (_, Value::Null) => {}
        (Value::String(text), Value::String(more)) => {
            if text.is_empty() || !ONCE.contains(&name) {
                text.push_str(&more);
            }
        }
        (Value::Object(present), Value::Object(more)) => fields(present, more),
        (Value::Array(present), Value::Array(more)) => present.extend(more),
        (present, value) => *present = value,
    }
}

/// Appends log-probabilities: objects of lists, in both wire forms.
pub(super) fn logprobs(whole: &mut Option<Value>, fragment: Option<Value>) {
    match (whole.as_mut(), fragment) {
        (_, None | Some(Value::Null)) => {}
        (Some(Value::Object(present)), Some(Value::Object(more))) => fields(present, more),
        (_, Some(fragment)) => *whole = Some(fragment),
    }
}

/// Tool calls of one choice in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct ToolCalls {
    calls: Vec<(Option<u64>, Map<String, Value>)>,
}

impl ToolCalls {
    /// Adds one fragment. Without an index it belongs to the call with the same id; without either,
    /// to the last one.
    pub(super) fn add(&mut self, fragment: Value) {
        let Value::Object(mut fragment) = fragment else {
            return;
        };
        let index = fragment
            .shift_remove("index")
            .and_then(|index| index.as_u64());
        let id = fragment
            .get("id")
            .and_then(Value::as_str)
            .filter(|id| !id.is_empty());
        let place = match (index, id) {
            (Some(index), _) => self.calls.iter().position(|(at, _)| *at == Some(index)),
            (None, Some(id)) => self
                .calls
                .iter()
                .position(|(_, call)| call.get("id").and_then(Value::as_str) == Some(id)),
            (None, None) => self.calls.len().checked_sub(1),
        };
        match place.and_then(|place| self.calls.get_mut(place)) {
            Some((_, call)) => fields(call, fragment),
            None => self.calls.push((index, fragment)),
        }
    }

    /// The calls, sorted by index where they have one.
    pub(super) fn finish(mut self) -> Vec<Value> {
        if self.calls.iter().all(|(index, _)| index.is_some()) {
            self.calls.sort_by_key(|(index, _)| *index);
        }
        self.calls
            .into_iter()
            .map(|(_, mut call)| {
                call.entry("type")
                    .or_insert_with(|| Value::from("function"));
                Value::Object(call)
            })
            .collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }
}
