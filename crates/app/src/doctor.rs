//! What this machine can do, and what is missing.

use std::io::{IsTerminal, Write};

use anyhow::Result;
use peer_observer_bus::Finding;

use crate::components::{self, Sections};

/// Prints what every component finds. What is missing is no error: it was asked for.
pub(crate) fn run(sections: &Sections) -> Result<()> {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (good, bad) =
        if colour { ("\x1b[32mok\x1b[0m     ", "\x1b[31mmissing\x1b[0m") } else { ("ok     ", "missing") };
    let mut text = String::new();
    let mut missing = 0;
    for (component, findings) in components::check_all(sections) {
        if findings.is_empty() {
            continue;
        }
        text.push_str(&format!("{component}\n"));
        for Finding { ok, what, fix } in findings {
            text.push_str(&format!("  {} {what}\n", if ok { good } else { bad }));
            if let Some(fix) = fix {
                text.push_str(&format!("          {fix}\n"));
            }
            missing += usize::from(!ok);
        }
    }
    text.push_str(&match missing {
        0 => "nothing is missing: `peer-observer run` watches the nodes on this machine\n".to_owned(),
        n => format!("{n} missing\n"),
    });
    print(&text)
}

/// Writes to standard output. Nobody reading is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
