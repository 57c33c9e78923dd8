//! Rust text with its strings, and on request its comments, blanked: same lines, same columns, spaces instead.

/// What happens to comments; strings are always blanked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comments {
    Keep,
    Blank,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

pub(super) fn blank(text: &str, comments: Comments) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let (len, kind) = token(&bytes[at..]);
        let blanked = kind == Kind::Literal || (kind == Kind::Comment && comments == Comments::Blank);
        if blanked {
            blank_bytes(&mut out[at..at + len]);
        }
        at += len;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn blank_bytes(bytes: &mut [u8]) {
    for byte in bytes {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

/// Length and kind of the token at the front of `rest`, which is not empty.
fn token(rest: &[u8]) -> (usize, Kind) {
    if rest.starts_with(b"//") {
        (rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()), Kind::Comment)
    } else if rest.starts_with(b"/*") {
        (block_comment_len(rest), Kind::Comment)
    } else if rest[0] == b'"' {
        (quoted_len(rest, b'"'), Kind::Literal)
    } else if rest[0] == b'\'' {
        char_or_lifetime(rest)
    } else if is_word(rest[0]) {
        word_or_prefixed_string(rest)
    } else {
        (1, Kind::Code)
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn block_comment_len(rest: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
        } else {
            at += 1;
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Length of a literal that opens at the front and ends at the next unescaped `quote`.
fn quoted_len(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn char_or_lifetime(rest: &[u8]) -> (usize, Kind) {
    let text = String::from_utf8_lossy(&rest[1..rest.len().min(8)]);
    let mut chars = text.chars();
    let first = chars.next();
    let is_char = first == Some('\\') || chars.next() == Some('\'');
    if is_char { (quoted_len(rest, b'\''), Kind::Literal) } else { (1, Kind::Code) }
}

fn word_or_prefixed_string(rest: &[u8]) -> (usize, Kind) {
    let len = rest.iter().position(|&byte| !is_word(byte)).unwrap_or(rest.len());
    let word = &rest[..len];
    let num_hashes = rest[len..].iter().take_while(|&&byte| byte == b'#').count();
    let opens = rest.get(len + num_hashes) == Some(&b'"');
    match word {
        b"r" | b"br" | b"cr" if opens => (raw_len(rest, len, num_hashes), Kind::Literal),
        b"b" | b"c" if opens && num_hashes == 0 => (len + quoted_len(&rest[len..], b'"'), Kind::Literal),
        _ => (len, Kind::Code),
    }
}

fn raw_len(rest: &[u8], prefix_len: usize, num_hashes: usize) -> usize {
    let mut closing = vec![b'"'];
    closing.resize(1 + num_hashes, b'#');
    let body = prefix_len + num_hashes + 1;
    let end = rest[body..].windows(closing.len()).position(|window| window == closing);
    end.map_or(rest.len(), |end| body + end + closing.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, code: &str, prose: &str) {
        assert_eq!(blank(text, Comments::Blank).trim_end(), code);
        assert_eq!(blank(text, Comments::Keep).trim_end(), prose);
    }

    #[test]
    fn strings_are_blanked_and_comments_on_request() {
        check("a(\"b\"); // c", "a(   );", "a(   ); // c");
        check("/* a /* b */ c */ d", "                  d", "/* a /* b */ c */ d");
        check(r#"f("\"", 'x', '\'') g"#, "f(    ,    ,     ) g", "f(    ,    ,     ) g");
    }

    #[test]
    fn raw_and_byte_strings_end_where_they_end() {
        check(r###"r#"a"b"# + b"c" + r#type"###, "         +      + r#type", "         +      + r#type");
    }

    #[test]
    fn lifetimes_are_code() {
        check("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}");
    }
}
