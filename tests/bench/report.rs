//! The table of all figures, for the screen and for the document.
use crate::figure::{Figure, Target, rounded};
use anyhow::{Result, ensure};
use std::fmt::Write as _;
use std::path::Path;

const BEGIN: &str = "<!-- figures: written by cargo xtask bench -->";
const END: &str = "<!-- end of figures -->";

/// Markdown: the machine's facts, then a row a figure.
pub(crate) fn table(figures: &[Figure], facts: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (name, fact) in facts {
        let _ = writeln!(text, "- {name}: {fact}");
    }
    text.push_str(
        "\n| what | dhow | yardstick in the same run | ratio | target | |\n|---|---|---|---|---|---|\n",
    );
    for figure in figures {
        let mut value = format!("{} {}", rounded(figure.value), figure.unit);
        if !figure.beside.is_empty() {
            let _ = write!(value, " ({})", figure.beside);
        }
        let yardstick = figure
            .yardstick
            .as_ref()
            .map(|(name, value)| format!("{} {} — {name}", rounded(*value), figure.unit))
            .unwrap_or_default();
        let ratio = figure.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        let target = match figure.target {
            Some(Target::AtMost(limit)) => format!("≤ {} {}", rounded(limit), figure.unit),
            Some(Target::TimesYardstick(ratio)) => format!("≥ {ratio} ×"),
            Some(Target::AtMostTimesYardstick(ratio)) => format!("≤ {ratio} ×"),
            None => String::new(),
        };
        let _ = writeln!(
            text,
            "| {} | {value} | {yardstick} | {ratio} | {target} | {} |",
            figure.what,
            figure.verdict()
        );
    }
    text
}

/// Puts the table between the marks of a document.
pub(crate) fn write(path: &Path, table: &str) -> Result<()> {
    let text = std::fs::read_to_string(path)?;
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
        anyhow::bail!("the marks {BEGIN:?} and {END:?} are not in it");
    };
    ensure!(begin < end, "the marks stand the wrong way round");
    let text = format!("{}{BEGIN}\n{table}{}", &text[..begin], &text[end..]);
    std::fs::write(path, text)?;
    Ok(())
}
