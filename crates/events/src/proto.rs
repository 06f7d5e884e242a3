//! The types that `cargo xtask regenerate proto` makes from proto/. Comments on fields are in proto/.
#![allow(missing_docs, clippy::all)]

include!("generated/mod.rs");
