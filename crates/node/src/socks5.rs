//! The way to a node through a SOCKS5 proxy (RFC 1928), as Tor and I2P routers have one.
//!
//! The proxy looks names up, so an onion service is named and no name server hears of it. The proxy is the user's own, but what it
//! says is read with the care that peers get: every length is bounded.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const VERSION: u8 = 5;
const NO_LOGIN: u8 = 0;
const CONNECT: u8 = 1;
const NAME: u8 = 3;
/// Longest name that a request has room for, bytes.
const MAX_NAME: usize = 255;

/// Why there is no way through the proxy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection to the proxy broke.
    #[error("the connection to the proxy broke: {0}")]
    Broken(#[from] std::io::Error),
    /// It speaks something else.
    #[error("what answers is no SOCKS5 proxy: it says {0:#04x} where version 5 has to stand")]
    Version(u8),
    /// It wants a name and a password.
    #[error("the proxy wants a login, which is not supported")]
    Login,
    /// The name cannot be sent.
    #[error("a name of {0} bytes is none that a proxy takes")]
    Name(usize),
    /// It cannot, or does not want to, connect.
    #[error("the proxy does not connect: {}", meaning(*.0))]
    Refused(u8),
}

/// What a proxy's refusal says of the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody is there, who does not want connections.
    ByDestination,
    /// There is no way there, or nobody.
    Unreachable,
    /// The way took too long.
    TooLong,
    /// The proxy itself cannot, or does not want to.
    ByProxy,
}

/// Tells refusals apart: RFC 1928, 6, and the codes from 0xf0 up that Tor has for onion services (Tor's socks-extensions.txt).
pub const fn refusal(code: u8) -> Refusal {
    match code {
        5 => Refusal::ByDestination,
        3 | 4 | 0xf0..=0xf3 | 0xf6 => Refusal::Unreachable,
        6 | 0xf7 => Refusal::TooLong,
        _ => Refusal::ByProxy,
    }
}

fn meaning(code: u8) -> &'static str {
    match refusal(code) {
        Refusal::ByDestination => "connection refused",
        Refusal::Unreachable => "unreachable",
        Refusal::TooLong => "it took too long",
        Refusal::ByProxy => "the proxy failed, or does not allow it",
    }
}

/// Asks a proxy for a connection to a name and port. After that the stream is the connection. The caller limits the time.
///
/// # Errors
/// When the proxy does not connect.
pub async fn connect<S>(stream: &mut S, name: &str, port: u16) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Error::Name(name.len()));
    }
    stream.write_all(&[VERSION, 1, NO_LOGIN]).await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    match chosen {
        [VERSION, NO_LOGIN] => {}
        [VERSION, _] => return Err(Error::Login),
        [other, _] => return Err(Error::Version(other)),
    }

    let mut request = vec![VERSION, CONNECT, 0, NAME, name.len() as u8];
    request.extend_from_slice(name.as_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await?;

    // Version, reply, a zero, kind of address; then an address and a port that tell us nothing.
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).await?;
    let [version, code, _, kind] = reply;
    if version != VERSION {
        return Err(Error::Version(version));
    }
    if code != 0 {
        return Err(Error::Refused(code));
    }
    let length = match kind {
        1 => 4,
        4 => 16,
        _ => usize::from(stream.read_u8().await?),
    };
    let mut rest = vec![0; length + 2];
    stream.read_exact(&mut rest).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sent to a proxy that answers this, and what comes of it.
    async fn ask(name: &str, answers: &[u8]) -> (Vec<u8>, Result<(), Error>) {
        let (mut ours, mut proxy) = tokio::io::duplex(4096);
        proxy.write_all(answers).await.unwrap();
        proxy.shutdown().await.unwrap();
        let outcome = connect(&mut ours, name, 8333).await;
        drop(ours);
        let mut sent = Vec::new();
        proxy.read_to_end(&mut sent).await.unwrap();
        (sent, outcome)
    }

    #[tokio::test]
    async fn a_name_is_asked_for_and_what_follows_the_answer_is_left() {
        let answers: [&[u8]; 3] = [
            &[5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0],
            &[&[5, 0, 5, 0, 0, 4][..], &[0; 18]].concat(),
            b"\x05\x00\x05\x00\x00\x03\x02ab\x00\x00",
        ];
        for answer in answers {
            let (mut ours, mut proxy) = tokio::io::duplex(4096);
            proxy.write_all(&[answer, b"peer"].concat()).await.unwrap();
            connect(&mut ours, "x.onion", 8333).await.unwrap();
            let mut rest = [0; 4];
            ours.read_exact(&mut rest).await.unwrap();
            assert_eq!(&rest, b"peer", "{answer:?}");
        }
        let (sent, outcome) = ask("x.onion", answers[0]).await;
        outcome.unwrap();
        assert_eq!(sent, b"\x05\x01\x00\x05\x01\x00\x03\x07x.onion\x20\x8d");
    }

    #[tokio::test]
    async fn what_a_proxy_refuses_is_told_apart() {
        let cases: [(&[u8], &str); 8] = [
            (b"", "broke"),
            (b"HTTP/1.1 400", "no SOCKS5 proxy"),
            (&[5, 0xff], "login"),
            (&[5, 0, 4, 0, 0, 1], "no SOCKS5 proxy"),
            (&[5, 0, 5, 5, 0, 1, 0, 0, 0, 0, 0, 0], "refused"),
            (&[5, 0, 5, 0xf2, 0, 1, 0, 0, 0, 0, 0, 0], "unreachable"),
            (&[5, 0, 5, 6, 0, 1, 0, 0, 0, 0, 0, 0], "too long"),
            (&[5, 0, 5, 0, 0, 1, 0, 0], "broke"),
        ];
        for (answers, why) in cases {
            let error = ask("x.onion", answers).await.1.unwrap_err().to_string();
            assert!(error.contains(why), "{answers:?}: {error}");
        }
        for name in ["", &"x".repeat(256)] {
            assert!(matches!(ask(name, b"").await.1, Err(Error::Name(_))));
        }
    }
}
