//! The certificates that this process shows and trusts, and until when they are valid.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::metrics::{FileLabels, Metrics};
use crate::pem::PemFile;
use crate::shown;
use crate::x509::Described;

/// A certificate that ends within this time is a warning: long enough to have another one made.
pub const EXPIRING: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// So many names of a certificate are kept.
const NAMES_MAX: usize = 20;

/// By the flags that name their files.
#[derive(Debug, Default)]
pub struct Certificates {
    metrics: Arc<Metrics>,
    kept: Mutex<Vec<Certificate>>,
}

/// A file with certificates, as it was when it could last be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub flag: &'static str,
    pub path: PathBuf,
    /// As in [`Described`], of the first certificate of a chain, and of the authority that ends first.
    pub subject: String,
    /// The first of them.
    pub names: Vec<String>,
    pub names_more: usize,
    pub not_after: SystemTime,
    /// What the log was told of last.
    told: Validity,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A certificate and those between it and its authority. It is as good as the first of them that ends.
    Chain,
    /// Authorities, any of which may have signed. One that has ended is of no use, and does no harm beside others; of those
    /// that are left the first to end counts, for whoever has a certificate of it.
    Authorities,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Validity {
    Valid,
    /// It ends within [`EXPIRING`].
    Expiring,
    Expired,
}

impl Validity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Expiring => "expiring",
            Self::Expired => "expired",
        }
    }
}

impl Certificate {
    fn of(file: &PemFile, named: &Described, not_after: SystemTime) -> Self {
        let bounded = |text: &String| shown::bounded(text).into_owned();
        Self {
            flag: file.flag(),
            path: file.path().to_owned(),
            subject: bounded(&named.subject),
            names: named.names.iter().take(NAMES_MAX).map(bounded).collect(),
            names_more: named.names.len().saturating_sub(NAMES_MAX),
            not_after,
            told: Validity::Valid,
        }
    }

    pub fn validity(&self, now: SystemTime) -> Validity {
        // The last second is one of it (RFC 5280, section 4.1.2.5).
        match self.not_after.duration_since(now) {
            Err(_) => Validity::Expired,
            Ok(left) if left < EXPIRING => Validity::Expiring,
            Ok(_) => Validity::Valid,
        }
    }

    /// The days until it ends; less than zero since then.
    pub fn days_left(&self, now: SystemTime) -> f64 {
        let days = |duration: Duration| duration.as_secs_f64() / (24.0 * 60.0 * 60.0);
        match self.not_after.duration_since(now) {
            Ok(left) => days(left),
            Err(error) => -days(error.duration()),
        }
    }
}

impl Certificates {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, kept: Mutex::default() }
    }

    /// Takes in a file that is used now. One that cannot be read is the trouble of whoever uses it, and what was known of it
    /// stays.
    pub fn note(&self, file: &PemFile, holds: Holds, now: SystemTime) {
        let Ok(all) = file.described() else { return };
        let Some(certificate) =
            holds.shown(&all, now).map(|(named, not_after)| Certificate::of(file, named, not_after))
        else {
            return;
        };
        let not_after = certificate.not_after;
        let since_1970 = not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let label = FileLabels { file: file.flag().trim_start_matches('-') };
        let gauge = self.metrics.certificate_expiration.get_or_create_owned(&label);
        gauge.set(i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX));
        let mut kept = self.kept.lock();
        match kept.iter_mut().find(|certificate| certificate.flag == file.flag()) {
            Some(known) => *known = Certificate { told: known.told, ..certificate },
            None => kept.push(certificate),
        }
    }

    /// Reads a file again that is read anew whenever it is used.
    pub fn look(&self, flag: &'static str, path: &Path, holds: Holds, now: SystemTime) {
        if let Ok(file) = PemFile::read(flag, path) {
            self.note(&file, holds, now);
        }
    }

    /// Tells the log of each that has come to its last days or to its end, once.
    pub fn tell(&self, now: SystemTime) {
        for certificate in &mut *self.kept.lock() {
            let validity = certificate.validity(now);
            if std::mem::replace(&mut certificate.told, validity) >= validity {
                continue;
            }
            let (flag, path) = (certificate.flag, shown::path(&certificate.path));
            let not_after = humantime::format_rfc3339_seconds(certificate.not_after);
            match validity {
                Validity::Expired => tracing::error!("{flag} {path}: the certificate is not valid since {not_after}"),
                _ => tracing::warn!("{flag} {path}: the certificate is valid until {not_after} only"),
            }
        }
    }

    /// All of them, the first to end first.
    pub fn all(&self) -> Vec<Certificate> {
        let mut all = self.kept.lock().clone();
        all.sort_by_key(|certificate| (certificate.not_after, certificate.flag));
        all
    }
}

impl Holds {
    /// The moment at which a file is of no use any more, or of less. `None`: it cannot be read.
    pub fn end(self, file: &PemFile, now: SystemTime) -> Option<SystemTime> {
        self.shown(&file.described().ok()?, now).map(|(_, end)| end)
    }

    /// The certificate that the file is told by, and the moment at which the file is of no use any more, or of less.
    fn shown(self, all: &[Described], now: SystemTime) -> Option<(&Described, SystemTime)> {
        let end = |certificate: &&Described| certificate.not_after;
        match self {
            Self::Chain => Some((all.first()?, all.iter().min_by_key(end)?.not_after)),
            Self::Authorities => {
                let first_left = all.iter().filter(|certificate| certificate.not_after >= now).min_by_key(end);
                first_left.or(all.iter().max_by_key(end)).map(|certificate| (certificate, certificate.not_after))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::wall;
    use crate::made_certificates::{Authority, Certificate as Made, in_days};

    fn whole_seconds(time: SystemTime) -> u64 {
        time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
    }

    fn noted(texts: &[&str], holds: Holds) -> (Certificates, Option<u64>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tls.crt");
        std::fs::write(&path, texts.concat()).unwrap();
        let certificates = Certificates::default();
        certificates.look("--tls-cert", &path, holds, wall());
        let end = certificates.all().first().map(|certificate| whole_seconds(certificate.not_after));
        (certificates, end)
    }

    #[test]
    fn a_chain_ends_with_its_first_certificate_and_authorities_with_the_first_that_is_left() {
        let of = |end| Authority::until(end).pem();
        let [past, soon, late] = [wall() - Duration::from_secs(60), in_days(10), in_days(400)];
        let all = [of(late), of(past), of(soon)];
        let texts: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(noted(&texts, Holds::Chain).1, Some(whole_seconds(past)));
        assert_eq!(noted(&texts, Holds::Authorities).1, Some(whole_seconds(soon)));
        assert_eq!(noted(&[&of(past)], Holds::Authorities).1, Some(whole_seconds(past)));
        assert_eq!(noted(&["nonsense"], Holds::Chain).1, None);
    }

    #[test]
    fn the_last_thirty_days_are_a_warning_and_the_end_is_none() {
        let (certificates, _) = noted(&[&Authority::until(in_days(365)).pem()], Holds::Chain);
        let certificate = certificates.all().remove(0);
        let at = |time| certificate.validity(time);
        let end = certificate.not_after;
        assert_eq!(at(end - EXPIRING), Validity::Valid);
        assert_eq!(at(end - EXPIRING + Duration::from_secs(1)), Validity::Expiring);
        assert_eq!((at(end), at(end + Duration::from_secs(1))), (Validity::Expiring, Validity::Expired));
        let days = |time| certificate.days_left(time).round() as i64;
        assert_eq!((days(end - EXPIRING), days(end + EXPIRING)), (30, -30));
    }

    #[test]
    fn a_file_that_becomes_unreadable_stays_what_it_was_and_a_new_one_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let Made { certificate, key } = Authority::new().issue(&["edge.shop"], in_days(10));
        let certificates = Certificates::default();
        let path = folder.path().join("tls.crt");
        let put = |text: &str| {
            std::fs::write(&path, text).unwrap();
            certificates.look("--tls-cert", &path, Holds::Chain, wall());
            certificates.all()
        };
        let first = put(&certificate);
        assert_eq!(first.len(), 1);
        assert_eq!(put(&key), first);
        let renewed = put(&Authority::until(in_days(90)).pem());
        assert!(renewed.len() == 1 && renewed[0].not_after > first[0].not_after);
        let series = "tierflow_certificate_expiration_timestamp_seconds{file=\"tls-cert\"} ";
        let text = certificates.metrics.render();
        let value = text.lines().find_map(|line| line.strip_prefix(series)).unwrap().parse::<u64>().unwrap();
        assert_eq!(value, whole_seconds(renewed[0].not_after));
    }
}
