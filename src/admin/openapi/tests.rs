//! What is described is what is served.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::admin::tests::World;

/// The paths of a router, which has no other words for them than those that it shows when it is looked into.
fn paths_of(router: &axum::Router) -> BTreeSet<String> {
    let shown = format!("{router:?}");
    let (routes, _) = shown.split_once("fallback_router").unwrap();
    let after = routes.split("RouteId(").skip(1);
    after.filter_map(|rest| Some(rest.split_once("): \"")?.1.split_once('"')?.0.to_owned())).collect()
}

async fn described() -> Value {
    World::shop().json("/openapi.json").await
}

/// The methods of a described path, as `Allow` names them.
fn methods(item: &Value) -> BTreeSet<String> {
    let known = ["get", "put", "post", "delete", "patch"];
    let described = known.into_iter().filter(|method| item.get(method).is_some());
    let methods: BTreeSet<String> = described.map(str::to_uppercase).collect();
    // Whoever answers GET answers HEAD (RFC 9110, section 9.3.2).
    if methods.contains("GET") { &methods | &BTreeSet::from(["HEAD".to_owned()]) } else { methods }
}

#[tokio::test]
async fn every_route_is_described_and_nothing_else_is() {
    let world = World::shop();
    let document = described().await;
    let described = document["paths"].as_object().unwrap();
    let served = paths_of(&world.admin.clone().into_router());
    assert_eq!(described.keys().cloned().collect::<BTreeSet<_>>(), served);
    for (path, item) in described {
        let refused = world.send("TRACE", &path.replace(['{', '}'], ""), &[], "").await;
        assert_eq!(refused.status, 405, "{path}");
        let allowed: BTreeSet<String> =
            refused.headers["allow"].to_str().unwrap().split(',').map(|method| method.trim().to_owned()).collect();
        assert_eq!(allowed, methods(item), "{path}");
    }
}

/// `operationId` names a function in clients that are made from the document.
#[tokio::test]
async fn every_operation_has_a_name_of_its_own_a_summary_and_an_answer() {
    let document = described().await;
    assert_eq!(document["openapi"], "3.1.0");
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap_or_default();
            assert!(!name.is_empty() && names.insert(name.to_owned()), "{method} {path}: {name:?}");
            assert!(operation["summary"].is_string(), "{method} {path}");
            let answers = operation["responses"].as_object().unwrap();
            assert!(answers.contains_key("200"), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn whatever_is_referred_to_is_in_the_document() {
    let document = described().await;
    let mut references = BTreeSet::new();
    collect(&document, &mut references);
    assert!(references.contains("#/components/schemas/ProblemDetails"));
    for reference in references {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
}

/// They are checked by it, where it stands.
#[tokio::test]
async fn every_parameter_of_a_query_has_its_schema_in_its_place() {
    let document = described().await;
    for (path, item) in document["paths"].as_object().unwrap() {
        let operations = item.as_object().unwrap().values();
        for parameter in operations.flat_map(|operation| operation["parameters"].as_array().into_iter().flatten()) {
            assert!(parameter["in"] != "query" || parameter["schema"]["type"].is_string(), "{path}: {parameter}");
        }
    }
}

fn collect(value: &Value, references: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            references.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|value| collect(value, references));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}

/// Errors are told in one way only.
#[tokio::test]
async fn every_status_that_is_no_success_is_described_as_problem_details() {
    let document = described().await;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            for (status, answer) in operation["responses"].as_object().unwrap() {
                let is_problem = answer["content"].get("application/problem+json").is_some();
                let is_expected = status.as_str() >= "400" && path != "/readyz";
                assert_eq!(is_problem, is_expected, "{method} {path}: {status}");
                // OpenAPI 3.1, Response Object: it is required.
                assert!(answer["description"].is_string(), "{method} {path}: {status}");
            }
        }
    }
}

/// OpenAPI's format registry: int32 has a sign, and clients that are made from the document would not take half of what comes.
#[tokio::test]
async fn numbers_of_32_bits_without_a_sign_are_described_as_such() {
    let document = described().await;
    let mut formats = BTreeSet::new();
    formats_of(&document, &mut formats);
    assert!(formats.contains("uint32") && !formats.contains("int32"), "{formats:?}");
}

fn formats_of(value: &Value, formats: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            formats.extend(members.get("format").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|value| formats_of(value, formats));
        }
        Value::Array(values) => values.iter().for_each(|value| formats_of(value, formats)),
        _ => {}
    }
}
