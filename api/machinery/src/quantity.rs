//! Quantities: `100m`, `1.5Gi`, `2e3` (apimachinery `resource.Quantity`).

/// Why a quantity could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)]
pub struct ParseError;

/// A quantity as a number of nano-units, exact within ±9.2e18 units of 1e-9; larger values are capped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Quantity(pub i128);

impl Quantity {
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let _ = text;
        todo!()
    }
    /// In whole units, rounded up (`Quantity.Value()`): bytes of memory, cores.
    pub fn value(self) -> i64 {
        todo!()
    }
    /// In thousandths, rounded up (`Quantity.MilliValue()`): millicores.
    pub fn milli_value(self) -> i64 {
        todo!()
    }
    /// The canonical form of a quantity's text (`1000m` → `1`, `1024Mi` → `1Gi`): what Go's encoder prints.
    pub fn canonical(text: &str) -> Result<String, ParseError> {
        let _ = text;
        todo!()
    }
}
