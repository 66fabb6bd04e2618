//! The spans that Envoy makes of a gateway's requests, and sends to a collector (Envoy `config.trace.v3`,
//! `opentelemetry.proto`). Envoy's question to the rate limit service is one of them, and says so in its `traceparent`.

use envoy_types::pb::envoy::config::common::mutation_rules::v3::HeaderMutation as Mutation;
use envoy_types::pb::envoy::config::common::mutation_rules::v3::header_mutation::Action;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::{GrpcService, TypedExtensionConfig};
use envoy_types::pb::envoy::config::trace::v3::OpenTelemetryConfig;
use envoy_types::pb::envoy::config::trace::v3::tracing::Http;
use envoy_types::pb::envoy::config::trace::v3::tracing::http::ConfigType;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing;
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation;
use envoy_types::pb::envoy::extensions::tracers::opentelemetry::samplers::v3::{
    ParentBasedSamplerConfig, TraceIdRatioBasedSamplerConfig,
};
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, Percent};
use prost::{Message, Name};

use super::server::COLLECTOR_CLUSTER;
use super::{any, pb};
use crate::policy::gateway::Gateway;
use crate::policy::tracing::{SAMPLED_OF, TRACE_CONTEXT};

pub(super) fn tracing(gateway: &Gateway) -> Option<Tracing> {
    let tracing = gateway.tracing.as_ref()?;
    let grpc = EnvoyGrpc { cluster_name: COLLECTOR_CLUSTER.to_owned(), ..Default::default() };
    let config = OpenTelemetryConfig {
        service_name: gateway.name.as_str().to_owned(),
        grpc_service: Some(GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(grpc)),
            ..Default::default()
        }),
        sampler: tracing.continues_traces.then(|| sampler(tracing.sample)),
        ..Default::default()
    };
    // Envoy 1.40 traces nothing that it does not draw itself, whatever a `traceparent` says; so where that has a say, all is
    // drawn, and a sampler decides.
    let drawn = if tracing.continues_traces { SAMPLED_OF } else { tracing.sample };
    let sampled = Percent { value: f64::from(drawn) * 100.0 / f64::from(SAMPLED_OF) };
    Some(Tracing {
        // A client has no say in it, by `x-client-trace-id`; and one that Envoy takes for one of the own network has none beyond
        // `overall_sampling`, by `x-envoy-force-trace`.
        client_sampling: Some(Percent { value: 0.0 }),
        random_sampling: Some(sampled),
        overall_sampling: Some(sampled),
        // What Envoy asks the service is a span of its own, as it has to be of a hop between two others.
        spawn_upstream_span: pb::boolean(true),
        provider: Some(Http {
            name: "envoy.tracers.opentelemetry".to_owned(),
            config_type: Some(ConfigType::TypedConfig(any(&config))),
        }),
        ..Default::default()
    })
}

/// As the caller's trace is, or else by chance.
fn sampler(sample: u32) -> TypedExtensionConfig {
    let percentage = FractionalPercent { numerator: sample, denominator: DenominatorType::TenThousand as i32 };
    let by_chance = TraceIdRatioBasedSamplerConfig { sampling_percentage: Some(percentage) };
    let by_parent = ParentBasedSamplerConfig {
        wrapped_sampler: Some(extension("envoy.tracers.opentelemetry.samplers.trace_id_ratio_based", &by_chance)),
    };
    extension("envoy.tracers.opentelemetry.samplers.parent_based", &by_parent)
}

fn extension<M: Message + Name>(name: &str, config: &M) -> TypedExtensionConfig {
    TypedExtensionConfig { name: name.to_owned(), typed_config: Some(any(config)) }
}

/// Removes what clients say of traces, before Envoy looks at it: its tracer believes a `traceparent` that says that the request
/// is traced.
pub(super) fn early_mutations(gateway: &Gateway) -> Vec<TypedExtensionConfig> {
    if gateway.tracing.as_ref().is_none_or(|tracing| tracing.continues_traces) {
        return Vec::new();
    }
    let remove = |name: &str| Mutation { action: Some(Action::Remove(name.to_owned())) };
    let config = HeaderMutation { mutations: TRACE_CONTEXT.map(remove).to_vec() };
    vec![extension("envoy.http.early_header_mutation.header_mutation", &config)]
}
