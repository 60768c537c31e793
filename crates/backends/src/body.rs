//! The body that goes upstream: the caller's JSON with as few edits as possible, in its order.
//! Nothing is parsed into types and written out again, so no field can get lost on the way.

use mesh_core::{Backend, ServedModel};
use mesh_protocol::{ModelRequest, Surface};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

/// Fields that mean nothing without tools.
const TOOL_FIELDS: [&str; 5] = [
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "functions",
    "function_call",
];

/// A request on its way to one backend.
pub(crate) struct OutgoingBody<'a> {
    request: &'a ModelRequest,
    target: &'a str,
    overrides: &'a Map<String, Value>,
    stream: bool,
    drop_tools: bool,
}

impl<'a> OutgoingBody<'a> {
    pub(crate) fn new(
        request: &'a ModelRequest,
        backend: &'a Backend,
        model: &'a ServedModel,
        drop_tools: bool,
    ) -> Self {
        Self {
            request,
            target: model.upstream_name(),
            overrides: &backend.request_overrides,
            stream: streamed(request, backend),
            drop_tools,
        }
    }

    /// Whether the upstream is asked for a stream.
    pub(crate) const fn stream(&self) -> bool {
        self.stream
    }

    /// What one field of the caller becomes; `None` = left out.
    fn field(&self, name: &str, value: &'a Value) -> Option<Edited<'a>> {
        match name {
            "model" => Some(Edited::Target(self.target)),
            "stream" => {
                (self.request.surface != Surface::Embeddings).then_some(Edited::Stream(self.stream))
            }
            "stream_options" => self.stream.then(|| self.stream_options()),
            _ => match self.overrides.get(name) {
                Some(ours) => Some(Edited::Kept(ours)),
                None if self.drop_tools && TOOL_FIELDS.contains(&name) => None,
                None => Some(Edited::Kept(value)),
            },
        }
    }

    /// The caller's options, then the backend's, then the usage that we count with.
    fn stream_options(&self) -> Edited<'a> {
        let mut options = Map::new();
        for source in [&self.request.body, self.overrides] {
            if let Some(Value::Object(more)) = source.get("stream_options") {
                options.extend(more.clone());
            }
        }
        options.insert(String::from("include_usage"), Value::Bool(true));
        Edited::Options(options)
    }
}

/// Whether the backend is asked for a stream: wherever it can be, since the first token is what the
/// attempt waits for.
pub fn streamed(request: &ModelRequest, backend: &Backend) -> bool {
    // OpenAI: results of best_of cannot be streamed.
    let best_of = request
        .body
        .get("best_of")
        .and_then(Value::as_u64)
        .is_some_and(|best_of| best_of > 1 && !request.stream);
    backend.stream_upstream && request.surface != Surface::Embeddings && !best_of
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Edited<'a> {
    Target(&'a str),
    Stream(bool),
    Options(Map<String, Value>),
    Kept(&'a Value),
}

impl Serialize for OutgoingBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let caller = &self.request.body;
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in caller {
            if let Some(edited) = self.field(name, value) {
                map.serialize_entry(name, &edited)?;
            }
        }
        if self.stream && !caller.contains_key("stream") {
            map.serialize_entry("stream", &true)?;
        }
        if self.stream && !caller.contains_key("stream_options") {
            map.serialize_entry("stream_options", &self.stream_options())?;
        }
        for (name, value) in self.overrides {
            let handled = matches!(name.as_str(), "model" | "stream" | "stream_options");
            if !handled && !caller.contains_key(name) {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}
