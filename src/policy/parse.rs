//! One document: bytes -> tree -> raw -> policy. Everything that is wrong with it is found in one go.

use std::borrow::Cow;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::api::Api;
use super::decode::decode;
use super::gateway::Gateway;
use super::problem::{Finding, Findings, Path, Place, Problem, Target, nearest};
use super::rate_limits::RateLimits;
use super::service::Service;
use super::tenant::{Plan, Tenant};
use super::tree::Tree;
use crate::document::{DOCUMENT_BYTES_MAX, Document};
use crate::names::{DocumentId, Kind};
use crate::shown;

/// A document that makes sense by itself. Whether what it refers to exists is for the set to say.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub id: DocumentId,
    pub document: Arc<Document>,
    pub policy: Policy,
}

/// Equal documents are parsed to equal policies.
impl PartialEq for Parsed {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.document.content == other.document.content
    }
}

impl Eq for Parsed {}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    Gateway(Arc<Gateway>),
    Service(Arc<Service>),
    Api(Arc<Api>),
    Plan(Arc<Plan>),
    Tenant(Arc<Tenant>),
    RateLimits(Arc<RateLimits>),
}

/// A document that makes no sense, and why.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The name that the document has or claims, where that can be told.
    pub id: Option<DocumentId>,
    pub document: Arc<Document>,
    pub problems: Vec<Problem>,
}

pub fn parse(document: &Arc<Document>) -> Result<Parsed, Refused> {
    parse_with(document, document.origin.id().is_some())
}

/// Parses a document that is on its way to etcd, wherever it stands now: the keys that it may require are there.
pub fn parse_for_etcd(document: &Arc<Document>) -> Result<Parsed, Refused> {
    parse_with(document, true)
}

fn parse_with(document: &Arc<Document>, may_require: bool) -> Result<Parsed, Refused> {
    let refuse = |id: Option<DocumentId>, findings: Vec<Finding>, tree: Option<&Tree>| {
        let id = document.origin.id().cloned().or(id).or_else(|| document.claimed_id());
        let problems = findings.into_iter().map(|finding| Problem::locate(document, id.as_ref(), finding, tree));
        let mut problems: Vec<_> = problems.collect();
        problems.sort_by_key(|problem| problem.place.as_ref().map(|place| (place.line, place.column)));
        Refused { problems, document: Arc::clone(document), id }
    };
    let mut tree = match read_tree(document) {
        Ok(tree) => tree,
        Err((message, place)) => {
            let mut refused = refuse(None, vec![of_document(message, None)], None);
            refused.problems.iter_mut().for_each(|problem| problem.place.clone_from(&place));
            return Err(refused);
        }
    };
    // Of all documents only lists of Envoy actions have no kind.
    if !tree.has_field("kind") {
        tree.take_keys_as_protobuf_fields();
    }
    let mut findings = tree.findings();
    let mut json = tree.to_json();
    let kind = take_kind(&mut json).map_err(|finding| refuse(None, vec![finding], Some(&tree)))?;
    if !may_require && json.get("requires").is_some() {
        let message = "needs policies in etcd, which is where the keys are".to_owned();
        findings.add(Finding { path: Path::of(["requires"]), target: Target::Key, message, help: None });
    }
    let made_name = document.origin.made_name();
    let name = match json.get("name") {
        // One that is too long to be shown makes no sense anyway.
        Some(name) => name.as_str().map(shown::bounded),
        None => (kind == Kind::RateLimits).then_some(Cow::Borrowed(made_name.as_str())),
    };
    let id = name.map(|name| DocumentId::new(kind, &name));
    let policy = read(kind, json, &made_name, &mut findings);
    if let (Some(id), Some(expected)) = (&id, document.origin.id())
        && id != expected
    {
        let path = Path::of([if id.kind == expected.kind { "name" } else { "kind" }]);
        let message = format!("makes this {id}, but the key is that of {expected}");
        findings.add(Finding { path, target: Target::Value, message, help: None });
    }
    match (policy, id) {
        (Some(policy), Some(id)) if findings.is_empty() => Ok(Parsed { id, document: Arc::clone(document), policy }),
        (_, id) => Err(refuse(id, findings.into_inner(), Some(&tree))),
    }
}

/// Reads a file of settings as documents are read: everything that is wrong with it is found in one go, each with its place.
/// What stands in it may be a secret, and is not repeated, but for names that are those of `fields`.
pub fn settings<R: DeserializeOwned, S>(
    document: &Document,
    fields: &[&str],
    read: impl FnOnce(&R, &mut Findings) -> Option<S>,
) -> Result<S, Vec<Problem>> {
    let problem = |message: String, place: Option<Place>| {
        let problem = Problem::locate(document, None, of_document(message, None), None);
        vec![Problem { place, ..problem }]
    };
    let tree = read_tree(document).map_err(|(message, place)| problem(message, place))?;
    let mut findings = tree.findings();
    let json = tree.to_json();
    if !json.is_object() {
        return Err(problem("is not a mapping of settings".to_owned(), None));
    }
    let settings = decode(json, &mut findings, read);
    match settings {
        Some(settings) if findings.is_empty() => Ok(settings),
        _ => {
            let told = |finding: Finding| {
                let Finding { path, message, .. } = finding.clone().without_values(fields);
                Problem { path: path.to_string(), message, ..Problem::locate(document, None, finding, Some(&tree)) }
            };
            Err(findings.into_inner().into_iter().map(told).collect())
        }
    }
}

fn read(kind: Kind, json: Value, made_name: &str, findings: &mut Findings) -> Option<Policy> {
    fn decoded<R: DeserializeOwned, P>(
        json: Value,
        findings: &mut Findings,
        read: impl FnOnce(&R, &mut Findings) -> Option<P>,
        wrap: impl FnOnce(Arc<P>) -> Policy,
    ) -> Option<Policy> {
        decode(json, findings, read).map(|policy| wrap(Arc::new(policy)))
    }
    match kind {
        Kind::Gateway => decoded(json, findings, Gateway::read, Policy::Gateway),
        Kind::Service => decoded(json, findings, Service::read, Policy::Service),
        Kind::Api => decoded(json, findings, Api::read, Policy::Api),
        Kind::Plan => decoded(json, findings, Plan::read, Policy::Plan),
        Kind::Tenant => decoded(json, findings, Tenant::read, Policy::Tenant),
        Kind::RateLimits => {
            decoded(json, findings, |raw, findings| RateLimits::read(raw, made_name, findings), Policy::RateLimits)
        }
    }
}

/// The document as it is written, whatever it means.
pub fn written(document: &Document) -> Result<Tree, Vec<Problem>> {
    read_tree(document).map_err(|(message, place)| {
        let problem = Problem::locate(document, document.claimed_id().as_ref(), of_document(message, None), None);
        vec![Problem { place, ..problem }]
    })
}

fn read_tree(document: &Document) -> Result<Tree, (String, Option<Place>)> {
    Tree::parse(read_text(document)?).map_err(|error| {
        let place = error.span.map(|span| Place::of(document, span.line, span.column, span.width));
        (error.message, place)
    })
}

/// The document's text, or what is wrong with its bytes and where.
fn read_text(document: &Document) -> Result<&str, (String, Option<Place>)> {
    let bytes = document.content.as_ref().map_err(|reason| (reason.to_string(), None))?;
    if bytes.len() > DOCUMENT_BYTES_MAX {
        let message = format!("is {} bytes long, expected at most {DOCUMENT_BYTES_MAX}", bytes.len());
        return Err((message, None));
    }
    let place_of = |position: usize| {
        let before = bytes.get(..position).unwrap_or_default();
        let line = 1 + before.iter().filter(|&&b| b == b'\n').count();
        let line_start = before.iter().rposition(|&b| b == b'\n').map_or(0, |newline| newline + 1);
        let column = 1 + String::from_utf8_lossy(before.get(line_start..).unwrap_or_default()).chars().count();
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Some(Place::of(document, narrow(line), narrow(column), 1))
    };
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(("is UTF-16: save it as UTF-8".to_owned(), None));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| ("holds bytes that are not UTF-8".to_owned(), place_of(error.valid_up_to())))?;
    let is_forbidden = |c: &char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    match text.char_indices().find(|(_, c)| is_forbidden(c)) {
        Some((position, c)) => Err((format!("holds the control character U+{:04X}", u32::from(c)), place_of(position))),
        None => Ok(text),
    }
}

/// Takes the `kind` field out, so that what is left is what the kind's type knows.
fn take_kind(json: &mut Value) -> Result<Kind, Finding> {
    let Some(fields) = json.as_object_mut() else {
        return Err(of_document("is not a mapping with `kind` and `name`".to_owned(), None));
    };
    let Some(kind) = fields.remove("kind") else {
        if fields.contains_key("rate_limits") {
            return Ok(Kind::RateLimits);
        }
        if fields.contains_key("domain") && fields.contains_key("descriptors") {
            return Err(of_document("configurations of envoyproxy/ratelimit are not supported yet".to_owned(), None));
        }
        return Err(of_document(format!("has no `kind`: {}", expected_kinds()), None));
    };
    let word = kind.as_str().unwrap_or_default();
    Kind::parse(word).filter(|kind| *kind != Kind::RateLimits).ok_or_else(|| Finding {
        path: Path::of(["kind"]),
        target: Target::Value,
        message: format!("found {}, {}", shown::quoted(&kind.to_string()), expected_kinds()),
        help: match nearest(word, [Kind::RateLimits.as_str()]) {
            Some(_) => Some("take this line out: a document with `rate_limits` is a list of Envoy actions".to_owned()),
            None => nearest(word, written_kinds()),
        },
    })
}

fn expected_kinds() -> String {
    let kinds = written_kinds().collect::<Vec<_>>().join(", ");
    format!("expected one of {kinds}, or no `kind` and `rate_limits`")
}

fn written_kinds() -> impl Iterator<Item = &'static str> {
    Kind::ALL.into_iter().filter(|kind| *kind != Kind::RateLimits).map(Kind::as_str)
}

fn of_document(message: String, help: Option<String>) -> Finding {
    Finding { path: Path::default(), target: Target::Value, message, help }
}
