//! One measured figure, and what is asked of it.
use std::fmt;

/// What is asked of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// The figure itself may not be larger.
    AtMost(f64),
    /// The figure must be at least this many times its yardstick.
    TimesYardstick(f64),
    /// The figure may be at most this many times its yardstick.
    AtMostTimesYardstick(f64),
}

#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// Percentiles, rounds: what stands beside the figure.
    pub(crate) beside: String,
    /// What it is compared with, measured in the same run, and its value in the same unit.
    pub(crate) yardstick: Option<(String, f64)>,
    pub(crate) target: Option<Target>,
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, unit, beside: String::new(), yardstick: None, target: None }
    }
    pub(crate) fn beside(mut self, beside: impl Into<String>) -> Self {
        self.beside = beside.into();
        self
    }
    pub(crate) fn yardstick(mut self, name: impl Into<String>, value: f64) -> Self {
        self.yardstick = Some((name.into(), value));
        self
    }
    pub(crate) fn at_most(mut self, value: f64) -> Self {
        self.target = Some(Target::AtMost(value));
        self
    }
    pub(crate) fn times_yardstick(mut self, ratio: f64) -> Self {
        self.target = Some(Target::TimesYardstick(ratio));
        self
    }

    pub(crate) fn at_most_times_yardstick(mut self, ratio: f64) -> Self {
        self.target = Some(Target::AtMostTimesYardstick(ratio));
        self
    }

    /// The figure as a multiple of its yardstick.
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.yardstick.as_ref().map(|(_, yardstick)| self.value / yardstick)
    }

    /// Whether the target is reached; `None` where there is none.
    pub(crate) fn reached(&self) -> Option<bool> {
        match self.target? {
            Target::AtMost(limit) => Some(self.value <= limit),
            Target::TimesYardstick(ratio) => Some(self.ratio()? >= ratio),
            Target::AtMostTimesYardstick(ratio) => Some(self.ratio()? <= ratio),
        }
    }

    pub(crate) fn verdict(&self) -> &'static str {
        match self.reached() {
            Some(true) => "reached",
            Some(false) => "**falls short**",
            None => "",
        }
    }
}

/// Three digits that count, no more: the rest is noise.
pub(crate) fn rounded(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.what, rounded(self.value), self.unit)?;
        if !self.beside.is_empty() {
            write!(f, " ({})", self.beside)?;
        }
        if let (Some((name, value)), Some(ratio)) = (&self.yardstick, self.ratio()) {
            write!(f, "; {name}: {} {}; ratio {ratio:.2}", rounded(*value), self.unit)?;
        }
        match self.target {
            Some(Target::AtMost(limit)) => {
                write!(f, "; target at most {}: {}", rounded(limit), self.verdict())
            }
            Some(Target::TimesYardstick(ratio)) => {
                write!(f, "; target at least {ratio} ×: {}", self.verdict())
            }
            Some(Target::AtMostTimesYardstick(ratio)) => {
                write!(f, "; target at most {ratio} ×: {}", self.verdict())
            }
            None => Ok(()),
        }
    }
}
