//! Why something could not be written, and what that says about trying again.

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server refused, or could not be asked.
    #[error("could not write {what}: {}", words(.source))]
    Write {
        what: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// It could not be written as JSON.
    #[error("could not write {what} as JSON")]
    Json {
        what: String,
        #[source]
        source: serde_json::Error,
    },
    /// Somebody else's object has the name.
    #[error(
        "{what} is there already and is not of this mesh: it is left alone; delete it, or give the backend another name"
    )]
    Taken { what: String },
}

/// What the API server says is for people; the rest of its answer is not.
fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

impl Error {
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Write { .. } => "WriteRefused",
            Self::Json { .. } => "NotWritable",
            Self::Taken { .. } => "NameTaken",
        }
    }

    /// True if what is there can never become what is wanted: a StatefulSet keeps the volumes of its pods.
    pub(crate) fn unchangeable(&self) -> bool {
        let Self::Write { source, .. } = self else {
            return false;
        };
        matches!(&**source, kube::Error::Api(status)
            if status.code == 422 && status.message.contains("updates to statefulset spec"))
    }

    /// True if the API server will not have it, and will hardly have it the next time.
    pub(crate) fn refused(&self) -> bool {
        let Self::Write { source, .. } = self else {
            return false;
        };
        matches!(&**source, kube::Error::Api(status)
            if (400..500).contains(&status.code) && !matches!(status.code, 408 | 409 | 429))
    }

    /// True if nothing else can be written now either: the API server did not answer.
    pub(crate) fn unanswered(&self) -> bool {
        matches!(self, Self::Write { source, .. } if !matches!(**source, kube::Error::Api(_)))
    }

    /// True if trying again does not help before somebody has.
    pub(crate) const fn stalls(&self) -> bool {
        matches!(self, Self::Taken { .. })
    }
}
