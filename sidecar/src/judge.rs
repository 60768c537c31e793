//! The privacy level of one request, as high as anybody makes it: the policy's base, the pod's annotation, the
//! header, and what is found in the text. Never lower than any of them; what could not be read is raised.

use bytes::Bytes;
use mesh_classify::Inputs;
use mesh_core::pushed::Pushed;
use mesh_core::{Facts, LatencyClass, PrivacyLevel};
use mesh_door::Hints;
use mesh_protocol::{ModelRequest, ParseError, Surface};

/// Deepest nesting of a body, as at the gateway.
const DEPTH: usize = 64;

/// What is known of a request.
pub(crate) struct Judged {
    /// Its level.
    pub(crate) level: PrivacyLevel,
    /// What it asks for, and what was found in it; or what is wrong with it.
    pub(crate) read: Result<Box<(ModelRequest, Facts)>, ParseError>,
}

/// What raises every request of this pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raises<'a> {
    pub(crate) snapshot: Option<&'a Pushed>,
    pub(crate) annotation: Option<PrivacyLevel>,
}

impl Raises<'_> {
    /// Without a snapshot nothing is known, and everything is restricted.
    fn base(&self) -> PrivacyLevel {
        let policy = self.snapshot.map(|pushed| pushed.base_level);
        policy
            .unwrap_or(PrivacyLevel::Restricted)
            .max(self.annotation.unwrap_or(PrivacyLevel::Public))
    }

    fn incomplete(&self) -> PrivacyLevel {
        let policy = self.snapshot.map(|pushed| pushed.incomplete_level);
        policy.unwrap_or(PrivacyLevel::Restricted)
    }

    /// Of a request whose form is not known here.
    pub(crate) fn unread(&self, hints: Hints) -> PrivacyLevel {
        let header = hints.privacy.unwrap_or(PrivacyLevel::Public);
        self.base().max(self.incomplete()).max(header)
    }
}

/// Reads and classifies a body. Takes time in proportion to it.
pub(crate) fn judge(surface: Surface, body: &Bytes, hints: Hints, raises: Raises<'_>) -> Judged {
    let request = match ModelRequest::parse(surface, body, DEPTH) {
        Ok(request) => request,
        Err(error) => {
            return Judged {
                level: raises.unread(hints),
                read: Err(error),
            };
        }
    };
    let latency = raises.snapshot.and_then(|pushed| pushed.default_latency);
    let inputs = Inputs {
        incomplete_level: raises.incomplete(),
        default_latency: latency.unwrap_or(LatencyClass::Interactive),
        header_privacy: hints.privacy,
        header_task: hints.task,
        header_latency: hints.latency,
        ..Inputs::new(raises.base(), "sidecar")
    };
    let facts = mesh_classify::classify(&request, &inputs);
    Judged {
        level: facts.level,
        read: Ok(Box::new((request, facts))),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mesh_core::PrivacyLevel::{self, Confidential, Internal, Public, Restricted};
    use mesh_core::SovereigntyClass;
    use mesh_core::pushed::{Pushed, VERSION};
    use mesh_door::Hints;
    use mesh_protocol::Surface;

    use super::{Raises, judge};

    fn pushed(base_level: PrivacyLevel, incomplete_level: PrivacyLevel) -> Pushed {
        Pushed {
            version: VERSION,
            policies: Vec::new(),
            base_level,
            incomplete_level,
            default_latency: None,
            minimum_class: [SovereigntyClass::OwnHardware; 4],
            deadline_ms: 1000,
            substitution: true,
            floor: None,
        }
    }

    fn level(
        text: &str,
        header: Option<PrivacyLevel>,
        snapshot: Option<&Pushed>,
        annotation: Option<PrivacyLevel>,
    ) -> PrivacyLevel {
        let body =
            serde_json::json!({"model": "auto", "messages": [{"role": "user", "content": text}]});
        let hints = Hints {
            privacy: header,
            ..Hints::default()
        };
        let raises = Raises {
            snapshot,
            annotation,
        };
        judge(Surface::Chat, &Bytes::from(body.to_string()), hints, raises).level
    }

    #[test]
    fn the_highest_voice_counts_and_none_lowers_another() {
        let policy = pushed(Internal, Restricted);
        let policy = Some(&policy);
        assert_eq!(level("hello", None, policy, None), Internal);
        assert_eq!(level("hello", Some(Public), policy, None), Internal);
        assert_eq!(
            level("hello", Some(Confidential), policy, None),
            Confidential
        );
        assert_eq!(
            level("hello", Some(Confidential), policy, Some(Internal)),
            Confidential
        );
        assert_eq!(level("hello", None, policy, Some(Restricted)), Restricted);
        assert_eq!(level("hello", None, policy, Some(Public)), Internal);
        let card = "Charge 4111 1111 1111 1111";
        assert_eq!(level(card, Some(Public), policy, Some(Public)), Restricted);
    }

    #[test]
    fn without_a_snapshot_everything_is_restricted() {
        assert_eq!(level("hello", Some(Public), None, Some(Public)), Restricted);
    }

    #[test]
    fn what_cannot_be_read_is_what_the_policy_says_of_such() {
        let policy = pushed(Public, Confidential);
        let raises = |snapshot| Raises {
            snapshot,
            annotation: None,
        };
        let of = |snapshot| {
            let garbage = Bytes::from_static(b"\x00 not json");
            judge(Surface::Chat, &garbage, Hints::default(), raises(snapshot))
        };
        assert_eq!(of(Some(&policy)).level, Confidential);
        assert_eq!(of(None).level, Restricted);
        assert!(of(None).read.is_err());
        let header = Hints {
            privacy: Some(Restricted),
            ..Hints::default()
        };
        assert_eq!(raises(Some(&policy)).unread(header), Restricted);
    }
}
