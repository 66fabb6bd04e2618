//! The certificates that may have a gateway.

use std::sync::Arc;

use super::problem::Findings;
use crate::names::certificate::San;

/// Each is compared with each name of a certificate, with every decision.
const IDENTITIES_MAX: usize = 64;

pub(super) fn read(raw: Option<&[String]>, findings: &mut Findings) -> Option<Arc<[San]>> {
    if raw.is_some_and(<[String]>::is_empty) {
        findings.say("is empty: expected at least one entry".to_owned());
        return None;
    }
    let raw = raw.unwrap_or_default();
    if raw.len() > IDENTITIES_MAX {
        findings.say(format!("has {} entries, expected at most {IDENTITIES_MAX}", raw.len()));
        return None;
    }
    let mut identities = Vec::new();
    for (index, text) in raw.iter().enumerate() {
        findings.within(index, |findings| match San::parse(text) {
            Some(san) if identities.contains(&san) => findings.say(format!("{san} stands twice")),
            Some(san) => identities.push(san),
            None => refuse(text, findings),
        });
    }
    (identities.len() == raw.len()).then(|| identities.into())
}

fn refuse(text: &str, findings: &mut Findings) {
    let message = format!("found {text:?}, expected {}", San::EXPECTED);
    match meant(text) {
        Some(meant) => findings.say_with_help(message, format!("did you mean {meant:?}?")),
        None if text.contains('*') => {
            findings
                .say_with_help(message, "a certificate has one of these names as it is: none is a pattern".to_owned());
        }
        None => findings.say(message),
    }
}

/// What tools print before a name, slashes too many or too few, and capital letters where SPIFFE has none.
fn meant(text: &str) -> Option<String> {
    let text = text.trim();
    let text = text.split_once(':').filter(|(label, _)| is_label(label)).map_or(text, |(_, name)| name);
    let text = text.trim_end_matches(['/', '.']);
    let spiffe = text.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("spiffe:")).and_then(|_| text.get(7..));
    let meant = match spiffe.map(|rest| rest.trim_start_matches('/')) {
        Some(rest) => {
            let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!("spiffe://{}{path}", trust_domain.to_ascii_lowercase())
        }
        None => text.to_owned(),
    };
    San::parse(&meant).map(|_| meant)
}

fn is_label(text: &str) -> bool {
    ["uri", "dns"].iter().any(|label| text.eq_ignore_ascii_case(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(texts: &[&str]) -> Result<Vec<String>, Vec<(String, Option<String>)>> {
        let mut findings = Findings::default();
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let read = read(Some(&texts), &mut findings);
        let found = findings
            .into_inner()
            .into_iter()
            .map(|finding| (format!("{} {}", finding.path, finding.message).trim().to_owned(), finding.help));
        read.map(|sans| sans.iter().map(ToString::to_string).collect()).ok_or_else(|| found.collect())
    }

    #[test]
    fn identities_are_uris_and_dns_names() {
        let good = ["spiffe://shop/edge", "edge.shop.internal"];
        assert_eq!(read_all(&good).unwrap(), good);
        assert_eq!(read(None, &mut Findings::default()).as_deref(), Some(&[][..]));
    }

    #[test]
    fn what_somebody_meant_is_told_where_it_is_near() {
        for (written, expected) in [
            ("URI:spiffe://shop/edge", "spiffe://shop/edge"),
            ("dns:edge.shop", "edge.shop"),
            ("spiffe:/shop/edge", "spiffe://shop/edge"),
            ("Spiffe://Shop/Edge/", "spiffe://shop/Edge"),
            (" edge.shop. ", "edge.shop"),
        ] {
            let problems = read_all(&[written]).unwrap_err();
            assert_eq!(problems[0].1.as_deref(), Some(&*format!("did you mean {expected:?}?")), "{written}");
        }
        let (message, help) = read_all(&["*.shop"]).unwrap_err().remove(0);
        assert_eq!(message, format!("[0] found \"*.shop\", expected {}", San::EXPECTED));
        assert!(help.unwrap().ends_with("none is a pattern"));
        assert_eq!(read_all(&["CN=edge"]).unwrap_err()[0].1, None);
    }

    #[test]
    fn each_stands_once_and_they_have_a_bound() {
        let twice = read_all(&["edge.shop", "a.shop", "Edge.shop"]).unwrap_err();
        assert_eq!(twice, [("[2] Edge.shop stands twice".to_owned(), None)]);
        assert_eq!(read_all(&[]).unwrap_err()[0].0, "is empty: expected at least one entry");
        let names = |count: usize| (0..count).map(|n| format!("edge-{n}")).collect::<Vec<_>>();
        let all = |count| read_all(&names(count).iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(all(IDENTITIES_MAX).unwrap().len(), IDENTITIES_MAX);
        assert_eq!(all(IDENTITIES_MAX + 1).unwrap_err()[0].0, "has 65 entries, expected at most 64");
    }
}
