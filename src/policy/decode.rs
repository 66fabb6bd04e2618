//! From a document's JSON form to its raw type to its policy, reporting every problem and not only the first.
//!
//! A decoder stops at the first field that does not fit. So the field is reported and cut out, and the rest is
//! decoded again, until what is left fits. What then only seems wrong because something was cut is kept quiet.

mod plain;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::problem::{Finding, Findings, PROBLEMS_MAX, Path, Segment, Target, nearest};
use crate::shown;

pub(super) fn decode<R: DeserializeOwned, P>(
    json: Value,
    findings: &mut Findings,
    read: impl FnOnce(&R, &mut Findings) -> Option<P>,
) -> Option<P> {
    let mut cutter = Cutter { json, cuts: Vec::new() };
    let raw: R = loop {
        match serde_path_to_error::deserialize(plain::Plain(&cutter.json)) {
            Ok(raw) => break raw,
            Err(error) => {
                let is_hopeless = !cutter.handle(&error, findings) || cutter.cuts.len() > PROBLEMS_MAX;
                if is_hopeless {
                    return None;
                }
            }
        }
    };
    let mut found = Findings::default();
    let policy = read(&raw, &mut found);
    let is_whole = cutter.cuts.is_empty();
    findings.append(found, |finding| {
        let path = cutter.original(&finding.path);
        (!cutter.is_above_a_cut(&path)).then_some(Finding { path, ..finding })
    });
    policy.filter(|_| is_whole)
}

struct Cutter {
    json: Value,
    /// The places that were cut out so far, by their paths in the document as written.
    cuts: Vec<Path>,
}

impl Cutter {
    /// Reports an error, unless an earlier cut is its cause, and cuts out what it is about.
    /// `false` where nothing sensible is left to decode.
    fn handle(&mut self, error: &serde_path_to_error::Error<serde_json::Error>, findings: &mut Findings) -> bool {
        let here = Path(error.path().iter().filter_map(segment).collect());
        let written = self.original(&here);
        let message = error.inner().to_string();
        let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        let is_consequence = missing.is_some_and(|field| {
            let mut path = written.clone();
            path.0.push(field.into());
            self.cuts.contains(&path)
        });
        // That a value is missing is told whatever the field is.
        let is_told = self.at(&here).is_some_and(Value::is_null);
        if !is_consequence && !is_told {
            findings.add(explain(written.clone(), &message, self.at(&here)));
        }
        let mut cut = here;
        // Without its only entry a mapping that chooses a variant chooses none, so the choice as a whole goes.
        if matches!(error.path().iter().next_back(), Some(serde_path_to_error::Segment::Enum { .. })) {
            cut = before_last_enums(error.path());
        }
        self.cut(&cut)
    }

    fn at(&self, path: &Path) -> Option<&Value> {
        path.0.iter().try_fold(&self.json, |value, segment| match segment {
            Segment::Key(key) => value.get(&**key),
            Segment::Index(index) => value.get(*index),
        })
    }

    /// Takes out what `path` leads to, and what is left empty by that. `false` where nothing else would be left.
    fn cut(&mut self, path: &Path) -> bool {
        self.cuts.push(self.original(path));
        let Some((last, parents)) = path.0.split_last() else { return false };
        let parent = parents.iter().try_fold(&mut self.json, |value, segment| match segment {
            Segment::Key(key) => value.get_mut(&**key),
            Segment::Index(index) => value.get_mut(*index),
        });
        match (parent, last) {
            (Some(Value::Object(fields)), Segment::Key(key)) => {
                let was_there = fields.remove(&**key).is_some();
                let is_empty = fields.is_empty();
                was_there && (!is_empty || self.cut(&Path(parents.to_vec())))
            }
            (Some(Value::Array(items)), Segment::Index(index)) if *index < items.len() => {
                items.remove(*index);
                true
            }
            _ => false,
        }
    }

    /// The path as it was before elements of sequences were cut out.
    fn original(&self, path: &Path) -> Path {
        let mut original = Path::default();
        for segment in &path.0 {
            let segment = match segment {
                Segment::Key(_) => segment.clone(),
                Segment::Index(index) => {
                    let mut gone: Vec<usize> = self.cuts.iter().filter_map(|cut| element_of(cut, &original)).collect();
                    gone.sort_unstable();
                    gone.into_iter().fold(*index, |index, gone| if gone <= index { index + 1 } else { index }).into()
                }
            };
            original.0.push(segment);
        }
        original
    }

    fn is_above_a_cut(&self, path: &Path) -> bool {
        self.cuts.iter().any(|cut| cut.0.starts_with(&path.0))
    }
}

/// The index of `path` in the sequence `parent`, where it is an element of it.
fn element_of(path: &Path, parent: &Path) -> Option<usize> {
    match path.0.split_last() {
        Some((Segment::Index(index), rest)) if *rest == *parent.0 => Some(*index),
        _ => None,
    }
}

fn before_last_enums(path: &serde_path_to_error::Path) -> Path {
    let is_enum =
        |segment: &&serde_path_to_error::Segment| matches!(segment, serde_path_to_error::Segment::Enum { .. });
    let enums = path.iter().rev().take_while(is_enum).count();
    Path(path.iter().rev().skip(enums).collect::<Vec<_>>().into_iter().rev().filter_map(segment).collect())
}

fn segment(segment: &serde_path_to_error::Segment) -> Option<Segment> {
    match segment {
        serde_path_to_error::Segment::Seq { index } => Some((*index).into()),
        serde_path_to_error::Segment::Map { key } => Some(key.as_str().into()),
        serde_path_to_error::Segment::Enum { variant } => Some(variant.as_str().into()),
        serde_path_to_error::Segment::Unknown => None,
    }
}

/// serde's messages in the words of the other problems. `found` is what stands at the place.
fn explain(mut path: Path, message: &str, found: Option<&Value>) -> Finding {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let is_unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let help = match quoted.split_first() {
        Some((written, known)) if is_unknown => nearest(written, known.iter().copied()),
        _ => found.and_then(|found| help_for(path.0.last(), found, message)),
    };
    if let Some(written) =
        quoted.first().filter(|written| is_unknown && found.is_some_and(|f| f.get(written).is_some()))
    {
        path.0.push((*written).into());
    }
    let is_about_the_key =
        is_unknown && matches!(path.0.last(), Some(Segment::Key(key)) if quoted.first() == Some(&&**key));
    let target = if is_about_the_key { Target::Key } else { Target::Value };
    // What was expected stands behind what was found.
    let message = match quoted.first().filter(|_| is_unknown) {
        Some(written) => message.replacen(written, &shown::quoted(written), 1),
        None => message.to_owned(),
    };
    let message = match message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: ")) {
        // What serde's own code says for the types that are written by hand.
        Some(rest) => {
            let expected = rest.rsplit_once(", expected ").map_or("another value", |(_, expected)| expected);
            let expected =
                if matches!(expected, "enum" | "map with a single key") { "exactly one field" } else { expected };
            format!("found {}, expected {expected}", found.map_or_else(|| "another value".to_owned(), plain::shown))
        }
        None if is_about_the_key => message.replacen("unknown variant", "unknown field", 1),
        None => message.replacen("unknown variant", "unknown word", 1),
    };
    Finding { path, target, message, help }
}

/// The help for a field that wants a text, where a whole number stands.
fn whole_number_help(field: &str, number: &serde_json::Number) -> String {
    match field {
        "rate" => format!("write how many may pass in which time, as in {number}/s or {number}/minute"),
        "listen" => format!("write an address and a port, as in 0.0.0.0:{number}"),
        "interval" | "base_ejection_time" | "max_age" => format!("write it with its unit, as in {number}s"),
        field if field.ends_with("timeout") => format!("write it with its unit, as in {number}s"),
        _ => "write it as a text: in quotes".to_owned(),
    }
}

/// YAML takes some texts for something else, and in quotes everything is a text.
fn help_for(field: Option<&Segment>, found: &Value, message: &str) -> Option<String> {
    let is_text_wanted = message.ends_with("expected a text");
    let is_other_wanted = message.contains("expected a whole number") || message.ends_with("expected true or false");
    let help = match found {
        Value::Number(number) if is_text_wanted && number.is_u64() => match field {
            Some(Segment::Key(field)) => return Some(whole_number_help(field, number)),
            _ => "write it as a text: in quotes",
        },
        Value::Number(_) | Value::Bool(_) if is_text_wanted => "write it as a text: in quotes",
        Value::String(text) if is_other_wanted && serde_json::from_str::<Value>(text).is_ok() => {
            "write it without quotes"
        }
        _ => return None,
    };
    Some(help.to_owned())
}
