//! Which tracepoints a binary has, from its ELF notes.
