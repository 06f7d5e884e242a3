//! Compiles programs of tests from C: the stand-in nodes, because only `sys/sdt.h` with a C compiler makes probes as Bitcoin
//! Core's, and two that run as another user.

use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// Names of the programs, and what they are compiled with.
const VARIANTS: [(&str, &str); 5] = [
    ("standin-core30", "-DSTANDIN_CORE_30"),
    ("standin-patched", "-DSTANDIN_PATCHED"),
    ("standin-core24", "-DSTANDIN_CORE_24"),
    ("standin-bare", "-DSTANDIN_BARE"),
    ("standin-forms", "-DSTANDIN_FORMS"),
];

const SOURCE: &str = "src/standin/standin.c";
const EXCHANGE: &str = "src/other_user/exchange.c";
const SET_ID: &str = "src/standin/set_id.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed={EXCHANGE}");
    println!("cargo::rerun-if-changed={SET_ID}");
    println!("cargo::rerun-if-env-changed=CC");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for (name, define) in VARIANTS {
        compile(&compiler, SOURCE, Some(define), &out.join(name));
    }
    compile(&compiler, EXCHANGE, None, &out.join("exchange"));
    compile(&compiler, SET_ID, None, &out.join("set-id"));
}

fn compile(compiler: &str, source: &str, define: Option<&str>, program: &Path) {
    let mut command = Command::new(compiler);
    command
        .args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-pthread"])
        .args(define)
        .arg("-o")
        .arg(program)
        .arg(source);
    // Else leaf functions have their locals below the stack pointer, which Core's functions with probes, no leaves, do not.
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        command.arg("-mno-red-zone");
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(err) => fail(&format!("cannot run the C compiler `{compiler}`: {err}; install gcc, or set CC")),
    };
    if output.status.success() {
        return;
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("sys/sdt.h") {
        fail(
            "the header sys/sdt.h is missing; install systemtap-sdt-dev (Debian) or systemtap-sdt-devel (Fedora)",
        );
    }
    fail(&format!("cannot compile {source} with {define:?}:\n{errors}"));
}

fn fail(why: &str) -> ! {
    println!("cargo::error=peer-observer-testkit: {}", why.replace('\n', " | "));
    exit(1);
}
