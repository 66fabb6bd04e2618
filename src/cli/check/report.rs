//! Problems in the forms that other programs read.

use serde_json::{Value, json};

use crate::cli::server::encoded;
use crate::policy::problem::Problem;

pub(super) fn json(problem: &Problem) -> Value {
    json!({
        "file": problem.origin.shown_container(),
        "line": line(problem),
        "column": problem.place.as_ref().map(|place| place.column),
        "end_column": problem.place.as_ref().map(|place| place.column + place.width),
        "document": problem.document.as_ref().map(ToString::to_string),
        "path": problem.path,
        "message": problem.message,
        "help": problem.help,
    })
}

/// A workflow command (GitHub, "Workflow commands for GitHub Actions").
pub(super) fn github(problem: &Problem) -> String {
    let mut properties =
        vec![("file", problem.origin.shown_container().to_string()), ("line", line(problem).to_string())];
    if let Some(place) = &problem.place {
        properties.push(("col", place.column.to_string()));
        properties.push(("endColumn", (place.column + place.width).to_string()));
    }
    let escaped = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property =
        |(name, value): (&str, String)| format!("{name}={}", escaped(&value).replace(':', "%3A").replace(',', "%2C"));
    let properties: Vec<String> = properties.into_iter().map(property).collect();
    format!("::error {}::{}\n", properties.join(","), escaped(&text(problem)))
}

/// A log of one run (OASIS SARIF 2.1.0).
pub(super) fn sarif(problems: &[Problem]) -> Value {
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "tierflow", "version": env!("CARGO_PKG_VERSION") } },
            "columnKind": "unicodeCodePoints",
            "results": problems.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}

fn result(problem: &Problem) -> Value {
    let mut region = json!({ "startLine": line(problem) });
    if let (Some(place), Some(region)) = (&problem.place, region.as_object_mut()) {
        region.insert("startColumn".to_owned(), place.column.into());
        region.insert("endColumn".to_owned(), (place.column + place.width).into());
    }
    let file = problem.origin.shown_container();
    let uri: Vec<String> = file.split('/').map(encoded).collect();
    json!({
        "level": "error",
        "message": { "text": text(problem) },
        "locations": [{ "physicalLocation": { "artifactLocation": { "uri": uri.join("/") }, "region": region } }],
    })
}

fn line(problem: &Problem) -> u32 {
    problem.place.as_ref().map_or_else(|| problem.origin.first_line(), |place| place.line)
}

fn text(problem: &Problem) -> String {
    let help = problem.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
    format!("{}{help}", problem.title())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::try_build;
    use crate::compile::RateLimitService;
    use crate::document::{Documents, split};
    use crate::names::Revision;

    fn problems(file: &str, text: &str) -> Vec<Problem> {
        let documents = Documents::new(Revision::default(), split(&file.into(), text.as_bytes()));
        try_build(&documents, RateLimitService::default()).unwrap_err()
    }

    const BROKEN: &str = "{kind: Plan, name: a, limits: [{rate: often}]}\n---\n{kind: Tenant, name: t, plan: gld}\n---\n{kind: Plan, name: gold, limits: [{rate: 1/m}]}\n";

    #[test]
    fn a_problem_has_its_file_and_place_in_each_form() {
        let problems = problems("policies/a b.yaml", BROKEN);
        let told: Vec<Value> = problems.iter().map(json).collect();
        let place = |told: &Value| ["line", "column", "end_column"].map(|field| told[field].as_u64().unwrap());
        assert_eq!(place(&told[0]), [1, 39, 44]);
        assert_eq!(told[0]["file"], "policies/a b.yaml");
        assert_eq!((&told[0]["document"], &told[0]["path"]), (&json!("Plan a"), &json!("limits[0].rate")));
        assert_eq!(told[1]["help"], "did you mean \"gold\"?");
        let annotation = github(&problems[1]);
        let expected = "::error file=policies/a b.yaml,line=3,col=31,endColumn=34::Tenant t, plan: no Plan is called \"gld\" (did you mean \"gold\"?)\n";
        assert_eq!(annotation, expected);
        let log = sarif(&problems);
        let location = &log["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
        assert_eq!(location["artifactLocation"]["uri"], "policies/a%20b.yaml");
        assert_eq!(location["region"], json!({ "startLine": 1, "startColumn": 39, "endColumn": 44 }));
        assert_eq!(log["runs"][0]["results"].as_array().unwrap().len(), problems.len());
    }

    #[test]
    fn no_name_of_a_file_begins_another_property_or_command() {
        let annotation = github(&problems("a,line=9::b%\n.yaml", BROKEN)[0]);
        assert!(annotation.starts_with("::error file=a%2Cline=9%3A%3Ab%25"), "{annotation}");
        assert_eq!(annotation.lines().count(), 1);
    }
}
