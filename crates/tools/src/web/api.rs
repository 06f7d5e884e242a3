//! The REST API: a topic is an address, and OpenAPI describes all of them.

use serde_json::{Value, json};

use super::views::{Direction, Query, RANGES, TOPICS, Topic};

/// Where topics are.
pub(crate) const BASE: &str = "/api/v1";

/// The query of an address, or what is wrong with it. An unknown key is an error, as it would otherwise seem to work.
pub(crate) fn query(topic: &Topic, text: Option<&str>) -> Result<Query, String> {
    let mut query = Query::default();
    for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key == "token" {
            continue;
        }
        if !topic.parameters.iter().any(|(name, _)| *name == key) {
            let known: Vec<_> = topic.parameters.iter().map(|(name, _)| *name).collect();
            return Err(format!("unknown parameter; {} takes: {}", topic.name, known.join(", ")));
        }
        let value = decode(value).ok_or_else(|| format!("{key} is not percent-encoded UTF-8"))?;
        let bad = || format!("{key} has to be a number");
        match key {
            "node" => query.node = Some(value),
            "command" => query.command = Some(value),
            "id" => query.id = Some(value.parse().map_err(|_| bad())?),
            "range" => match value.parse() {
                Ok(range) if RANGES.contains(&range) => query.range = Some(range),
                _ => return Err(format!("range has to be one of {RANGES:?}, s")),
            },
            "after" => query.after = Some(value.parse().map_err(|_| bad())?),
            "limit" => query.limit = Some(value.parse().map_err(|_| bad())?),
            "direction" if value == "in" => query.direction = Some(Direction::In),
            "direction" if value == "out" => query.direction = Some(Direction::Out),
            _ => return Err(format!("{key} has to be `in` or `out`")),
        }
    }
    Ok(query)
}

/// Text of a query: `%41` is `A`, `+` is a space.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                (digit(rest.next())? * 16 + digit(rest.next())?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// The description of the API, made from the list of topics.
pub(crate) fn openapi() -> String {
    let error = json!({
        "description": "Why not",
        "content": { "application/json": { "schema": {
            "type": "object", "properties": { "error": { "type": "string" } }, "required": ["error"],
        } } },
    });
    let mut paths = serde_json::Map::new();
    for topic in TOPICS {
        let parameters: Vec<Value> = topic
            .parameters
            .iter()
            .map(|(name, about)| {
                let schema = match *name {
                    "node" | "command" => json!({ "type": "string" }),
                    "direction" => json!({ "type": "string", "enum": ["in", "out"] }),
                    "range" => json!({ "type": "integer", "enum": RANGES }),
                    _ => json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX }),
                };
                let required = topic.required == Some(name);
                json!({
                    "name": name, "in": "query", "description": about, "schema": schema, "required": required,
                })
            })
            .collect();
        let properties: serde_json::Map<_, _> = topic
            .fields
            .iter()
            .map(|(name, about)| ((*name).into(), json!({ "description": about })))
            .collect();
        let get = json!({
            "operationId": topic.name,
            "summary": topic.about,
            "parameters": parameters,
            "responses": {
                "200": {
                    "description": topic.about,
                    "content": { "application/json": { "schema": { "type": "object", "properties": properties } } },
                },
                "400": error, "403": error, "404": error, "429": error,
            },
        });
        paths.insert(format!("{BASE}/{}", topic.name), json!({ "get": get }));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "peer-observer",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What Bitcoin Core nodes and their peers do. Times are us since the UNIX epoch, durations us, \
                sizes bytes. The same topics can be subscribed to over a websocket at /api/v1/stream.",
            "license": { "name": "MIT", "identifier": "MIT" },
        },
        "paths": paths,
        "components": { "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } } },
        "security": [{}, { "token": [] }],
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::views::topic;

    #[test]
    fn queries_are_read_and_bad_ones_say_what_is_wrong() {
        let messages = topic("messages").unwrap();
        let good = query(messages, Some("node=a%20b+c&id=7&direction=out&limit=5&token=x")).unwrap();
        assert_eq!((good.node.as_deref(), good.id, good.limit), (Some("a b c"), Some(7), Some(5)));
        assert_eq!(good.direction, Some(Direction::Out));
        for (bad, expected) in [
            ("id=-1", "number"),
            ("id=99999999999999999999", "number"),
            ("direction=up", "in"),
            ("colour=red", "takes: node, id"),
            ("range=300", "takes: node, id"),
            ("node=%ff", "UTF-8"),
            ("node=%f", "UTF-8"),
            ("node=%é", "UTF-8"),
        ] {
            let error = query(messages, Some(bad)).unwrap_err();
            assert!(error.contains(expected), "{bad}: {error}");
        }
        assert!(query(topic("health").unwrap(), Some("node=a")).is_err());
        let overview = topic("overview").unwrap();
        assert_eq!(query(overview, Some("range=3600")).unwrap().range, Some(3600));
        assert!(query(overview, Some("range=60")).unwrap_err().contains("300, 3600"));
    }

    #[test]
    fn every_topic_is_described() {
        let description: Value = serde_json::from_str(&openapi()).unwrap();
        let paths = description["paths"].as_object().unwrap();
        assert_eq!(paths.len(), TOPICS.len());
        for topic in TOPICS {
            let path = &paths[&format!("{BASE}/{}", topic.name)]["get"];
            let parameters = path["parameters"].as_array().unwrap();
            assert_eq!(parameters.len(), topic.parameters.len(), "{}", topic.name);
            let required: Vec<_> =
                parameters.iter().filter(|parameter| parameter["required"] == true).collect();
            assert_eq!(required.len(), usize::from(topic.name == "peer"), "{}", topic.name);
        }
    }
}
