//! Kuadrant's limitador, where LIMITADOR_BIN names its program: the same limits, as its fixed windows, in memory.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use crate::process::{Process, free_address};

/// Two limits that nothing reaches, one of the Api that routes report as `id` and one of its tenants.
pub(crate) fn start(program: &OsStr, folder: &Path, id: &str, cores: &str) -> Process {
    let limits = folder.join("limitador.yaml");
    let limit = |conditions: &str, variables: &str| {
        format!(
            "- {{namespace: tierflow/shop, max_value: 1000000000, seconds: 60, conditions: [{conditions}], variables: [{variables}]}}\n"
        )
    };
    let of_api = limit(&format!("\"descriptors[0].api == '{id}'\""), "");
    let of_tenant = limit("", "\"descriptors[0].tenant\"");
    std::fs::write(&limits, of_api + &of_tenant).unwrap();
    let (grpc, http) = (free_address(), free_address());
    let mut command = Command::new(program);
    command.arg(limits);
    command.args(["--rls-ip", &grpc.ip().to_string(), "--rls-port", &grpc.port().to_string()]);
    command.args(["--http-ip", &http.ip().to_string(), "--http-port", &http.port().to_string(), "memory"]);
    Process::start(&command, cores, grpc)
}
