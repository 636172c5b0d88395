//! `test` and `[`: what a configuration asks before it sets or loads something.
//!
//! GRUB manual §16.3 `test`, without grouping.

/// Evaluates the arguments of `test`; `file` says whether a path exists.
pub fn test(args: &[String], file: &mut dyn FnMut(&str) -> bool) -> bool {
    // -o binds weaker than -a.
    args.split(|arg| arg == "-o").any(|all| all.split(|arg| arg == "-a").all(|t| one(t, file)))
}

fn one(term: &[String], file: &mut dyn FnMut(&str) -> bool) -> bool {
    let negations = term.iter().take_while(|word| *word == "!").count();
    let term: Vec<&str> = term.iter().skip(negations).map(String::as_str).collect();
    let truth = match term.as_slice() {
        [] => false,
        [text] | ["-n", text] => !text.is_empty(),
        ["-z", text] => text.is_empty(),
        ["-e" | "-f" | "-s" | "-d", path] => file(path),
        [a, "=" | "==", b] => a == b,
        [a, "!=", b] => a != b,
        [a, "<", b] => a < b,
        [a, ">", b] => a > b,
        [a, operator, b] => number(a, operator, b),
        _ => false,
    };
    truth ^ (negations % 2 == 1)
}

fn number(a: &str, operator: &str, b: &str) -> bool {
    let (Ok(a), Ok(b)) = (a.parse::<i64>(), b.parse::<i64>()) else { return false };
    match operator {
        "-eq" => a == b,
        "-ne" => a != b,
        "-lt" => a < b,
        "-le" => a <= b,
        "-gt" => a > b,
        "-ge" => a >= b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(text: &str) -> bool {
        let args: Vec<String> = text.split(' ').map(str::to_owned).collect();
        test(&args, &mut |path| path == "/there")
    }

    #[test]
    fn strings_numbers_and_files() {
        for yes in [
            "x",
            "-n x",
            "-z ",
            "xy = xy",
            "a != b",
            "-s /there",
            "! -e /gone",
            "2 -lt 10",
            "a = b -o a = a",
            "a = a -a -f /there",
            "! a = b -a x",
        ] {
            assert!(truth(yes), "{yes}");
        }
        for no in [
            "",
            "-n ",
            "-z x",
            "= y",
            "a = b",
            "-d /gone",
            "! x",
            "2 -gt 10",
            "x -lt y",
            "a = a -a a = b",
            "a b c d",
            "a = b -o ",
        ] {
            assert!(!truth(no), "{no}");
        }
    }
}
