//! Places outside: clouds, other model servers, and what is claimed of them.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::reference::{Credentials, Proxy, Tls};
use crate::value::{Date, HttpUrl, JurisdictionCode, any_object};

/// Headers that the mesh itself decides about: a spec that sets them would smuggle a key past
/// `credentials`, or break the request.
const RESERVED_HEADERS: &str = "self.all(k, !(k.lowerAscii() in ['authorization', 'proxy-authorization', 'x-api-key', 'api-key', 'cookie', 'host', 'content-length', 'content-type', 'accept', 'transfer-encoding', 'connection', 'te', 'upgrade']))";
const RESERVED_HEADERS_MESSAGE: &str = "this header is the mesh's own: keys belong in `credentials`, with `authHeader` for another header name";
const HEADER_NAMES: &str = "self.all(k, k.matches('^[A-Za-z0-9-]{1,64}$'))";
const HEADER_NAMES_MESSAGE: &str = "header names are made of letters, digits and hyphens";

/// A company's API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(crate::rule::ENDPOINT_PRIVATE).message(crate::rule::ENDPOINT_PRIVATE_MESSAGE).field_path(".url"))]
#[x_kube(validation = Rule::new(crate::rule::AUTHORITY_NEEDS_TLS).message(crate::rule::AUTHORITY_NEEDS_TLS_MESSAGE).field_path(".url"))]
#[x_kube(validation = Rule::new(crate::rule::PROXY_NEEDS_TLS).message(crate::rule::PROXY_NEEDS_TLS_MESSAGE).field_path(".url"))]
pub struct Cloud {
    /// The company; used for concentration and price.
    #[schemars(
        regex(pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"),
        length(min = 1, max = 63)
    )]
    pub provider: String,
    /// Wire format.
    #[serde(default)]
    pub protocol: Protocol,
    /// Base address, for example `https://api.example.com/v1`.
    pub url: HttpUrl,
    /// The network may read along: plain http outside loopback is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure_plaintext: Option<bool>,
    /// The key, by reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Header that carries the key as it is. Absent: `authorization: Bearer <key>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Za-z0-9-]{1,64}$"), length(max = 64))]
    pub auth_header: Option<String>,
    /// Further fixed headers. Never keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    #[x_kube(validation = Rule::new(RESERVED_HEADERS).message(RESERVED_HEADERS_MESSAGE))]
    #[x_kube(validation = Rule::new(HEADER_NAMES).message(HEADER_NAMES_MESSAGE))]
    pub headers: BTreeMap<String, HeaderValue>,
    /// Sent as `openai-organization`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Za-z0-9_-]+$"), length(max = 128))]
    pub organization: Option<String>,
    /// Top-level fields that win over the caller's, for example `{store: false}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "any_object")]
    pub request_overrides: BTreeMap<String, Value>,
    /// Ask upstream for a stream even if the caller did not. Absent = true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_upstream: Option<bool>,
    /// Facts with an end: expired or absent claims count as the worst class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<Claims>,
    /// Trust in an organization's own certificate authority, and in no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// An explicit proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
}

/// A model server that the organization points at. Owned only where a policy's `ownership` says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(crate::rule::ENDPOINT_PRIVATE).message(crate::rule::ENDPOINT_PRIVATE_MESSAGE).field_path(".url"))]
#[x_kube(validation = Rule::new(crate::rule::AUTHORITY_NEEDS_TLS).message(crate::rule::AUTHORITY_NEEDS_TLS_MESSAGE).field_path(".url"))]
#[x_kube(validation = Rule::new(crate::rule::PROXY_NEEDS_TLS).message(crate::rule::PROXY_NEEDS_TLS_MESSAGE).field_path(".url"))]
pub struct External {
    /// Wire format.
    #[serde(default)]
    pub protocol: Protocol,
    /// Base address, for example `http://llama.lab:8080/v1`.
    pub url: HttpUrl,
    /// The network may read along: plain http outside loopback is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure_plaintext: Option<bool>,
    /// The key, by reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Header that carries the key as it is. Absent: `authorization: Bearer <key>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Za-z0-9-]{1,64}$"), length(max = 64))]
    pub auth_header: Option<String>,
    /// Further fixed headers. Never keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    #[x_kube(validation = Rule::new(RESERVED_HEADERS).message(RESERVED_HEADERS_MESSAGE))]
    #[x_kube(validation = Rule::new(HEADER_NAMES).message(HEADER_NAMES_MESSAGE))]
    pub headers: BTreeMap<String, HeaderValue>,
    /// Sent as `openai-organization`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Za-z0-9_-]+$"), length(max = 128))]
    pub organization: Option<String>,
    /// Top-level fields that win over the caller's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "any_object")]
    pub request_overrides: BTreeMap<String, Value>,
    /// Ask upstream for a stream even if the caller did not. Absent = true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_upstream: Option<bool>,
    /// Trust in an organization's own certificate authority, and in no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// An explicit proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
}

/// Value of a fixed header: printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("pattern" = "^[ -~]*$", "maxLength" = 512))]
pub struct HeaderValue(pub String);

/// Wire format of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")]
pub enum Protocol {
    /// OpenAI's API, which most model servers speak.
    #[default]
    OpenAI,
    /// Anthropic's API.
    Anthropic,
}

/// What is claimed of a cloud. Worth nothing after its last day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Claims {
    /// Seats of the company and of those who own it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub seat: Vec<JurisdictionCode>,
    /// Where the data is processed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub data_centers: Vec<JurisdictionCode>,
    /// Law that governs the contract or reaches the company.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub governing_law: Vec<JurisdictionCode>,
    /// What happens to prompts. Any retention or training is class CloudRetained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Where this can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub evidence: Option<String>,
    /// Last day on which this is true (UTC).
    pub expires: Date,
}

/// What happens to prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Days for which prompts are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 36500))]
    pub days: Option<i32>,
    /// Whether models are trained on prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<bool>,
}
