//! What a body is like before it is parsed: how deep it nests and how many values it holds.

/// Most values in a body. A value takes up to a hundred bytes once it is read, whatever it took in
/// the body.
pub(super) const MOST_VALUES: usize = 500_000;

/// What a body is like before it is read. One pass, no allocation; runs before the parser so that
/// hostile nesting and floods of small values cost nothing.
pub(super) struct Shape {
    pub(super) too_deep: bool,
    /// At least as many as there are values, keys not counted.
    pub(super) values: usize,
}

impl Shape {
    pub(super) fn of(bytes: &[u8], max_depth: usize) -> Self {
        let mut shape = Self {
            too_deep: false,
            values: 1,
        };
        let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
        for byte in bytes {
            if in_string {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' => escaped = true,
                    b'"' => in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => in_string = true,
                b',' => shape.values += 1,
                b'[' | b'{' => {
                    depth += 1;
                    shape.values += 1;
                    shape.too_deep |= depth > max_depth;
                }
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        shape
    }
}
