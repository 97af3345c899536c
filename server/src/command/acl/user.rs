//! Users: who may come in, and what each may do. <https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/>

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::selector::{Denied, Refusal, Selector};
use crate::command::{Args, Command};

/// Attempts that are alike are one entry of the log while they follow within so many milliseconds.
const GROUPED_MS: i64 = 60_000;

/// The digest of a password, as it is shown.
type Hash = String;

/// What is known of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    pub(super) on: bool,
    pub(super) no_password: bool,
    pub(super) trusts_payloads: bool,
    pub(super) passwords: Vec<Hash>,
    pub(super) root: Selector,
    pub(super) selectors: Vec<Selector>,
}

impl Rules {
    /// Those of a new user, who may do nothing.
    pub fn new(all_channels: bool) -> Rules {
        Rules { root: Selector::new(all_channels), ..Rules::default() }
    }

    /// Those of the default user: everything, with a password or without.
    pub fn of_default(password: Option<&[u8]>) -> Rules {
        let mut rules = Rules { on: true, ..Rules::new(true) };
        for rule in [&b"~*"[..], b"+@all"] {
            rules.root.apply(rule).expect("it is a rule");
        }
        rules.set_password(password);
        rules
    }

    /// Lets this password, or none, be the only one.
    pub fn set_password(&mut self, password: Option<&[u8]>) {
        self.passwords = password.map(hash).into_iter().collect();
        self.no_password = password.is_none();
    }

    /// Follows several rules; of a selector, the words may have come apart.
    ///
    /// # Errors
    /// The first that cannot be followed, and why.
    pub fn apply_all(&mut self, rules: &[&[u8]], all_channels: bool) -> Result<(), String> {
        for rule in merged(rules)? {
            self.apply(&rule, all_channels).map_err(|reason| {
                format!("Error in ACL SETUSER modifier '{}': {reason}", String::from_utf8_lossy(&rule))
            })?;
        }
        Ok(())
    }

    fn apply(&mut self, rule: &[u8], all_channels: bool) -> Result<(), Refusal> {
        match rule.to_ascii_lowercase().as_slice() {
            b"on" => self.on = true,
            b"off" => self.on = false,
            b"nopass" => {
                self.no_password = true;
                self.passwords.clear();
            }
            b"resetpass" => {
                self.no_password = false;
                self.passwords.clear();
            }
            b"sanitize-payload" => self.trusts_payloads = false,
            b"skip-sanitize-payload" => self.trusts_payloads = true,
            b"clearselectors" => self.selectors.clear(),
            b"reset" => *self = Rules::new(all_channels),
            _ => return self.apply_other(rule),
        }
        Ok(())
    }

    fn apply_other(&mut self, rule: &[u8]) -> Result<(), Refusal> {
        match rule {
            [b'>', password @ ..] => self.add_password(hash(password)),
            [b'#', digits @ ..] => self.add_password(parse_hash(digits)?),
            [b'<', password @ ..] => return self.remove_password(&hash(password)),
            [b'!', digits @ ..] => return self.remove_password(&parse_hash(digits)?),
            [b'(', inner @ .., b')'] => {
                let mut selector = Selector::default();
                for rule in inner.split(|byte| *byte == b' ').filter(|rule| !rule.is_empty()) {
                    selector.apply(rule)?;
                }
                self.selectors.push(selector);
            }
            rule => return self.root.apply(rule),
        }
        Ok(())
    }

    fn add_password(&mut self, hash: Hash) {
        self.no_password = false;
        if !self.passwords.contains(&hash) {
            self.passwords.push(hash);
        }
    }

    fn remove_password(&mut self, hash: &Hash) -> Result<(), Refusal> {
        let index = self.passwords.iter().position(|known| known == hash);
        let index = index.ok_or("The password you are trying to remove from the user does not exist")?;
        self.passwords.remove(index);
        Ok(())
    }

    /// Whether who says this password may come in.
    fn admits(&self, password: &[u8]) -> bool {
        let given = hash(password);
        let is_right = |known: &Hash| bool::from(known.as_bytes().ct_eq(given.as_bytes()));
        self.on && (self.no_password || self.passwords.iter().any(is_right))
    }

    /// What stands against a command, if anything does: the reason that the most willing selector gives.
    fn check(&self, command: &Command, args: Args) -> Result<(), Denied> {
        let mut worst = match self.root.check(command, args) {
            Ok(()) => return Ok(()),
            Err(denied) => denied,
        };
        for selector in &self.selectors {
            match selector.check(command, args) {
                Ok(()) => return Ok(()),
                Err(denied) => worst = worst.max(denied),
            }
        }
        Err(worst)
    }

    /// Whether a channel, or exactly this pattern of channels, is allowed.
    pub(super) fn permits_channel(&self, name: &[u8], is_pattern: bool) -> bool {
        self.selectors.iter().chain([&self.root]).any(|selector| selector.permits_channel(name, is_pattern))
    }

    pub(super) fn flags(&self) -> Vec<&'static str> {
        let flags = [
            (if self.on { "on" } else { "off" }, true),
            ("nopass", self.no_password),
            ("skip-sanitize-payload", self.trusts_payloads),
        ];
        flags.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect()
    }

    /// All rules, in a form that is read back.
    fn describe(&self) -> Vec<u8> {
        let flags = self.flags().into_iter().map(|flag| flag.as_bytes().to_vec());
        let passwords = self.passwords.iter().map(|hash| format!("#{hash}").into_bytes());
        let selectors = self.selectors.iter().map(|selector| [b"(", &selector.describe()[..], b")"].concat());
        let all = flags.chain(passwords).chain([self.root.describe()]).chain(selectors);
        all.collect::<Vec<_>>().join(&b' ')
    }
}

/// The words of a selector that have come apart, together again.
fn merged(rules: &[&[u8]]) -> Result<Vec<Vec<u8>>, String> {
    let mut merged: Vec<Vec<u8>> = Vec::new();
    let mut open: Option<Vec<u8>> = None;
    for rule in rules {
        let word = match open.take() {
            Some(before) => [&before[..], rule].join(&b' '),
            None => rule.to_vec(),
        };
        if word.starts_with(b"(") && !word.ends_with(b")") {
            open = Some(word);
        } else {
            merged.push(word);
        }
    }
    match open {
        None => Ok(merged),
        Some(word) => {
            let shown = String::from_utf8_lossy(&word);
            Err(format!("Unmatched parenthesis in acl selector starting at '{shown}'."))
        }
    }
}

fn hash(password: &[u8]) -> Hash {
    Sha256::digest(password).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_hash(digits: &[u8]) -> Result<Hash, Refusal> {
    let is_hash = digits.len() == 64 && digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let text = std::str::from_utf8(digits).ok().filter(|_| is_hash);
    let refusal = "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters";
    text.map(str::to_owned).ok_or(refusal)
}

/// Somebody who may come in. Connections hold on to their users, whose rules may change under them.
#[derive(Debug)]
pub struct User {
    /// Unique.
    pub name: Vec<u8>,
    rules: RefCell<Rules>,
}

impl User {
    /// One with these rules.
    pub fn new(name: &[u8], rules: Rules) -> Rc<User> {
        Rc::new(User { name: name.to_vec(), rules: RefCell::new(rules) })
    }

    /// Whether there is nothing that this user may not do.
    pub fn is_unrestricted(&self) -> bool {
        self.rules.borrow().root.is_unrestricted()
    }

    /// Whether anybody is this user without saying so.
    pub fn is_open(&self) -> bool {
        let rules = self.rules.borrow();
        rules.on && rules.no_password
    }

    /// Whether no password is asked for.
    pub fn needs_no_password(&self) -> bool {
        self.rules.borrow().no_password
    }

    /// What stands against a command, if anything does.
    ///
    /// # Errors
    /// That.
    pub fn check(&self, command: &Command, args: Args) -> Result<(), Denied> {
        self.rules.borrow().check(command, args)
    }

    /// A copy of the rules.
    pub fn rules(&self) -> Rules {
        self.rules.borrow().clone()
    }

    /// Other rules, from now on.
    pub fn set_rules(&self, rules: Rules) {
        *self.rules.borrow_mut() = rules;
    }

    /// The line that makes this user: `user NAME rule…`.
    pub fn describe(&self) -> Vec<u8> {
        [&b"user"[..], &self.name, &self.rules.borrow().describe()].join(&b' ')
    }
}

/// Something that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// How often within a short time.
    pub count: u64,
    /// `command`, `key`, `channel` or `auth`.
    pub reason: &'static str,
    /// `toplevel` or `multi`.
    pub context: &'static str,
    /// Which command, key or channel.
    pub object: Vec<u8>,
    /// Who was refused.
    pub user: Vec<u8>,
    /// When, in milliseconds since the epoch.
    pub at_ms: i64,
    /// The line of the connection in `CLIENT LIST`.
    pub client: String,
}

/// All users, and what was refused to them.
#[derive(Debug)]
pub struct Users {
    all: BTreeMap<Vec<u8>, Rc<User>>,
    default: Rc<User>,
    /// The newest first.
    pub log: VecDeque<LogEntry>,
}

impl Users {
    /// The default user alone.
    pub fn new(password: Option<&[u8]>) -> Users {
        let default = User::new(b"default", Rules::of_default(password));
        Users { all: BTreeMap::from([(default.name.clone(), Rc::clone(&default))]), default, log: VecDeque::new() }
    }

    /// The one that is always there.
    pub fn default_user(&self) -> &Rc<User> {
        &self.default
    }

    /// All, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Rc<User>> {
        self.all.values()
    }

    /// The one of this name.
    pub fn get(&self, name: &[u8]) -> Option<&Rc<User>> {
        self.all.get(name)
    }

    /// Who this is, if the password is right.
    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Option<&Rc<User>> {
        self.get(name).filter(|user| user.rules.borrow().admits(password))
    }

    /// Makes a user, or changes one, by all of the rules or none.
    ///
    /// # Errors
    /// What is wrong with the name or a rule.
    pub fn set(&mut self, name: &[u8], rules: &[&[u8]], all_channels: bool) -> Result<Rc<User>, String> {
        if name.iter().any(|byte| byte.is_ascii_whitespace() || *byte == 0) {
            return Err("Usernames can't contain spaces or null characters".into());
        }
        let mut changed = self.get(name).map_or_else(|| Rules::new(all_channels), |user| user.rules());
        changed.apply_all(rules, all_channels)?;
        let user = self.all.entry(name.to_vec()).or_insert_with(|| User::new(name, Rules::default()));
        user.set_rules(changed);
        Ok(Rc::clone(user))
    }

    /// Removes a user, whose connections are to be ended.
    pub fn remove(&mut self, name: &[u8]) -> Option<Rc<User>> {
        self.all.remove(name)
    }

    /// The users that these lines make, each `user NAME rule…`, in place of all there were; the default user stays the
    /// same one. Returns those who are no more.
    ///
    /// # Errors
    /// Everything that is wrong, with the numbers of the lines; nothing has changed then.
    pub fn replace<'a>(
        &mut self,
        lines: impl Iterator<Item = &'a [u8]>,
        all_channels: bool,
    ) -> Result<Vec<Rc<User>>, Vec<String>> {
        let (mut users, mut errors) = (Users::new(None), Vec::new());
        let mut seen: Vec<Vec<u8>> = Vec::new();
        for (index, line) in lines.enumerate().filter(|(_, line)| !line.trim_ascii().is_empty()) {
            let words: Vec<&[u8]> = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
            let [b"user", name, rules @ ..] = &words[..] else {
                errors.push(format!("{}: line should start with user keyword followed by the username. ", index + 1));
                continue;
            };
            if seen.iter().any(|known| known == name) {
                let name = String::from_utf8_lossy(name);
                errors.push(format!("WARNING: Duplicate user '{name}' found on line {}. ", index + 1));
                continue;
            }
            seen.push(name.to_vec());
            let fresh = Rules::new(all_channels);
            users.all.entry(name.to_vec()).or_insert_with(|| User::new(name, Rules::default())).set_rules(fresh);
            if let Err(error) = users.set(name, rules, all_channels) {
                errors.push(format!("{}: {error}. ", index + 1));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        self.default.set_rules(users.default.rules());
        users.all.insert(b"default".to_vec(), Rc::clone(&self.default));
        let old = std::mem::replace(&mut self.all, users.all);
        Ok(old.into_values().filter(|user| !Rc::ptr_eq(user, &self.default)).collect())
    }

    /// Notes that something was refused.
    pub fn note(&mut self, entry: LogEntry, entries_max: usize) {
        let is_alike = |known: &LogEntry| {
            (known.reason, known.context, &known.object, &known.user)
                == (entry.reason, entry.context, &entry.object, &entry.user)
                && entry.at_ms - known.at_ms <= GROUPED_MS
        };
        let before = self.log.iter().position(is_alike).and_then(|index| self.log.remove(index));
        let count = entry.count + before.map_or(0, |before| before.count);
        self.log.push_front(LogEntry { count, ..entry });
        self.log.truncate(entries_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(rules: &[&str]) -> Result<String, String> {
        let mut user = Rules::new(false);
        user.apply_all(&rules.iter().map(|rule| rule.as_bytes()).collect::<Vec<_>>(), false)?;
        Ok(String::from_utf8(user.describe()).expect("ASCII"))
    }

    #[test]
    fn rules_are_told_in_a_form_that_is_read_back() {
        let rules = ["on", "nopass", "~k*", "%R~r*", "%W~w", "%R~w", "&c", "+@set", "-sadd", "(~s", "+get)"];
        let text = described(&rules).expect("good");
        assert_eq!(text, "on nopass ~k* %R~r* ~w resetchannels &c -@all +@set -sadd (~s resetchannels -@all +get)");
        assert_eq!(described(&text.split(' ').collect::<Vec<_>>()), Ok(text));
    }

    #[test]
    fn a_wider_rule_takes_the_place_of_narrower_ones() {
        let commands =
            |rules: &[&str]| described(rules).map(|text| text.split("resetchannels ").nth(1).map(str::to_owned));
        assert_eq!(commands(&["+client|id", "+client"]), Ok(Some("-@all +client".into())));
        assert_eq!(commands(&["+@all", "+client|id"]), Ok(Some("+@all".into())));
        assert_eq!(commands(&["+@all", "-debug", "+debug|digest"]), Ok(Some("+@all -debug +debug|digest".into())));
        assert!(described(&["+@all", "+config|get|x"]).is_err());
        assert!(described(&["+nosuch"]).is_err());
    }

    #[test]
    fn a_password_is_known_by_its_digest_alone() {
        let mut users = Users::new(None);
        users.set(b"a", &[b"on", b">secret"], false).expect("good");
        assert!(users.authenticate(b"a", b"secret").is_some());
        assert!(users.authenticate(b"a", b"wrong").is_none());
        let line = users.get(b"a").expect("there").describe();
        assert!(!line.windows(6).any(|part| part == b"secret"));
        users.set(b"a", &[b"off"], false).expect("good");
        assert!(users.authenticate(b"a", b"secret").is_none());
    }
}
