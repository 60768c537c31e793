//! The durable audit of one machine: a log in a folder, opened when a policy first asks for it
//! (`spec.audit.durableFrom`). Where none does, no folder is made.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use anyhow::Context;
use jiff::Timestamp;
use mesh_core::Snapshot;
use mesh_ledger::log::{Log, Options};
use mesh_ledger::{Entry, Ledger, NotDurable, Pending, State, settled};

/// The log of this machine.
pub(crate) struct LocalLedger {
    folder: Option<PathBuf>,
    options: Options,
    since: Timestamp,
    log: OnceLock<Log>,
}

impl LocalLedger {
    /// Opens the log of `folder` if a policy of `snapshot` asks for one.
    ///
    /// # Errors
    /// If one does, and there is no such folder or it cannot be used.
    pub(crate) fn start(
        (folder, options): (Option<PathBuf>, Options),
        snapshot: &Snapshot,
    ) -> anyhow::Result<Arc<Self>> {
        let ledger = Self {
            folder,
            options,
            since: Timestamp::now(),
            log: OnceLock::new(),
        };
        ledger.declare(snapshot)?;
        Ok(Arc::new(ledger))
    }

    /// Another snapshot: the log is opened if it now asks for one.
    ///
    /// # Errors
    /// As [`start`](Self::start). Until it can be used, only the floor answers what must be written.
    pub(crate) fn declare(&self, snapshot: &Snapshot) -> anyhow::Result<()> {
        let mut policies = snapshot.policies.iter();
        let asked = policies.any(|policy| policy.durable_from.is_some());
        if !asked || self.log.get().is_some() {
            return Ok(());
        }
        let folder = self.folder.as_ref();
        let folder = folder.context(
            "a policy asks for a durable audit (spec.audit), and nobody has a home directory: name a folder with --audit-dir",
        )?;
        let log = Log::open(folder, self.options.clone()).with_context(|| {
            format!(
                "a policy asks for a durable audit (spec.audit), and its log cannot be written in {}: mend that, or name another folder with --audit-dir",
                folder.display()
            )
        })?;
        tracing::info!(folder = %folder.display(), "decisions are written down");
        // Nobody else opens it.
        drop(self.log.set(log));
        Ok(())
    }

    /// The folder, once it is written to.
    pub(crate) fn folder(&self) -> Option<String> {
        self.log.get()?;
        self.folder.as_deref().map(super::shown)
    }

    /// Waits for what is being written.
    pub(crate) fn close(&self) {
        if let Some(log) = self.log.get() {
            log.close();
        }
    }
}

impl Ledger for LocalLedger {
    fn append(&self, entries: Vec<Entry>) -> Pending {
        match self.log.get() {
            Some(log) => log.append(entries),
            None => settled(Err(NotDurable::Unreachable(String::from("it is not open")))),
        }
    }

    fn state(&self) -> State {
        let closed = || State {
            durable: false,
            since: self.since,
            reason: Some(String::from("it is not open")),
        };
        self.log.get().map_or_else(closed, Ledger::state)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use jiff::Timestamp;
    use mesh_core::{PrivacyLevel, Snapshot};
    use mesh_dataplane::source::FileSource;
    use mesh_ledger::Ledger;
    use mesh_ledger::log::Options;

    use super::LocalLedger;

    const POLICY: &str = "apiVersion: inferencemesh.dev/v1alpha1\nkind: SovereigntyPolicy\nmetadata: {name: default}\nspec:\n  audit: {durableFrom: Internal}\n";

    fn asking() -> Snapshot {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("policy.yaml"), POLICY).expect("written");
        let source = FileSource::new(folder.path(), "default");
        let (_, loaded) = source.translate(Timestamp::now()).expect("read");
        let snapshot = loaded.snapshot;
        assert_eq!(
            snapshot.policies[0].durable_from,
            Some(PrivacyLevel::Internal)
        );
        snapshot
    }

    #[test]
    fn no_folder_is_made_until_a_policy_asks() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("audit");
        let silent = Snapshot::empty("default", Timestamp::now());
        let ledger = LocalLedger::start((Some(folder.clone()), Options::default()), &silent)
            .expect("nothing to open");
        assert!(!folder.exists() && !ledger.state().durable && ledger.folder().is_none());
        ledger.declare(&asking()).expect("opened");
        assert!(folder.join("key").exists() && ledger.folder().is_some());
        // It goes on where it was, with the same key.
        let key = fs::read(folder.join("key")).expect("a key");
        ledger.close();
        drop(ledger);
        drop(
            LocalLedger::start((Some(folder.clone()), Options::default()), &asking())
                .expect("opened again"),
        );
        assert_eq!(fs::read(folder.join("key")).expect("a key"), key);
    }

    #[test]
    fn a_folder_that_cannot_be_used_ends_the_start_and_says_what_to_do() {
        let home = tempfile::tempdir().expect("a folder");
        let file = home.path().join("file");
        fs::write(&file, "").expect("written");
        let refused = LocalLedger::start((Some(file.clone()), Options::default()), &asking())
            .err()
            .expect("a refusal");
        let told = format!("{refused:#}");
        assert!(
            told.contains("spec.audit") && told.contains("--audit-dir"),
            "{told}"
        );
        assert!(told.contains(&*file.to_string_lossy()), "{told}");
        let silent = Snapshot::empty("default", Timestamp::now());
        assert!(
            LocalLedger::start((Some(file), Options::default()), &silent).is_ok(),
            "nobody asks"
        );
        assert!(LocalLedger::start((None, Options::default()), &silent).is_ok());
        assert!(LocalLedger::start((None, Options::default()), &asking()).is_err());
    }
}
