//! The types of the API group `dhow.dev`.
pub mod v1alpha1;
