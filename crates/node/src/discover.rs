//! Finds the Bitcoin Core nodes that run on this machine.
