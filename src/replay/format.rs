//! The format of an access log, as Envoy's configuration has it (Envoy `config.accesslog.v3`, "access log format strings"):
//! a text with operators in it, or a JSON object whose values are such texts.

use serde_json::{Map, Value};

use super::known;
use crate::clock::Timestamp;

/// Envoy's own format, where a configuration gives none.
const DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
                       %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
                       %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
                       \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"";

/// What stands in the place of a value that there is none of.
const NOTHING: &str = "-";

/// The texts of a request that a line holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub at: Option<Timestamp>,
    pub method: Option<String>,
    pub path: Option<String>,
    pub host: Option<String>,
    /// The client's address as Envoy found it, with or without a port.
    pub remote: Option<String>,
    /// Why Envoy answered by itself, as in `RL`.
    pub flags: Option<String>,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

#[derive(Debug)]
pub enum Format {
    /// Each line is Envoy's own format, or an object with names that are widely used.
    Usual(Text),
    Text(Text),
    Json(Vec<(String, Text)>),
}

/// Why a line cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Unread {
    #[error("it is not of the log's format")]
    OtherFormat,
    /// A client sent what looks like the text between two values.
    #[error("it can be read in two ways")]
    Ambiguous,
    #[error("it says no time that is a time")]
    NoTime,
    #[error("it is longer than 1 MiB")]
    TooLong,
}

/// Why a text is no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("the operator at {0:?} does not end")]
    Unended(String),
    #[error("nothing stands between {0:?} and the operator before it, so nobody can tell where its value begins")]
    Adjacent(String),
    #[error("START_TIME({0}): expected no format (which is RFC 3339), %s or %s.%3f")]
    Time(String),
    #[error("it has no %START_TIME%, so nobody can tell when a request came")]
    NoTime,
    #[error("it has no {0}, so nobody can tell which API a request is for")]
    Missing(&'static str),
    #[error("it is no JSON object: {0}")]
    Json(String),
}

/// What an operator writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Time,
    Method,
    Path,
    Host,
    Header(String),
    Remote,
    Flags,
    Other,
}

/// Operators and the texts around them: one more text than operators.
#[derive(Debug, PartialEq, Eq)]
pub struct Text {
    texts: Vec<String>,
    fields: Vec<Field>,
}

impl Default for Format {
    fn default() -> Self {
        Self::Usual(Text::parse(DEFAULT).unwrap_or(Text { texts: Vec::new(), fields: Vec::new() }))
    }
}

impl Format {
    /// Reads `text_format` or `json_format` of a configuration.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        if !text.trim_start().starts_with('{') {
            let format = Text::parse(text.trim_end_matches(['\r', '\n']))?;
            demand(&format.fields.iter().collect::<Vec<_>>())?;
            return Ok(Self::Text(format));
        }
        let object: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| FormatError::Json(error.to_string()))?;
        let texts = object.into_iter().filter_map(|(key, value)| Some((key, value.as_str()?.to_owned())));
        let members: Vec<_> =
            texts.map(|(key, text)| Ok((key, Text::parse(&text)?))).collect::<Result<_, FormatError>>()?;
        demand(&members.iter().flat_map(|(_, text)| &text.fields).collect::<Vec<_>>())?;
        Ok(Self::Json(members))
    }

    pub fn read(&self, line: &str) -> Result<Record, Unread> {
        match self {
            Self::Usual(_) if line.starts_with('{') => known::read(&object(line)?),
            Self::Usual(text) | Self::Text(text) => text.read(line),
            Self::Json(members) => {
                let (object, mut record) = (object(line)?, Record::default());
                for (key, text) in members {
                    let Some(value) = object.get(key).and_then(written) else { continue };
                    match text.alone() {
                        Some(field) => field.put_alone(&value, &mut record)?,
                        None => text.read_into(&value, &mut record)?,
                    }
                }
                Ok(record)
            }
        }
    }
}

/// A request without a time, a method or a path says nothing.
fn demand(fields: &[&Field]) -> Result<(), FormatError> {
    if !fields.contains(&&Field::Time) {
        return Err(FormatError::NoTime);
    }
    for (field, operator) in [(Field::Method, "%REQ(:METHOD)%"), (Field::Path, "%REQ(:PATH)%")] {
        if !fields.contains(&&field) {
            return Err(FormatError::Missing(operator));
        }
    }
    Ok(())
}

fn object(line: &str) -> Result<Map<String, Value>, Unread> {
    serde_json::from_str(line).map_err(|_| Unread::OtherFormat)
}

/// The text of a value; Envoy writes numbers as numbers where a format is of one operator.
pub(super) fn written(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

impl Text {
    fn parse(format: &str) -> Result<Self, FormatError> {
        let (mut texts, mut fields) = (vec![String::new()], Vec::new());
        let mut rest = format;
        while let Some((before, after)) = rest.split_once('%') {
            let text = texts.last_mut().map(|text| {
                text.push_str(before);
                &*text
            });
            let is_adjacent = text.is_none_or(String::is_empty) && !fields.is_empty();
            if let Some(after) = after.strip_prefix('%') {
                texts.last_mut().into_iter().for_each(|text| text.push('%'));
                rest = after;
                continue;
            }
            let (operator, after) =
                split_operator(after).ok_or_else(|| FormatError::Unended(format!("%{}", excerpt(after))))?;
            if is_adjacent {
                return Err(FormatError::Adjacent(format!("%{operator}%")));
            }
            fields.push(Field::of(operator)?);
            texts.push(String::new());
            rest = after;
        }
        texts.last_mut().into_iter().for_each(|text| text.push_str(rest));
        Ok(Self { texts, fields })
    }

    /// The operator, where nothing else is in the text.
    fn alone(&self) -> Option<&Field> {
        self.fields.first().filter(|_| self.fields.len() == 1 && self.texts.iter().all(String::is_empty))
    }

    fn read(&self, line: &str) -> Result<Record, Unread> {
        let mut record = Record::default();
        self.read_into(line, &mut record)?;
        Ok(record)
    }

    fn read_into(&self, line: &str, record: &mut Record) -> Result<(), Unread> {
        let values = self.split(line).ok_or(Unread::OtherFormat)?;
        // Envoy escapes nothing. What a client sends may hold what stands between values; it then makes a difference from
        // which end the line is read, and nobody can tell which of both is true.
        if self.split_from_the_end(line).is_none_or(|others| others.iter().rev().ne(values.iter())) {
            return Err(Unread::Ambiguous);
        }
        for (field, value) in self.fields.iter().zip(values) {
            field.put(value, record)?;
        }
        Ok(())
    }

    fn split<'l>(&self, line: &'l str) -> Option<Vec<&'l str>> {
        let (first, texts) = self.texts.split_first()?;
        let (last, texts) = texts.split_last()?;
        let mut rest = line.strip_prefix(first.as_str())?;
        let mut values = Vec::with_capacity(self.fields.len());
        for text in texts {
            let (value, after) = rest.split_once(text.as_str())?;
            values.push(value);
            rest = after;
        }
        values.push(rest.strip_suffix(last.as_str())?);
        Some(values)
    }

    /// The values, the last one first.
    fn split_from_the_end<'l>(&self, line: &'l str) -> Option<Vec<&'l str>> {
        let (first, texts) = self.texts.split_first()?;
        let (last, texts) = texts.split_last()?;
        let mut rest = line.strip_suffix(last.as_str())?;
        let mut values = Vec::with_capacity(self.fields.len());
        for text in texts.iter().rev() {
            let (before, value) = rest.rsplit_once(text.as_str())?;
            values.push(value);
            rest = before;
        }
        values.push(rest.strip_prefix(first.as_str())?);
        Some(values)
    }
}

/// The operator at the beginning, and what is after its `%`. What stands in its brackets may have a `%` too.
fn split_operator(text: &str) -> Option<(&str, &str)> {
    let end = match text.find(['%', '(']) {
        Some(open) if text.get(open..)?.starts_with('(') => {
            let close = open + text.get(open..)?.find(')')?;
            close + text.get(close..)?.find('%')?
        }
        end => end?,
    };
    Some((text.get(..end)?, text.get(end + 1..)?))
}

fn excerpt(text: &str) -> String {
    text.chars().take(20).collect()
}

impl Field {
    /// Of an operator as it stands between two `%`.
    fn of(operator: &str) -> Result<Self, FormatError> {
        let (name, arguments) = match operator.split_once('(') {
            Some((name, rest)) => (name, rest.split_once(')').map(|(arguments, _)| arguments)),
            None => (operator.split(':').next().unwrap_or(operator), None),
        };
        Ok(match name {
            "START_TIME" => match arguments {
                None | Some("" | "%s" | "%s.%3f" | "%s.%6f" | "%s.%9f" | "%Y-%m-%dT%H:%M:%S.%3fZ") => Self::Time,
                Some(other) => return Err(FormatError::Time(other.to_owned())),
            },
            "REQ" | "REQ_WITHOUT_QUERY" => arguments.map_or(Self::Other, Self::of_header),
            "REQUEST_HEADER" => arguments.map_or(Self::Other, Self::of_header),
            "PATH" => Self::Path,
            "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Self::Remote,
            "RESPONSE_FLAGS" | "RESPONSE_FLAGS_LONG" => Self::Flags,
            _ => Self::Other,
        })
    }

    /// Of the header that an operator writes: one, or another one where there is none of it.
    fn of_header(arguments: &str) -> Self {
        let (name, other) = arguments.split_once('?').unwrap_or((arguments, ""));
        let names = [name, other].map(str::to_ascii_lowercase);
        match names.each_ref().map(String::as_str) {
            [":path", _] | ["x-envoy-original-path", _] => Self::Path,
            [":method", ""] => Self::Method,
            [":authority" | "host", ""] => Self::Host,
            [name, ""] => Self::Header(name.to_owned()),
            _ => Self::Other,
        }
    }

    /// Puts a value of JSON, where a header that is not there is null: one of `-` has just that value.
    pub(super) fn put_alone(&self, value: &str, record: &mut Record) -> Result<(), Unread> {
        match self {
            Self::Header(name) if value == NOTHING => record.headers.push((name.clone(), value.to_owned())),
            _ => return self.put(value, record),
        }
        Ok(())
    }

    pub(super) fn put(&self, value: &str, record: &mut Record) -> Result<(), Unread> {
        if value == NOTHING || value.is_empty() {
            return Ok(());
        }
        let place = match self {
            Self::Time => {
                record.at = Some(time(value).ok_or(Unread::NoTime)?);
                return Ok(());
            }
            Self::Header(name) => {
                record.headers.push((name.clone(), value.to_owned()));
                return Ok(());
            }
            Self::Other => return Ok(()),
            Self::Method => &mut record.method,
            Self::Path => &mut record.path,
            Self::Host => &mut record.host,
            Self::Remote => &mut record.remote,
            Self::Flags => &mut record.flags,
        };
        if place.is_none() {
            *place = Some(value.to_owned());
        }
        Ok(())
    }
}

/// A time of RFC 3339, or seconds since the Unix epoch.
fn time(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !text.contains('-') {
        let seconds: u64 = whole.parse().ok()?;
        let digits = fraction.len() <= 9 && fraction.bytes().all(|digit| digit.is_ascii_digit());
        let nanos: u64 = if digits { format!("{fraction:0<9}").parse().ok()? } else { return None };
        return Some(Timestamp::from_nanos(seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?));
    }
    let (local, ahead) = split_offset(text)?;
    let since = humantime::parse_rfc3339(&format!("{local}Z")).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    let nanos = i128::try_from(since.as_nanos()).ok()? - i128::from(ahead) * 60_000_000_000;
    Some(Timestamp::from_nanos(u64::try_from(nanos).ok()?))
}

/// A time without its offset, and how many minutes that is ahead of UTC (RFC 3339, section 5.6, `time-offset`).
fn split_offset(text: &str) -> Option<(&str, i64)> {
    if let Some(local) = text.strip_suffix(['Z', 'z']) {
        return Some((local, 0));
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub("+01:00".len())?)?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let number = |digits: &str, end: i64| {
        let is_number = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_digit());
        digits.parse().ok().filter(|number: &i64| is_number && *number < end)
    };
    let ahead = number(hours, 24)? * 60 + number(minutes, 60)?;
    match offset.get(..1)? {
        "+" => Some((local, ahead)),
        "-" => Some((local, -ahead)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "[2026-11-29T03:15:00.250Z] \"GET /order/list?page=2 HTTP/1.1\" 429 RL 0 18 3 - \
                        \"203.0.113.9,10.0.0.1\" \"curl/8.5\" \"7f6-1\" \"shop.example\" \"-\"";

    #[test]
    fn envoys_own_format_is_read_without_being_told() {
        let record = Format::default().read(LINE).unwrap();
        let text = |value: &str| Some(value.to_owned());
        assert_eq!(record.at, Some(Timestamp::from_nanos(1_795_922_100_250_000_000)));
        assert_eq!((record.method, record.path), (text("GET"), text("/order/list?page=2")));
        assert_eq!((record.host, record.flags, record.remote), (text("shop.example"), text("RL"), None));
        let headers =
            [("x-forwarded-for", "203.0.113.9,10.0.0.1"), ("user-agent", "curl/8.5"), ("x-request-id", "7f6-1")];
        assert_eq!(record.headers, headers.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_text_of_a_client_moves_no_value_to_another_place() {
        let forged = LINE.replace("curl/8.5", "a\" \"b\" \"admin.example");
        assert_eq!(Format::default().read(&forged), Err(Unread::Ambiguous));
        let harmless = LINE.replace("curl/8.5", "a \"b\" c");
        assert_eq!(Format::default().read(&harmless).unwrap().host.as_deref(), Some("shop.example"));
    }

    #[test]
    fn formats_are_those_of_a_configuration() {
        let text = "%START_TIME(%s.%3f)%|%REQ(:METHOD)%|%REQ(:PATH)%|%REQ(X-Tenant-ID):20%|%DOWNSTREAM_REMOTE_ADDRESS%|100%%\n";
        let record = Format::parse(text).unwrap().read("12.5|GET|/a|acme|10.0.0.7:4711|100%").unwrap();
        assert_eq!(record.at, Some(Timestamp::from_nanos(12_500_000_000)));
        assert_eq!(record.headers, [("x-tenant-id".to_owned(), "acme".to_owned())]);
        assert_eq!(record.remote.as_deref(), Some("10.0.0.7:4711"));
        let json = r#"{"t": "%START_TIME%", "m": "%REQ(:METHOD)%", "p": "path=%REQ(:PATH)%", "tenant": "%REQ(X-TENANT-ID)%", "n": {"x": 1}}"#;
        let line = r#"{"t": "2026-11-29T03:15:00Z", "p": "path=/a", "tenant": null, "other": 7}"#;
        let record = Format::parse(json).unwrap().read(line).unwrap();
        assert_eq!((record.path.as_deref(), record.headers.len()), (Some("/a"), 0));
        // What is not there is null, so a client has sent this.
        let line = line.replace("null", "\"-\"");
        let record = Format::parse(json).unwrap().read(&line).unwrap();
        assert_eq!(record.headers, [("x-tenant-id".to_owned(), "-".to_owned())]);
    }

    #[test]
    fn what_is_no_format_is_told_with_its_place() {
        let error = |text: &str| Format::parse(text).unwrap_err().to_string();
        let time_and_path = "%START_TIME% %REQ(:METHOD)% %REQ(:PATH)%";
        assert_eq!(error(&format!("{time_and_path} %REQ(X")), "the operator at \"%REQ(X\" does not end");
        assert!(error(&format!("{time_and_path}%PROTOCOL%")).contains("\"%PROTOCOL%\" and the operator before it"));
        assert!(error("%START_TIME(%d)%").starts_with("START_TIME(%d): expected"));
        assert!(error("%REQ(:PATH)%").contains("%START_TIME%"));
        assert!(error("%START_TIME%").contains("%REQ(:METHOD)%"));
        assert!(error("%START_TIME% %REQ(:METHOD)%").contains("%REQ(:PATH)%"));
        assert!(error("{\"a\"").starts_with("it is no JSON object"));
    }

    #[test]
    fn what_is_no_line_of_the_format_is_told() {
        let usual = Format::default();
        for (line, why) in [
            ("", Unread::OtherFormat),
            ("starting up", Unread::OtherFormat),
            ("{\"path\": ", Unread::OtherFormat),
            (&LINE.replace("03:15", "99:99"), Unread::NoTime),
        ] {
            assert_eq!(usual.read(line), Err(why), "{line}");
        }
    }

    #[test]
    fn times_are_of_rfc_3339_or_seconds() {
        assert_eq!(time("1.000000001"), Some(Timestamp::from_nanos(1_000_000_001)));
        assert_eq!(time("7"), Some(Timestamp::from_nanos(7_000_000_000)));
        let utc = time("2026-11-29T03:15:00.250Z");
        for same in ["2026-11-29T05:45:00.25+02:30", "2026-11-28T22:15:00.250-05:00", "2026-11-29T03:15:00.250+00:00"] {
            assert_eq!((time(same), utc.is_some()), (utc, true), "{same}");
        }
        for nothing in [
            "2026-11-29T03:15:00+2:00",
            "2026-11-29T03:15:00+24:00",
            "2026-11-29T03:15:00 02:00",
            "1969-12-31T23:00:00+00:00",
        ] {
            assert_eq!(time(nothing), None, "{nothing}");
        }
        for nothing in ["", ".", "x", "1.x", "1.0000000001", "2026-11-29", "99999999999999999999"] {
            assert_eq!(time(nothing), None, "{nothing}");
        }
    }
}
