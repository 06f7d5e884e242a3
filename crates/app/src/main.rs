//! peer-observer: watches Bitcoin Core nodes from the inside.
//!
//! | file | what it is for |
//! |---|---|
//! | cli.rs | the command line |
//! | components.rs | the one list of extractors and tools |
//! | config.rs | the configuration file, and flags over it |
//! | faults.rs | which keys of the configuration cannot be used |
//! | run.rs | starting, watching over and ending the parts |
//! | windows.rs | what looks into each node besides the tracepoints |
//! | doctor.rs | what this machine can do |
//! | demo.rs, demo_node.rs, demo_windows.rs | the pipeline without a node |

mod cli;
mod components;
mod config;
mod demo;
mod demo_node;
mod demo_windows;
mod doctor;
mod faults;
mod run;
mod windows;

use std::io::Write;
use std::process::ExitCode;

use peer_observer_tools::terminal::shows_colours;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let (cli, matches) = cli::parse();
    if let Err(error) = log_to_stderr(&cli.log_level) {
        complain(&format_args!("{error:#}"));
        return ExitCode::from(2);
    }
    match cli::execute(cli, &matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&in_full(&error));
            ExitCode::FAILURE
        }
    }
}

/// Says why the program ends, if somebody reads that.
fn complain(why: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "peer-observer: {why}");
}

/// An error with its causes, each said once: many errors say their cause themselves.
fn in_full(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Standard output is for events; everything else goes to standard error.
fn log_to_stderr(level: &str) -> anyhow::Result<()> {
    // The NATS client tells of every attempt to connect; what matters of it is told by the bus.
    let filter = EnvFilter::try_new(format!("{level},async_nats=off,libbpf=info"))
        .map_err(|e| anyhow::anyhow!("--log-level {level}: {e}: give error, warn, info, debug or trace"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(shows_colours(&std::io::stderr()))
        .with_target(false)
        // It would panic where nobody reads standard error any more.
        .log_internal_errors(false)
        .init();
    Ok(())
}
