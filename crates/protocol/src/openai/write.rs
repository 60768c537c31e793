//! Events, written as the answer of a surface.
