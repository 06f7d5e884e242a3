//! Hits of tracepoints in a file.
