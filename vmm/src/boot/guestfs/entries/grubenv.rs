//! The GRUB environment block: a file of 1024 bytes in which GRUB keeps variables between boots.
//!
//! GRUB manual §15.1: a signature line, `name=value` lines with backslash escapes, `#` up to the
//! end. A file of another size, as edited by hand, is read all the same.

use std::collections::BTreeMap;

/// First line of the block.
const SIGNATURE: &str = "# GRUB Environment Block";

/// The variables of an environment block; empty where it is none.
pub fn parse(block: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(block);
    let Some(body) = text.strip_prefix(SIGNATURE) else { return BTreeMap::new() };
    let mut variables = BTreeMap::new();
    let mut line = String::new();
    let mut chars = body.chars();
    loop {
        let c = chars.next();
        match c {
            // An escaped character stands for itself, a line break included.
            Some('\\') => line.extend(chars.next()),
            Some('\n') | None => {
                if let Some((name, value)) = line.split_once('=')
                    && !line.starts_with('#')
                {
                    variables.insert(name.to_owned(), value.to_owned());
                }
                line.clear();
            }
            Some(c) => line.push(c),
        }
        if c.is_none() {
            return variables;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(lines: &str) -> Vec<u8> {
        let mut block = format!("{SIGNATURE}\n{lines}").into_bytes();
        block.resize(1024, b'#');
        block
    }

    #[test]
    fn a_block_as_enterprise_linux_8_writes_it() {
        let variables = parse(&block(
            "saved_entry=ffffffffffffffffffffffffffffffff-4.18.0-477.10.1.el8_8.x86_64\n\
             kernelopts=root=UUID=1234 ro console=tty0 console=ttyS0,115200n8 no_timer_check \n\
             boot_success=0\n",
        ));
        assert_eq!(
            variables["saved_entry"],
            "ffffffffffffffffffffffffffffffff-4.18.0-477.10.1.el8_8.x86_64"
        );
        assert_eq!(
            variables["kernelopts"],
            "root=UUID=1234 ro console=tty0 console=ttyS0,115200n8 no_timer_check "
        );
        assert_eq!(variables.len(), 3);
    }

    #[test]
    fn escapes_and_comments() {
        let variables = parse(&block("# WARNING: do not edit\na=x\\\\y\\\nz\nb=\n"));
        assert_eq!(variables["a"], "x\\y\nz");
        assert_eq!(variables["b"], "");
        assert_eq!(variables.len(), 2);
        assert!(parse(b"a=b\n").is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            parse(&bytes);
            parse(&block(&String::from_utf8_lossy(&bytes)));
        }
    }
}
