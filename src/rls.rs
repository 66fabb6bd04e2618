//! The rate limit service: answers Envoy's ShouldRateLimit.
//!
//! ```text
//! Call --RateLimitRequest--> Matcher::find --charges--> one Counters::admit over all limits --> Answer
//! ```
//!
//! A call loads the generation once and keeps it to the end. It waits for nothing but the store of counters.

mod answer;
mod call;
mod denial;
mod failures;
mod followers;
mod message;
mod reply;
mod service;
mod wire;

use std::sync::Arc;

use smallvec::SmallVec;
use tonic::Status;

use crate::clock::{Clock, Timestamp};
use crate::counters::{Admission, Counters, OnError, Outcome, StoreAway};
use crate::denials::{Denials, Port};
use crate::limiter::Charge;
use crate::limiter::matcher::{Age, Applied, Asked, Denied, Described, Found, Matcher, Tier};
use crate::limiter::older::OlderForms;
use crate::live::{Generation, Live, Served};
use crate::metrics::{Decided, FormLabels, Metrics};
use crate::names::Name;
use crate::names::certificate::{ClientCertificate, denial};
use crate::top::Top;
use crate::top::notes::{Counter, Notes};
use crate::traces::{Span, TraceContext};
use answer::Answer;
use denial::Denial;
use followers::Told;
use wire::RateLimitRequest;

pub use call::Call;
pub use failures::Failures;
pub use followers::Followers;
pub use reply::Reply;
pub use service::{CallsWaiting, Decision, RateLimitServer};

/// The service's name in `grpc.health.v1`, which the generated clusters ask for.
pub const SERVICE_NAME: &str = "envoy.service.ratelimit.v3.RateLimitService";

pub struct Rls {
    pub live: Arc<Live>,
    pub counters: Counters,
    pub metrics: Arc<Metrics>,
    pub top: Arc<Top>,
    pub clock: Clock,
    pub failures: Failures,
    pub denials: Arc<Denials>,
    pub followers: Followers,
}

/// The certificate of whoever asks, where it had to show one.
pub type Shown<'a> = Option<&'a Arc<ClientCertificate>>;

/// How old the routes are that a request came by, where they are not the newest: as metrics have it.
pub const FORMS: [&str; 2] = ["older", "unknown"];

/// Whoever asks, and when.
#[derive(Clone, Copy)]
struct Caller<'a> {
    shown: Shown<'a>,
    now: Timestamp,
    /// The trace that the call is part of, where somebody follows decisions.
    trace: Option<TraceContext>,
    /// That of the decision, where it is to be exported.
    span: Option<Span>,
}

/// What is asked, and of which policies.
struct Question<'a> {
    matcher: &'a Matcher,
    asked: Asked<'a>,
    caller: Caller<'a>,
}

impl Rls {
    pub fn into_service(self) -> RateLimitServer {
        RateLimitServer(Arc::new(self))
    }

    /// Decides at once; `None` where a store elsewhere may have to be asked.
    fn decide_now(&self, message: &[u8], caller: Caller<'_>) -> Result<Option<Answer>, Status> {
        if !self.counters.never_waits() {
            return Ok(None);
        }
        let served = self.live.load();
        let (generation, older) = (generation(&served)?, self.live.forms.older());
        let mut request = RateLimitRequest::default();
        read(&mut request, message)?;
        let descriptors = request.described();
        let Some((question, found)) = self.find(&request, &descriptors, generation, &older, caller)? else {
            return Ok(Some(self.answer_unknown(&request, &caller)));
        };
        if let Some(answer) = self.answer_uncounted(&question, &found) {
            return Ok(Some(answer));
        }
        let admission = self.counters.admit_now(limits(&found), caller.now, found.on_error);
        Ok(admission.map(|admission| self.conclude(&question, &found, Ok(&admission))))
    }

    /// Decides, and waits for the store of counters.
    async fn decide(&self, message: &[u8], caller: Caller<'_>) -> Result<Answer, Status> {
        let served = self.live.served();
        let (generation, older) = (generation(&served)?, self.live.forms.older());
        let mut request = RateLimitRequest::default();
        read(&mut request, message)?;
        let descriptors = request.described();
        let Some((question, found)) = self.find(&request, &descriptors, generation, &older, caller)? else {
            return Ok(self.answer_unknown(&request, &caller));
        };
        if let Some(answer) = self.answer_uncounted(&question, &found) {
            return Ok(answer);
        }
        let charges: SmallVec<[Charge; 8]> = limits(&found).iter().map(|applied| applied.charge).collect();
        let mut trip = None;
        let traced = caller.span.is_some().then_some(&mut trip);
        let admission = self.counters.admit_traced(&charges, caller.now, found.on_error, traced).await;
        self.followers.tell_trip(&caller, trip);
        Ok(self.conclude(&question, &found, admission.as_ref().map_err(|away| *away)))
    }

    /// The limits that the request meets; `None` where no policy is about it. Fails where the gateway is not for whoever asks.
    fn find<'a>(
        &self,
        request: &'a RateLimitRequest<'_>,
        descriptors: &'a [Described<'a>],
        generation: &'a Generation,
        older: &'a OlderForms,
        caller: Caller<'a>,
    ) -> Result<Option<(Question<'a>, Found<'a>)>, Status> {
        let Some(gateway) = request.gateway() else { return Ok(None) };
        let (matcher, asked) = (&generation.matcher, Asked { gateway, descriptors });
        let found = matcher.find_for(caller.shown.map(|certificate| &**certificate), &asked, older);
        let found = found.map_err(|Denied { gateway }| self.deny(gateway, caller.shown))?;
        Ok(found.map(|found| (Question { matcher, asked, caller }, found)))
    }

    #[cold]
    fn deny(&self, gateway: &Name, shown: Shown<'_>) -> Status {
        self.denials.note(Port::RateLimit, gateway, None, shown);
        let certificate = shown.map(|certificate| &**certificate);
        Status::permission_denied(denial(std::slice::from_ref(gateway), certificate))
    }

    /// The answer to a request that no policy is about.
    fn answer_unknown(&self, request: &RateLimitRequest<'_>, caller: &Caller<'_>) -> Answer {
        let nothing = Decided { gateway: None, api: None, tier: "", limit: None, result: "no_match" };
        self.metrics.decisions.count(&nothing);
        if caller.span.is_some() {
            self.followers.tell_other(caller, nothing.result, None, self.clock.now());
        }
        Answer::unknown(request.descriptors.len())
    }

    /// The answer to a request that needs no counter for it.
    fn answer_uncounted<'a>(&self, question: &Question<'a>, found: &Found<'a>) -> Option<Answer> {
        if let Err(denial) = found.limits {
            self.count_age(found.age);
            self.count_of(found, None, denial::result(denial));
            self.top.take(question.caller.now, |notes| question.note(notes, found, None, true));
            self.tell(question, found, || Told::new(denial::result(denial), true));
            return Some(Answer::denied(&Denial::Tenant(denial)));
        }
        if found.is_uncountable {
            self.count_age(found.age);
            self.count_of(found, None, "uncountable");
            self.top.take(question.caller.now, |notes| question.note(notes, found, None, false));
            self.tell(question, found, || Told::new("uncountable", found.on_error == OnError::Deny));
            return Some(uncounted(found.on_error, &Denial::NoRoom));
        }
        None
    }

    fn conclude<'a>(
        &self,
        question: &Question<'a>,
        found: &Found<'a>,
        admission: Result<&Admission, StoreAway>,
    ) -> Answer {
        self.count_age(found.age);
        self.top.take(question.caller.now, |notes| {
            let admission = admission.ok();
            question.note(notes, found, admission, admission.is_some_and(|admission| !admission.admitted))
        });
        let limits = limits(found);
        match admission {
            Ok(admission) => {
                self.count_admission(found, limits, admission);
                self.tell(question, found, || Told::of(limits, admission));
                Answer::judged(limits, admission)
            }
            Err(StoreAway) => {
                self.count_of(found, None, "store_away");
                let may_deny = limits.iter().any(|applied| applied.charge.is_enforced());
                let on_error = if may_deny { found.on_error } else { OnError::Allow };
                self.tell(question, found, || Told::new("store_away", on_error == OnError::Deny));
                uncounted(on_error, &Denial::StoreAway)
            }
        }
    }

    fn tell<'t>(&self, question: &Question<'_>, found: &Found<'_>, told: impl FnOnce() -> Told<'t>) {
        if question.caller.span.is_some() || self.followers.denial_log.is_some() {
            self.followers.tell(question, found, told(), || self.clock.now());
        }
    }

    /// Observes a decision that has ended.
    fn observe(&self, decided_from: Timestamp, ended: Timestamp, span: Option<&Span>) {
        let took = ended.since(decided_from);
        self.metrics.decision_seconds.observe(took);
        if let Some(span) = span {
            let at = ended.since(Timestamp::default());
            self.metrics.decision_seconds.exemplify(span.trace().to_string(), took, at);
        }
    }

    fn count_admission(&self, found: &Found<'_>, limits: &[Applied<'_>], admission: &Admission) {
        for (applied, outcome) in limits.iter().zip(&admission.outcomes) {
            let result = match outcome {
                Outcome::NoRoom => "no_room",
                Outcome::Judged(verdict) if verdict.allowed => continue,
                Outcome::Judged(_) if !applied.charge.is_enforced() => "shadow_over_limit",
                Outcome::Judged(_) => "over_limit",
            };
            self.count_of(found, Some(applied), result);
        }
        // Once for the request, however many limits denied it.
        self.count_of(found, None, if admission.admitted { "ok" } else { "denied" });
    }

    fn count_of(&self, found: &Found<'_>, applied: Option<&Applied<'_>>, result: &'static str) {
        self.metrics.decisions.count(&Decided {
            gateway: Some(found.gateway),
            api: found.api,
            tier: applied.map_or("", |applied| applied.tier.as_str()),
            limit: applied.map(|applied| &applied.limit.name),
            result,
        });
    }

    fn count_age(&self, age: Age) {
        let [older, unknown] = FORMS;
        let form = match age {
            Age::Current => return,
            Age::Older => older,
            Age::Unknown => unknown,
        };
        self.metrics.decision_forms.get_or_create(&FormLabels { form }).inc();
    }
}

impl<'a> Question<'a> {
    /// For who wants to know the busiest and the most denied.
    #[cold]
    fn note(&self, notes: &mut Notes, found: &Found<'a>, admission: Option<&Admission>, is_denied: bool) {
        let tenant = self.matcher.tenant(&self.asked);
        notes.decision(found.gateway, self.matcher.shown_tenant(&self.asked).as_deref(), is_denied);
        let outcomes = admission.map(|admission| &admission.outcomes[..]).unwrap_or_default();
        for (applied, outcome) in limits(found).iter().zip(outcomes) {
            let told = self.matcher.counter(&self.asked, tenant.as_deref(), found, applied);
            let counter = Counter {
                key: applied.charge.key.as_u128(),
                api: told.api,
                tier: applied.tier.as_str(),
                limit: &applied.limit.name,
                is_of_tenant: applied.tier == Tier::Tenant,
                has_no_room: matches!(outcome, Outcome::Judged(verdict) if !verdict.allowed),
                is_shadow: !applied.charge.is_enforced(),
            };
            notes.counter(counter, |tell| told.tell_values(tell));
        }
    }
}

fn generation(served: &Served) -> Result<&Generation, Status> {
    served.generation.as_deref().ok_or_else(|| Status::unavailable("no policy set is loaded yet"))
}

fn read<'a>(request: &mut RateLimitRequest<'a>, message: &'a [u8]) -> Result<(), Status> {
    request.merge(message).map_err(|error| Status::internal(error.to_string()))?;
    if request.domain.is_empty() {
        return Err(Status::invalid_argument("domain must not be empty"));
    }
    if request.descriptors.is_empty() {
        return Err(Status::invalid_argument("descriptors must not be empty"));
    }
    Ok(())
}

fn limits<'a>(found: &'a Found<'_>) -> &'a [Applied<'a>] {
    found.limits.as_deref().unwrap_or_default()
}

/// The answer to a request that could not be counted, as the gateway wants it.
fn uncounted(on_error: OnError, denial: &Denial<'_>) -> Answer {
    match on_error {
        OnError::Deny => Answer::denied(denial),
        OnError::Allow | OnError::Local => Answer::passed(),
    }
}

#[cfg(test)]
mod tests;
