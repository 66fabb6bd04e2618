//! From a thousand policies that an Envoy does not take to the few fields that it does not take.

use serde_json::Value;

use super::{Judge, Set};

/// The smallest part of the sets that is still refused, and why.
pub(super) fn shrunk(judge: &Judge<'_>, sets: &[Set], said: &str) -> String {
    let Some(set) = refused_one(judge, sets) else {
        return format!("an Envoy takes each of the sets and not all together: {said}");
    };
    let smallest = without_fields(judge, without_documents(judge, set));
    // Before it comes to the point, Envoy may quote all that it was given.
    let said: Vec<String> =
        judge.judge(std::slice::from_ref(&smallest)).unwrap_err().lines().map(str::to_owned).collect();
    let said = said[said.len().saturating_sub(10)..].join("\n");
    let documents: Vec<String> = smallest.documents.iter().map(|drawn| drawn.json.to_string()).collect();
    format!("check passes these, and Envoy does not take them:\n{}\n{said}", documents.join("\n---\n"))
}

fn refused_one(judge: &Judge<'_>, sets: &[Set]) -> Option<Set> {
    let (mut refused, mut is_known) = (sets, false);
    while refused.len() > 1 || !is_known {
        let (left, right) = refused.split_at(refused.len() / 2);
        let half = [left, right].into_iter().find(|half| !half.is_empty() && judge.judge(half).is_err())?;
        (refused, is_known) = (half, true);
        if half.len() == 1 {
            break;
        }
    }
    refused.first().cloned()
}

fn is_refused(judge: &Judge<'_>, set: &Set) -> bool {
    set.build().is_ok() && judge.judge(std::slice::from_ref(set)).is_err()
}

fn without_documents(judge: &Judge<'_>, mut set: Set) -> Set {
    let mut index = set.documents.len();
    while index > 0 {
        index -= 1;
        let mut smaller = set.clone();
        smaller.documents.remove(index);
        if is_refused(judge, &smaller) {
            // What was kept only for the sake of this one may go now.
            index = smaller.documents.len();
            set = smaller;
        }
    }
    set
}

fn without_fields(judge: &Judge<'_>, mut set: Set) -> Set {
    for document in 0..set.documents.len() {
        let mut kept = Vec::new();
        while let Some(pointer) = pointers(&set.documents[document].json).into_iter().find(|p| !kept.contains(p)) {
            let mut smaller = set.clone();
            take_out(&mut smaller.documents[document].json, &pointer);
            match is_refused(judge, &smaller) {
                true => set = smaller,
                false => kept.push(pointer),
            }
        }
    }
    set
}

/// Every field and element below a value, those above before those below.
fn pointers(value: &Value) -> Vec<String> {
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(key, child)| (escaped(key), child)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(index, child)| (index.to_string(), child)).collect(),
        _ => Vec::new(),
    };
    let mut all: Vec<String> = children.iter().map(|(key, _)| format!("/{key}")).collect();
    for (key, child) in children {
        all.extend(pointers(child).into_iter().map(|below| format!("/{key}{below}")));
    }
    all
}

fn take_out(value: &mut Value, pointer: &str) {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    match value.pointer_mut(parent) {
        Some(Value::Object(fields)) => drop(fields.remove(&last.replace("~1", "/").replace("~0", "~"))),
        Some(Value::Array(items)) => drop(items.remove(last.parse().unwrap())),
        _ => {}
    }
}
