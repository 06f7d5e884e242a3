//! Chores of the repository. `cargo xtask help` lists them.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

mod proto;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of the repository")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Generate committed code again
    #[command(subcommand)]
    Regenerate(Regenerate),
}

#[derive(Subcommand)]
enum Regenerate {
    /// The Rust types of proto/
    Proto {
        /// Fail when what is committed differs, and write nothing
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().context("workspace root")?.to_path_buf();
    match Args::parse().chore {
        Chore::Regenerate(Regenerate::Proto { check }) => proto::regenerate(&root, check),
    }
}
