//! The documents on a config drive, from the files a user has: YAML or JSON in, JSON out.
//!
//! `meta_data.json` and `network_data.json` are OpenStack's formats, as cloud-init's ConfigDrive
//! reader takes them. It calls the instance by `uuid` and refuses metadata without; other readers
//! look for `instance-id`: both are always there, and so are the other names that differ between
//! readers. No I/O here.

use serde_json::{Map, Value, json};

/// What the machine knows of itself, for what the user has left out.
#[derive(Clone, Debug)]
pub struct GuestFacts {
    /// The instance's identity, kept for the life of its disk.
    pub uuid: String,
    /// The machine's name.
    pub name: String,
    /// The MAC address of its interface.
    pub mac: Option<String>,
}

/// What is wrong with a document; the sentence continues "FILE ...".
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DocumentError {
    /// Not UTF-8.
    #[error("is not UTF-8 text; save it as UTF-8")]
    NotText,
    /// Neither YAML nor JSON.
    #[error("is not YAML or JSON: {0}; correct it there")]
    Syntax(String),
    /// Not a mapping at its top.
    #[error("holds {0} where a mapping of keys to values is needed; write `key: value` lines")]
    NotMapping(&'static str),
    /// A key holds something of the wrong kind.
    #[error("has {key}: {value}, which is not {wanted}; write {wanted}")]
    Kind {
        /// The key.
        key: &'static str,
        /// Its value, shortened.
        value: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// A network configuration of another kind.
    #[error(
        "is {0}, but OpenStack's network_data format is needed, with the keys links, networks and \
         services; convert it, or put the configuration in userdata"
    )]
    Network(&'static str),
}

/// Parses YAML, of which JSON is a part. Nothing but white space and comments is an empty mapping.
fn parse(bytes: &[u8]) -> Result<Value, DocumentError> {
    let text = std::str::from_utf8(bytes).map_err(|_| DocumentError::NotText)?;
    let text = text.trim_start_matches('\u{feff}');
    let blank = |line: &str| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "---"
    };
    if text.lines().all(blank) {
        return Ok(Value::Object(Map::new()));
    }
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(value);
    }
    // A snippet could carry a password of the file into the log.
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let text = error.without_snippet().to_string();
        DocumentError::Syntax(text.split_whitespace().collect::<Vec<_>>().join(" "))
    })
}

fn mapping(bytes: &[u8]) -> Result<Map<String, Value>, DocumentError> {
    match parse(bytes)? {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        Value::Array(_) => Err(DocumentError::NotMapping("a list")),
        _ => Err(DocumentError::NotMapping("a single value")),
    }
}

/// A copy of `value` that fits in a message.
fn show(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// A name or identifier as text. YAML reads `instance-id: 42` as a number.
fn text(key: &'static str, value: Option<&Value>) -> Result<Option<String>, DocumentError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(other) => Err(DocumentError::Kind { key, value: show(other), wanted: "a text" }),
    }
}

/// `meta_data.json`: what the user gave, completed.
///
/// # Errors
/// See [`DocumentError`].
pub fn meta_data(given: Option<&[u8]>, facts: &GuestFacts) -> Result<Vec<u8>, DocumentError> {
    let mut map = given.map(mapping).transpose()?.unwrap_or_default();
    let take = |keys: [&'static str; 2]| -> Result<Option<String>, DocumentError> {
        Ok(text(keys[0], map.get(keys[0]))?.or(text(keys[1], map.get(keys[1]))?))
    };
    let id = take(["uuid", "instance-id"])?.unwrap_or_else(|| facts.uuid.clone());
    let instance = take(["instance-id", "uuid"])?.unwrap_or_else(|| id.clone());
    let host = take(["hostname", "local-hostname"])?;
    let host = match host {
        Some(host) => host,
        None => text("name", map.get("name"))?.unwrap_or_else(|| facts.name.clone()),
    };
    let local = take(["local-hostname", "hostname"])?.unwrap_or_else(|| host.clone());
    let name = text("name", map.get("name"))?
        .unwrap_or_else(|| host.split('.').next().unwrap_or(&host).to_owned());
    let keys = public_keys(&map)?;
    for (key, value) in [
        ("uuid", id),
        ("instance-id", instance),
        ("hostname", host),
        ("local-hostname", local),
        ("name", name),
    ] {
        map.insert(key.to_owned(), Value::String(value));
    }
    if let Some(keys) = keys {
        // OpenStack's name, and the one of EC2, which CirrOS and others take.
        map.insert("public_keys".to_owned(), Value::Object(keys.clone()));
        map.entry("public-keys").or_insert(Value::Object(keys));
    }
    Ok(Value::Object(map).to_string().into_bytes())
}

/// The SSH keys, by name, under whichever of their usual names the user has given them.
fn public_keys(map: &Map<String, Value>) -> Result<Option<Map<String, Value>>, DocumentError> {
    let names = ["public_keys", "public-keys", "ssh_authorized_keys", "ssh-authorized-keys"];
    let given = names.into_iter().find_map(|key| match map.get(key) {
        None | Some(Value::Null) => None,
        Some(value) => Some((key, value)),
    });
    let Some((key, value)) = given else { return Ok(None) };
    let wrong = || DocumentError::Kind {
        key,
        value: show(value),
        wanted: "an SSH key, a list of keys, or a mapping of names to keys",
    };
    let numbered = |keys: Vec<&str>| {
        let keys = keys.into_iter().map(str::trim).filter(|key| !key.is_empty());
        keys.enumerate().map(|(n, key)| (format!("key-{n}"), json!(key))).collect()
    };
    match value {
        Value::String(text) => Ok(Some(numbered(text.lines().collect()))),
        Value::Array(list) => {
            let keys: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
            Ok(Some(numbered(keys.ok_or_else(wrong)?)))
        }
        // A mapping is the user's own: EC2's has a mapping in it, which is passed on as it is.
        Value::Object(keys) => Ok(Some(keys.clone())),
        _ => Err(wrong()),
    }
}

/// `network_data.json`. A single physical link without a MAC address gets the machine's.
///
/// # Errors
/// See [`DocumentError`].
pub fn network_data(given: &[u8], facts: &GuestFacts) -> Result<Vec<u8>, DocumentError> {
    let mut map = mapping(given)?;
    if map.contains_key("network") || map.contains_key("ethernets") || map.contains_key("version") {
        return Err(DocumentError::Network("a netplan or cloud-init network configuration"));
    }
    for key in ["links", "networks", "services"] {
        match map.get(key) {
            None | Some(Value::Array(_)) => {}
            Some(other) => {
                return Err(DocumentError::Kind { key, value: show(other), wanted: "a list" });
            }
        }
    }
    if !map.contains_key("links") || !map.contains_key("networks") {
        return Err(DocumentError::Network("without links or without networks"));
    }
    if let (Some(mac), Some(Value::Array(links))) = (&facts.mac, map.get_mut("links")) {
        let virtual_kinds = [Some("bond"), Some("vlan")];
        let physical: Vec<&mut Map<String, Value>> = links
            .iter_mut()
            .filter_map(Value::as_object_mut)
            .filter(|link| !virtual_kinds.contains(&link.get("type").and_then(Value::as_str)))
            .collect();
        if let Ok([link]) = <[_; 1]>::try_from(physical) {
            let absent = link.get("ethernet_mac_address").is_none_or(Value::is_null);
            if absent {
                link.insert("ethernet_mac_address".to_owned(), json!(mac));
            }
        }
    }
    map.entry("services").or_insert_with(|| json!([]));
    Ok(Value::Object(map).to_string().into_bytes())
}

/// `vendor_data.json`: JSON as it is; any other text as cloud-init's part of it.
///
/// # Errors
/// See [`DocumentError`].
pub fn vendor_data(given: &[u8]) -> Result<Vec<u8>, DocumentError> {
    if serde_json::from_slice::<Value>(given).is_ok() {
        return Ok(given.to_vec());
    }
    let text = std::str::from_utf8(given).map_err(|_| DocumentError::NotText)?;
    Ok(json!({ "cloud-init": text }).to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> GuestFacts {
        GuestFacts {
            uuid: "11111111-2222-4333-8444-555555555555".into(),
            name: "pet".into(),
            mac: Some("52:54:00:00:00:01".into()),
        }
    }

    fn meta(given: &str) -> Value {
        let bytes = meta_data(Some(given.as_bytes()), &facts()).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    fn names(uuid: &str, instance: &str, hostname: &str, local: &str, name: &str) -> Value {
        json!({"uuid": uuid, "instance-id": instance, "hostname": hostname,
               "local-hostname": local, "name": name})
    }

    #[test]
    fn nothing_given_is_filled_in() {
        let uuid = facts().uuid;
        let want = names(&uuid, &uuid, "pet", "pet", "pet");
        let bytes = meta_data(None, &facts()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), want);
        for empty in ["", "\n# only a comment\n", "---\n", "{}", "null", "\u{feff}"] {
            assert_eq!(meta(empty), want, "{empty:?}");
        }
    }

    #[test]
    fn what_is_given_stays() {
        let uuid = facts().uuid;
        for (given, want) in [
            ("instance-id: i-1", names("i-1", "i-1", "pet", "pet", "pet")),
            ("uuid: u-1", names("u-1", "u-1", "pet", "pet", "pet")),
            ("uuid: u-1\ninstance-id: i-1", names("u-1", "i-1", "pet", "pet", "pet")),
            ("instance-id: 42", names("42", "42", "pet", "pet", "pet")),
            ("uuid: null\nhostname: ''", names(&uuid, &uuid, "pet", "pet", "pet")),
            ("hostname: a.example.org", names(&uuid, &uuid, "a.example.org", "a.example.org", "a")),
            ("local-hostname: b", names(&uuid, &uuid, "b", "b", "b")),
            ("name: c", names(&uuid, &uuid, "c", "c", "c")),
            (r#"{"hostname": "d", "name": "e"}"#, names(&uuid, &uuid, "d", "d", "e")),
        ] {
            assert_eq!(meta(given), want, "{given:?}");
        }
        let nested = meta("meta: {role: web, on: true, n: 1.5, list: [1, 'no']}\n");
        assert_eq!(nested["meta"], json!({"role": "web", "on": true, "n": 1.5, "list": [1, "no"]}));
    }

    #[test]
    fn ssh_keys_under_any_name() {
        let want = json!({"key-0": "ssh-ed25519 AAAA a", "key-1": "ssh-rsa BBBB b"});
        for given in [
            "public_keys: [ssh-ed25519 AAAA a, ssh-rsa BBBB b]",
            "public-keys:\n- ssh-ed25519 AAAA a\n- ssh-rsa BBBB b\n",
            "ssh_authorized_keys: [ssh-ed25519 AAAA a, ssh-rsa BBBB b]",
            "public_keys: |\n  ssh-ed25519 AAAA a\n\n  ssh-rsa BBBB b\n",
        ] {
            assert_eq!(meta(given)["public_keys"], want, "{given:?}");
        }
        let named = meta("public_keys: {mine: ssh-ed25519 AAAA a}");
        assert_eq!(named["public_keys"], json!({"mine": "ssh-ed25519 AAAA a"}));
        assert_eq!(named["public-keys"], json!({"mine": "ssh-ed25519 AAAA a"}));
        assert_eq!(meta("a: 1").get("public_keys"), None);
        let error = meta_data(Some(b"public_keys: 7"), &facts()).unwrap_err().to_string();
        assert!(error.starts_with("has public_keys: 7, which is not an SSH key"), "{error}");
    }

    #[test]
    fn wrong_metadata_is_one_sentence() {
        for (given, part) in [
            (&b"- a"[..], "holds a list where a mapping"),
            (b"just text", "holds a single value"),
            (b"\xff\xfe", "is not UTF-8"),
            (b"a: [1, 2", "is not YAML or JSON"),
            (b"a: 1\na: 2", "is not YAML or JSON"),
            (b"hostname: [a]", "has hostname: [\"a\"], which is not a text"),
            (b"uuid: {a: b}", "has uuid: {\"a\":\"b\"}, which is not a text"),
        ] {
            let error = meta_data(Some(given), &facts()).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{given:?}: {error}");
        }
        let secret = meta_data(Some(b"password: hunter2\nb: [1\n"), &facts()).unwrap_err();
        assert!(!secret.to_string().contains("hunter2"), "{secret}");
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for n in 1..30 {
            let last = n - 1;
            bomb.push_str(&format!("a{n}: &a{n} [*a{last}, *a{last}, *a{last}, *a{last}]\n"));
        }
        assert!(meta_data(Some(bomb.as_bytes()), &facts()).is_err());
        let deep = "[".repeat(100_000);
        assert!(meta_data(Some(deep.as_bytes()), &facts()).is_err());
    }

    fn network(given: &str) -> Result<Value, DocumentError> {
        let bytes = network_data(given.as_bytes(), &facts())?;
        Ok(serde_json::from_slice(&bytes).unwrap())
    }

    #[test]
    fn network_data_is_openstacks() {
        let yaml = "links:\n- {id: eth0, type: phy}\nnetworks:\n- {link: eth0, type: ipv4_dhcp, \
                    id: n0}\n";
        let want = json!({
            "links": [{"id": "eth0", "type": "phy", "ethernet_mac_address": "52:54:00:00:00:01"}],
            "networks": [{"link": "eth0", "type": "ipv4_dhcp", "id": "n0"}],
            "services": [],
        });
        assert_eq!(network(yaml), Ok(want));
        let own = r#"{"links":[{"id":"a","ethernet_mac_address":"x"}],"networks":[]}"#;
        assert_eq!(network(own).unwrap()["links"][0]["ethernet_mac_address"], "x");
        let two = r#"{"links":[{"id":"a"},{"id":"b"}],"networks":[]}"#;
        assert_eq!(network(two).unwrap()["links"], json!([{"id": "a"}, {"id": "b"}]));
        let vlan = r#"{"links":[{"id":"a"},{"id":"v","type":"vlan"}],"networks":[]}"#;
        assert!(network(vlan).unwrap()["links"][0]["ethernet_mac_address"].is_string());
    }

    #[test]
    fn other_network_formats_are_told_apart() {
        for (given, part) in [
            ("network: {version: 2}", "is a netplan"),
            ("version: 2\nethernets: {}", "is a netplan"),
            ("links: []", "without links or without networks"),
            ("", "without links or without networks"),
            ("links: {}\nnetworks: []", "has links: {}, which is not a list"),
        ] {
            let error = network(given).unwrap_err().to_string();
            assert!(error.contains(part), "{given:?}: {error}");
        }
    }

    #[test]
    fn vendor_data_is_json_or_text() {
        assert_eq!(vendor_data(b"{\"a\": 1}"), Ok(b"{\"a\": 1}".to_vec()));
        let text = vendor_data(b"#cloud-config\na: 1\n").unwrap();
        let text: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(text, json!({"cloud-init": "#cloud-config\na: 1\n"}));
        assert_eq!(vendor_data(b"\xff"), Err(DocumentError::NotText));
    }
}
