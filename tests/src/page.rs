//! The page of the metrics tool.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// Series as they stand on the page, with their values.
pub type Samples = BTreeMap<String, f64>;

/// Fetches the page. Blocks.
///
/// # Errors
/// When nobody serves it there (yet).
pub fn fetch(address: SocketAddr) -> io::Result<Samples> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(crate::LONG))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, page) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no page"))?;
    let series = page.lines().filter(|line| !line.starts_with('#'));
    Ok(series
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(series, value)| Some((series.to_owned(), value.parse().ok()?)))
        .collect())
}

/// The sum of the series of a metric whose labels have all of `labels`, such as `stage="publish"`.
pub fn sum(samples: &Samples, name: &str, labels: &[&str]) -> f64 {
    let name = format!("peerobserver_{name}");
    let of_metric = samples.iter().filter(|(series, _)| series.split('{').next() == Some(&name));
    of_metric.filter(|(series, _)| labels.iter().all(|label| series.contains(label))).map(|(_, v)| v).sum()
}
