//! What a request may have besides its path: the parameters that the description of its operation has, with values as they are
//! described there, and a body as it is. So what is misspelt is told and not passed over, the same way everywhere.

use axum::extract::{Query, Request};
use axum::http::header::CONTENT_ENCODING;
use axum::http::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use utoipa::openapi::path::PathItem;

use super::counters::bad;
use super::error::ProblemDetails;
use crate::policy::problem::nearest;
use crate::shown;

/// The operations of a path.
pub(super) struct Described(Vec<(Method, Operation)>);

struct Operation {
    parameters: Vec<Parameter>,
    /// Others are taken, too: the handler knows their names.
    is_open: bool,
    takes_body: bool,
}

struct Parameter {
    name: String,
    is_required: bool,
    form: Form,
}

/// What a value has to be, by a schema that stands where it is used (`#[param(inline)]`). Whatever is shorter to say where it
/// is used, such as the largest number, is checked there.
enum Form {
    Text,
    WholeNumber { expected: String },
    OneOf(Vec<String>),
}

impl Described {
    pub(super) fn of(item: &PathItem) -> Self {
        let operations = [
            (Method::GET, &item.get),
            (Method::PUT, &item.put),
            (Method::POST, &item.post),
            (Method::DELETE, &item.delete),
        ];
        let described = operations.into_iter().filter_map(|(method, operation)| {
            let operation = serde_json::to_value(operation.as_ref()?).unwrap_or_default();
            Some((method, Operation::of(&operation)))
        });
        Self(described.collect())
    }

    pub(super) fn check(&self, request: &Request) -> Result<(), ProblemDetails> {
        // Whoever answers GET answers HEAD (RFC 9110, section 9.3.2).
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        let Some((_, operation)) = self.0.iter().find(|(described, _)| described == method) else { return Ok(()) };
        operation.check_coding(request)?;
        let query = request.uri().query().unwrap_or_default();
        // Whoever reads the pairs would put another character in the place of what is none, and ask of another tenant.
        if percent_decode_str(query).decode_utf8().is_err() {
            return Err(bad("the query is not UTF-8: found other bytes behind its percent signs"));
        }
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
        let pairs = pairs.map_err(|_| bad("the query is none: expected NAME=VALUE, with & between two of them"))?.0;
        operation.check_query(&pairs).map_err(|expected| bad(&expected))
    }
}

impl Operation {
    fn of(operation: &Value) -> Self {
        let parameters = operation.get("parameters").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let (mut own, mut is_open) = (Vec::new(), false);
        for parameter in parameters.iter().filter(|parameter| text(parameter, "in") == "query") {
            let schema = parameter.get("schema").unwrap_or(&Value::Null);
            if text(schema, "type") == "object" {
                is_open = true;
                continue;
            }
            own.push(Parameter {
                name: text(parameter, "name").to_owned(),
                is_required: parameter.get("required") == Some(&Value::Bool(true)),
                form: Form::of(schema),
            });
        }
        Self { parameters: own, is_open, takes_body: operation.get("requestBody").is_some() }
    }

    /// A body is taken as it is (RFC 9110, section 15.5.16, and RFC 7694).
    fn check_coding(&self, request: &Request) -> Result<(), ProblemDetails> {
        let codings = request.headers().get_all(CONTENT_ENCODING).iter();
        let is_identity = |value: &axum::http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
        match codings.into_iter().find(|value| !is_identity(value)) {
            Some(coding) if self.takes_body => {
                let detail = format!("content-encoding: found {coding:?}, expected a body without one");
                Err(ProblemDetails::of(StatusCode::UNSUPPORTED_MEDIA_TYPE, &detail).takes_no_coding())
            }
            _ => Ok(()),
        }
    }

    fn check_query(&self, pairs: &[(String, String)]) -> Result<(), String> {
        for (index, (name, value)) in pairs.iter().enumerate() {
            let is_repeated = pairs.iter().take(index).any(|(earlier, _)| are_one(earlier, name));
            if is_repeated {
                return Err(format!("{name} stands twice"));
            }
            match self.parameters.iter().find(|parameter| parameter.name == *name) {
                Some(parameter) => parameter.form.check(name, value)?,
                None if self.is_open => {}
                None => return Err(self.unknown(name)),
            }
        }
        let is_missing = |name: &str| pairs.iter().all(|(given, _)| given != name);
        let mut required = self.parameters.iter().filter(|parameter| parameter.is_required);
        match required.find(|parameter| is_missing(&parameter.name)) {
            Some(Parameter { name, .. }) => {
                Err(format!("{name} is missing: expected it in the query, as in ?{name}=..."))
            }
            None => Ok(()),
        }
    }

    fn unknown(&self, name: &str) -> String {
        let names: Vec<&str> = self.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        let expected = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let help = nearest(name, names).map(|help| format!("; {help}")).unwrap_or_default();
        format!("unknown parameter {}{help}; expected {expected}", shown::value(name))
    }
}

/// A name of a header, as it stands in `header.NAME`, is the same in capitals or not.
fn are_one(name: &str, other: &str) -> bool {
    name == other || name.starts_with("header.") && name.eq_ignore_ascii_case(other)
}

impl Form {
    fn of(schema: &Value) -> Self {
        let words = schema.get("enum").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let words: Vec<String> = words.map(str::to_owned).collect();
        match text(schema, "type") {
            "integer" => {
                let bound = |name| schema.get(name).and_then(Value::as_u64);
                let bounds = bound("minimum").zip(bound("maximum"));
                let bounds = bounds.map(|(min, max)| format!(" of {min} to {max}")).unwrap_or_default();
                Self::WholeNumber { expected: format!("a whole number{bounds}") }
            }
            "boolean" => Self::OneOf(["true", "false"].map(str::to_owned).into()),
            _ if !words.is_empty() => Self::OneOf(words),
            _ => Self::Text,
        }
    }

    fn check(&self, name: &str, value: &str) -> Result<(), String> {
        let found = shown::value(value);
        match self {
            Self::WholeNumber { expected } if value.parse::<u64>().is_err() => {
                Err(format!("{name}: found {found}, expected {expected}"))
            }
            Self::OneOf(words) if !words.iter().any(|word| word == value) => {
                let help = nearest(value, words.iter().map(String::as_str));
                let help = help.map(|help| format!("; {help}")).unwrap_or_default();
                Err(format!("{name}: found {found}, expected {}{help}", words.join(" or ")))
            }
            _ => Ok(()),
        }
    }
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value.get(member).and_then(Value::as_str).unwrap_or_default()
}
