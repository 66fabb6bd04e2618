//! The documents page by page: those that are served, and between them those that are refused.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{ListedDocument, RefusedDocument, ServedDocument};
use crate::admin::directory::Sorted;
use crate::admin::error::ProblemDetails;
use crate::admin::extract::OfQuery;
use crate::admin::openapi::{Problem, Tagged};
use crate::admin::tagged::{Known, tagged};
use crate::admin::{Admin, in_background, page};
use crate::document::Origin;
use crate::live::{Generation, Refusal, Refusals};
use crate::names::{DocumentId, Kind, has_part};
use crate::policy::parse::Parsed;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::admin) struct DocumentQuery {
    #[param(inline)]
    kind: Option<Kind>,
    /// A part of the name, in any case.
    search: Option<String>,
    /// True: those that are refused, be an earlier version of them served or not. False: all others.
    refused: Option<bool>,
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(in crate::admin) struct DocumentPage {
    generation: u64,
    /// The source's name for the state that it was read at.
    revision: u64,
    /// In the order of their kinds and names; first those that do not say who they are.
    documents: Vec<ListedDocument>,
    /// The `after` of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The place of a row in the list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Place {
    id: Option<(Kind, Arc<str>)>,
    /// Of a document of which nothing is served: where it stands, and its number there.
    refused_in: Option<(Arc<str>, u32)>,
}

enum Row<'a> {
    Served(&'a Parsed),
    Refused(&'a Refusal),
}

/// The documents, those that are served and those that are refused.
#[utoipa::path(
    get,
    path = "/v1/policies",
    operation_id = "list_documents",
    params(DocumentQuery, Known),
    responses(
        Tagged<DocumentPage>,
        Problem<400>,
        Problem<503>,
    ),
)]
pub(in crate::admin) async fn list(
    State(admin): State<Admin>,
    OfQuery(query): OfQuery<DocumentQuery>,
    headers: HeaderMap,
) -> Result<Response, ProblemDetails> {
    let limit = page::limit(query.limit)?;
    let after = query.after.as_deref().map(|after| page::key_of("after", after)).transpose()?;
    let served = admin.live.served();
    let generation = admin.generation()?;
    let answer = in_background(move || {
        let listing = Listing { query: &query, after, generation: &generation, refused: &served.refused };
        let page = admin.directory.read(&generation.documents, |sorted| listing.page(sorted, limit));
        tagged(&headers, &page)
    });
    Ok(answer.await)
}

/// What a page is made of.
struct Listing<'a> {
    query: &'a DocumentQuery,
    after: Option<Place>,
    generation: &'a Generation,
    refused: &'a Refusals,
}

impl Listing<'_> {
    fn page(&self, sorted: &Sorted, limit: usize) -> DocumentPage {
        let rows = self.rows(sorted);
        let rows = rows.filter(|(place, _)| self.is_meant(place)).take(limit + 1).collect();
        let (rows, next) = page::of(rows, limit, |(place, _)| place.clone());
        let documents = rows.into_iter().map(|(_, row)| self.listed(row)).collect();
        DocumentPage { generation: self.generation.number, revision: self.generation.revision.0, documents, next }
    }

    /// Everything that may be on the page, in its order.
    fn rows<'s>(&'s self, sorted: &'s Sorted) -> impl Iterator<Item = (Place, Row<'s>)> {
        let mut refused = BTreeMap::new();
        let mut earlier = BTreeMap::new();
        let wants_refused = self.query.refused != Some(false);
        for refusal in self.refused.iter().filter(|_| wants_refused) {
            if !refusal.is_served {
                refused.insert(Place::of_refusal(refusal), Row::Refused(refusal));
            } else if let Some((id, parsed)) = refusal.id.as_ref().and_then(|id| sorted.get_key_value(id)) {
                earlier.insert(id, parsed);
            }
        }
        // Few are refused, and these are not looked for among all.
        let (all, earlier) = match self.query.refused {
            Some(true) => (None, Some(earlier)),
            _ => (Some(sorted.range((self.first(), Bound::Unbounded))), None),
        };
        let all = all.into_iter().flatten().chain(earlier.into_iter().flatten());
        let of_kind = all.take_while(|(id, _)| self.query.kind.is_none_or(|kind| id.kind <= kind));
        let served = of_kind.map(|(id, parsed)| (Place::of(id), Row::Served(parsed)));
        let behind = move |(place, _): &(Place, Row<'_>)| self.after.as_ref().is_none_or(|after| place > after);
        merged(served.filter(behind), refused.into_iter().filter(behind))
    }

    /// Where the served documents begin.
    fn first(&self) -> Bound<DocumentId> {
        let of_kind = self.query.kind.map(|kind| DocumentId::new(kind, ""));
        let after = self.after.as_ref().and_then(|after| after.id.as_ref());
        let after = after.map(|(kind, name)| DocumentId { kind: *kind, name: Arc::clone(name) });
        of_kind.into_iter().chain(after).max().map_or(Bound::Unbounded, Bound::Included)
    }

    fn is_meant(&self, place: &Place) -> bool {
        let Some((kind, name)) = &place.id else {
            return self.query.kind.is_none() && self.query.search.is_none();
        };
        self.query.kind.is_none_or(|wanted| wanted == *kind)
            && self.query.search.as_ref().is_none_or(|search| has_part(name, search))
            && (self.query.refused != Some(false) || self.refused.of(&DocumentId::new(*kind, name)).is_none())
    }

    fn listed(&self, row: Row<'_>) -> ListedDocument {
        match row {
            Row::Served(parsed) => {
                let refused = self.refused.of(&parsed.id).map(|refusal| RefusedDocument::listed(refusal));
                ListedDocument::Served(ServedDocument::of(parsed, refused))
            }
            Row::Refused(refusal) => ListedDocument::Refused(RefusedDocument::listed(refusal)),
        }
    }
}

impl Place {
    fn of(id: &DocumentId) -> Self {
        Self { id: Some((id.kind, Arc::clone(&id.name))), refused_in: None }
    }

    fn of_refusal(refusal: &Refusal) -> Self {
        let number = match &refusal.origin {
            Origin::File { number, .. } => *number,
            Origin::Key { .. } => 0,
        };
        let id = refusal.id.as_ref().map(|id| (id.kind, Arc::clone(&id.name)));
        Self { id, refused_in: Some((Arc::clone(refusal.origin.container()), number)) }
    }
}

/// Two lists in one order.
fn merged<'a>(
    first: impl Iterator<Item = (Place, Row<'a>)>,
    second: impl Iterator<Item = (Place, Row<'a>)>,
) -> impl Iterator<Item = (Place, Row<'a>)> {
    let (mut first, mut second) = (first.peekable(), second.peekable());
    std::iter::from_fn(move || match (first.peek(), second.peek()) {
        (Some((one, _)), Some((other, _))) if other < one => second.next(),
        (Some(_), _) => first.next(),
        (None, _) => second.next(),
    })
}
