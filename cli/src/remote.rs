//! Reaching a running mesh.

use mesh_backends::control::Control;
use mesh_core::Sensitive;

use crate::args::Remote;

/// A client of the mesh that the options name, with the key of the environment if there is one.
pub(crate) fn connect(remote: &Remote) -> anyhow::Result<Control> {
    let key = std::env::var(&remote.key_env)
        .ok()
        .filter(|key| !key.is_empty())
        .map(Sensitive::new);
    Ok(Control::new(&remote.url, key)?)
}
