//! `{% generation %}` marks the assistant's text for training tools; for a prompt it means nothing.

/// `source` with each `generation` block turned into a block that always shows, white-space control kept.
pub(super) fn replaced(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open + 2);
        out.push_str(before);
        let Some(close) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let body = &tag[..close];
        match body.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+') {
            "generation" => out.push_str(&body.replace("generation", "if true")),
            "endgeneration" => out.push_str(&body.replace("endgeneration", "endif")),
            _ => out.push_str(body),
        }
        rest = &tag[close..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::replaced;

    #[test]
    fn generation_blocks_become_blocks_that_always_show() {
        assert_eq!(replaced("a{%- generation -%}b{% endgeneration %}c"), "a{%- if true -%}b{% endif %}c");
    }

    #[test]
    fn everything_else_stays() {
        for text in ["", "{%", "{% set generation = 1 %}{{ generation }}", "é{% x %}%}{%é", "generation"] {
            assert_eq!(replaced(text), text);
        }
    }
}
