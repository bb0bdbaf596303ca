//! Completion indexes as Jobs write them: `1,3-5,7`.
use std::collections::BTreeSet;

/// Reads an interval list, dropping what is not one or is not under `completions`.
pub(crate) fn parse(text: &str, completions: i32) -> BTreeSet<i32> {
    let mut all = BTreeSet::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            all.extend(first.max(0)..=last.min(completions - 1));
        }
    }
    all
}

/// Writes an interval list; two neighbours are `1,2`, three are `1-3`.
pub(crate) fn format(all: &BTreeSet<i32>) -> String {
    let mut parts: Vec<(i32, i32)> = Vec::new();
    for &i in all {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == i => *last = i,
            _ => parts.push((i, i)),
        }
    }
    let text = parts.into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    });
    text.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_read_back_as_written() {
        for (text, want) in
            [("", vec![]), ("0", vec![0]), ("1,2", vec![1, 2]), ("0,2-4,7", vec![0, 2, 3, 4, 7])]
        {
            let set: BTreeSet<i32> = want.into_iter().collect();
            assert_eq!(parse(text, 10), set, "{text}");
            assert_eq!(format(&set), text);
        }
    }

    #[test]
    fn what_is_out_of_range_or_garbled_is_dropped() {
        assert_eq!(parse("x,3-1,2-2000000000,-5", 4), BTreeSet::from([2, 3]));
    }
}
