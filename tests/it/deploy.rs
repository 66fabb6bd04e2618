//! The examples of how Tierflow is run: they name flags, ports and paths that it has, and what looks at them beforehand takes them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use regex::Regex;
use serde_json::{Value, json};
use tierflow::serve::GRACE;

use crate::harness::{Tierflow, printed};
use crate::kit::tools;

/// The port of each listener as it is without a flag, and all flags of `serve`.
struct Help {
    flags: BTreeSet<String>,
    ports: BTreeMap<String, u64>,
    drain_time: Duration,
}

impl Help {
    fn of_serve() -> Self {
        let help = printed(&["serve", "--help"]);
        let flag = Regex::new(r"(?m)^\s+(?:-\w, )?--([a-z-]+)").unwrap();
        let listen = Regex::new(r"(?s)--(xds|rls|admin)-listen <HOST:PORT>.*?\[default:\s+[0-9.]+:(\d+)\]").unwrap();
        let drain_time = Regex::new(r"(?s)--drain-time <DURATION>.*?\[default:\s+(\S+)\]").unwrap();
        let drain_time = &drain_time.captures(&help).unwrap_or_else(|| panic!("{help}"))[1];
        Self {
            drain_time: humantime::parse_duration(drain_time).unwrap(),
            flags: flag.captures_iter(&help).map(|flag| flag[1].to_owned()).collect(),
            ports: listen.captures_iter(&help).map(|found| (found[1].to_owned(), found[2].parse().unwrap())).collect(),
        }
    }

    /// How long it takes to end once it is told to, and some seconds for a machine that is busy then.
    fn ends_within(&self) -> Duration {
        self.drain_time + GRACE + Duration::from_secs(5)
    }

    /// `serve` and its flags, by their names.
    fn check<'a>(&self, mut args: impl Iterator<Item = &'a str>) {
        assert_eq!(args.next(), Some("serve"));
        let mut count = 0;
        for arg in args {
            let flag = arg.strip_prefix("--").and_then(|flag| flag.split('=').next());
            assert!(flag.is_some_and(|flag| self.flags.contains(flag)), "{arg} is no flag of serve");
            count += 1;
        }
        assert!(count > 0);
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(file: &str) -> String {
    std::fs::read_to_string(root().join("examples").join(file)).unwrap()
}

/// What a unit says, without its comments.
fn settings(unit: &str) -> Vec<(&str, &str)> {
    unit.lines().filter(|line| !line.starts_with(['#', '['])).filter_map(|line| line.split_once('=')).collect()
}

#[test]
fn the_unit_starts_it_with_flags_that_it_has() {
    let unit = text("systemd/tierflow.service");
    let settings = settings(&unit);
    let of = |name: &str| settings.iter().find_map(|(own, value)| (*own == name).then_some(*value));
    let mut command = of("ExecStart").unwrap().split(' ');
    assert_eq!(command.next(), Some("/usr/local/bin/tierflow"));
    let help = Help::of_serve();
    help.check(command);
    // Whoever is killed before has cut off calls.
    let stops_within = humantime::parse_duration(of("TimeoutStopSec").unwrap()).unwrap();
    assert!(stops_within >= help.ends_within(), "{stops_within:?}");
    assert_eq!((of("Type"), of("WatchdogSec"), of("DynamicUser")), (Some("notify"), Some("30s"), Some("yes")));
    // What it writes is below what it may write.
    for (flag, folder) in [("--state-dir=/var/lib/", "StateDirectory"), ("--audit-log=/var/log/", "LogsDirectory")] {
        assert!(of("ExecStart").unwrap().contains(&format!("{flag}{}", of(folder).unwrap())), "{folder}");
    }
}

#[test]
fn systemd_takes_the_unit_and_finds_little_that_it_may_do() {
    let folder = tempfile::tempdir().unwrap();
    // systemd looks whether the program is there.
    let unit = text("systemd/tierflow.service").replace("/usr/local/bin/tierflow", env!("CARGO_BIN_EXE_tierflow"));
    let file = folder.path().join("tierflow.service");
    std::fs::write(&file, unit).unwrap();
    let analyze = |args: &[&str]| {
        let mut command = tools::systemd_analyze().unwrap_or_else(|error| panic!("{error}"));
        let output = command.args(args).arg("--man=no").arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "systemd-analyze {args:?}: {said}");
        said
    };
    // It goes on after lines that it does not know, and says so.
    assert_eq!(analyze(&["verify"]), "");
    // Of 10 for a service that may do everything: what remains is that it talks to the network.
    analyze(&["security", "--offline=true", "--threshold=15", "--no-pager"]);
}

/// The instructions, in their order, with the lines of each put together.
fn instructions(containerfile: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = containerfile.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    joined.lines().filter_map(|line| line.split_once(' ')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

#[test]
fn the_container_holds_a_program_that_is_nobody_and_names_its_ports_and_flags() {
    let instructions = instructions(&text("container/Containerfile"));
    let last = instructions.iter().rposition(|(name, _)| name == "FROM").unwrap();
    let image = &instructions[last..];
    assert_eq!(image[0].1, "scratch");
    let of = |name: &str| image.iter().find_map(|(own, value)| (own == name).then(|| value.clone())).unwrap();
    let (user, group) = of("USER").split_once(':').map(|(u, g)| (u.parse::<u32>(), g.parse::<u32>())).unwrap();
    assert!(user.unwrap() > 0 && group.unwrap() > 0);
    // There is no shell: programs are named with their arguments.
    let words = |name: &str| serde_json::from_str::<Vec<String>>(&of(name)).unwrap();
    assert_eq!(words("ENTRYPOINT"), ["/tierflow"]);
    assert!(
        image.iter().any(|(name, to)| name == "COPY" && to.ends_with(" /tierflow"))
            && !image.iter().any(|(name, _)| name == "RUN")
    );
    let help = Help::of_serve();
    help.check(words("CMD").iter().map(String::as_str));
    let exposed: Vec<u64> = of("EXPOSE").split(' ').map(|port| port.parse().unwrap()).collect();
    assert_eq!(exposed, ["xds", "rls", "admin"].map(|port| help.ports[port]));
    let build = instructions.iter().find(|(name, what)| name == "RUN" && what.contains("cargo build")).unwrap();
    assert!(text("../Cargo.toml").contains("\n[profile.dist]\n") && build.1.contains("--profile dist"));
    // What is told of the commit gets as far as the build.
    assert!(text("../build.rs").contains("\"TIERFLOW_COMMIT\""));
    assert!(instructions.contains(&("ENV".to_owned(), "TIERFLOW_COMMIT=$COMMIT".to_owned())));
}

/// What is applied, by its kind.
fn objects() -> BTreeMap<String, Value> {
    let kustomization: Value = serde_yaml::from_str(&text("kubernetes/kustomization.yaml")).unwrap();
    let files = kustomization["resources"].as_array().unwrap().iter().map(|file| file.as_str().unwrap().to_owned());
    let objects: BTreeMap<String, Value> = files
        .map(|file| {
            let object: Value = serde_yaml::from_str(&text(&format!("kubernetes/{file}"))).unwrap();
            (object["kind"].as_str().unwrap().to_owned(), object)
        })
        .collect();
    let in_folder = std::fs::read_dir(root().join("examples/kubernetes")).unwrap().count();
    assert_eq!(objects.len() + 1, in_folder, "a file is in no list, or two are of one kind");
    objects
}

fn items(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("a list: {value}"))
}

#[test]
fn the_pods_are_started_with_flags_and_ports_that_it_has() {
    let objects = objects();
    let pod = &objects["Deployment"]["spec"]["template"]["spec"];
    let [container] = items(&pod["containers"]) else { panic!("one container: {pod}") };
    let help = Help::of_serve();
    let args: Vec<&str> = items(&container["args"]).iter().map(|arg| arg.as_str().unwrap()).collect();
    help.check(args.iter().copied());
    let ports = items(&container["ports"]).iter();
    let ports: BTreeMap<String, u64> = ports
        .map(|port| (port["name"].as_str().unwrap().to_owned(), port["containerPort"].as_u64().unwrap()))
        .collect();
    assert_eq!(ports, help.ports);
    assert!(args.contains(&format!("--admin-listen=0.0.0.0:{}", ports["admin"]).as_str()), "probes reach it");
    // The name that Envoys are told is that of the service, and its port that of decisions.
    let service = &objects["Service"];
    let namespace = objects["Namespace"]["metadata"]["name"].as_str().unwrap();
    let name = service["metadata"]["name"].as_str().unwrap();
    let advertised = format!("--rls-advertise={name}.{namespace}.svc:{}", ports["rls"]);
    assert!(args.contains(&advertised.as_str()), "{advertised}");
    for port in items(&service["spec"]["ports"]) {
        assert_eq!(port["port"], ports[port["targetPort"].as_str().unwrap()]);
    }
    // More than one of them needs counters that they share.
    assert!(objects["Deployment"]["spec"]["replicas"].as_u64() > Some(1));
    assert!(args.iter().any(|arg| arg.starts_with("--counters=redis://")));
    // All that is written is in volumes, for nothing else can be.
    let mounted: Vec<&str> =
        items(&container["volumeMounts"]).iter().map(|m| m["mountPath"].as_str().unwrap()).collect();
    assert_eq!(mounted, ["/policies", "/state"]);
    assert!(args.contains(&"--policies=/policies") && args.contains(&"--state-dir=/state"));
    let volumes = items(&pod["volumes"]).iter().find_map(|volume| volume["configMap"]["name"].as_str());
    assert_eq!(volumes, objects["ConfigMap"]["metadata"]["name"].as_str());
}

#[test]
fn the_pods_have_no_rights_and_the_time_to_end() {
    let objects = objects();
    let pod = &objects["Deployment"]["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let rights = json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
    });
    assert_eq!(container["securityContext"], rights);
    assert_eq!(
        (&pod["securityContext"]["runAsNonRoot"], &pod["automountServiceAccountToken"]),
        (&json!(true), &json!(false))
    );
    let user = format!("USER {}:{}", pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]);
    assert!(text("container/Containerfile").contains(&user), "{user}");
    // The signal comes when `preStop` is over.
    let seconds = |value: &Value| Duration::from_secs(value.as_u64().unwrap());
    let pause = seconds(&container["lifecycle"]["preStop"]["sleep"]["seconds"]);
    assert!(seconds(&pod["terminationGracePeriodSeconds"]) >= pause + Help::of_serve().ends_within());
    // Everything that selects pods selects these.
    let labels = &objects["Deployment"]["spec"]["template"]["metadata"]["labels"];
    let selectors = [
        &objects["Deployment"]["spec"]["selector"]["matchLabels"],
        &objects["Service"]["spec"]["selector"],
        &objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        &objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ];
    assert!(selectors.iter().all(|selector| *selector == labels), "{selectors:?}");
    let named = items(&container["ports"]).iter().map(|port| port["name"].as_str().unwrap());
    let let_in = items(&objects["NetworkPolicy"]["spec"]["ingress"]).iter().flat_map(|rule| items(&rule["ports"]));
    assert_eq!(named.collect::<Vec<_>>(), let_in.map(|port| port["port"].as_str().unwrap()).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_policies_of_the_pods_are_served_and_what_probes_ask_is_answered() {
    static KIND: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?m)^kind: ").unwrap());
    let objects = objects();
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    let mut documents = 0;
    for (file, content) in objects["ConfigMap"]["data"].as_object().unwrap() {
        let content = content.as_str().unwrap();
        documents += KIND.find_iter(content).count();
        std::fs::write(policies.join(file), content).unwrap();
    }
    let tierflow = Tierflow::start(&policies).await;
    let status = tierflow.status().await;
    assert_eq!((&status["documents"], &status["refused"]), (&json!(documents), &json!([])), "{status}");
    let container = &objects["Deployment"]["spec"]["template"]["spec"]["containers"][0];
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let asked = &container[probe]["httpGet"];
        assert_eq!(asked["port"], "admin");
        assert_eq!(tierflow.ask(asked["path"].as_str().unwrap()).await.status, 200, "{probe}");
    }
}
