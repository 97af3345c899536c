//! Libraries of functions, kept and handed on as they are: nothing here runs them.
//!
//! ```text
//! #!lua name=mylib                                          engine and name: the first line
//! redis.register_function('one', function(keys, args) … end)
//! redis.register_function{function_name='two', callback=…, flags={'no-writes'}, description='…'}
//! ```
//!
//! Redis learns a library's functions by running it. Here they are read from its text, as far as their names are written
//! there and not computed; what is not found is not listed, and the library is whole all the same.
//!
//! Source: <https://redis.io/docs/latest/develop/programmability/functions-intro/>.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::rdb;

/// The longest name of a library or a function, in bytes.
const NAME_BYTES_MAX: usize = 64 * 1024;

/// The engine that Redis has.
const ENGINE: &str = "LUA";

/// One library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Its name.
    pub name: String,
    /// What would run it, in any case.
    pub engine: String,
    /// Its text, the first line included.
    pub code: Arc<[u8]>,
    /// What it defines.
    pub functions: Vec<Function>,
}

/// What a library says of one of its functions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// How it may be run, such as `no-writes`.
    pub flags: Vec<String>,
}

/// Why a library is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each says it")]
pub enum FunctionError {
    #[error("Missing library metadata")]
    NoMetadata,
    #[error("Invalid library metadata")]
    InvalidMetadata,
    #[error("Invalid metadata value given: {0}")]
    InvalidMetadataValue(String),
    #[error("Library name was not given")]
    Nameless,
    #[error(
        "Library names can only contain letters, numbers, or underscores(_) and must be at least one character long"
    )]
    BadName,
    #[error("Engine '{0}' not found")]
    UnknownEngine(String),
    #[error("No functions registered")]
    NoFunctions,
    #[error("Library '{0}' already exists")]
    LibraryExists(String),
    #[error("Function {0} already exists")]
    FunctionExists(String),
    #[error("Library not found")]
    NoSuchLibrary,
    #[error("DUMP payload version or checksum are wrong")]
    BadDump,
    #[error("failed loading functions: {0}")]
    BadContent(String),
}

/// What becomes of libraries that are there when others of their names come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Present {
    /// They stay, and nothing is added.
    Refuse,
    /// They go.
    Replace,
}

/// All libraries, by name.
#[derive(Debug, Clone, Default)]
pub struct Functions {
    libraries: BTreeMap<String, Library>,
}

impl Library {
    /// Reads what a text says of itself.
    ///
    /// # Errors
    /// Its first line does not say what it is.
    pub fn parse(code: &[u8]) -> Result<Library, FunctionError> {
        let first = code.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let first = String::from_utf8_lossy(first);
        let shebang = first.strip_prefix("#!").ok_or(FunctionError::NoMetadata)?;
        if first.len() == code.len() {
            return Err(FunctionError::InvalidMetadata);
        }
        let mut words = shebang.split_ascii_whitespace();
        let engine = words.next().filter(|_| !shebang.starts_with(' ')).ok_or(FunctionError::InvalidMetadata)?;
        let mut name = None;
        for word in words {
            match word.split_once('=') {
                Some((key, value)) if key.eq_ignore_ascii_case("name") && name.is_none() => name = Some(value),
                _ => return Err(FunctionError::InvalidMetadataValue(word.to_owned())),
            }
        }
        let name = name.ok_or(FunctionError::Nameless)?;
        if !is_name(name) {
            return Err(FunctionError::BadName);
        }
        Ok(Library {
            name: name.to_owned(),
            engine: engine.to_owned(),
            code: code.into(),
            functions: registered(&code[first.len().min(code.len())..]),
        })
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

impl Functions {
    /// All libraries, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Library> {
        self.libraries.values()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.libraries.is_empty()
    }

    /// Keeps a library, whatever runs it: somebody else has taken it before.
    pub fn keep(&mut self, library: Library) {
        self.libraries.insert(library.name.clone(), library);
    }

    /// Adds a library that a client has sent.
    ///
    /// # Errors
    /// It is nothing that Redis could load, as far as that can be known without running it, or a name is taken.
    pub fn load(&mut self, library: Library, present: Present) -> Result<(), FunctionError> {
        if !library.engine.eq_ignore_ascii_case(ENGINE) {
            return Err(FunctionError::UnknownEngine(library.engine));
        }
        if library.functions.is_empty() {
            return Err(FunctionError::NoFunctions);
        }
        self.check(&library, present)?;
        self.keep(library);
        Ok(())
    }

    fn check(&self, library: &Library, present: Present) -> Result<(), FunctionError> {
        if present == Present::Refuse && self.libraries.contains_key(&library.name) {
            return Err(FunctionError::LibraryExists(library.name.clone()));
        }
        let others = self.iter().filter(|other| other.name != library.name);
        let taken = others
            .flat_map(|other| &other.functions)
            .find(|taken| library.functions.iter().any(|function| function.name == taken.name));
        taken.map_or(Ok(()), |function| Err(FunctionError::FunctionExists(function.name.clone())))
    }

    /// Removes a library.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn delete(&mut self, name: &str) -> Result<(), FunctionError> {
        self.libraries.remove(name).map(|_| ()).ok_or(FunctionError::NoSuchLibrary)
    }

    /// All of them in one payload, as `FUNCTION DUMP` gives it.
    pub fn dump(&self) -> Vec<u8> {
        rdb::dump_functions(self.iter().map(|library| &*library.code))
    }

    /// Adds those of a payload, all or none.
    ///
    /// # Errors
    /// It is none, or a name is taken.
    pub fn restore(&mut self, payload: &[u8], present: Present) -> Result<(), FunctionError> {
        let codes = rdb::restore_functions(payload).map_err(|error| match error {
            rdb::DumpError::Envelope => FunctionError::BadDump,
            rdb::DumpError::Content(_) => FunctionError::BadContent("given type is not a function".into()),
        })?;
        let mut added = self.clone();
        for code in codes {
            let library = Library::parse(&code)?;
            added.check(&library, present)?;
            added.keep(library);
        }
        *self = added;
        Ok(())
    }
}

/// The functions that a text in Lua registers, in its order.
fn registered(code: &[u8]) -> Vec<Function> {
    let tokens = tokens(code);
    let mut functions: Vec<Function> = Vec::new();
    for at in 0..tokens.len() {
        let [api, Token::Sign(b'.'), Token::Word("register_function"), rest @ ..] = &tokens[at..] else { continue };
        if !matches!(api, Token::Word("redis" | "server")) {
            continue;
        }
        let function = match rest {
            [Token::Sign(b'('), Token::Text(name), ..] | [Token::Text(name), ..] => {
                Function { name: name.clone(), ..Function::default() }
            }
            [Token::Sign(b'('), Token::Sign(b'{'), table @ ..] | [Token::Sign(b'{'), table @ ..] => described(table),
            _ => continue,
        };
        if is_name(&function.name) && !functions.iter().any(|other| other.name == function.name) {
            functions.push(function);
        }
    }
    functions
}

/// What a table of named arguments says, from behind its opening brace on.
fn described(tokens: &[Token]) -> Function {
    let (mut function, mut depth, mut at) = (Function::default(), 1, 0);
    while depth > 0 && at < tokens.len() {
        match &tokens[at..] {
            [Token::Word("function_name"), Token::Sign(b'='), Token::Text(name), ..] if depth == 1 => {
                function.name.clone_from(name);
            }
            [Token::Word("description"), Token::Sign(b'='), Token::Text(text), ..] if depth == 1 => {
                function.description = Some(text.clone());
            }
            [Token::Word("flags"), Token::Sign(b'='), Token::Sign(b'{'), list @ ..] if depth == 1 => {
                let list = list.iter().take_while(|token| **token != Token::Sign(b'}'));
                function.flags = list.filter_map(Token::text).collect();
            }
            [Token::Sign(b'{'), ..] => depth += 1,
            [Token::Sign(b'}'), ..] => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    function
}

#[derive(Debug, PartialEq)]
enum Token<'a> {
    Word(&'a str),
    Text(String),
    Sign(u8),
}

impl Token<'_> {
    fn text(&self) -> Option<String> {
        if let Token::Text(text) = self { Some(text.clone()) } else { None }
    }
}

/// Cuts Lua into names, strings and single signs; comments and blanks fall away.
fn tokens(code: &[u8]) -> Vec<Token<'_>> {
    let (mut tokens, mut rest) = (Vec::new(), code);
    while let [first, tail @ ..] = rest {
        rest = match first {
            b'-' if tail.starts_with(b"-") => after_comment(&tail[1..]),
            b'[' if long_bracket(rest).is_some() => {
                let (text, behind) = long_text(rest);
                tokens.push(Token::Text(String::from_utf8_lossy(text).into_owned()));
                behind
            }
            b'\'' | b'"' => {
                let (text, behind) = quoted(*first, tail);
                tokens.push(Token::Text(text));
                behind
            }
            b'_' | b'a'..=b'z' | b'A'..=b'Z' => {
                let len = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
                tokens.push(Token::Word(std::str::from_utf8(&rest[..len]).expect("it is ASCII")));
                &rest[len..]
            }
            blank if blank.is_ascii_whitespace() => tail,
            sign => {
                tokens.push(Token::Sign(*sign));
                tail
            }
        };
    }
    tokens
}

fn after_comment(comment: &[u8]) -> &[u8] {
    if long_bracket(comment).is_some() {
        return long_text(comment).1;
    }
    memchr::memchr(b'\n', comment).map_or(&[], |end| &comment[end..])
}

/// How many equals signs are in the `[==[` that something begins with, if it does.
fn long_bracket(bytes: &[u8]) -> Option<usize> {
    let level = bytes.get(1..)?.iter().take_while(|byte| **byte == b'=').count();
    (bytes[0] == b'[' && bytes.get(level + 1) == Some(&b'[')).then_some(level)
}

/// The text in long brackets, and what is behind it.
fn long_text(bytes: &[u8]) -> (&[u8], &[u8]) {
    let level = long_bracket(bytes).unwrap_or(0);
    let end = [b"]".as_slice(), &vec![b'='; level], b"]"].concat();
    let text = &bytes[level + 2..];
    match memchr::memmem::find(text, &end) {
        Some(len) => (&text[..len], &text[len + end.len()..]),
        None => (text, &[]),
    }
}

/// The text up to a closing quote, and what is behind that. An escaped character stands for itself.
fn quoted(quote: u8, bytes: &[u8]) -> (String, &[u8]) {
    let (mut text, mut at) = (Vec::new(), 0);
    while at < bytes.len() && bytes[at] != quote {
        at += usize::from(bytes[at] == b'\\');
        text.extend(bytes.get(at));
        at += 1;
    }
    (String::from_utf8_lossy(&text).into_owned(), bytes.get(at + 1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn functions_are_found_where_their_names_are_written() {
        let code = br#"#!lua name=mine
-- redis.register_function('commented', f)
--[[ redis.register_function('out', f) ]]
local text = "redis.register_function('quoted', f)"
redis.register_function('one', function(keys, args) return redis.call('get', keys[1]) end)
redis.register_function{
    function_name="two", callback=function() return {function_name='inner'} end,
    flags={'no-writes', "allow-oom"}, description=[[does it]],
}
redis.register_function({function_name='three', callback=f}) server.register_function("four", f)
redis.register_function(computed, f)
"#;
        let library = Library::parse(code).expect("a library");
        assert_eq!((library.name.as_str(), library.engine.as_str()), ("mine", "lua"));
        let names: Vec<_> = library.functions.iter().map(|function| function.name.as_str()).collect();
        assert_eq!(names, ["one", "two", "three", "four"]);
        assert_eq!(library.functions[1].flags, ["no-writes", "allow-oom"]);
        assert_eq!(library.functions[1].description.as_deref(), Some("does it"));
    }

    #[test]
    fn the_first_line_says_what_it_is() {
        let parse = |text: &str| Library::parse(text.as_bytes()).map(|library| library.name);
        assert_eq!(parse("#!lua name=a\n"), Ok("a".into()));
        assert_eq!(parse("return 1\n"), Err(FunctionError::NoMetadata));
        assert_eq!(parse("#!lua name=a"), Err(FunctionError::InvalidMetadata));
        assert_eq!(parse("#!\n"), Err(FunctionError::InvalidMetadata));
        assert_eq!(parse("#!lua\n"), Err(FunctionError::Nameless));
        assert_eq!(parse("#!lua name=a b=c\n"), Err(FunctionError::InvalidMetadataValue("b=c".into())));
        assert_eq!(parse("#!lua name=a-b\n"), Err(FunctionError::BadName));
    }

    #[test]
    fn names_are_taken_once() {
        let library = |name: &str, function: &str| {
            let code = format!("#!lua name={name}\nredis.register_function('{function}', f)");
            Library::parse(code.as_bytes()).expect("a library")
        };
        let mut functions = Functions::default();
        assert_eq!(functions.load(library("a", "f"), Present::Refuse), Ok(()));
        let exists = Err(FunctionError::LibraryExists("a".into()));
        assert_eq!(functions.load(library("a", "g"), Present::Refuse), exists);
        assert_eq!(functions.load(library("a", "g"), Present::Replace), Ok(()));
        let taken = Err(FunctionError::FunctionExists("g".into()));
        assert_eq!(functions.load(library("b", "g"), Present::Replace), taken);
        assert_eq!(functions.load(library("b", "f"), Present::Replace), Ok(()));
        let dump = functions.dump();
        let mut others = Functions::default();
        assert_eq!(others.restore(&dump, Present::Refuse), Ok(()));
        assert!(others.iter().eq(functions.iter()));
        assert_eq!(others.restore(&dump, Present::Refuse), Err(FunctionError::LibraryExists("a".into())));
        assert_eq!(others.restore(&dump[1..], Present::Replace), Err(FunctionError::BadDump));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in prop::collection::vec(any::<u8>(), 0..200), lua in "[-='\"\\[\\]{}().a-c \n]{0,80}") {
            let _ = Library::parse(&[b"#!lua name=a\n".as_slice(), &text].concat());
            let _ = Library::parse(format!("#!lua name=a\n{lua}").as_bytes());
        }
    }
}
