//! What model servers and clouds mean by a 400. Their codes and sentences are facts of their own
//! software, collected from its sources and trackers (OpenAI, vLLM, SGLang, llama.cpp, ollama, TGI,
//! Google, Anthropic, Mistral, Groq); where a server gives a code, the code decides.
//!
//! A sentence may quote the caller, so a sentence never marks a backend except where it begins with
//! the known words; the worst a caller can reach by quoting is that the next backend is asked.

use mesh_protocol::openai::read::UpstreamError;

/// Too long for the window.
pub(crate) const CONTEXT: &str = "context_length_exceeded";
/// A parameter, value or feature the backend does not have.
pub(crate) const PARAMETER: &str = "unsupported_parameter";

const CONTEXT_CODES: [&str; 3] = [
    "context_length_exceeded",
    "exceed_context_size_error",
    "string_above_max_length",
];

const CONTEXT_WORDS: [&str; 17] = [
    "maximum context length",
    "exceeds the available context size",
    "context size has been exceeded",
    "exceeds the context length",
    "exceeds maximum context length",
    "exceed context window",
    "exceeds the model's maximum context",
    "exceeds the context window",
    "longer than the maximum model length",
    "longer than the model's context length",
    "greater than the context length",
    "prompt is too long",
    "too large for model with",
    "exceeds the maximum number of tokens allowed",
    "`inputs` must have less than",
    "`inputs` tokens + `max_new_tokens` must be",
    "request too large for model",
];

const PARAMETER_CODES: [&str; 7] = [
    "unsupported_parameter",
    "unsupported_value",
    "unknown_parameter",
    "unsupported_model",
    "unsupported_country_region_territory",
    "extra_forbidden",
    "not_supported_error",
];

const PARAMETER_WORDS: [&str; 22] = [
    "unsupported parameter",
    "unsupported value",
    "unsupported param",
    "unknown parameter",
    "unrecognized request argument",
    "unrecognized argument",
    "extra inputs are not permitted",
    "extra fields not permitted",
    "is not supported with this model",
    "is not supported by this model",
    "is not supported with this endpoint",
    "is not currently supported",
    "does not support tools",
    "does not support thinking",
    "does not support image",
    "does not support vision",
    "does not support chat",
    "does not support embeddings",
    "not a multimodal model",
    "tool choice requires --enable-auto-tool-choice",
    "requires --jinja",
    "grammar is not supported",
];

/// Whether the prompt is too long for this backend.
pub(crate) fn context(said: &UpstreamError) -> bool {
    coded(said, &CONTEXT_CODES) || worded(said, &CONTEXT_WORDS)
}

/// Whether another backend may well take the same request, and why this one does not.
pub(crate) fn unsupported(said: &UpstreamError) -> Option<&'static str> {
    if context(said) {
        return Some(CONTEXT);
    }
    let property =
        said.message.starts_with("property '") && said.message.contains("is unsupported");
    (coded(said, &PARAMETER_CODES) || worded(said, &PARAMETER_WORDS) || property)
        .then_some(PARAMETER)
}

/// Whether it is about us and not about the request, although the status says otherwise: our key,
/// our bill, a model we named wrongly. Gives the status that it means.
pub(crate) fn ours(said: &UpstreamError) -> Option<u16> {
    for (status, codes) in [
        (
            401,
            &["invalid_api_key", "API_KEY_INVALID", "authentication_error"][..],
        ),
        (
            402,
            &["insufficient_quota", "billing_error", "billing_not_active"],
        ),
        (403, &["permission_error", "PERMISSION_DENIED"]),
        (404, &["model_not_found", "NotFoundError"]),
    ] {
        if coded(said, codes) {
            return Some(status);
        }
    }
    let begins = |words: &[&str]| words.iter().any(|word| said.message.starts_with(word));
    if begins(&[
        "Incorrect API key provided",
        "API key not valid",
        "Invalid API key",
    ]) {
        return Some(401);
    }
    begins(&["Your credit balance is too low"]).then_some(402)
}

fn coded(said: &UpstreamError, codes: &[&str]) -> bool {
    [&said.code, &said.kind]
        .into_iter()
        .flatten()
        .any(|word| codes.contains(&word.as_str()))
}

fn worded(said: &UpstreamError, words: &[&str]) -> bool {
    let message = said.message.to_lowercase();
    words.iter().any(|word| message.contains(word))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{CONTEXT, PARAMETER, ours, unsupported};
    use mesh_protocol::openai::read::UpstreamError;

    fn said(body: &Value) -> UpstreamError {
        UpstreamError::read(body.to_string().as_bytes())
    }

    #[test]
    fn a_window_that_is_too_small_is_recognized_in_the_words_of_every_server() {
        for body in [
            json!({"error":{"message":"x","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}),
            json!({"object":"error","message":"This model's maximum context length is 2048 tokens. However, you requested 9000 tokens","type":"BadRequestError","code":400}),
            json!({"error":{"message":"The decoder prompt (length 9000) is longer than the maximum model length of 2048.","type":"BadRequestError","code":400}}),
            json!({"error":{"code":400,"message":"request (9000 tokens) exceeds the available context size (256 tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":9000,"n_ctx":256}}),
            json!({"error":"the input length exceeds the context length"}),
            json!({"error":"Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 9000 `inputs` tokens and 20 `max_new_tokens`","error_type":"validation"}),
            json!({"error":"Input validation error: `inputs` must have less than 1024 tokens. Given: 1168","error_type":"validation"}),
            json!([{"error":{"code":400,"message":"The input token count (9000) exceeds the maximum number of tokens allowed (2048).","status":"INVALID_ARGUMENT"}}]),
            json!({"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 9000 tokens > 2048 maximum"}}),
        ] {
            assert_eq!(unsupported(&said(&body)), Some(CONTEXT), "{body}");
        }
    }

    #[test]
    fn a_parameter_that_one_server_lacks_is_recognized() {
        for body in [
            json!({"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}),
            json!({"error":{"message":"Unsupported value: 'temperature' does not support 0.2 with this model.","type":"invalid_request_error","param":"temperature","code":"unsupported_value"}}),
            json!({"error":{"message":"Unrecognized request argument supplied: seed","type":"invalid_request_error","param":null,"code":null}}),
            json!({"error":{"message":"registry.ollama.ai/library/gemma3:4b does not support tools","type":"api_error","param":null,"code":null}}),
            json!({"detail":[{"type":"extra_forbidden","loc":["body","seed"],"msg":"Extra inputs are not permitted"}]}),
            json!({"error":{"message":"\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set","type":"BadRequestError","code":400}}),
            json!({"error":{"message":"property 'logprobs' is unsupported"}}),
        ] {
            assert_eq!(unsupported(&said(&body)), Some(PARAMETER), "{body}");
        }
    }

    #[test]
    fn a_fault_of_the_caller_is_neither_ours_nor_unsupported() {
        for body in [
            json!({"error":{"message":"Invalid type for 'temperature': expected a decimal","type":"invalid_request_error","param":"temperature","code":"invalid_type"}}),
            json!({"detail":[{"type":"missing","loc":["body","messages"],"msg":"Field required"}]}),
            json!({"error":{"message":"tell me about: Invalid API key","type":"invalid_request_error"}}),
            json!("nonsense"),
        ] {
            assert_eq!(unsupported(&said(&body)), None, "{body}");
            assert_eq!(ours(&said(&body)), None, "{body}");
        }
    }

    #[test]
    fn a_fault_of_ours_is_never_taken_for_the_callers() {
        for (body, status) in [
            (
                json!([{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}]),
                401,
            ),
            (
                json!({"error":{"message":"m","code":"invalid_api_key"}}),
                401,
            ),
            (
                json!({"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the API."}}),
                402,
            ),
            (
                json!({"error":{"message":"m","code":"model_not_found"}}),
                404,
            ),
        ] {
            assert_eq!(ours(&said(&body)), Some(status), "{body}");
        }
    }
}
