//! Tests that see Tierflow as its users do: the real program, a real Envoy, real sockets.

// Tests may be blunt: a failed unwrap is a failed test, in a helper as much as in a test.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../../examples/envoy/kit.rs"]
mod kit;

mod browser;
mod golden;
mod grpc_client;
mod harness;
mod raw_http;
mod seed;
mod web;

mod access;
#[path = "../../src/access/testing.rs"]
#[allow(dead_code, reason = "the tests of the module itself forge more than is sent over sockets")]
mod access_tokens;
mod ads;
mod busy;
mod cli_check;
mod cli_compile;
mod cli_edit;
mod client_address;
mod completions;
mod cors;
mod decide_answers;
mod decide_bytes;
mod decide_limits;
mod decide_lists;
mod decide_promises;
mod decide_requests;
mod decide_tenants;
mod decided;
mod deploy;
mod descriptors;
mod diff;
mod edit;
mod edit_durable;
mod edit_large;
mod envoy_versions;
mod etcd_access;
mod etcd_requires;
mod etcd_source;
mod events;
mod example;
mod explain_live;
mod file_names;
mod fleet;
mod forgetful;
mod forms;
mod forms_random;
mod hosts;
mod identities;
mod identities_rotated;
mod last_good;
mod leases;
mod matching;
mod metrics;
mod name_server;
mod openapi;
mod page;
mod page_access;
mod page_changes;
mod page_images;
mod page_scale;
mod page_states;
mod ports_tls;
mod proxy;
mod random_policies;
mod redis_away;
mod redis_clock;
mod redis_cluster;
mod redis_fleet;
mod redis_leases;
mod redis_leases_lost;
mod redis_script;
mod redis_sentinel;
mod redis_settle;
mod redis_store;
mod redis_windows;
mod refused;
mod registry;
mod reload_broken;
mod reload_edit;
mod reload_saves;
mod replay;
mod replicas;
mod seen;
mod serve_lifetime;
mod serve_notify;
mod spellings;
mod store;
mod tidy;
mod timeouts;
mod tls;
mod upgrades;
mod upstream_dns;
mod upstream_tls;
mod version;
mod xds_other_client;
mod xds_random;
mod xds_refused;
mod xds_rules;
mod xds_tls;
mod xds_variants;
