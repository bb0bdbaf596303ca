//! Names of WebAssembly interfaces, as components import them: `wasi:http/types@0.2.6`.

/// The annotation of a pod that says which interfaces its components import, separated by commas: how the scheduler
/// knows them before anybody has pulled the image.
pub const IMPORTS_ANNOTATION: &str = "dhow.dev/imports";

/// The annotation of a node that says which interfaces it offers to components, as [`track`]s, separated by commas.
pub const OFFERS_ANNOTATION: &str = "dhow.dev/offers";

/// The name with as much of its version as must be the same: `wasi:http/types@0.2` for `wasi:http/types@0.2.6`. Two
/// versions of one track fit each other (the component model's canonical interface names); a pre-release fits itself
/// only.
pub fn track(name: &str) -> String {
    let Some((interface, version)) = name.split_once('@') else { return name.to_owned() };
    if version.contains(['-', '+']) {
        return name.to_owned();
    }
    let mut numbers = version.split('.');
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some("0"), Some("0"), _) => name.to_owned(),
        (Some("0"), Some(minor), _) => format!("{interface}@0.{minor}"),
        (Some(major), _, _) => format!("{interface}@{major}"),
        _ => name.to_owned(),
    }
}

/// The first of `imports` that none of `offers` (tracks) fits.
pub fn missing<'a>(imports: impl IntoIterator<Item = &'a str>, offers: &[&str]) -> Option<&'a str> {
    imports.into_iter().find(|import| !offers.contains(&track(import).as_str()))
}

/// The entries of a list separated by commas.
pub fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_one_track_fit_each_other() {
        assert_eq!(track("wasi:io/poll@0.2.12"), "wasi:io/poll@0.2");
        assert_eq!(track("a:b/c@1.4.0"), "a:b/c@1");
        assert_eq!(track("a:b/c@0.0.3"), "a:b/c@0.0.3");
        assert_eq!(track("a:b/c@0.2"), "a:b/c@0.2");
        assert_eq!(track("wasi:config/store@0.2.0-rc.1"), "wasi:config/store@0.2.0-rc.1");
        assert_eq!(track("plain"), "plain");
        assert_eq!(track("a:b/c@"), "a:b/c@");
    }

    #[test]
    fn what_is_missing_is_named_as_it_was_imported() {
        let offers = ["wasi:io/poll@0.2", "wasi:keyvalue/store@0.2.0-draft"];
        let imports = list("wasi:io/poll@0.2.3, wasi:keyvalue/store@0.2.0-draft2,, x:y/z");
        assert_eq!(missing(imports, &offers), Some("wasi:keyvalue/store@0.2.0-draft2"));
        assert_eq!(missing(["wasi:io/poll@0.2.9"], &offers), None);
    }
}
