//! The shape of a GRUB script: words, commands, branches and blocks.
//!
//! Follows the lexical rules of the GRUB manual §6 (quoting, variables, comments, continuation
//! lines) and nests `if`, `menuentry` and `submenu`. It is tolerant: what does not fit is skipped,
//! never refused, except for nesting deeper than any real file. Loops and functions are read over.

/// Deepest nesting of blocks and branches.
const MAX_NESTING: usize = 32;

/// A part of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text; quoted text is never a keyword.
    Text {
        /// The text.
        text: String,
        /// It stood in quotes or after a backslash.
        quoted: bool,
    },
    /// A variable's value; unquoted, it is split at white space.
    Variable {
        /// Its name.
        name: String,
        /// It stood in double quotes.
        quoted: bool,
    },
}

/// A word before expansion.
pub type Word = Vec<Piece>;

/// A statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// A command, with the block that follows it if there is one.
    Command {
        /// Name and arguments.
        words: Vec<Word>,
        /// `{ ... }`, as `menuentry` has.
        block: Option<Vec<Statement>>,
    },
    /// `if`, with each `elif`, and `else`.
    If {
        /// Conditions and what they lead to.
        branches: Vec<(Vec<Statement>, Vec<Statement>)>,
        /// After `else`.
        otherwise: Vec<Statement>,
    },
}

/// The script nests deeper than [`MAX_NESTING`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("blocks nest more than {MAX_NESTING} deep")]
pub struct TooDeep;

/// Reads a script.
///
/// # Errors
/// [`TooDeep`].
pub fn parse(script: &str) -> Result<Vec<Statement>, TooDeep> {
    let mut parser = Parser { tokens: tokens(script), at: 0 };
    let mut statements = Vec::new();
    while parser.at < parser.tokens.len() {
        statements.extend(parser.statements(&[], false, 0)?);
        // Stopped at something that closes nothing: read over it.
        parser.at += 1;
    }
    Ok(statements)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(Word),
    Open,
    Close,
    End,
}

/// Splits a script into tokens.
fn tokens(script: &str) -> Vec<Token> {
    let mut lexer = Lexer { chars: script.chars().peekable(), word: None };
    let mut tokens = Vec::new();
    while let Some(c) = lexer.chars.next() {
        match c {
            ' ' | '\t' | '\r' => lexer.finish(&mut tokens),
            '\n' | ';' | '|' | '&' | '<' | '>' => {
                lexer.finish(&mut tokens);
                tokens.push(Token::End);
            }
            '{' | '}' => {
                lexer.finish(&mut tokens);
                tokens.push(if c == '{' { Token::Open } else { Token::Close });
            }
            '#' if lexer.word.is_none() => while lexer.chars.next_if(|c| *c != '\n').is_some() {},
            '\'' => lexer.single_quoted(),
            '"' => lexer.double_quoted(),
            '\\' => lexer.escaped(),
            '$' => lexer.variable(false),
            c => lexer.push(c, false),
        }
    }
    lexer.finish(&mut tokens);
    tokens
}

struct Lexer<'a> {
    chars: std::iter::Peekable<std::str::Chars<'a>>,
    word: Option<Word>,
}

impl Lexer<'_> {
    /// Ends the word that is being read, if any.
    fn finish(&mut self, tokens: &mut Vec<Token>) {
        tokens.extend(self.word.take().map(Token::Word));
    }

    fn push(&mut self, c: char, is_quoted: bool) {
        let word = self.word.get_or_insert_default();
        match word.last_mut() {
            Some(Piece::Text { text, quoted }) if *quoted == is_quoted => text.push(c),
            _ => word.push(Piece::Text { text: c.to_string(), quoted: is_quoted }),
        }
    }

    /// A quote makes a word, even an empty one.
    fn begin_quoted(&mut self) {
        let word = self.word.get_or_insert_default();
        word.push(Piece::Text { text: String::new(), quoted: true });
    }

    fn single_quoted(&mut self) {
        self.begin_quoted();
        while let Some(c) = self.chars.next() {
            match c {
                '\'' => return,
                c => self.push(c, true),
            }
        }
    }

    fn double_quoted(&mut self) {
        self.begin_quoted();
        while let Some(c) = self.chars.next() {
            match c {
                '"' => return,
                '$' => self.variable(true),
                '\\' => match self.chars.next_if(|c| matches!(c, '"' | '\\' | '$' | '\n')) {
                    Some('\n') => {}
                    Some(c) => self.push(c, true),
                    None => self.push('\\', true),
                },
                c => self.push(c, true),
            }
        }
    }

    fn escaped(&mut self) {
        match self.chars.next() {
            Some('\r') if self.chars.peek() == Some(&'\n') => {
                self.chars.next();
            }
            Some('\n') | None => {}
            Some(c) => self.push(c, true),
        }
    }

    /// After a `$`.
    fn variable(&mut self, quoted: bool) {
        let mut name = String::new();
        if self.chars.next_if_eq(&'{').is_some() {
            while let Some(c) = self.chars.next_if(|c| !matches!(c, '}' | '\n')) {
                name.push(c);
            }
            self.chars.next_if_eq(&'}');
        } else if let Some(c) = self.chars.next_if(|c| "?@#*0123456789".contains(*c)) {
            name.push(c);
        } else {
            let is_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
            while let Some(c) = self.chars.next_if(is_name) {
                name.push(c);
            }
        }
        if name.is_empty() {
            self.push('$', quoted);
        } else {
            self.word.get_or_insert_default().push(Piece::Variable { name, quoted });
        }
    }
}

/// The text of a word that is a bare keyword or name.
fn bare(word: &Word) -> Option<&str> {
    match word.as_slice() {
        [Piece::Text { text, quoted: false }] => Some(text),
        _ => None,
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn keyword(&self) -> Option<&str> {
        match self.peek() {
            Some(Token::Word(word)) => bare(word),
            _ => None,
        }
    }

    /// Statements up to a keyword of `stop`, or, in a block, up to its end; neither is consumed.
    fn statements(
        &mut self,
        stop: &[&str],
        in_block: bool,
        nesting: usize,
    ) -> Result<Vec<Statement>, TooDeep> {
        if nesting > MAX_NESTING {
            return Err(TooDeep);
        }
        let mut statements = Vec::new();
        while let Some(token) = self.peek() {
            match token {
                Token::Close if in_block => break,
                Token::End | Token::Open | Token::Close => self.at += 1,
                Token::Word(_) => match self.keyword() {
                    Some(keyword) if stop.contains(&keyword) => break,
                    Some("if") => statements.push(self.branches(in_block, nesting + 1)?),
                    Some("for" | "while" | "until") => {
                        self.at += 1;
                        self.statements(&["done"], in_block, nesting + 1)?;
                    }
                    Some("function") => {
                        self.command(nesting + 1)?;
                    }
                    Some("then" | "elif" | "else" | "fi" | "do" | "done") => self.at += 1,
                    _ => statements.push(self.command(nesting + 1)?),
                },
            }
        }
        Ok(statements)
    }

    fn branches(&mut self, in_block: bool, nesting: usize) -> Result<Statement, TooDeep> {
        let (mut branches, mut otherwise) = (Vec::new(), Vec::new());
        loop {
            let keyword = self.keyword().map(str::to_owned);
            match keyword.as_deref() {
                Some("if" | "elif") => {
                    self.at += 1;
                    let condition = self.statements(&["then"], in_block, nesting)?;
                    if self.keyword() == Some("then") {
                        self.at += 1;
                    }
                    let body = self.statements(&["elif", "else", "fi"], in_block, nesting)?;
                    branches.push((condition, body));
                }
                Some("else") => {
                    self.at += 1;
                    otherwise.extend(self.statements(
                        &["elif", "else", "fi"],
                        in_block,
                        nesting,
                    )?);
                }
                Some("fi") => {
                    self.at += 1;
                    break;
                }
                _ => break,
            }
        }
        Ok(Statement::If { branches, otherwise })
    }

    fn command(&mut self, nesting: usize) -> Result<Statement, TooDeep> {
        let (mut words, mut block) = (Vec::new(), None);
        while let Some(token) = self.peek() {
            match token {
                Token::Word(word) => {
                    words.push(word.clone());
                    self.at += 1;
                }
                Token::Open => {
                    self.at += 1;
                    block = Some(self.statements(&[], true, nesting)?);
                    self.at += 1;
                    break;
                }
                Token::End | Token::Close => break,
            }
        }
        Ok(Statement::Command { words, block })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Piece {
        Piece::Text { text: text.into(), quoted: false }
    }

    fn quoted(text: &str) -> Piece {
        Piece::Text { text: text.into(), quoted: true }
    }

    fn words(script: &str) -> Vec<Word> {
        let parsed = parse(script).unwrap();
        match parsed.as_slice() {
            [Statement::Command { words, .. }] => words.clone(),
            other => panic!("not one command: {other:?}"),
        }
    }

    #[test]
    fn quoting_follows_the_manual() {
        assert_eq!(
            words(r#"set a='x $y' b"c \"d\" \n" e\ f # rest"#),
            [
                vec![text("set")],
                vec![text("a="), quoted("x $y")],
                vec![text("b"), quoted(r#"c "d" \n"#)],
                vec![text("e"), quoted(" "), text("f")],
            ]
        );
        assert_eq!(words("a \\\n  b''"), [vec![text("a")], vec![text("b"), quoted("")]]);
        assert_eq!(words("a#b"), [vec![text("a#b")]]);
    }

    #[test]
    fn variables_are_kept_for_later() {
        let variable = |name: &str, quoted: bool| Piece::Variable { name: name.into(), quoted };
        assert_eq!(
            words(r#"linux ${a}b $c"/$d" $"#),
            [
                vec![text("linux")],
                vec![variable("a", false), text("b")],
                vec![variable("c", false), quoted("/"), variable("d", true)],
                vec![text("$")],
            ]
        );
    }

    #[test]
    fn branches_and_blocks_nest() {
        let parsed = parse(
            "if [ a ]; then\n b\nelif c; then d; else\n e\nfi\nmenuentry 'x' { f { g }\n h\n}\ni",
        )
        .unwrap();
        let names: Vec<String> = parsed
            .iter()
            .map(|statement| match statement {
                Statement::If { branches, otherwise } => {
                    format!("if {} {}", branches.len(), otherwise.len())
                }
                Statement::Command { words, block } => {
                    format!("{} {}", bare(&words[0]).unwrap(), block.as_ref().map_or(0, Vec::len))
                }
            })
            .collect();
        assert_eq!(names, ["if 2 1", "menuentry 2", "i 0"]);
    }

    #[test]
    fn loops_and_functions_are_read_over() {
        let parsed = parse(
            "function f { set a=b\n if x; then y; fi }\nfor i in 1 2; do\nset a=c\ndone\nset a=d",
        );
        assert_eq!(parsed.unwrap().len(), 1);
    }

    #[test]
    fn broken_scripts_are_read_as_far_as_they_go() {
        for script in
            ["if", "fi } set a=b", "menuentry {", "if a; then menuentry x { b", "'open", "}{"]
        {
            parse(script).unwrap();
        }
        assert_eq!(parse(&"if a; then ".repeat(100)), Err(TooDeep));
        assert_eq!(parse(&"a { ".repeat(100)), Err(TooDeep));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed(script in "[ a-c\\n;{}$'\"\\\\#=\\[\\]]{0,200}") {
            let _ = parse(&script);
        }

        #[test]
        fn any_keywords_are_parsed(
            words in prop::collection::vec(
                prop::sample::select(vec![
                    "if", "then", "elif", "else", "fi", "{", "}", ";", "\n", "menuentry", "for",
                    "do", "done", "function", "x",
                ]),
                0..60,
            ),
        ) {
            let _ = parse(&words.join(" "));
        }
    }
}
