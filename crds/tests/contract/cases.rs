//! For every validation rule something it accepts and something it refuses. Read by the tests of the file
//! door and by those of a real API server.

/// Of a rule about a change, which no single spec can break.
pub(crate) const CHANGED: &str = "the type cannot change: make a new ModelCache";

pub(crate) const CACHE: &str = "ModelCache";
const BACKEND: &str = "InferenceBackend";
const POLICY: &str = "SovereigntyPolicy";

/// Kind, a spec that passes, a spec that does not, and what the door says about that.
pub(crate) type Case = (&'static str, &'static str, &'static str, &'static str);

pub(crate) const SHA: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

const MODEL_CASES: &[Case] = &[
    (
        CACHE,
        "artifacts: [{path: m.gguf}]\nsources: [{file: {path: /m}}]",
        "type: Adapter\nartifacts: [{path: m.gguf}]\nsources: [{file: {path: /m}}]",
        "an Adapter names its base model in `base`; a Model has no `base`",
    ),
    (
        CACHE,
        "artifacts: [{path: m.gguf}]\nsources: [{file: {path: /m}}]\nderive: []",
        "type: Adapter\nbase: {name: b, sha256: SHA}\nderive: [{quantization: Q8_0}]\nartifacts: [{path: m.gguf}]\nsources: [{file: {path: /m}}]",
        "only a Model can be quantized: remove `derive`",
    ),
    (
        CACHE,
        "artifacts: [{path: onnx/m-1.gguf}]\nsources: [{file: {path: /m}}]",
        "artifacts: [{path: ../m.gguf}]\nsources: [{file: {path: /m}}]",
        "the path must be relative, without `..`, backslashes or empty parts",
    ),
    (
        CACHE,
        "artifacts: [{path: m}]\nsources: [{file: {path: /m}}]\nsampling: {temperature: \"2\"}",
        "artifacts: [{path: m}]\nsources: [{file: {path: /m}}]\nsampling: {temperature: \"2.5\"}",
        "temperature is from 0 to 2",
    ),
    (
        CACHE,
        "artifacts: [{path: m}]\nsources: [{http: {url: \"https://a.example/m\"}}]",
        "artifacts: [{path: m}]\nsources: [{file: {path: /m}, http: {url: \"https://a.example/m\"}}]",
        "give exactly one of builtin, file, huggingFace, http, s3, oci, pvc and peers",
    ),
    (
        CACHE,
        "artifacts: [{path: m}]\nsources: [{http: {url: \"http://127.0.0.1:9/m\"}}, {http: {url: \"http://[::1]/m\"}}]",
        "artifacts: [{path: m}]\nsources: [{http: {url: \"http://127.0.0.1.evil.example/m\"}}]",
        "use https; plain http is for loopback only",
    ),
    (
        CACHE,
        "artifacts: [{path: m}]\nsources: [{file: {path: /m}}]\nstorage: {emptyDir: {}}",
        "artifacts: [{path: m}]\nsources: [{file: {path: /m}}]\nstorage: {emptyDir: {}, nodeLocal: {storageClassName: x}}",
        "give exactly one of emptyDir, persistentVolumeClaim and nodeLocal",
    ),
    (
        CACHE,
        "artifacts: [{path: m}]\nsources: [{file: {path: /m}}]\ncapabilities: {features: [Embeddings], embedding: {model: e, revision: r, dimensions: 384}}",
        "artifacts: [{path: m}]\nsources: [{file: {path: /m}}]\ncapabilities: {features: [Embeddings]}",
        "feature Embeddings and `embedding` belong together: give both or neither",
    ),
];

const BACKEND_CASES: &[Case] = &[
    (
        BACKEND,
        "inCluster: {modelRef: {name: m}}\nmodels: [{name: a}]",
        "inCluster: {modelRef: {name: m}}\nexternal: {url: \"https://a.example/v1\"}\nmodels: [{name: a}]",
        "give exactly one of inCluster, cloud, peer and external",
    ),
    (
        BACKEND,
        "external: {url: \"https://a.example/v1\"}\nhardwareVendor: amd\nmodels: [{name: a}]",
        "inCluster: {modelRef: {name: m}}\nhardwareVendor: amd\nmodels: [{name: a}]",
        "the vendor of an inCluster backend is inCluster.accelerator.vendor: remove hardwareVendor",
    ),
    (
        BACKEND,
        "inCluster: {modelRef: {name: m}}\nmodels: [{name: a, aliases: [\"*\", b]}]",
        "inCluster: {modelRef: {name: m}}\nmodels: [{name: a, aliases: [auto]}]",
        "`auto` and `local` are reserved: the mesh chooses for them",
    ),
    (
        BACKEND,
        "inCluster: {modelRef: {name: m}}\nmodels: [{name: automatic}]",
        "inCluster: {modelRef: {name: m}}\nmodels: [{name: local}]",
        "`auto` and `local` are reserved: the mesh chooses for them",
    ),
    (
        BACKEND,
        "inCluster: {modelRef: {name: m}}\nmodels: [{name: a, aliases: [c]}, {name: b}]",
        "inCluster: {modelRef: {name: m}}\nmodels: [{name: a, aliases: [b]}, {name: b}]",
        "an alias must differ from every model name of this backend",
    ),
    (
        BACKEND,
        "inCluster: {modelRef: {name: m}}\nmodels: [{name: a, aliases: [c]}, {name: b, aliases: [d]}]",
        "inCluster: {modelRef: {name: m}}\nmodels: [{name: a, aliases: [c]}, {name: b, aliases: [c]}]",
        "two models of one backend cannot share an alias",
    ),
    (
        BACKEND,
        "external: {url: \"http://10.0.0.1:8080/v1\", insecurePlaintext: true}\nmodels: [{name: a}]",
        "external: {url: \"http://10.0.0.1:8080/v1\", insecurePlaintext: false}\nmodels: [{name: a}]",
        "use https, or say `insecurePlaintext: true` beside the url if the network may read along",
    ),
    (
        BACKEND,
        "cloud: {provider: p, url: \"http://localhost:1/v1\"}\nmodels: [{name: a}]",
        "cloud: {provider: p, url: \"http://localhost.evil.example/v1\"}\nmodels: [{name: a}]",
        "use https, or say `insecurePlaintext: true` beside the url if the network may read along",
    ),
    (
        BACKEND,
        "cloud: {provider: p, url: \"https://a.example/v1\", credentials: {file: /k}}\nmodels: [{name: a}]",
        "cloud: {provider: p, url: \"https://a.example/v1\", credentials: {file: /k, env: K}}\nmodels: [{name: a}]",
        "give exactly one of secretRef, env and file",
    ),
    (
        BACKEND,
        "cloud: {provider: p, url: \"https://a.example/v1\", headers: {x-team: red}}\nmodels: [{name: a}]",
        "cloud: {provider: p, url: \"https://a.example/v1\", headers: {Authorization: red}}\nmodels: [{name: a}]",
        "this header is the mesh's own: keys belong in `credentials`, with `authHeader` for another header name",
    ),
    (
        BACKEND,
        "external: {url: \"https://a.example/v1\", headers: {x-team: red}}\nmodels: [{name: a}]",
        "external: {url: \"https://a.example/v1\", headers: {\"x team\": red}}\nmodels: [{name: a}]",
        "header names are made of letters, digits and hyphens",
    ),
    (
        BACKEND,
        "inCluster: {modelRef: {name: m}, stages: 1}\nmodels: [{name: a}]",
        "inCluster: {modelRef: {name: m}, engine: Vllm, stages: 2}\nmodels: [{name: a}]",
        "only engine Candle can be cut into stages",
    ),
    (
        BACKEND,
        "inCluster: {modelRef: {name: m}, accelerator: {vendor: Cpu}}\nmodels: [{name: a}]",
        "inCluster: {modelRef: {name: m}, accelerator: {vendor: Cpu, count: 1}}\nmodels: [{name: a}]",
        "count, memory and deviceClassName are for accelerators, not for vendor Cpu",
    ),
    (
        BACKEND,
        "external: {url: \"https://a.example/v1\"}\nmodels: [{name: a}]",
        "external: {url: \"https://a.example/v1\", tls: {caRef: {}}}\nmodels: [{name: a}]",
        "give exactly one of secret, configMap and file",
    ),
    (
        BACKEND,
        "external: {url: \"https://a.example/v1\", tls: {caRef: {file: /ca.pem}}}\nmodels: [{name: a}]",
        "external: {url: \"http://127.0.0.1:1/v1\", tls: {caRef: {file: /ca.pem}}}\nmodels: [{name: a}]",
        "an authority is for https: use an https url, or remove tls",
    ),
    (
        BACKEND,
        "cloud: {provider: p, url: \"https://a.example/v1\", proxy: {url: \"http://proxy:3128\"}}\nmodels: [{name: a}]",
        "cloud: {provider: p, url: \"http://a.example/v1\", insecurePlaintext: true, proxy: {url: \"http://proxy:3128\"}}\nmodels: [{name: a}]",
        "the proxy would read along: use an https url, or remove proxy",
    ),
];

const POLICY_CASES: &[Case] = &[
    (
        POLICY,
        "selector: {namespaceSelector: {}, serviceAccounts: []}\nconcentration: {maxShare: \"0.8\"}",
        "selector: {serviceAccounts: [a]}\nconcentration: {maxShare: \"0.8\"}",
        "concentration is for policies that select everything: move it to one with an empty selector",
    ),
    (
        POLICY,
        "selector: {namespaceSelector: {}, serviceAccounts: []}\nownership: {homeJurisdictions: [DE]}",
        "selector: {namespaceSelector: {matchLabels: {a: b}}}\nownership: {homeJurisdictions: [DE]}",
        "ownership is for policies that select everything: move it to one with an empty selector",
    ),
    (
        POLICY,
        "ownership: {networks: [10.0.0.0/8, \"fd00::/8\"]}",
        "ownership: {networks: [10.0.0.0]}",
        "not a network: use CIDR notation, for example 192.168.20.0/24",
    ),
    (
        POLICY,
        "ownership: {networks: [10.0.0.0/8]}",
        "ownership: {networks: [\"::/0\"]}",
        "a network of all addresses would make the whole Internet owned",
    ),
    (
        POLICY,
        "weights: {quality: \"1\", cost: \"0\", latency: \"0\", sovereignty: \"0\", privacy: \"0\"}",
        "weights: {quality: \"0\", cost: \"0\", latency: \"0\", sovereignty: \"0\"}",
        "at least one of quality, cost, latency and sovereignty must be above 0",
    ),
    (
        POLICY,
        "references: {costPerMillion: \"0.01\"}",
        "references: {costPerMillion: \"0.00\"}",
        "the reference cost must be above 0",
    ),
    (
        POLICY,
        "references: {latency: 1ms}",
        "references: {latency: 0s}",
        "the reference latency must be above 0",
    ),
    (
        POLICY,
        "references: {exchangeRates: {USD: \"0.9\"}}",
        "references: {exchangeRates: {dollar: \"0.9\"}}",
        "currencies are ISO 4217 codes, for example USD",
    ),
    (
        POLICY,
        "constraints: {minimumClass: {restricted: OwnHardware, confidential: OwnHardware}}",
        "constraints: {minimumClass: {restricted: OpenSwarm, confidential: OwnHardware}}",
        "restricted must not ask for less than confidential",
    ),
    (
        POLICY,
        "constraints: {minimumClass: {restricted: OwnHardware, internal: OpenSwarm}}",
        "constraints: {minimumClass: {restricted: CloudForeign, internal: CloudDomestic}}",
        "restricted must not ask for less than internal",
    ),
    (
        POLICY,
        "constraints: {minimumClass: {restricted: OwnHardware, public: CloudRetained}}",
        "constraints: {minimumClass: {restricted: CloudRetained, public: CloudForeign}}",
        "restricted must not ask for less than public",
    ),
    (
        POLICY,
        "constraints: {minimumClass: {confidential: RentedHardware, internal: TrustedSwarm}}",
        "constraints: {minimumClass: {confidential: TrustedSwarm, internal: RentedHardware}}",
        "confidential must not ask for less than internal",
    ),
    (
        POLICY,
        "constraints: {minimumClass: {confidential: OwnHardware, public: OwnHardware}}",
        "constraints: {minimumClass: {confidential: RentedHardware, public: OwnHardware}}",
        "confidential must not ask for less than public",
    ),
    (
        POLICY,
        "constraints: {minimumClass: {internal: CloudForeign, public: CloudRetained}}",
        "constraints: {minimumClass: {internal: CloudRetained, public: CloudForeign}}",
        "internal must not ask for less than public",
    ),
    (
        POLICY,
        "constraints: {jurisdictions: {allow: [EU]}, licenses: {deny: [MIT]}}",
        "constraints: {jurisdictions: {applyTo: [Seat]}}",
        "give deny or allow",
    ),
    (
        POLICY,
        "constraints: {licenses: {allow: [MIT]}}",
        "constraints: {licenses: {}}",
        "give deny or allow",
    ),
    (
        POLICY,
        "failover: {deadline: 10s, timeToFirstToken: 10s}",
        "failover: {deadline: 5s}",
        "one attempt cannot take longer than all: lower timeToFirstToken or raise deadline",
    ),
    (
        POLICY,
        "failover: {betweenTokens: 1s}",
        "failover: {betweenTokens: 0s}",
        "deadline, timeToFirstToken and betweenTokens must be above 0",
    ),
    (
        POLICY,
        "failover: {}",
        "failover: {hedge: {after: 10s}}",
        "a hedge must start before timeToFirstToken ends",
    ),
    (
        POLICY,
        "budgets: []",
        "budgets: [{per: Subject}]",
        "give tokensPerDay or costPerMonth",
    ),
    (
        POLICY,
        "classification: {incompleteLevel: Internal}",
        "classification: {dictionaries: [{name: a, level: Restricted, terms: [{}]}]}",
        "give exactly one of secretRef and file",
    ),
    (
        POLICY,
        "classification: {lowering: []}",
        "classification: {lowering: [{when: {}, to: Internal}]}",
        "give taskIn or detectorsSilent",
    ),
    (
        POLICY,
        "floor: {backendRef: {name: f}, drill: {interval: 1m}}",
        "floor: {backendRef: {name: f}, drill: {interval: 59s}}",
        "a drill is at most every minute and at least every week: give an interval from 1m to 168h",
    ),
    (
        POLICY,
        "egress: {confine: false}",
        "egress: {allow: [{cidr: 10.0.0.0/8, podSelector: {}}]}",
        "give either cidr, or namespaceSelector and podSelector",
    ),
    (
        POLICY,
        "tests: [{name: a, request: {text: hi}, expect: {denied: false}}]",
        "tests: [{name: a, request: {text: hi}, expect: {}}]",
        "a test without an expectation proves nothing: give privacy, lowestClass, servedBy or denied",
    ),
    (
        POLICY,
        "tests: [{name: a, request: {text: hi}, expect: {denied: true}}]",
        "tests: [{name: a, request: {text: hi}, expect: {denied: true, servedBy: x}}]",
        "a denied request is served by nobody: remove servedBy and lowestClass",
    ),
];

pub(crate) fn cases() -> impl Iterator<Item = &'static Case> {
    MODEL_CASES.iter().chain(BACKEND_CASES).chain(POLICY_CASES)
}
