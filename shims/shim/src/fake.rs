//! A shim that runs nothing, for tests of whoever uses shims.
