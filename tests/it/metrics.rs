//! What is measured is documented and there from the start, and alerts and dashboards ask for nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use crate::harness::{Tierflow, any_addresses};
use crate::kit::tools;
use crate::tls;

const RULES: &str = "examples/prometheus/rules.yaml";
const RULES_TEST: &str = "examples/prometheus/rules_test.yaml";
const SCRAPING: &str = "examples/prometheus/prometheus.yaml";
const DASHBOARD: &str = "examples/grafana/tierflow.json";

/// Labels of names that policies or Prometheus choose: any value makes sense.
const OF_OTHERS: [&str; 11] =
    ["file", "job", "instance", "gateway", "api", "limit", "group", "version", "commit", "alertname", "alertstate"];

/// Labels with the values that they have from the start, by the name of the sample.
type Samples = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}

fn yaml(file: &str) -> Value {
    serde_yaml::from_str(&text(file)).unwrap()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap().iter()
}

/// What a Tierflow says before any Envoy has come.
async fn measured() -> String {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    // Files of certificates have series of their own.
    tls::install("first", folder.path());
    let flags = [("cert", "tls.crt"), ("key", "tls.key")];
    let flags = flags.map(|(flag, file)| format!("--tls-{flag}={}", folder.path().join(file).display()));
    let source = vec![format!("--policies={}", policies.display())];
    let tierflow = Tierflow::serve(&folder.path().join("log"), source, &flags, any_addresses()).await;
    let answer = tls::get(folder.path(), tierflow.admin(), "/metrics").unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

fn samples(text: &str) -> Samples {
    static SERIES: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^([a-z_]+)(?:\{(.*)\})? \S+$").unwrap());
    static LABEL: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#"([a-z_]+)="([^"]*)""#).unwrap());
    let mut samples = Samples::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let series = SERIES.captures(line).unwrap_or_else(|| panic!("{line}"));
        let labels = samples.entry(series[1].to_owned()).or_default();
        for label in LABEL.captures_iter(series.get(2).map_or("", |labels| labels.as_str())) {
            labels.entry(label[1].to_owned()).or_default().insert(label[2].to_owned());
        }
    }
    samples
}

/// A histogram is documented by what it measures.
fn without_parts_of_histograms(samples: &Samples) -> BTreeMap<&str, BTreeSet<&str>> {
    let is_part = |name: &str| ["_sum", "_bucket"].iter().any(|part| name.ends_with(part));
    let whole = samples.iter().filter(|(name, _)| !is_part(name));
    whole.map(|(name, labels)| (name.trim_end_matches("_count"), labels.keys().map(String::as_str).collect())).collect()
}

fn documented(docs: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let (_, table) = docs.split_once("\n## Metrics\n").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let cells = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" | "));
    let names = cells.flat_map(|(names, _)| names.split('`')).filter(|name| name.starts_with("tierflow_"));
    names
        .map(|name| {
            let (name, labels) = name.split_once('{').unwrap_or((name, ""));
            (name, labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).collect())
        })
        .collect()
}

#[tokio::test]
async fn every_metric_is_there_from_the_start_and_is_documented_with_its_labels() {
    let text_measured = measured().await;
    let docs = text("docs/operating.md");
    let samples = samples(&text_measured);
    assert_eq!(without_parts_of_histograms(&samples), documented(&docs));
    for line in text_measured.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (name, help) = line.split_once(' ').unwrap();
        assert!(name.starts_with("tierflow_") && help.len() > 10, "{line}");
    }
}

#[tokio::test]
async fn every_reason_that_is_documented_has_a_series_from_the_start() {
    let samples = samples(&measured().await);
    let docs = text("docs/operating.md");
    for (metric, label) in [
        ("tierflow_counter_store_errors_total", "reason"),
        ("tierflow_source_resyncs_total", "reason"),
        ("tierflow_decisions_total", "result"),
    ] {
        let values = &samples[metric][label];
        for value in values {
            assert!(docs.contains(&format!("`{value}`")), "{metric}: {value} is in no documentation");
        }
        assert!(values.len() >= 8, "{metric}: {values:?}");
    }
}

/// Labels with the values that they are to have; none where any will do.
type Matchers = Vec<(String, Vec<String>)>;

/// What alerts and dashboards ask for, as far as it takes to know whether there is such a thing.
struct Expression {
    /// Each metric with what its labels are to be.
    selectors: Vec<(String, Matchers)>,
    /// The labels that remain, or that others are compared by.
    grouped_by: Vec<String>,
}

impl Expression {
    fn read(text: &str) -> Self {
        static RANGE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[[^\]]*\]").unwrap());
        static GROUP: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)").unwrap());
        static NAME: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"\b([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:(\()|\{([^}]*)\})?").unwrap());
        static MATCHER: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r#"([a-zA-Z_]+)\s*(=~|!=|!~|=)\s*"([^"]*)""#).unwrap());
        let text = RANGE.replace_all(text, "");
        let groups = GROUP.captures_iter(&text).flat_map(|group| {
            let labels: Vec<String> = group[1].split(',').map(|label| label.trim().to_owned()).collect();
            labels
        });
        let grouped_by = groups.filter(|label| !label.is_empty()).collect();
        let text = GROUP.replace_all(&text, "");
        let is_metric = |name: &str| !["and", "or", "unless", "bool", "offset"].contains(&name);
        let named = NAME.captures_iter(&text).filter(|found| found.get(2).is_none() && is_metric(&found[1]));
        let selectors = named.map(|found| {
            let matchers = MATCHER.captures_iter(found.get(3).map_or("", |matchers| matchers.as_str()));
            let matchers = matchers.map(|matcher| {
                let is_equal = matcher[2].starts_with('=') && !matcher[3].contains('$');
                let values = if is_equal { matcher[3].split('|').map(str::to_owned).collect() } else { Vec::new() };
                (matcher[1].to_owned(), values)
            });
            (found[1].to_owned(), matchers.collect())
        });
        Self { selectors: selectors.collect(), grouped_by }
    }

    /// The labels that its answer has, if it asks for what there is.
    fn check(&self, samples: &Samples) -> Result<BTreeSet<String>, String> {
        let mut known: BTreeSet<String> = ["job", "instance"].map(str::to_owned).into();
        if self.selectors.is_empty() {
            return Err("it asks for nothing".to_owned());
        }
        for (name, matchers) in &self.selectors {
            let labels = samples.get(name).ok_or_else(|| format!("there is no {name}"))?;
            known.extend(labels.keys().cloned());
            for (label, values) in matchers {
                if !known.contains(label) {
                    return Err(format!("{name} has no label {label}"));
                }
                if OF_OTHERS.contains(&label.as_str()) {
                    continue;
                }
                if let Some(value) = values.iter().find(|value| !labels[label].contains(*value)) {
                    return Err(format!("{label} of {name} is never {value}"));
                }
            }
        }
        match self.grouped_by.iter().find(|label| !known.contains(*label)) {
            Some(label) => Err(format!("nothing in it has a label {label}")),
            None if self.grouped_by.is_empty() => Ok(known),
            None => Ok(self.grouped_by.iter().cloned().collect()),
        }
    }
}

/// The labels of what is told to people.
fn labels_told(told: &str) -> Vec<String> {
    static LABEL: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\{\{\s*(?:\$labels\.)?([a-z_]+)[^}]*\}\}|\$labels\.([a-z_]+)").unwrap());
    let labels = LABEL.captures_iter(told);
    labels.map(|found| found.get(1).or(found.get(2)).unwrap().as_str().to_owned()).collect()
}

/// What Prometheus itself makes.
fn with_prometheus_own(mut samples: Samples) -> Samples {
    samples.insert("up".to_owned(), BTreeMap::new());
    let of_alerts = ["alertname", "alertstate"].map(|label| (label.to_owned(), BTreeSet::new()));
    samples.insert("ALERTS".to_owned(), of_alerts.into());
    samples
}

fn check(expr: &str, told: &str, samples: &Samples) -> Result<BTreeSet<String>, String> {
    let known = Expression::read(expr).check(samples).map_err(|error| format!("{error}: {expr}"))?;
    match labels_told(told).into_iter().find(|label| !known.contains(label)) {
        Some(label) => Err(format!("{label} in {told:?} is no label of {expr}")),
        None => Ok(known),
    }
}

fn rules() -> Vec<Value> {
    list(&yaml(RULES)["groups"]).flat_map(|group| list(&group["rules"]).cloned().collect::<Vec<_>>()).collect()
}

/// All that the dashboard asks for, each with what it tells of the answer.
fn asked_by_dashboard(value: &Value, asked: &mut Vec<(String, String)>) {
    static LABEL_VALUES: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^label_values\((.*), ([a-z_]+)\)$").unwrap());
    match value {
        Value::Array(items) => items.iter().for_each(|item| asked_by_dashboard(item, asked)),
        Value::Object(fields) => {
            if let Some(Value::String(expr)) = fields.get("expr") {
                let told = fields.get("legendFormat").and_then(Value::as_str).unwrap_or_default();
                asked.push((expr.clone(), told.to_owned()));
            }
            if let Some(Value::String(query)) = fields.get("definition") {
                let found = LABEL_VALUES.captures(query).unwrap_or_else(|| panic!("{query}"));
                asked.push((found[1].to_owned(), format!("{{{{{}}}}}", &found[2])));
            }
            fields.values().for_each(|field| asked_by_dashboard(field, asked));
        }
        _ => {}
    }
}

fn asked_by_the_dashboard() -> Vec<(String, String)> {
    let mut asked = Vec::new();
    asked_by_dashboard(&serde_json::from_str(&text(DASHBOARD)).unwrap(), &mut asked);
    asked
}

#[tokio::test]
async fn alerts_and_dashboards_ask_for_what_is_measured() {
    let mut samples = with_prometheus_own(samples(&measured().await));
    let mut wrong = Vec::new();
    for rule in rules() {
        let annotations = rule["annotations"].as_object().into_iter().flatten();
        let told: String = annotations.map(|(_, told)| told.as_str().unwrap()).collect();
        match (check(rule["expr"].as_str().unwrap(), &told, &samples), rule["record"].as_str()) {
            // What is recorded can be asked for by the rules after it.
            (Ok(labels), Some(record)) => {
                let labels = labels.into_iter().map(|label| (label, BTreeSet::new())).collect();
                samples.insert(record.to_owned(), labels);
            }
            (Ok(_), None) => {}
            (Err(error), _) => wrong.push(error),
        }
    }
    let asked = asked_by_the_dashboard();
    assert!(asked.len() > 30, "{}", asked.len());
    wrong.extend(asked.iter().filter_map(|(expr, told)| check(expr, told, &samples).err()));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn what_is_not_measured_would_be_found() {
    let samples = with_prometheus_own(samples(&measured().await));
    let error =
        |expr: &str, told: &str| check(expr, told, &samples).unwrap_err().split(": ").next().unwrap().to_owned();
    assert_eq!(error("tierflow_generations == 0", ""), "there is no tierflow_generations");
    assert_eq!(error("rate(decisions_total[5m]) > 0", ""), "there is no decisions_total");
    assert_eq!(error("sum by (tenant) (tierflow_generation)", ""), "nothing in it has a label tenant");
    assert_eq!(
        error("sum(tierflow_decisions_total{tenant=\"acme\"})", ""),
        "tierflow_decisions_total has no label tenant"
    );
    assert_eq!(
        error("rate(tierflow_decisions_total{result=~\"ok|refused\"}[5m])", ""),
        "result of tierflow_decisions_total is never refused"
    );
    let expr = "up == 0";
    assert_eq!(
        error(expr, "{{ $labels.gateway }} is down"),
        "gateway in \"{{ $labels.gateway }} is down\" is no label of up == 0"
    );
    assert!(
        check(
            "sum by (le) (rate(tierflow_decision_seconds_bucket{job=~\"$job\"}[$__rate_interval]))",
            "{{le}}",
            &samples
        )
        .is_ok()
    );
}

fn promtool(args: &[&str], file: &Path) {
    let promtool = tools::promtool().unwrap_or_else(|error| panic!("{error}"));
    let output = Command::new(promtool).args(args).arg(file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {args:?} {}: {said}", file.display());
}

#[test]
fn prometheus_takes_the_rules_and_each_alert_fires_in_a_test_of_its_own() {
    promtool(&["check", "config"], &root().join(SCRAPING));
    promtool(&["test", "rules"], &root().join(RULES_TEST));
    let alerts: BTreeSet<String> = rules().iter().filter_map(|rule| Some(rule["alert"].as_str()?.to_owned())).collect();
    let fired: BTreeSet<String> = list(&yaml(RULES_TEST)["tests"])
        .flat_map(|test| test["alert_rule_test"].as_array().into_iter().flatten().cloned().collect::<Vec<_>>())
        .filter(|case| list(&case["exp_alerts"]).next().is_some())
        .map(|case| case["alertname"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(alerts, fired);
}

/// As rules they are read by who answers them.
#[test]
fn prometheus_understands_what_the_dashboard_asks() {
    let folder = tempfile::tempdir().unwrap();
    let record = |(number, (expr, _)): (usize, (String, String))| {
        let expr = expr.replace("$__rate_interval", "1m").replace("$job", ".*");
        serde_json::json!({ "record": format!("asked:{number}"), "expr": expr })
    };
    let rules: Vec<Value> = asked_by_the_dashboard().into_iter().enumerate().map(record).collect();
    let file: PathBuf = folder.path().join("rules.yaml");
    std::fs::write(&file, serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] }).to_string())
        .unwrap();
    promtool(&["check", "rules"], &file);
}
