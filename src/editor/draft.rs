//! Drafts: documents as they are to be. Each is parsed once, where it comes in. What is checked, compared and written
//! after that, however often others are faster, is what was parsed; and what comes back from etcd is not parsed again.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{EditError, Editor, TXN_BYTES_MAX, TXN_DOCUMENTS_MAX};
use crate::bulk::Change;
use crate::document::{DOCUMENT_BYTES_MAX, Document, Origin, split};
use crate::names::DocumentId;
use crate::policy::parse::{Parsed, parse, parse_for_etcd};

/// Documents of one change, and their bytes. Those that do not fit into a transaction go by way of a manifest.
const CHANGES_MAX: usize = 20_000;
const CHANGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A document as it is to be.
#[derive(Clone, Debug)]
pub struct Draft {
    pub change: Change,
    /// The meaning of the content. `None`: delete.
    pub parsed: Option<Arc<Parsed>>,
}

impl Draft {
    pub fn deletion(id: DocumentId) -> Self {
        Self { change: Change { id, content: None }, parsed: None }
    }

    fn of(parsed: Parsed) -> Self {
        let content = parsed.document.content.clone().expect("a document without content is not parsed");
        let change = Change { id: parsed.id.clone(), content: Some(content) };
        Self { change, parsed: Some(Arc::new(parsed)) }
    }

    pub fn id(&self) -> &DocumentId {
        &self.change.id
    }
}

impl Editor {
    /// The draft of one document, under the key that it will have.
    pub fn draft(&self, id: DocumentId, content: &[u8]) -> Result<Draft, EditError> {
        if content.len() > DOCUMENT_BYTES_MAX {
            return Err(too_large(content.len(), "bytes in one document", DOCUMENT_BYTES_MAX));
        }
        let origin = Origin::Key { key: self.key(&id).into(), id: Some(id) };
        let document = Document { origin, revision: None, content: Ok(content.into()) };
        let parsed = parse(&Arc::new(document)).map_err(|refused| EditError::Invalid(refused.problems))?;
        Ok(Draft::of(parsed))
    }
}

/// The drafts of a file's documents, or everything that is wrong with them.
pub fn drafts(path: &Arc<str>, bytes: &[u8]) -> Result<Vec<Draft>, EditError> {
    let documents = split(path, bytes);
    if documents.len() > CHANGES_MAX {
        return Err(too_large(documents.len(), "documents", CHANGES_MAX));
    }
    let (mut drafts, mut problems) = (Vec::with_capacity(documents.len()), Vec::new());
    for document in documents {
        match parse_for_etcd(&Arc::new(document)) {
            Ok(parsed) => drafts.push(Draft::of(parsed)),
            Err(refused) => problems.extend(refused.problems),
        }
    }
    if problems.is_empty() { Ok(drafts) } else { Err(EditError::Invalid(problems)) }
}

pub(super) fn check_size(drafts: &[Draft]) -> Result<(), EditError> {
    if drafts.is_empty() {
        return Err(EditError::Empty);
    }
    let mut ids = BTreeSet::new();
    if let Some(draft) = drafts.iter().find(|draft| !ids.insert(draft.id())) {
        return Err(EditError::Twice(draft.id().clone()));
    }
    let bytes = drafts.iter().map(|draft| bytes_of(&draft.change)).sum();
    let measured = [(drafts.len(), "documents", CHANGES_MAX), (bytes, "bytes in all", CHANGE_BYTES_MAX)];
    match measured.into_iter().find(|(size, _, max)| size > max) {
        Some((size, what, max)) => Err(too_large(size, what, max)),
        None => Ok(()),
    }
}

/// True where a change does not fit into a transaction.
pub(super) fn is_large(drafts: &[Draft]) -> bool {
    let bytes = drafts.iter().map(|draft| bytes_of(&draft.change)).sum::<usize>();
    drafts.len() > TXN_DOCUMENTS_MAX || bytes > TXN_BYTES_MAX
}

pub(super) fn bytes_of(change: &Change) -> usize {
    change.content.as_ref().map_or(0, |content| content.len())
}

pub(super) fn too_large(size: usize, what: &str, max: usize) -> EditError {
    EditError::TooLarge { what: format!("{size} {what}"), max }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::compile::RateLimitService;
    use crate::document::Documents;
    use crate::etcd::EtcdSettings;
    use crate::etcd::link::Link;
    use crate::limiter::key::KeyHasher;
    use crate::live::{Live, Settings};
    use crate::names::Revision;
    use crate::policy::parse::Policy;

    const SHOP: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:10000'}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Api, name: create, gateway: shop, match: {path: /create}, service: order, limits: [{rate: 10/m}]}
";

    #[test]
    fn a_document_is_parsed_once_on_its_way_from_a_request_to_what_is_served() {
        let rate_limit_service = RateLimitService::default();
        let counter_keys = KeyHasher::seeded([0; 16]);
        let (live, mut writer) = Live::new(Settings { rate_limit_service, counter_keys, allow_empty: false });
        let drafts = drafts(&"body".into(), SHOP.as_bytes()).unwrap();
        assert_eq!(
            drafts.iter().map(|draft| draft.id().to_string()).collect::<Vec<_>>(),
            ["Gateway shop", "Service order", "Api create"]
        );
        let changes = drafts.iter().map(|draft| (draft.id().clone(), draft.parsed.clone()));
        let policies = live.latest().with(changes).unwrap();
        let Some(Policy::Api(parsed)) = drafts[2].parsed.as_ref().map(|parsed| &parsed.policy) else { panic!() };
        // The same object: another parse would have made another one.
        assert!(Arc::ptr_eq(parsed, policies.apis.get("create").unwrap()));
        live.announce(drafts.iter().filter_map(|draft| draft.parsed.clone()).collect());
        let from_etcd = drafts.iter().map(|Draft { change, .. }| Document {
            origin: Origin::Key { key: change.id.to_string().into(), id: Some(change.id.clone()) },
            revision: Some(Revision(7)),
            content: Ok(change.content.clone().unwrap()),
        });
        writer.adopt(&Documents::new(Revision(7), from_etcd), Timestamp::default());
        let served = live.generation().unwrap();
        assert!(Arc::ptr_eq(parsed, served.policies.apis.get("create").unwrap()));
        assert_eq!(served.documents.get(drafts[2].id()).unwrap().document.revision, Some(Revision(7)));
    }

    #[test]
    fn everything_that_is_wrong_with_a_file_is_told_by_its_lines() {
        let Err(EditError::Invalid(problems)) = drafts(&"body".into(), b"{kind: Plan}\n---\n{kind: Thing}\n") else {
            panic!()
        };
        let places: Vec<_> = problems.iter().map(|problem| problem.location()).collect();
        assert_eq!(places, ["body:1:1", "body:3:8"]);
    }

    fn plans(count: usize, bytes: usize) -> Vec<Draft> {
        let content = |n: usize| {
            let text = format!("{{kind: Plan, name: p{n}, limits: [{{rate: 1/m}}]}}");
            format!("{text}{}", " ".repeat(bytes.saturating_sub(text.len())))
        };
        let parsed = drafts(&"body".into(), content(0).as_bytes()).unwrap().remove(0);
        let of = |n: usize| {
            let id = DocumentId::new(crate::names::Kind::Plan, &format!("p{n}"));
            Draft { change: Change { id, ..parsed.change.clone() }, parsed: parsed.parsed.clone() }
        };
        (0..count).map(of).collect()
    }

    /// Of an etcd that is not there.
    pub(in crate::editor) fn editor() -> Editor {
        let settings = EtcdSettings { endpoints: Vec::new(), prefix: "/t".to_owned(), user: None, tls: None };
        let (rate_limit_service, counter_keys) = (RateLimitService::default(), KeyHasher::seeded([0; 16]));
        let (live, _) = Live::new(Settings { rate_limit_service, counter_keys, allow_empty: false });
        let (_, claims) = tokio::sync::watch::channel(None);
        Editor::new(Link::new(settings), live, claims, "/t/servers/a".to_owned())
    }

    #[test]
    fn a_document_is_read_up_to_its_bound_and_under_the_key_that_it_will_have() {
        let editor = editor();
        let id = DocumentId::new(crate::names::Kind::Plan, "gold");
        let of = |bytes: usize| {
            let text = "{kind: Plan, name: gold, limits: [{rate: 1/m}]}";
            editor.draft(id.clone(), format!("{text}{}", " ".repeat(bytes - text.len())).as_bytes())
        };
        let draft = of(DOCUMENT_BYTES_MAX).unwrap();
        assert_eq!(draft.id(), &id);
        let origin = &draft.parsed.as_ref().unwrap().document.origin;
        assert_eq!(origin.to_string(), "/t/policies/Plan/gold");
        let told = of(DOCUMENT_BYTES_MAX + 1).unwrap_err().to_string();
        assert_eq!(
            told,
            format!("{} bytes in one document, expected at most {DOCUMENT_BYTES_MAX}", DOCUMENT_BYTES_MAX + 1)
        );
        // One that says that it is another would be served under that other's name.
        let Err(EditError::Invalid(problems)) = editor.draft(id, b"{kind: Plan, name: silver, limits: [{rate: 1/m}]}")
        else {
            panic!("it is taken")
        };
        assert!(problems[0].message.contains("gold"), "{}", problems[0].message);
    }

    #[test]
    fn a_file_has_a_largest_number_of_documents() {
        let of = |count: usize| drafts(&"body".into(), vec!["x"; count].join("\n---\n").as_bytes()).unwrap_err();
        assert!(matches!(of(CHANGES_MAX), EditError::Invalid(_)), "all of them are looked at");
        let told = of(CHANGES_MAX + 1).to_string();
        assert_eq!(told, format!("{} documents, expected at most {CHANGES_MAX}", CHANGES_MAX + 1));
    }

    fn refused(drafts: &[Draft]) -> Option<String> {
        check_size(drafts).err().map(|error| error.to_string())
    }

    #[test]
    fn a_change_has_bounds_and_says_which() {
        assert_eq!(refused(&[]).as_deref(), Some("the change holds nothing"));
        let twice = [plans(2, 0), plans(1, 0)].concat();
        assert_eq!(refused(&twice).as_deref(), Some("Plan p0 stands twice in the change"));
        assert_eq!(refused(&plans(CHANGES_MAX, 0)), None);
        let told = refused(&plans(CHANGES_MAX + 1, 0)).unwrap();
        assert_eq!(told, "20001 documents, expected at most 20000");
        let large = DOCUMENT_BYTES_MAX;
        assert_eq!(refused(&plans(CHANGE_BYTES_MAX / large, large)), None);
        let told = refused(&plans(CHANGE_BYTES_MAX / large + 1, large)).unwrap();
        assert_eq!(told, "17039360 bytes in all, expected at most 16777216");
        let deletions: Vec<Draft> =
            plans(CHANGES_MAX, 0).iter().map(|draft| Draft::deletion(draft.id().clone())).collect();
        assert_eq!(refused(&deletions), None, "what is deleted has no bytes");
    }

    #[test]
    fn what_fits_into_a_transaction_is_not_large() {
        assert!(!is_large(&plans(TXN_DOCUMENTS_MAX, 0)) && is_large(&plans(TXN_DOCUMENTS_MAX + 1, 0)));
        let bytes = 100 * 1024;
        assert!(!is_large(&plans(TXN_BYTES_MAX / bytes, bytes)) && is_large(&plans(TXN_BYTES_MAX / bytes + 1, bytes)));
    }
}
