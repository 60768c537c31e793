//! Server-sent events: an incremental, bounded reader and a writer.
