//! How a Function's revisions are called, and how what belongs to it is labelled. Pure.

/// On everything made for a Function, and on its pods: its name.
pub(crate) const FUNCTION: &str = "dhow.dev/function";
/// On everything made for a Revision, and on its pods: its name.
pub(crate) const REVISION: &str = "dhow.dev/revision";

/// Digits of a revision's number that are read: beyond what fits into a name beside the longest Function's.
const MAX_DIGITS: usize = 12;

/// What the names of all revisions of a function begin with; those of `<function>-rx` do so as well.
pub(crate) fn revision_prefix(function: &str) -> String {
    format!("{function}-r")
}

pub(crate) fn revision_name(function: &str, number: u64) -> String {
    format!("{function}-r{number}")
}

/// N of `<function>-r<N>`.
pub(crate) fn revision_number(function: &str, name: &str) -> Option<u64> {
    let digits = name.strip_prefix(function)?.strip_prefix("-r")?;
    let is_number = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    (is_number && digits.len() <= MAX_DIGITS).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_functions_own_names_have_a_number() {
        assert_eq!(revision_number("a", "a-r7"), Some(7));
        assert_eq!(revision_number("a", &revision_name("a", 999_999_999_999)), Some(999_999_999_999));
        for other in ["a", "a-r", "a-r07", "a-r0", "a-rx-r1", "b-r1", "a-r1x", "a-r+1", "a-r1000000000000"] {
            assert_eq!(revision_number("a", other), None, "{other}");
        }
        assert_eq!(revision_number("a-rx", "a-rx-r1"), Some(1));
    }
}
