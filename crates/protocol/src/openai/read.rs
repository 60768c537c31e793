//! Answers of an upstream, read into events.
