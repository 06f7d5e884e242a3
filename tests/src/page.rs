//! The page of the metrics tool, and answers of the live page.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// Series as they stand on the page, with their values.
pub type Samples = BTreeMap<String, f64>;

/// The body of an answer that is one.
fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(crate::LONG))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(io::Error::other(format!("no page: {answer}"))),
    }
}

/// Asks the live page over REST: `topic` is that of `/api/v1/TOPIC`. Blocks.
///
/// # Errors
/// When nobody serves it there, or the answer is not JSON.
pub fn ask(address: SocketAddr, topic: &str) -> io::Result<serde_json::Value> {
    Ok(serde_json::from_str(&get(address, &format!("/api/v1/{topic}"))?)?)
}

/// Fetches the page. Blocks.
///
/// # Errors
/// When nobody serves it there (yet).
pub fn fetch(address: SocketAddr) -> io::Result<Samples> {
    let page = get(address, "/metrics")?;
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
