//! Access logs in JSON whose format is not given: the names that Istio, Envoy Gateway and most people give to values. Any
//! other name is that of a header.

use serde_json::{Map, Value};

use super::format::{Field, Record, Unread, written};

/// The names of what is no header, by what they hold; those that stand first count more.
const NAMES: [(Field, &[&str]); 6] = [
    (Field::Time, &["start_time", "time", "timestamp", "@timestamp"]),
    (Field::Method, &["method", ":method", "request_method"]),
    (Field::Path, &["x-envoy-origin-path", "x-envoy-original-path", "path", ":path", "request_path", "uri_path"]),
    (Field::Host, &["authority", ":authority", "host", "request_authority"]),
    (Field::Remote, &["downstream_remote_address", "remote_address", "client_ip"]),
    (Field::Flags, &["response_flags", "flags"]),
];

pub(super) fn read(object: &Map<String, Value>) -> Result<Record, Unread> {
    let mut record = Record::default();
    for (field, names) in NAMES {
        for value in names.iter().filter_map(|name| object.get(*name)).filter_map(written) {
            field.put(&value, &mut record)?;
        }
    }
    let others = object.iter().filter(|(name, _)| NAMES.iter().all(|(_, names)| !names.contains(&name.as_str())));
    for (name, value) in others {
        let Some(value) = written(value) else { continue };
        Field::Header(name.to_ascii_lowercase().replace('_', "-")).put_alone(&value, &mut record)?;
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_that_are_widely_used_are_known_and_others_are_headers() {
        let line = json!({
            "start_time": "2026-11-29T03:15:00.250Z", "method": "POST", "path": "/b", "x-envoy-origin-path": "/a",
            ":authority": "shop.example", "downstream_remote_address": "10.0.0.7:4711", "response_code": 429,
            "response_flags": "RL", "X_Tenant_ID": "acme", "x-plan": "-", "user-agent": null, "nested": {"a": 1},
        });
        let record = read(line.as_object().unwrap()).unwrap();
        let texts = [&record.method, &record.path, &record.host, &record.remote, &record.flags];
        let expected = ["POST", "/a", "shop.example", "10.0.0.7:4711", "RL"];
        assert_eq!(texts.map(|text| text.as_deref().unwrap()), expected);
        assert_eq!(record.at.unwrap().as_nanos() % 1_000_000_000, 250_000_000);
        let headers = [("response-code", "429"), ("x-plan", "-"), ("x-tenant-id", "acme")];
        let mut own = record.headers;
        own.sort();
        assert_eq!(own, headers.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_time_that_is_none_is_told() {
        let line = json!({"time": "yesterday", "path": "/a"});
        assert_eq!(read(line.as_object().unwrap()), Err(Unread::NoTime));
    }
}
