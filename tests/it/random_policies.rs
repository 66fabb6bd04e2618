//! What `check` passes, Envoy takes: policies drawn from the whole language are built as `tierflow check` builds them,
//! and real Envoys judge what is compiled of them: the newest all of it, the oldest what it is said to know.
//!
//! The fields are drawn from the JSON Schema of the language, so a new field is drawn from the day it is there; where
//! it is a text, `texts` has to know what to write. What is drawn and then refused is no fault; but every field and
//! every word has to be among what passes, or the test fails.

mod draw;
mod shrink;
mod texts;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tierflow::compile::RateLimitService;
use tierflow::document::{Documents, Instances};
use tierflow::limiter::key::KeyHasher;
use tierflow::live::{Generation, Settings};
use tierflow::names::Revision;
use tierflow::policy::problem::Problem;
use tierflow::snapshot::feature::EnvoyVersion;
use tierflow::snapshot::{Resources, render};

use crate::envoy_versions::version_of;
use crate::harness::printed;
use crate::kit::envoy::validate_with;
use crate::kit::tools;
use crate::seed::Seed;
use draw::{Draw, Drawn};

/// How many policies a run draws, and how many at most, as long as some field was not among them.
const POLICIES: usize = 1000;
const POLICIES_MAX: usize = 5000;

/// What cannot be drawn: what is not there yet, and the kinds of documents, which a set has all of.
const NOT_DRAWN: [&str; 1] = ["RawTenantSource.client_certificate"];

/// Documents that are a set by themselves.
#[derive(Clone)]
struct Set {
    documents: Vec<Drawn>,
    instances: Instances,
}

impl Set {
    /// As `check` does it.
    fn build(&self) -> Result<Generation, Vec<Problem>> {
        let documents = self.documents.iter().map(|drawn| drawn.document());
        let instances = Some(self.instances.clone());
        let documents = Documents { instances, ..Documents::new(Revision::default(), documents) };
        let rate_limit_service = RateLimitService::default();
        Generation::build(
            &documents,
            &Settings { rate_limit_service, counter_keys: KeyHasher::seeded([0; 16]), allow_empty: false },
        )
    }
}

/// The resources of each gateway of the sets.
fn compiled(sets: &[Set]) -> Vec<Arc<Resources>> {
    let generations = sets.iter().map(|set| set.build().expect("only sets that pass are judged"));
    let groups = generations.flat_map(|generation| {
        let groups = generation.snapshot.groups.sorted().into_iter();
        groups.map(|(_, group)| Arc::clone(group)).collect::<Vec<_>>()
    });
    groups.collect()
}

/// An Envoy that is asked about policies.
struct Judge<'a> {
    envoy: &'a Path,
    version: EnvoyVersion,
    folder: &'a Path,
}

impl<'a> Judge<'a> {
    fn new(envoy: &'a Path, folder: &'a Path) -> Self {
        Self { envoy, version: version_of(envoy), folder }
    }

    fn judge(&self, sets: &[Set]) -> Result<(), String> {
        self.judge_compiled(&compiled(sets))
    }

    /// What it says of all of them at once; but for gateways that are said to need a newer one.
    fn judge_compiled(&self, groups: &[Arc<Resources>]) -> Result<(), String> {
        let groups = groups.iter().filter(|group| group.unknown_to(self.version).next().is_none());
        let mut bootstrap = json!({ "layered_runtime": render::runtime(), "static_resources": {} });
        let mut names = BTreeSet::new();
        for group in groups {
            let Value::Object(kinds) = render::to_static_bootstrap(group, Vec::new())["static_resources"].take() else {
                continue;
            };
            for (kind, resources) in kinds {
                let Value::Array(resources) = resources else { continue };
                let is_new = |resource: &Value| names.insert((kind.clone(), resource["name"].to_string()));
                let new: Vec<Value> = resources.into_iter().filter(is_new).collect();
                let all = &mut bootstrap["static_resources"][&kind];
                match all.as_array_mut() {
                    Some(all) => all.extend(new),
                    None => *all = new.into(),
                }
            }
        }
        validate_with(self.envoy, self.folder, &bootstrap.to_string())
    }
}

#[test]
fn what_check_passes_envoy_takes() {
    let seed = Seed::of("POLICIES_RANDOM_SEED");
    let folder = tempfile::tempdir().unwrap();
    let schema = serde_json::from_str(&printed(&["schema"])).unwrap();
    let mut draw = Draw::new(seed.number, schema, folder.path());
    let mut missing = draw.places();
    missing.retain(|place| !NOT_DRAWN.contains(&place.as_str()));
    let (mut sets, mut count) = (Vec::new(), 0);
    while count < POLICIES || (!missing.is_empty() && count < POLICIES_MAX) {
        let set = draw.set();
        count += set.documents.len();
        for place in set.documents.iter().flat_map(|drawn| &drawn.places) {
            missing.remove(place);
        }
        sets.push(set);
    }
    let groups = compiled(&sets);
    for envoy in BTreeSet::from([tools::envoy().unwrap(), tools::oldest_envoy().unwrap()]) {
        let judge = Judge::new(envoy, folder.path());
        if let Err(said) = judge.judge_compiled(&groups) {
            panic!("Envoy {}: {}", judge.version, shrink::shrunk(&judge, &sets, &said));
        }
    }
    assert!(
        missing.is_empty(),
        "of {count} policies that pass none has {missing:?}: teach `draw` or `texts` to write it"
    );
}
