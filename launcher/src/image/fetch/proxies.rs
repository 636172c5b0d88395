//! Which proxy a URL is fetched through: `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`,
//! lower case over upper case. As others read them: `no_proxy` is a list, separated by commas, of
//! host names (with all hosts below them), addresses, address ranges, each with a port if need be,
//! or `*`. Pure.

use std::net::IpAddr;

use super::url::Url;

/// The proxies of an environment.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<String>,
    https: Option<String>,
    none: Vec<String>,
}

/// They may hold passwords.
impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxies").finish_non_exhaustive()
    }
}

impl Proxies {
    /// Reads them out of the environment.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let one = |name: &str| {
            let value = variable(name).or_else(|| variable(&name.to_ascii_uppercase()));
            value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let all = one("all_proxy");
        let none = one("no_proxy").unwrap_or_default();
        let none = none.split(',').map(|entry| entry.trim().to_ascii_lowercase());
        Self {
            http: one("http_proxy").or_else(|| all.clone()),
            https: one("https_proxy").or(all),
            none: none.filter(|entry| !entry.is_empty()).collect(),
        }
    }

    /// The proxy for `url`, as it was written.
    pub fn of(&self, url: &Url) -> Option<&str> {
        let proxy = if url.secure { &self.https } else { &self.http };
        let excepted = || self.none.iter().any(|entry| covers(entry, url));
        proxy.as_deref().filter(|_| !excepted())
    }
}

/// Whether an entry of `no_proxy` covers a URL.
fn covers(entry: &str, url: &Url) -> bool {
    if entry == "*" {
        return true;
    }
    let host = url.host();
    let address: Option<IpAddr> = host.parse().ok();
    if let Some(address) = address {
        let bare = entry.trim_start_matches('[').trim_end_matches(']');
        if let Ok(entry) = bare.parse::<IpAddr>() {
            return entry == address;
        }
        if let Some((network, length)) = entry.split_once('/') {
            return within(address, network, length).unwrap_or(false);
        }
    }
    let (name, port) = match entry.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (name, Some(port)),
        _ => (entry, None),
    };
    if port.is_some_and(|port| port != url.port().to_string()) {
        return false;
    }
    let name = name.trim_start_matches("*.").trim_start_matches('.');
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let below = || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
    !name.is_empty() && (host == name || (address.is_none() && below()))
}

/// Whether an address is in `NETWORK/LENGTH`.
fn within(address: IpAddr, network: &str, length: &str) -> Option<bool> {
    let length: u32 = length.parse().ok()?;
    let bits = |address: IpAddr| match address {
        IpAddr::V4(four) => u128::from(four.to_bits()) << 96,
        IpAddr::V6(six) => six.to_bits(),
    };
    let network: IpAddr = network.parse().ok()?;
    let width = if network.is_ipv4() { 32 } else { 128 };
    if network.is_ipv4() != address.is_ipv4() || length > width {
        return Some(false);
    }
    let differing = bits(address) ^ bits(network);
    Some(differing.leading_zeros() >= length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::from_environment(|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn by_scheme_and_case() {
        let of =
            |proxies: &Proxies, url: &str| proxies.of(&Url::parse(url).unwrap()).map(str::to_owned);
        let both = proxies(&[("http_proxy", "a"), ("HTTP_PROXY", "b"), ("HTTPS_PROXY", "c")]);
        assert_eq!(of(&both, "http://h/").as_deref(), Some("a"));
        assert_eq!(of(&both, "https://h/").as_deref(), Some("c"));
        let all = proxies(&[("ALL_PROXY", "d"), ("https_proxy", " ")]);
        assert_eq!(of(&all, "http://h/").as_deref(), Some("d"));
        assert_eq!(of(&all, "https://h/").as_deref(), Some("d"));
        assert_eq!(of(&proxies(&[("no_proxy", "*")]), "http://h/"), None);
        assert!(!format!("{both:?}").contains("\"a\""));
    }

    #[test]
    fn exceptions() {
        for (list, url, covered) in [
            ("*", "http://h/", true),
            ("example.org", "http://example.org/", true),
            ("example.org", "http://a.example.org/", true),
            (".example.org", "http://a.b.example.org/", true),
            ("*.example.org", "http://a.example.org/", true),
            ("example.org", "http://badexample.org/", false),
            ("a, Example.org ,b", "http://EXAMPLE.org/", true),
            ("example.org:8080", "http://example.org:8080/", true),
            ("example.org:8080", "http://example.org/", false),
            ("10.0.0.0/8", "http://10.9.8.7/", true),
            ("10.0.0.0/8", "http://11.9.8.7/", false),
            ("10.0.0.0/0", "http://11.9.8.7/", true),
            ("10.0.0.0/33", "http://10.0.0.0/", false),
            ("fd00::/8", "http://[fd12::1]/", true),
            ("fd00::/8", "http://10.0.0.1/", false),
            ("::1", "http://[::1]/", true),
            ("10.0.0.1", "http://10.0.0.1:99/", true),
            ("0.0.1", "http://10.0.0.1/", false),
            ("", "http://h/", false),
            (".", "http://h/", false),
            ("x/y", "http://10.0.0.1/", false),
        ] {
            let proxies = proxies(&[("http_proxy", "p"), ("no_proxy", list)]);
            let of = proxies.of(&Url::parse(url).unwrap());
            assert_eq!(of.is_none(), covered, "{list:?} {url}");
        }
    }
}
