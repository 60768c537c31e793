//! The public API of the crate against scripted servers and real files.

#[cfg(test)]
mod download;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod local;
#[cfg(test)]
mod pieces;
#[cfg(test)]
mod remote;
#[cfg(test)]
mod secure;
#[cfg(test)]
mod support;
