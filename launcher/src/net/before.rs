//! What was switched on, and by whom: a note in the comment of our table, for the next run.
//!
//! A killed run leaves its table behind, and forwarding on. Whoever comes next, or still runs, takes
//! what the notes name as switched off before, and so switches it off at the end. The comment is a
//! list of words; none of the names in them has a slash.
//!
//! ```text
//! off before: ipv4/eth0 ipv6/all accept_ra/eth0
//! ```

use super::inspect::{Facts, Ipv6Forwarding};
use super::plan::Step;
use super::ruleset::MAX_COMMENT;

const HEAD: &str = "off before:";
const IPV4: &str = "ipv4/";
const IPV6: &str = "ipv6/all";
const ACCEPT_RA: &str = "accept_ra/";

/// The note on the steps of a plan, of which `own` are on a tap of its own.
pub fn note(steps: &[Step], own: &str) -> String {
    let mut text = HEAD.to_owned();
    for step in steps {
        let word = match step {
            Step::Forwarding(link) if link != own => format!("{IPV4}{link}"),
            Step::Ipv6Forwarding => IPV6.to_owned(),
            Step::AcceptRa(link) => format!("{ACCEPT_RA}{link}"),
            _ => continue,
        };
        if text.len().saturating_add(word.len()) < MAX_COMMENT {
            text = format!("{text} {word}");
        }
    }
    if text == HEAD { String::new() } else { text }
}

/// Reads a note: what it names counts as it was before.
pub fn recall(facts: &mut Facts, comment: &str) {
    let Some(words) = comment.strip_prefix(HEAD) else { return };
    for word in words.split_whitespace() {
        let link = |head| word.strip_prefix(head).unwrap_or_default();
        for found in &mut facts.links {
            if found.name == link(IPV4) {
                found.forwarding = false;
            }
            if found.name == link(ACCEPT_RA) {
                found.accept_ra = Some(1);
            }
        }
        if word == IPV6 && facts.ipv6_forwarding == Ipv6Forwarding::On {
            facts.ipv6_forwarding = Ipv6Forwarding::Off;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::netlink::link::Link;

    #[test]
    fn a_note_is_recalled() {
        let steps = [
            Step::Forwarding("berth0".into()),
            Step::Forwarding("eth0".into()),
            Step::AcceptRa("eth0".into()),
            Step::Ipv6Forwarding,
        ];
        let text = note(&steps, "berth0");
        assert_eq!(text, "off before: ipv4/eth0 accept_ra/eth0 ipv6/all");
        assert_eq!(note(&[], "berth0"), "");
        let link = |name: &str| Link {
            name: name.into(),
            forwarding: true,
            accept_ra: Some(2),
            ..Link::default()
        };
        let mut facts = Facts {
            links: vec![link("eth0"), link("eth1")],
            ipv6_forwarding: Ipv6Forwarding::On,
            ..Facts::default()
        };
        recall(&mut facts, "of somebody else: ipv4/eth1");
        recall(&mut facts, &text);
        let before = Link { forwarding: false, accept_ra: Some(1), ..link("eth0") };
        assert_eq!(facts.links, [before, link("eth1")]);
        assert_eq!(facts.ipv6_forwarding, Ipv6Forwarding::Off);
    }

    #[test]
    fn a_note_is_never_too_long() {
        let steps: Vec<Step> =
            (0..100).map(|n| Step::Forwarding(format!("interface-{n:05}"))).collect();
        let text = note(&steps, "");
        assert!(text.len() <= MAX_COMMENT && text.len() > MAX_COMMENT - 22, "{}", text.len());
    }
}
