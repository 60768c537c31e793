//! Who is who inside a mesh: certificates of its own authority, and ServiceAccount tokens.
