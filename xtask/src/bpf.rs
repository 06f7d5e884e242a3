//! Compiles the programs for the kernel and puts the objects where they are committed.
//!
//! Only clang 14 of Debian 12 makes the same bytes again, so only with that is what is committed compared.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const SOURCE: &str = "crates/extractors/src/ebpf/bpf/probes.bpf.c";
const COMPILER: &str = "clang-14";
const STRIP: &str = "llvm-strip-14";
/// Architecture as Rust has it, and as libbpf's headers do.
const TARGETS: [(&str, &str); 2] = [("x86_64", "x86"), ("aarch64", "arm64")];

fn committed(root: &Path, arch: &str) -> PathBuf {
    root.join(SOURCE).with_file_name(format!("probes.{arch}.bpf.o"))
}

/// Compiles and writes the objects.
pub(crate) fn regenerate(root: &Path) -> Result<()> {
    for (arch, define) in TARGETS {
        compile(root, define, &committed(root, arch))?;
    }
    Ok(())
}

/// Fails when what is committed is not what the source compiles to. Without clang 14, says so and succeeds.
pub(crate) fn check(root: &Path) -> Result<()> {
    if Command::new(COMPILER).arg("--version").output().is_err() {
        eprintln!(
            "skipped: {COMPILER} is not installed, so the BPF objects are not compared with their source"
        );
        return Ok(());
    }
    for (arch, define) in TARGETS {
        let fresh = root.join("target").join(format!("probes.{arch}.bpf.o"));
        std::fs::create_dir_all(root.join("target"))?;
        compile(root, define, &fresh)?;
        let committed = committed(root, arch);
        if std::fs::read(&fresh)? != std::fs::read(&committed).unwrap_or_default() {
            bail!(
                "{} is not what its source compiles to: run `cargo xtask regenerate bpf`",
                committed.display()
            );
        }
    }
    Ok(())
}

fn compile(root: &Path, define: &str, object: &Path) -> Result<()> {
    let source = root.join(SOURCE);
    let headers = libbpf_headers(root)?;
    run(Command::new(COMPILER)
        .current_dir(source.parent().context("folder of the source")?)
        // Paths are written into the object: they must not depend on where the repository or cargo's files lie.
        .args(["-fdebug-compilation-dir=."])
        .arg(format!("-ffile-prefix-map={}=libbpf", headers.display()))
        .args(["-g", "-O2", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3"])
        .arg(format!("-D__TARGET_ARCH_{define}"))
        .arg("-I")
        .arg(&headers)
        .args(["-idirafter", "/usr/include/x86_64-linux-gnu", "-c", "probes.bpf.c", "-o"])
        .arg(object))?;
    run(Command::new(STRIP).arg("-g").arg(object))?;
    // Line numbers in the kernel's view of the programs: five times as large as the programs, and of no use to users.
    run(Command::new("llvm-objcopy-14")
        .args(["--remove-section=.BTF.ext", "--remove-section=.rel.BTF.ext"])
        .arg(object))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| {
        format!("running {:?}: install clang-14 and llvm-14 of Debian 12", command.get_program())
    })?;
    if !status.success() {
        bail!("{:?} failed", command.get_program());
    }
    Ok(())
}

/// The headers of the libbpf that the extractor is built with.
fn libbpf_headers(root: &Path) -> Result<PathBuf> {
    let output = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["metadata", "--format-version=1", "--locked"])
        .output()
        .context("asking cargo where libbpf-sys is")?;
    if !output.status.success() {
        bail!("asking cargo where libbpf-sys is: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8(output.stdout).context("reading what cargo says")?;
    // One path is wanted of a large answer; it stands in quotes, as `…/libbpf-sys-VERSION/Cargo.toml`.
    text.split('"')
        .find(|s| s.contains("/libbpf-sys-") && s.ends_with("/Cargo.toml"))
        .map(|manifest| Path::new(manifest).with_file_name("libbpf").join("src"))
        .context("libbpf-sys is not among the dependencies")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_objects_are_what_their_source_compiles_to() {
        check(&crate::root().unwrap()).unwrap();
    }
}
