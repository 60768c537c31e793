//! Credentials that their issuers made recognizable: a prefix and a form each.
//!
//! Forms come from the issuers' public documentation. A checksum inside a token (GitHub's CRC-32)
//! is not asked for: what has the form of a key is treated as one. Tokens of fewer than six
//! different characters are placeholders.

use std::sync::LazyLock;

use mesh_core::PrivacyLevel;
use regex::bytes::{Regex, RegexBuilder};

use super::lexicon::{Edge, Hit, Sense};
use super::{Matches, Rule};

/// Longest token that is looked at.
const REACH: usize = 512;

struct Token {
    rule: Rule,
    prefixes: &'static [&'static str],
    form: &'static str,
}

const fn token(id: &'static str, prefixes: &'static [&'static str], form: &'static str) -> Token {
    Token {
        rule: Rule {
            id,
            kind: "credential",
            level: PrivacyLevel::Restricted,
        },
        prefixes,
        form,
    }
}

const fn testing(id: &'static str, prefixes: &'static [&'static str], form: &'static str) -> Token {
    Token {
        rule: Rule {
            id,
            kind: "credential",
            level: PrivacyLevel::Confidential,
        },
        prefixes,
        form,
    }
}

static TOKENS: [Token; 33] = [
    token(
        "credential/aws-key-id",
        &["AKIA", "ASIA", "ABIA", "ACCA"],
        r"A(?:KIA|SIA|BIA|CCA)[A-Z2-7]{16}\b",
    ),
    token(
        "credential/github",
        &["ghp_", "gho_", "ghu_", "ghs_", "ghr_"],
        r"gh[pousr]_[0-9A-Za-z]{36,251}",
    ),
    token(
        "credential/github-fine",
        &["github_pat_"],
        r"github_pat_[0-9A-Za-z_]{36,255}",
    ),
    token(
        "credential/gitlab",
        &["glpat-", "gldt-", "glrt-", "glcbt-", "glptt-"],
        r"gl(?:pat|dt|rt|cbt|ptt)-[0-9A-Za-z_-]{20,}",
    ),
    token(
        "credential/slack",
        &[
            "xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxe-", "xoxe.",
        ],
        r"xox[abeprs][-.][0-9A-Za-z.-]{16,}",
    ),
    token(
        "credential/slack-app",
        &["xapp-"],
        r"xapp-[0-9]-[0-9A-Za-z-]{20,}",
    ),
    token(
        "credential/slack-webhook",
        &["hooks.slack.com/"],
        r"hooks\.slack\.com/(?:services|workflows|triggers)/[0-9A-Za-z_/-]{30,}",
    ),
    token(
        "credential/discord-webhook",
        &["discord.com/api/webhooks/", "discordapp.com/api/webhooks/"],
        r"discord(?:app)?\.com/api/webhooks/[0-9]{17,20}/[0-9A-Za-z_-]{50,}",
    ),
    token(
        "credential/stripe",
        &["sk_live_", "rk_live_", "sk_org_"],
        r"(?:[sr]k_live|sk_org)_[0-9A-Za-z_]{16,}",
    ),
    testing(
        "credential/stripe-test",
        &["sk_test_", "rk_test_"],
        r"[sr]k_test_[0-9A-Za-z]{16,}",
    ),
    token(
        "credential/anthropic",
        &["sk-ant-"],
        r"sk-ant-[0-9A-Za-z_-]{20,}",
    ),
    token(
        "credential/openrouter",
        &["sk-or-"],
        r"sk-or-v[0-9]-[0-9a-f]{40,}",
    ),
    token(
        "credential/openai",
        &["sk-"],
        r"sk-(?:(?:proj|svcacct|admin|None)-[0-9A-Za-z_-]{20,}|[0-9A-Za-z]{32,})",
    ),
    token(
        "credential/google-api-key",
        &["AIza"],
        r"AIza[0-9A-Za-z_-]{35}",
    ),
    token(
        "credential/google-oauth",
        &["ya29."],
        r"ya29\.[0-9A-Za-z_-]{30,}",
    ),
    token(
        "credential/google-oauth-secret",
        &["GOCSPX-"],
        r"GOCSPX-[0-9A-Za-z_-]{28}",
    ),
    token("credential/hugging-face", &["hf_"], r"hf_[0-9A-Za-z]{30,}"),
    token("credential/groq", &["gsk_"], r"gsk_[0-9A-Za-z]{40,}"),
    token("credential/xai", &["xai-"], r"xai-[0-9A-Za-z]{60,}"),
    token(
        "credential/perplexity",
        &["pplx-"],
        r"pplx-[0-9A-Za-z]{40,}",
    ),
    token("credential/npm", &["npm_"], r"npm_[0-9A-Za-z]{36}"),
    token(
        "credential/pypi",
        &["pypi-AgE"],
        r"pypi-AgE[0-9A-Za-z_-]{50,}",
    ),
    token(
        "credential/sendgrid",
        &["SG."],
        r"SG\.[0-9A-Za-z_-]{22}\.[0-9A-Za-z_-]{43}",
    ),
    token(
        "credential/age",
        &["AGE-SECRET-KEY-1"],
        r"AGE-SECRET-KEY-1[0-9A-Z]{58}",
    ),
    token(
        "credential/digitalocean",
        &["dop_v1_", "doo_v1_", "dor_v1_"],
        r"do[opr]_v1_[0-9a-f]{64}",
    ),
    token(
        "credential/shopify",
        &["shpat_", "shpca_", "shppa_", "shpss_"],
        r"shp(?:at|ca|pa|ss)_[0-9A-Fa-f]{32}",
    ),
    token(
        "credential/stripe-webhook",
        &["whsec_"],
        r"whsec_[0-9A-Za-z+/=]{24,}",
    ),
    token(
        "credential/azure-storage",
        &["AccountKey=", "SharedAccessKey="],
        r"(?:Account|SharedAccess)Key=[0-9A-Za-z+/]{40,}={0,2}",
    ),
    token(
        "credential/vault",
        &["hvs.", "hvb.", "hvr."],
        r"hv[sbr]\.[0-9A-Za-z_-]{24,}",
    ),
    token("credential/databricks", &["dapi"], r"dapi[0-9a-f]{32}"),
    token(
        "credential/cloud-provider",
        &["LTAI"],
        r"LTAI[0-9A-Za-z]{12,24}",
    ),
    token("credential/telegram", &[":AA"], r":AA[0-9A-Za-z_-]{33}"),
    token("credential/mailgun", &["key-"], r"key-[0-9a-f]{32}\b"),
];

static FORMS: LazyLock<Vec<Option<Regex>>> = LazyLock::new(|| {
    TOKENS
        .iter()
        .map(|token| {
            RegexBuilder::new(&format!(r"\A(?:{})", token.form))
                .unicode(false)
                .build()
                .ok()
        })
        .collect()
});

/// The prefixes with their index.
pub(crate) fn lists() -> Vec<(&'static [&'static str], Sense, Edge)> {
    TOKENS
        .iter()
        .enumerate()
        .map(|(index, token)| {
            let edge = match token.prefixes {
                [first, ..] if first.starts_with(':') => Edge::Free,
                _ => Edge::Begin,
            };
            (token.prefixes, Sense::Token(index), edge)
        })
        .collect()
}

/// Looks at a prefix.
pub(crate) fn check(text: &[u8], hit: &Hit, which: usize, out: &mut Matches) {
    let (Some(token), Some(Some(form))) = (TOKENS.get(which), FORMS.get(which)) else {
        return;
    };
    let end = text.len().min(hit.start + REACH);
    let Some(window) = text.get(hit.start..end) else {
        return;
    };
    let Some(found) = form.find(window) else {
        return;
    };
    let prefix = hit.end - hit.start;
    if distinct(found.as_bytes().get(prefix..).unwrap_or_default()) >= 6 {
        out.add(&token.rule, hit.start, hit.start + found.end());
    }
}

/// Number of different bytes.
pub(crate) fn distinct(bytes: &[u8]) -> u32 {
    let mut seen = [0_u64; 4];
    for byte in bytes {
        if let Some(word) = seen.get_mut(usize::from(byte / 64)) {
            *word |= 1 << (byte % 64);
        }
    }
    seen.iter().map(|word| word.count_ones()).sum()
}

/// True if every form compiles.
pub(crate) fn ready() -> bool {
    FORMS.iter().all(Option::is_some)
}

#[cfg(test)]
mod tests {
    use super::{distinct, ready};

    #[test]
    fn every_form_compiles_and_bytes_are_counted_once() {
        assert!(ready());
        assert_eq!(distinct(b"abcabc\xff"), 4);
    }
}
