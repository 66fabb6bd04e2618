//! What a server's counters have left for a request that policies explain which the server may not have.

use serde_json::{Map, Value, json};

/// What says which counter a limit is of, and how much of it there is.
const SAME_REQUEST: [&str; 3] = ["gateway", "api", "tenant"];
const SAME_LIMIT: [&str; 9] = ["tier", "name", "rate", "by", "algorithm", "mode", "cost", "exact", "capacity"];
/// What only a server can say of a limit.
const LIVE: [&str; 4] = ["used", "remaining", "frees_after_seconds", "allows"];

/// Adds to explanations what the server's say of the same limits: `denied_by`, and `not_served`, the limits that the server does
/// not have, or has otherwise.
pub(super) fn add(explanations: &mut Value, served: &Value) {
    let served = served.as_array().map(Vec::as_slice).unwrap_or_default();
    let explanations = explanations.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut);
    for explanation in explanations {
        let same =
            served.iter().find(|served| SAME_REQUEST.iter().all(|field| served.get(field) == explanation.get(*field)));
        let their_limits =
            same.and_then(|served| served.get("limits")?.as_array()).map(Vec::as_slice).unwrap_or_default();
        let (mut denied_by, mut not_served) = (Vec::new(), Vec::new());
        let limits = explanation.get_mut("limits").and_then(Value::as_array_mut).into_iter().flatten();
        for limit in limits.filter_map(Value::as_object_mut) {
            let theirs = their_limits.iter().find(|theirs| is_same(limit, theirs));
            let name = limit.get("name").cloned().unwrap_or_default();
            let Some(theirs) = theirs else {
                not_served.push(name);
                continue;
            };
            let live = LIVE.iter().filter_map(|field| Some(((*field).to_owned(), theirs.get(*field)?.clone())));
            limit.extend(live);
            let is_enforced = limit.get("mode").is_some_and(|mode| mode == "enforce");
            if is_enforced && limit.get("allows") == Some(&Value::Bool(false)) {
                denied_by.push(name);
            }
        }
        explanation.insert("denied_by".to_owned(), json!(denied_by));
        explanation.insert("not_served".to_owned(), json!(not_served));
    }
}

/// What an older server does not say is taken to be the same.
fn is_same(limit: &Map<String, Value>, theirs: &Value) -> bool {
    SAME_LIMIT.iter().all(|field| theirs.get(field).is_none_or(|value| limit.get(*field) == Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(name: &str, rate: &str) -> Value {
        json!({
            "tier": "api", "name": name, "rate": rate, "by": ["client_ip=10.0.0.7"], "algorithm": "sliding_window",
            "mode": "enforce", "status": 429, "cost": 1, "exact": false, "capacity": 10,
        })
    }

    fn live(mut limit: Value, used: u32) -> Value {
        let live = json!({ "used": used, "remaining": 10 - used, "frees_after_seconds": 1.5, "allows": used < 10 });
        limit.as_object_mut().unwrap().extend(live.as_object().unwrap().clone());
        limit
    }

    fn explanation(api: &str, limits: Value) -> Value {
        json!({ "gateway": "edge", "api": api, "tenant": "acme", "limits": limits })
    }

    #[test]
    fn limits_have_what_is_left_of_the_servers_counters_where_it_has_the_same_ones() {
        let mut told = json!([explanation(
            "pay",
            json!([limit("a", "10/minute"), limit("b", "10/minute"), limit("c", "9/minute")])
        )]);
        let served = json!([explanation(
            "pay",
            json!([
                live(limit("b", "10/minute"), 10),
                live(limit("c", "8/minute"), 1),
                live(limit("a", "10/minute"), 3)
            ])
        )]);
        add(&mut told, &served);
        assert_eq!(told[0]["limits"][0], live(limit("a", "10/minute"), 3));
        assert_eq!(told[0]["limits"][1], live(limit("b", "10/minute"), 10));
        assert_eq!(told[0]["limits"][2], limit("c", "9/minute"), "another rate is another limit");
        assert_eq!((&told[0]["denied_by"], &told[0]["not_served"]), (&json!(["b"]), &json!(["c"])));
    }

    #[test]
    fn another_api_tenant_or_gateway_has_other_counters() {
        for field in SAME_REQUEST {
            let mut served = explanation("pay", json!([live(limit("a", "10/minute"), 10)]));
            served[field] = json!("other");
            let mut told = json!([explanation("pay", json!([limit("a", "10/minute")]))]);
            add(&mut told, &json!([served]));
            assert_eq!((&told[0]["denied_by"], &told[0]["not_served"]), (&json!([]), &json!(["a"])), "{field}");
        }
    }

    #[test]
    fn a_limit_in_shadow_denies_nothing() {
        let mut shadow = limit("a", "10/minute");
        shadow["mode"] = json!("shadow");
        let mut told = json!([explanation("pay", json!([shadow.clone()]))]);
        add(&mut told, &json!([explanation("pay", json!([live(shadow, 10)]))]));
        assert_eq!((&told[0]["denied_by"], &told[0]["not_served"]), (&json!([]), &json!([])));
    }
}
