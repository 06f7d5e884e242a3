//! Reads the files that Bitcoin Core writes with .
