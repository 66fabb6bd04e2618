//! The headers for the collector, which the environment has: they may be secrets, and no flag says them. The exporter reads them
//! itself and passes over what it cannot read, so that the collector would turn spans away later and nobody knew why. So
//! they are looked at before.

use std::ffi::OsString;

use http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

/// Of spans alone, which comes first, and of all that is exported (OpenTelemetry, "OpenTelemetry Protocol Exporter").
const VARIABLES: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];

/// What is wrong with the headers: where, and what was expected. What stands there may be a secret.
pub fn check_headers(variable: impl Fn(&str) -> Option<OsString>) -> Result<(), String> {
    for name in VARIABLES {
        let Some(value) = variable(name) else { continue };
        let value = value.into_string().map_err(|_| format!("{name}: expected UTF-8"))?;
        for (index, entry) in value.split(',').enumerate() {
            check_entry(entry.trim()).map_err(|expected| format!("{name}: entry {}: {expected}", index + 1))?;
        }
    }
    Ok(())
}

fn check_entry(entry: &str) -> Result<(), &'static str> {
    // As behind a last comma.
    if entry.is_empty() {
        return Ok(());
    }
    let (name, value) = entry.split_once('=').ok_or("expected NAME=VALUE, and a comma between two of them")?;
    if name.trim().parse::<HeaderName>().is_err() {
        return Err("expected the name of a header before the =");
    }
    let is_escape =
        |behind: &str| matches!(behind.as_bytes(), [a, b, ..] if [a, b].iter().all(|b| b.is_ascii_hexdigit()));
    if !value.split('%').skip(1).all(is_escape) {
        return Err("expected two hexadecimal digits after each %, which is itself %25");
    }
    let value = percent_decode_str(value.trim()).decode_utf8().ok();
    match value.filter(|value| !value.is_empty() && HeaderValue::from_str(value).is_ok()) {
        Some(_) => Ok(()),
        None => Err("expected the value of a header behind the =, without control characters"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    fn check(of_traces: Option<&str>, of_all: Option<&str>) -> Result<(), String> {
        check_headers(|name| match name {
            "OTEL_EXPORTER_OTLP_HEADERS" => of_all.map(OsString::from),
            _ => of_traces.map(OsString::from),
        })
    }

    #[test]
    fn headers_are_names_and_values_as_urls_write_them() {
        for good in ["", " ", "authorization=Bearer%20s3cret", " A = b , c=d=%3D%25,", "x-a=ä"] {
            assert_eq!(check(None, Some(good)), Ok(()), "{good}");
        }
        assert_eq!(check(None, None), Ok(()));
    }

    #[test]
    fn an_entry_that_would_be_passed_over_is_told_by_its_place_and_not_repeated() {
        for (bad, expected) in [
            ("s3cret", "entry 1: expected NAME=VALUE, and a comma between two of them"),
            ("a=b,,s3cret", "entry 3: expected NAME=VALUE"),
            ("a=b, s3 cret=c", "entry 2: expected the name of a header before the ="),
            ("=s3cret", "entry 1: expected the name"),
            ("a=", "entry 1: expected the value of a header"),
            ("a=s3cret%0A", "entry 1: expected the value of a header"),
            ("a=s3cret%ff", "entry 1: expected the value of a header"),
            ("a=s3cret%2", "entry 1: expected two hexadecimal digits after each %"),
            ("a=s3cret%zz", "entry 1: expected two hexadecimal digits after each %"),
        ] {
            let told = check(None, Some(bad)).unwrap_err();
            assert!(told.starts_with(&format!("OTEL_EXPORTER_OTLP_HEADERS: {expected}")), "{bad}: {told}");
            assert!(!told.contains("s3"), "{told}");
        }
        let told = check(Some("s3cret"), Some("a=b")).unwrap_err();
        assert!(told.starts_with("OTEL_EXPORTER_OTLP_TRACES_HEADERS: entry 1: "), "{told}");
        let no_text = || Some(OsString::from_vec(vec![b'a', b'=', 0xff]));
        let told = check_headers(|_| no_text()).unwrap_err();
        assert_eq!(told, "OTEL_EXPORTER_OTLP_TRACES_HEADERS: expected UTF-8");
    }
}
