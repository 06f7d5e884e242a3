//! The bytes of a call, and what the bytes of an answer mean.
//!
//! Calls are of JSON-RPC 1.0, which every version of Bitcoin Core answers in the same way: HTTP status 200 for a result, another
//! one and a JSON body for an error of the method, another one and no JSON for an error of HTTP (Bitcoin Core httprpc.cpp).

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;

use super::Error;

/// Bytes of an error message that are kept.
const MAX_MESSAGE: usize = 300;

/// The JSON of a result, not yet looked into.
#[derive(Debug, Clone)]
pub struct Answer {
    json: Box<RawValue>,
    /// The right to have a large answer in memory.
    _large: Option<Arc<OwnedSemaphorePermit>>,
}

impl Answer {
    /// The JSON.
    pub fn json(&self) -> &str {
        self.json.get()
    }

    /// Has it keep the right to be as large as it is.
    pub(super) fn with_permit(self, permit: Option<OwnedSemaphorePermit>) -> Self {
        Answer { _large: permit.map(Arc::new), ..self }
    }
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    result: Option<Box<RawValue>>,
    #[serde(default)]
    error: Option<Refusal>,
    #[serde(default)]
    id: Value,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
}

/// The body of a call.
pub fn call(id: u64, method: &str, params: &Value) -> String {
    serde_json::json!({ "jsonrpc": "1.0", "id": id, "method": method, "params": params }).to_string()
}

/// What the node says to the call `id` of `method`.
///
/// # Errors
/// When it is no result.
pub fn read(host: &str, method: &str, id: u64, status: u16, body: &[u8]) -> Result<Answer, Error> {
    let method = || method.to_owned();
    match status {
        401 => return Err(Error::Unauthorized { host: host.to_owned() }),
        403 => return Err(Error::Forbidden { method: method() }),
        503 => return Err(Error::Busy { method: method() }),
        _ => {}
    }
    let malformed = |reason: String| Error::Malformed { method: method(), reason };
    let envelope: Envelope = match serde_json::from_slice(body) {
        Ok(envelope) => envelope,
        Err(_) if status != 200 => return Err(malformed(format!("HTTP status {status} without JSON"))),
        Err(error) => return Err(malformed(error.to_string())),
    };
    if let Some(refusal) = envelope.error {
        let message = beginning(&refusal.message);
        return Err(Error::Refused { method: method(), code: refusal.code, message });
    }
    if status != 200 {
        return Err(malformed(format!("HTTP status {status} without an error")));
    }
    if envelope.id != id {
        return Err(malformed("it answers another call".to_owned()));
    }
    let answer = envelope.result.map(|json| Answer { json, _large: None });
    answer.ok_or_else(|| malformed("it has no result".to_owned()))
}

fn beginning(text: &str) -> String {
    text.chars().scan(0, |bytes, c| (*bytes < MAX_MESSAGE).then(|| (*bytes += c.len_utf8(), c).1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, body: &str) -> Result<Answer, Error> {
        super::read("h:1", "uptime", 7, status, body.as_bytes())
    }

    #[test]
    fn a_call_names_its_method_and_parameters() {
        let body: Value = serde_json::from_str(&call(7, "a", &serde_json::json!([1, "x"]))).unwrap();
        assert_eq!(body, serde_json::json!({"jsonrpc": "1.0", "id": 7, "method": "a", "params": [1, "x"]}));
    }

    #[test]
    fn a_result_is_given_as_it_is() {
        let answer = read(200, r#"{"result": {"a":[1.50]}, "error":null, "id":7}"#).unwrap();
        assert_eq!(answer.json(), r#"{"a":[1.50]}"#);
        // JSON-RPC 2.0 leaves out the error.
        assert_eq!(read(200, r#"{"jsonrpc":"2.0","result":0,"id":7}"#).unwrap().json(), "0");
    }

    #[test]
    fn everything_else_is_an_error_that_says_what_it_is() {
        let cases = [
            (401, "", "refuses the RPC login"),
            (403, "", "forbids uptime"),
            (503, "Work queue depth exceeded", "work queue"),
            (500, "", "HTTP status 500 without JSON"),
            (500, r#"{"id":7}"#, "HTTP status 500 without an error"),
            (200, "", "cannot be understood"),
            (200, "<html>", "cannot be understood"),
            (200, r#"{"result":1,"error":null,"id":8}"#, "another call"),
            (200, r#"{"result":null,"error":null,"id":7}"#, "no result"),
            (200, r#"{"result":1,"#, "cannot be understood"),
            (404, r#"{"result":null,"error":{"code":-32601,"message":"Method not found"},"id":7}"#, "-32601"),
            (500, r#"{"result":null,"error":{"code":-28,"message":"Loading block index…"},"id":7}"#, "index"),
            // JSON-RPC 2.0 sends errors of methods with status 200.
            (200, r#"{"jsonrpc":"2.0","error":{"code":-1,"message":"no"},"id":7}"#, "no (code -1)"),
        ];
        for (status, body, expected) in cases {
            let error = read(status, body).unwrap_err();
            assert!(error.to_string().contains(expected), "{status} {body}: {error}");
            assert_eq!(error.is_unknown_method(), body.contains("-32601"));
            assert_eq!(error.is_warming_up(), body.contains("-28"));
        }
    }

    #[test]
    fn deep_nesting_takes_no_stack() {
        const DEPTH: usize = 5_000_000;
        let deep = format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
        let unknown = format!(r#"{{"x":{deep},"result":1,"error":null,"id":7}}"#);
        assert_eq!(read(200, &unknown).unwrap().json(), "1");
        let answer = read(200, &format!(r#"{{"result":{deep},"error":null,"id":7}}"#)).unwrap();
        assert_eq!(answer.json().len(), 2 * DEPTH);
        for body in [
            deep.clone(),
            deep[..DEPTH].to_owned(),
            format!(r#"{{"result":{},"error":null,"id":7}}"#, &deep[..DEPTH]),
            format!(r#"{{"result":1,"error":{deep},"id":7}}"#),
            format!(r#"{{"result":1,"error":null,"id":{deep}}}"#),
        ] {
            let error = read(200, &body).unwrap_err().to_string();
            assert!(error.contains("cannot be understood") && error.len() < 400, "{error}");
        }
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let body = format!(r#"{{"error":{{"code":-1,"message":"x{}"}}}}"#, "é".repeat(10_000));
        let error = read(500, &body).unwrap_err().to_string();
        assert!(error.len() < 400 && error.contains("éé"), "{}", error.len());
    }
}
