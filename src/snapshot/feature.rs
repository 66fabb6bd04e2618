//! What of a group's resources not every Envoy knows. `compile` says it with the resources, `xds` compares it with the
//! version that an Envoy reports of itself, and `admin` tells the operator.

use std::fmt;

/// More documents that lead to one feature than anybody reads.
const DOCUMENTS_MAX: usize = 16;

/// A release of Envoy. Fields come with these, and not with patches of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EnvoyVersion {
    pub major: u32,
    pub minor: u32,
}

/// Something of Envoy's that has not always been there.
#[derive(Debug, PartialEq, Eq)]
pub struct Feature {
    pub name: &'static str,
    pub since: EnvoyVersion,
    pub older: Older,
}

/// The fate of a feature on an Envoy that does not know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Older {
    /// The Envoy refuses the resource, and goes on with what it had.
    Refuses,
    /// The Envoy takes the resource, and passes over the field.
    Ignores,
}

/// A feature that a group's resources have, and where it comes from.
#[derive(Debug, PartialEq, Eq)]
pub struct Need {
    pub feature: &'static Feature,
    /// As in `Api order-create`; the first of them.
    pub documents: Vec<String>,
    /// The number of further documents.
    pub others: usize,
}

impl EnvoyVersion {
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// `1.36.4`. What else a node calls itself is no version of an Envoy.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(str::parse);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok::<u32, _>(_))) => Some(Self { major, minor }),
            _ => None,
        }
    }
}

impl fmt::Display for EnvoyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Older {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refuses => "refuses",
            Self::Ignores => "ignores",
        }
    }
}

impl Need {
    /// `None` where no document needs it.
    pub fn new(feature: &'static Feature, documents: impl IntoIterator<Item = String>) -> Option<Self> {
        let mut documents = documents.into_iter();
        let first: Vec<String> = documents.by_ref().take(DOCUMENTS_MAX).collect();
        (!first.is_empty()).then(|| Self { feature, documents: first, others: documents.count() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        let parse = |text| EnvoyVersion::parse(text).unwrap();
        assert!(parse("1.9.10") < parse("1.36.4") && parse("1.40.0") < parse("2.0.0"));
        assert_eq!(parse("1.36.4"), parse("1.36.0"));
        for other in ["", "1", "1.36", "grpc-go", "1.36.x", "v1.36.4"] {
            assert_eq!(EnvoyVersion::parse(other), None, "{other}");
        }
    }

    #[test]
    fn of_many_documents_the_first_are_named_and_the_others_counted() {
        static FEATURE: Feature = Feature { name: "f", since: EnvoyVersion::new(1, 40), older: Older::Refuses };
        let need = Need::new(&FEATURE, (0..20).map(|n| format!("Api a{n}"))).unwrap();
        assert_eq!((need.documents.len(), need.others), (DOCUMENTS_MAX, 4));
        assert_eq!(Need::new(&FEATURE, []), None);
    }
}
