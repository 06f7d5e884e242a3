//! The configuration file, and flags over it.
//!
//! One TOML file with a section a component, whose keys are the long flags with underscores. What a flag says wins over what
//! the file says; what neither says has its default. A key that does not exist is an error.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use clap::ArgMatches;
use clap::parser::ValueSource;
use peer_observer_bus::nats;
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::components::Sections;

/// Reads a configuration file; defaults where there is none.
pub(crate) fn read(path: Option<&Path>, set: &[String]) -> Result<Sections> {
    let mut table = match path {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
            parse(&text).with_context(|| format!("in the configuration file {}", path.display()))?
        }
        None => Table::new(),
    };
    for assignment in set {
        apply(&mut table, assignment)?;
    }
    let sections: Sections =
        table.try_into().map_err(|e: toml::de::Error| anyhow!("{}", e.message().trim()))?;
    Ok(sections)
}

fn parse(text: &str) -> Result<Table> {
    // Once as what it has to be, for errors that name the line; once as a table that --set can go over.
    toml::from_str::<Sections>(text)?;
    Ok(toml::from_str(text)?)
}

/// `SECTION.KEY=VALUE` over the file. A value that is no TOML is taken as text.
fn apply(table: &mut Table, assignment: &str) -> Result<()> {
    let parts = assignment.split_once('=').and_then(|(key, value)| Some((key.split_once('.')?, value)));
    let Some(((section, key), value)) = parts else {
        bail!("--set {assignment}: give SECTION.KEY=VALUE, such as metrics.metrics_address=127.0.0.1:9000");
    };
    let value = toml::from_str::<Table>(&format!("v = {value}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| Value::String(value.to_owned()));
    let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    section
        .as_table_mut()
        .with_context(|| format!("--set {assignment}: no such section"))?
        .insert(key.into(), value);
    Ok(())
}

/// A section with those flags over it that were really given.
pub(crate) fn overlay<T: Serialize + DeserializeOwned>(
    section: &T,
    flags: &T,
    matches: &ArgMatches,
) -> Result<T> {
    let mut merged = Table::try_from(section).context("reading a section")?;
    let flags = Table::try_from(flags).context("reading flags")?;
    for (key, value) in flags {
        // Ids of flags are names of fields. Flags of other components in the same command are none of this section's.
        let given = matches.try_contains_id(&key).unwrap_or(false)
            && matches.value_source(&key) == Some(ValueSource::CommandLine);
        if given {
            merged.insert(key, value);
        }
    }
    merged.try_into().map_err(|e: toml::de::Error| anyhow!("{}", e.message().trim()))
}

/// Whether a value must not be printed.
fn is_secret(key: &str, value: &Value) -> bool {
    let has_login = key == "nats_address" && value.as_str().is_some_and(nats::has_login);
    has_login || key.ends_with("_password") || key.ends_with("_token")
}

/// The whole configuration as a file, with what the keys mean. Keys that are not set stand there as
/// comments, and so do passwords.
pub(crate) fn print(sections: &Sections) -> Result<String> {
    let values = Table::try_from(sections).context("reading the configuration")?;
    let mut text = String::new();
    for (name, flags) in Sections::flags() {
        text.push_str(&format!("[{name}]\n"));
        for flag in flags.get_arguments().filter(|a| !a.is_hide_set()) {
            let key = flag.get_id().as_str();
            for line in flag.get_help().map(ToString::to_string).unwrap_or_default().lines() {
                text.push_str(&format!("# {line}\n"));
            }
            match values.get(name).and_then(|section| section.get(key)) {
                Some(value) if is_secret(key, value) => text.push_str(&format!("#{key} = (not shown)\n")),
                Some(value) => text.push_str(&format!("{key} = {value}\n")),
                None => text.push_str(&format!("#{key} =\n")),
            }
        }
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_a_valid_file() {
        let text = print(&Sections::default()).unwrap();
        let again: Sections = toml::from_str(&text).unwrap();
        assert_eq!(Table::try_from(Sections::default()).unwrap(), Table::try_from(again).unwrap());
        assert!(text.contains("[ebpf]") && text.contains("#nats_address ="), "{text}");
    }

    #[test]
    fn config_print_shows_no_password() {
        let set = [
            "nats.nats_address=nats://alice:hunter2@127.0.0.1".to_owned(),
            "nats.nats_password=hunter2".to_owned(),
            "rpc.rpc_password=hunter2".to_owned(),
        ];
        let text = print(&read(None, &set).unwrap()).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("#rpc_password = (not shown)"), "{text}");
    }

    #[test]
    fn what_is_set_wins_over_the_file_and_unknown_keys_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peer-observer.toml");
        std::fs::write(
            &path,
            "[metrics]\nmetrics_address = \"127.0.0.1:1\"\n[ebpf]\nno_mempool_tracepoints = true\n",
        )
        .unwrap();
        let set = ["metrics.metrics_address=127.0.0.1:2".to_owned(), "ebpf.max_payload=80".to_owned()];
        let sections = read(Some(&path), &set).unwrap();
        assert_eq!(sections.metrics.metrics_address, "127.0.0.1:2");
        assert_eq!(sections.ebpf.max_payload, 80);
        assert!(sections.ebpf.no_mempool_tracepoints);

        std::fs::write(&path, "[metrics]\nadress = 1\n").unwrap();
        let error = format!("{:#}", read(Some(&path), &[]).unwrap_err());
        assert!(error.contains("adress") && error.contains("line 2"), "{error}");
        assert!(read(None, &["nonsense.x=1".to_owned()]).is_err());
        assert!(read(None, &["nonsense".to_owned()]).is_err());
    }
}
