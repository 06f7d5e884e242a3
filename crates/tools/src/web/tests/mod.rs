//! The tool as it runs.
