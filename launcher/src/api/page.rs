//! The page at `/`, and what it is made of: embedded files, and noVNC's from `--web-root` under
//! `/novnc/`. No script stands in the page itself, so that the Content-Security-Policy can forbid
//! them.

use super::http::Response;
use super::webroot::WebRoot;

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, media type, content.
const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/berth.css", "text/css; charset=utf-8", include_str!("page/berth.css")),
    ("/berth.js", SCRIPT, include_str!("page/berth.js")),
    ("/terminal.js", SCRIPT, include_str!("page/terminal.js")),
];

/// The file at `path`, if it is one of the page's.
pub fn file(path: &str, web_root: &WebRoot) -> Option<Response> {
    if let Some((_, kind, text)) = FILES.iter().find(|(at, _, _)| *at == path) {
        return Some(Response::found(kind, text.as_bytes()));
    }
    let (kind, bytes) = web_root.file(path.strip_prefix("/novnc/")?)?;
    Some(Response::found(kind, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_keeps_to_its_policy() {
        for (path, _, text) in FILES {
            for forbidden in ["onclick", "style=", "eval(", "new Function", "innerHTML", "http://"]
            {
                assert!(!text.contains(forbidden), "{forbidden} in {path}");
            }
        }
        let index = FILES[0].2;
        assert!(index.contains("src=\"berth.js\"") && index.contains("href=\"berth.css\""));
        assert_eq!(index.matches("<script").count(), 1);
    }
}
