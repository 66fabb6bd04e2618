//! The access log of a gateway (Envoy `extensions.access_loggers.file.v3`).
//!
//! Its format is a `google.protobuf.Struct`: a map, whose entries Envoy-types would encode in any order. The messages here
//! are the same on the wire, and have their entries in the order that they are given in.

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;
use envoy_types::pb::envoy::config::accesslog::v3::access_log::ConfigType;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use crate::policy::access_log::{FIELDS, Format};
use crate::policy::gateway::Gateway;

const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";

/// `FileAccessLog`
#[derive(Clone, PartialEq, Message)]
struct FileAccessLog {
    #[prost(string, tag = "1")]
    path: String,
    /// `None`: Envoy's own text.
    #[prost(message, optional, tag = "5")]
    log_format: Option<SubstitutionFormat>,
}

/// `SubstitutionFormatString`
#[derive(Clone, PartialEq, Message)]
struct SubstitutionFormat {
    #[prost(message, optional, tag = "2")]
    json_format: Option<Struct>,
    #[prost(bool, tag = "3")]
    omit_empty_values: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Struct {
    #[prost(message, repeated, tag = "1")]
    fields: Vec<Field>,
}

#[derive(Clone, PartialEq, Message)]
struct Field {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, optional, tag = "3")]
    string_value: Option<String>,
}

pub(super) fn access_log(gateway: &Gateway) -> Vec<AccessLog> {
    let Some(log) = &gateway.access_log else { return Vec::new() };
    let log_format = match &log.format {
        Format::Text => None,
        Format::Json { headers } => {
            Some(SubstitutionFormat { json_format: Some(json_format(headers)), omit_empty_values: true })
        }
    };
    let config = FileAccessLog { path: log.path.clone(), log_format };
    vec![AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        filter: None,
        config_type: Some(ConfigType::TypedConfig(Any {
            type_url: TYPE_URL.to_owned(),
            value: config.encode_to_vec(),
        })),
    }]
}

fn json_format(headers: &[String]) -> Struct {
    let field = |key: &str, operator: String| Field {
        key: key.to_owned(),
        value: Some(Value { string_value: Some(operator) }),
    };
    let own = FIELDS.iter().map(|(key, operator)| field(key, (*operator).to_owned()));
    let headers = headers.iter().map(|name| field(name, format!("%REQ({name})%")));
    Struct { fields: own.chain(headers).collect() }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format as EnvoyFormat;
    use envoy_types::pb::envoy::extensions::access_loggers::file::v3 as envoy;
    use envoy_types::pb::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat;

    use super::*;

    #[test]
    fn the_messages_are_envoys_on_the_wire() {
        let json_format = Some(json_format(&["x-tenant-id".to_owned()]));
        let log_format = Some(SubstitutionFormat { json_format, omit_empty_values: true });
        let config = FileAccessLog { path: "/dev/stdout".to_owned(), log_format };
        let read = envoy::FileAccessLog::decode(&*config.encode_to_vec()).unwrap();
        assert_eq!(read.path, "/dev/stdout");
        let Some(AccessLogFormat::LogFormat(format)) = read.access_log_format else { panic!("{read:?}") };
        assert!(format.omit_empty_values);
        let Some(EnvoyFormat::JsonFormat(fields)) = format.format else { panic!("{format:?}") };
        assert_eq!(fields.fields.len(), FIELDS.len() + 1);
        let value = fields.fields["x-tenant-id"].kind.clone().unwrap();
        assert_eq!(format!("{value:?}"), r#"StringValue("%REQ(x-tenant-id)%")"#);
    }
}
