//! `$(NAME)` in commands, arguments and variables.

/// Replaces `$(NAME)` by what `value` gives; a name it does not know stays as written; `$$` is a dollar.
pub fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|a| a.split_once(')')) {
            match value(name) {
                Some(v) => out.push_str(&v),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_and_what_is_unknown_or_escaped_stays() {
        let table = [
            ("$(A)", "1"),
            ("x$(A)y$(B)", "x1y2"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(NOPE)", "$(NOPE)"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("$", "$"),
            ("", ""),
            ("é$(B)é", "é2é"),
        ];
        for (text, wanted) in table {
            let got = expand(text, |n| match n {
                "A" => Some("1".into()),
                "B" => Some("2".into()),
                _ => None,
            });
            assert_eq!(got, wanted, "{text}");
        }
    }
}
