//! Events as bytes. Text that holds line ends is written as several `data` lines, so that no text
//! can forge a field or an event.

/// Appends an event of one text: `data: …`, blank line.
pub fn data(text: &str, out: &mut Vec<u8>) {
    for line in lines(text) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// Appends a named event. Line ends in the name are left out.
pub fn event(name: &str, text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: ");
    out.extend(name.bytes().filter(|byte| !matches!(byte, b'\n' | b'\r')));
    out.push(b'\n');
    data(text, out);
}

/// Appends a comment, which readers ignore: keeps a connection alive.
pub fn comment(text: &str, out: &mut Vec<u8>) {
    for line in lines(text) {
        out.extend_from_slice(b": ");
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// Lines as a reader of events counts them: `\n`, `\r` and `\r\n` end a line. Gives at least one.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| {
        let line = line.strip_suffix('\r').unwrap_or(line);
        line.split('\r')
    })
}
