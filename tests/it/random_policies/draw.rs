//! Draws documents from the JSON Schema of the policy language.
//!
//! A *place* is where a value stands: `RawLimit.rate` for a field of a type, `Api.service` for one of a document,
//! `RawMode=shadow` for a word. Fields are drawn or left out; what does not pass is drawn again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;
use serde_json::{Map, Value, json};
use tierflow::document::{Document, Instance, Instances, Origin};
use tierflow::names::{DocumentId, Kind, Revision};
use tierflow::policy::parse::parse;

use super::Set;

/// Fields of which people write either these or those.
const CHOICES: [(&str, &[&[&str]]); 11] = [
    ("Service", &[&["endpoints"], &["dns", "dns_family"], &["registry", "when_empty"]]),
    ("RawUpstreamTls", &[&[], &["certificate_chain", "private_key"]]),
    ("RawClientIp", &[&["trusted_hops"], &["header"]]),
    ("RawMatch", &[&["path"], &["path_prefix"], &["path_template"], &["path_regex"]]),
    ("RawHealthCheck", &[&["http"], &["grpc"], &["tcp"]]),
    ("RawActionLimit", &[&["unit", "requests_per_unit"], &["unlimited"]]),
    ("RawHitsAddend", &[&["number"], &["format"]]),
    ("RawStringMatch", &STRING_MATCHES),
    ("RawHeaderMatcher", &HEADER_TESTS),
    ("RawQueryParameterMatcher", &[&[], &["present_match"], &["string_match"]]),
    ("Requirement", &[&["revision"], &["create_revision"]]),
];
const STRING_MATCHES: [&[&str]; 5] = [
    &["exact", "ignore_case"],
    &["prefix", "ignore_case"],
    &["suffix", "ignore_case"],
    &["contains", "ignore_case"],
    &["safe_regex"],
];
const HEADER_TESTS: [&[&str]; 9] = [
    &[],
    &["present_match"],
    &["string_match"],
    &["range_match"],
    &["exact_match"],
    &["prefix_match"],
    &["suffix_match"],
    &["contains_match"],
    &["safe_regex_match"],
];
/// What a set has besides gateways.
const KINDS: [Kind; 7] =
    [Kind::Service, Kind::Api, Kind::Api, Kind::Plan, Kind::Tenant, Kind::RateLimits, Kind::RateLimits];
/// So often a document is drawn until it passes.
const TRIES_MAX: usize = 2000;

/// One document, and the places that it has values at.
#[derive(Clone)]
pub(super) struct Drawn {
    pub(super) id: DocumentId,
    pub(super) json: Value,
    pub(super) places: BTreeSet<String>,
}

impl Drawn {
    pub(super) fn document(&self) -> Document {
        let key = format!("policies/{}/{}", self.id.kind, self.id.name);
        let origin = Origin::Key { key: key.into(), id: Some(self.id.clone()) };
        let content = Ok(self.json.to_string().into_bytes().into());
        Document { origin, revision: Some(Revision(1)), content }
    }
}

pub(super) struct Draw {
    pub(super) random: Rng,
    pub(super) folder: PathBuf,
    schema: &'static Value,
    /// What documents of the set are called, so that others can refer to them.
    pub(super) names: BTreeMap<Kind, Vec<String>>,
    /// The document that is being drawn.
    pub(super) own_name: String,
    places: BTreeSet<String>,
    pub(super) count: u32,
}

impl Draw {
    pub(super) fn new(seed: u64, schema: Value, folder: &Path) -> Self {
        let random = Rng::with_seed(seed);
        let (names, places) = (BTreeMap::new(), BTreeSet::new());
        // It lives as long as the test, and so it can be read while values are drawn.
        let schema = Box::leak(Box::new(schema));
        Self { random, folder: folder.into(), schema, names, own_name: String::new(), places, count: 0 }
    }

    /// A gateway or two and what belongs to them, without what does not fit together.
    pub(super) fn set(&mut self) -> Set {
        let gateways = self.random.usize(1..=2);
        let mut kinds = vec![Kind::Gateway; gateways];
        kinds.extend((0..self.random.usize(4..=16)).map(|_| KINDS[self.random.usize(..KINDS.len())]));
        kinds.extend([Kind::Service, Kind::Api, Kind::Plan]);
        self.names.clear();
        let named: Vec<(Kind, String)> = kinds.into_iter().map(|kind| (kind, self.new_name())).collect();
        for (kind, name) in &named {
            self.names.entry(*kind).or_default().push(name.clone());
        }
        let documents = named.into_iter().map(|(kind, name)| self.document(kind, name)).collect();
        let mut set = Set { documents, instances: self.instances() };
        while let Err(problems) = set.build() {
            let refused: BTreeSet<_> = problems.into_iter().filter_map(|problem| problem.document).collect();
            assert!(!refused.is_empty(), "a problem of no document");
            set.documents.retain(|drawn| !refused.contains(&drawn.id));
        }
        set
    }

    fn document(&mut self, kind: Kind, name: String) -> Drawn {
        let mut last = None;
        for _ in 0..TRIES_MAX {
            self.own_name.clone_from(&name);
            self.places.clear();
            let json = self.value(self.schema_of(kind), kind.as_str());
            let drawn = Drawn { id: DocumentId::new(kind, &name), json, places: std::mem::take(&mut self.places) };
            match parse(&Arc::new(drawn.document())) {
                Ok(_) => return drawn,
                Err(refused) => last = Some((drawn.json, refused.problems)),
            }
        }
        panic!("no {kind} passes, at last because of {last:#?}")
    }

    fn schema_of(&self, kind: Kind) -> &'static Value {
        let schema: &'static Value = self.schema;
        let definitions = &schema["$defs"];
        let kinds = definitions["RawDocument"]["oneOf"].as_array().unwrap();
        let is_meant = |schema: &&Value| schema["properties"]["kind"]["const"] == kind.as_str();
        kinds.iter().find(is_meant).unwrap_or(&definitions["RawRateLimits"])
    }

    fn definition(&self, name: &str) -> &'static Value {
        &self.schema["$defs"][name]
    }

    /// A value that the schema allows. `place` names it, where the schema does not.
    fn value(&mut self, schema: &'static Value, place: &str) -> Value {
        if let Some(name) = reference(schema) {
            let definition = self.definition(name);
            // A short form of a field is a value of the field.
            let is_short_form = definition.get("anyOf").is_some();
            return self.value(definition, if is_short_form { place } else { name });
        }
        if let Some(constant) = schema.get("const") {
            self.places.extend(constant.as_str().map(|word| format!("{place}={word}")));
            return constant.clone();
        }
        if let Some(words) = schema.get("enum").and_then(Value::as_array) {
            let word = words[self.random.usize(..words.len())].clone();
            self.places.extend(word.as_str().map(|word| format!("{place}={word}")));
            return word;
        }
        if let Some(one_of) = alternatives(schema) {
            let chosen = one_of[self.random.usize(..one_of.len())];
            return self.value(chosen, place);
        }
        match kind_of(schema) {
            "object" => self.object(schema, place),
            "array" => {
                let items = if self.random.u8(..40) == 0 { 9 } else { [1, 1, 2, 3][self.random.usize(..4)] };
                (0..items).map(|_| self.value(&schema["items"], place)).collect()
            }
            "integer" => self.number(schema, place).into(),
            "boolean" => self.random.bool().into(),
            "string" => self.text(place).into(),
            other => panic!("{place} is of a kind that nobody can draw: {other}: {schema}"),
        }
    }

    fn object(&mut self, schema: &'static Value, place: &str) -> Value {
        let mut object = Map::new();
        if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
            for _ in 0..self.random.usize(1..=3) {
                let key = self.text(&format!("{place}{{}}"));
                object.insert(key, self.value(values, place));
            }
        }
        let is_required = |field: &str| schema["required"].as_array().is_some_and(|r| r.contains(&json!(field)));
        let choice = CHOICES.iter().find(|(own, _)| *own == place).map_or(&[][..], |(_, choice)| choice);
        let chosen = if choice.is_empty() { &[][..] } else { choice[self.random.usize(..choice.len())] };
        for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
            let is_of_choice = choice.iter().any(|fields| fields.contains(&field.as_str()));
            let leads = choice.iter().any(|fields| fields.first() == Some(&field.as_str()));
            let is_drawn = match is_of_choice {
                true => chosen.contains(&field.as_str()) && (leads || self.random.bool()),
                false => is_required(field) || self.random.bool(),
            };
            if is_drawn && field != "kind" {
                let place = format!("{place}.{field}");
                self.places.insert(place.clone());
                object.insert(field.clone(), self.value(schema, &place));
            } else if field == "kind" {
                object.insert(field.clone(), schema["const"].clone());
            }
        }
        object.into()
    }

    /// Mostly small, and often at a bound.
    fn number(&mut self, schema: &Value, place: &str) -> u64 {
        if place == "RawRetry.on" {
            return self.random.u64(400..600);
        }
        if place == "RawLimit.status" {
            return [400, 401, 402, 403, 404, 409, 413, 429, 451, 500, 502, 503, 504][self.random.usize(..13)];
        }
        let minimum = schema["minimum"].as_u64().unwrap_or(0);
        let maximum = schema["maximum"].as_u64().unwrap_or(1_000_000);
        match self.random.u8(..6) {
            0 => minimum,
            1 => maximum,
            2 => self.random.u64(minimum..=maximum),
            _ => self.random.u64(minimum..=maximum.min(minimum + 100)),
        }
    }

    fn instances(&mut self) -> Instances {
        let names = ["orders".to_owned(), "a".to_owned()];
        let of_name = |name: &String| {
            let instance = |_| Instance {
                address: self.address().parse().unwrap(),
                weight: self.random.u32(1..=1000),
                zone: self.random.bool().then(|| self.odd(1..=20)),
            };
            (name.as_str().into(), (0..3).map(instance).collect())
        };
        names.iter().map(of_name).collect()
    }

    /// Every place that a value can stand at.
    pub(super) fn places(&self) -> BTreeSet<String> {
        let mut places = BTreeSet::new();
        for kind in KINDS.into_iter().chain([Kind::Gateway]) {
            self.walk(self.schema_of(kind), kind.as_str(), &mut places);
        }
        places
    }

    fn walk(&self, schema: &'static Value, place: &str, places: &mut BTreeSet<String>) {
        if let Some(name) = reference(schema) {
            let definition = self.definition(name);
            let is_short_form = definition.get("anyOf").is_some();
            return self.walk(definition, if is_short_form { place } else { name }, places);
        }
        let words = schema.get("enum").and_then(Value::as_array).into_iter().flatten().chain(schema.get("const"));
        places.extend(words.filter_map(Value::as_str).map(|word| format!("{place}={word}")));
        for schema in alternatives(schema).into_iter().flatten() {
            self.walk(schema, place, places);
        }
        for schema in [schema.get("items"), schema.get("additionalProperties")].into_iter().flatten() {
            self.walk(schema, place, places);
        }
        let fields = schema["properties"].as_object().into_iter().flatten();
        for (field, schema) in fields.filter(|(field, _)| *field != "kind") {
            let place = format!("{place}.{field}");
            let is_new = places.insert(place.clone());
            if is_new {
                self.walk(schema, &place, places);
            }
        }
    }
}

fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")
}

/// What a value may be of, `null` apart: no field of the language is ever that.
fn alternatives(schema: &Value) -> Option<Vec<&Value>> {
    let list = schema.get("oneOf").or_else(|| schema.get("anyOf"))?.as_array()?;
    Some(list.iter().filter(|schema| schema["type"] != "null").collect())
}

fn kind_of(schema: &Value) -> &str {
    let of = &schema["type"];
    let first = || of.as_array()?.iter().filter_map(Value::as_str).find(|kind| *kind != "null");
    of.as_str().or_else(first).unwrap_or("nothing")
}
