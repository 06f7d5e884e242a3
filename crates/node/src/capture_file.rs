//! Reads the files that Bitcoin Core writes with its option `-capturemessages`.
