//! Networks and addresses as a configuration writes them.

use ipnet::IpNet;
use std::net::IpAddr;
use url::Url;

/// An address or a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network(IpNet);

impl Network {
    /// `10.0.0.7` or `10.0.0.0/24`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        address.or_else(|_| text.parse()).ok().map(Network)
    }

    /// Whether `address` lies in it.
    pub(crate) fn holds(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

/// The address of a stage's pages: `127.0.0.1:9464` or `http://stage:9464`, without user and
/// password.
pub(crate) fn stage_url(text: &str) -> Option<Url> {
    let whole = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    let url = Url::parse(&whole).ok()?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    let web = matches!(url.scheme(), "http" | "https") && url.has_host();
    (plain && web && !text.is_empty()).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_what_lies_in_them() {
        let network = Network::parse("10.0.0.0/24").unwrap();
        assert!(network.holds("10.0.0.9".parse().unwrap()));
        assert!(
            network.holds("::ffff:10.0.0.9".parse().unwrap()),
            "the same by IPv6"
        );
        assert!(!network.holds("10.0.1.9".parse().unwrap()));
        assert!(
            Network::parse("10.0.0.7")
                .unwrap()
                .holds("10.0.0.7".parse().unwrap())
        );
        for wrong in ["", "proxy", "10.0.0.0/33", "10.0.0"] {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn stages_are_named_by_address() {
        assert_eq!(
            stage_url("127.0.0.1:9464").unwrap().as_str(),
            "http://127.0.0.1:9464/"
        );
        assert_eq!(
            stage_url("https://s:1/a").unwrap().as_str(),
            "https://s:1/a"
        );
        for wrong in [
            "",
            "ftp://a",
            "http://",
            "http://me:pass@a",
            "file:///etc",
            "a b",
        ] {
            assert_eq!(stage_url(wrong), None, "{wrong}");
        }
    }
}
