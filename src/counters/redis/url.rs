//! The URL of a store: one server, a master that Sentinels know, or a Cluster.

use std::fmt;
use std::str::FromStr;

const EXPECTED: &str = "expected memory, redis://HOST:PORT[/DB], redis+sentinel://HOST:PORT,HOST:PORT/MASTER[/DB] or \
                        redis+cluster://HOST:PORT,HOST:PORT, each with rediss instead of redis for TLS";
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// As in `rediss+sentinel://10.0.0.6:26379,10.0.0.7:26379/counters`. It has no password in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisUrl {
    pub form: RedisForm,
    pub is_tls: bool,
    pub database: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisForm {
    One(ServerAddress),
    Sentinel {
        sentinels: Vec<ServerAddress>,
        /// The name that the Sentinels know the master by.
        master: String,
    },
    Cluster {
        /// Some of its nodes, which know the others.
        nodes: Vec<ServerAddress>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerAddress {
    pub host: String,
    pub port: u16,
}

impl FromStr for RedisUrl {
    type Err = &'static str;

    /// The URL is in no error: it may have a password in it.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or(EXPECTED)?;
        let (tls, form) = scheme.split_once('+').map_or((scheme, None), |(tls, form)| (tls, Some(form)));
        let is_tls = match tls {
            "redis" => false,
            "rediss" => true,
            _ => return Err(EXPECTED),
        };
        if rest.contains(['?', '#']) {
            return Err("it has parameters, and there are none; flags say what else there is to say");
        }
        if rest.contains('@') {
            return Err("it names a user, whom every list of processes would show; use --counters-password-file");
        }
        let mut parts = rest.trim_end_matches('/').split('/');
        let servers = parts.next().unwrap_or_default();
        let servers = |port| servers.split(',').map(|text| ServerAddress::parse(text, port)).collect();
        let form = match form {
            None => match <[_; 1]>::try_from(Option::<Vec<_>>::ok_or(servers(PORT), EXPECTED)?) {
                Ok([server]) => RedisForm::One(server),
                Err(_) => return Err("it has several servers; expected redis+sentinel:// or redis+cluster://"),
            },
            Some("sentinel") => {
                let master = parts.next().filter(|master| !master.is_empty());
                let master =
                    master.ok_or("expected the name of the master, as in redis+sentinel://HOST:PORT/MASTER")?;
                let sentinels = Option::ok_or(servers(SENTINEL_PORT), EXPECTED)?;
                RedisForm::Sentinel { sentinels, master: master.to_owned() }
            }
            Some("cluster") => RedisForm::Cluster { nodes: Option::ok_or(servers(PORT), EXPECTED)? },
            Some(_) => return Err(EXPECTED),
        };
        let database = parts.next().map_or(Ok(0), str::parse).map_err(|_| "expected the number of a database")?;
        match form {
            _ if parts.next().is_some() => Err(EXPECTED),
            RedisForm::Cluster { .. } if database != 0 => Err("a Cluster has no databases but 0"),
            form => Ok(Self { form, is_tls, database }),
        }
    }
}

impl RedisUrl {
    /// All that it names.
    pub fn servers(&self) -> &[ServerAddress] {
        match &self.form {
            RedisForm::One(server) => std::slice::from_ref(server),
            RedisForm::Sentinel { sentinels: servers, .. } | RedisForm::Cluster { nodes: servers } => servers,
        }
    }
}

impl ServerAddress {
    fn parse(text: &str, default_port: u16) -> Option<Self> {
        let is_ipv6_alone = text.starts_with('[') && text.ends_with(']');
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !is_ipv6_alone => (host, port.parse().ok()?),
            _ => (text, default_port),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_well_formed = !host.is_empty() && port != 0 && host.bytes().all(|b| b.is_ascii_graphic());
        is_well_formed.then(|| Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = match self.form {
            RedisForm::One(_) => "",
            RedisForm::Sentinel { .. } => "+sentinel",
            RedisForm::Cluster { .. } => "+cluster",
        };
        let servers: Vec<_> = self.servers().iter().map(ServerAddress::to_string).collect();
        write!(f, "redis{}{form}://{}", if self.is_tls { "s" } else { "" }, servers.join(","))?;
        if let RedisForm::Sentinel { master, .. } = &self.form {
            write!(f, "/{master}")?;
        }
        if self.database > 0 { write!(f, "/{}", self.database) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_and_written_alike() {
        for text in [
            "redis://10.0.0.6:6379",
            "rediss://store.internal:6380/2",
            "redis://[::1]:7000",
            "redis+sentinel://10.0.0.6:26379,10.0.0.7:26379/counters",
            "redis+cluster://10.0.0.6:6379,10.0.0.7:6379",
            "rediss+cluster://a:1",
            "rediss+sentinel://[fd00::1]:26379,b:26379/counters/3",
        ] {
            assert_eq!(text.parse::<RedisUrl>().map(|url| url.to_string()).as_deref(), Ok(text));
        }
        let with_port = |text: &str| text.parse::<RedisUrl>().map(|url| url.to_string());
        assert_eq!(with_port("redis://a/").as_deref(), Ok("redis://a:6379"));
        assert_eq!(with_port("redis+sentinel://a,[::1]/m").as_deref(), Ok("redis+sentinel://a:26379,[::1]:26379/m"));
    }

    #[test]
    fn a_url_that_cannot_be_meant_is_refused_without_being_repeated() {
        for (text, expected) in [
            ("", "expected memory"),
            ("memcached://a:1", "expected memory"),
            ("unix:///tmp/redis", "expected memory"),
            ("redis+ring://a:1", "expected memory"),
            ("redis://", "expected memory"),
            ("redis://a:0", "expected memory"),
            ("redis://a:b", "expected memory"),
            ("redis://a:1/2/3", "expected memory"),
            ("redis://a:1/x", "number of a database"),
            ("redis://a:1,b:2", "expected redis+sentinel://"),
            ("redis://tierflow:s3cr3t@a:1", "use --counters-password-file"),
            ("redis://a:1?password=s3cr3t", "it has parameters"),
            ("redis+sentinel://a:1,b:2", "name of the master"),
            ("redis+sentinel://a:1,/m", "expected memory"),
            ("redis+sentinel://a:1/m/x", "number of a database"),
            ("redis+cluster://a:1/1", "no databases but 0"),
        ] {
            let error = text.parse::<RedisUrl>().unwrap_err();
            assert!(error.contains(expected) && !error.contains("s3cr3t"), "{text}: {error}");
        }
    }
}
