//! peer-observer: watches Bitcoin Core nodes from the inside.
//!
//! | file | what it is for |
//! |---|---|
//! | cli.rs | the command line |
//! | components.rs | the one list of extractors and tools |
//! | config.rs | the configuration file, and flags over it |
//! | faults.rs | which keys of the configuration cannot be used |
//! | log.rs | our own log, and how errors are printed |
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
mod log;
mod run;
mod windows;

use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// File descriptors that 256 nodes take: some 30 for each, for its probes, its log and RPC connections.
const DESCRIPTORS: u64 = 16_384;

/// Takes as many file descriptors as may be needed, where the limit can be raised: a shell's is mostly 1,024, which 64 nodes
/// of another user use up with their probes alone.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS));
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), ..limit };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, "cannot raise the limit of file descriptors");
        }
    }
}

fn main() -> ExitCode {
    let (cli, matches) = cli::parse();
    if let Err(error) = log::to_stderr(&cli.log_level) {
        log::complain(&log::describe(&error));
        return ExitCode::from(2);
    }
    raise_descriptor_limit();
    match cli::execute(cli, &matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::complain(&log::describe(&error));
            ExitCode::FAILURE
        }
    }
}
