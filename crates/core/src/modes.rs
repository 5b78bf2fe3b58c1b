//! File modes as an admin writes them: octal, symbolic as `chmod` takes them, or `keep`.

use std::fmt;
use std::str::FromStr;

/// The mode bits that `chmod` sets: permissions, setuid, setgid and sticky.
pub const MODE_BITS: u32 = 0o7777;

/// How often a symbolic mode is applied: only its first `x` can give a later `X` more to do.
const MODE_PASSES: usize = 2;

/// What a mode is to become.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModeRule {
    /// Whatever it is.
    Keep,
    /// Exactly these bits.
    Exact(u32),
    /// The result of these clauses.
    Symbolic(Vec<Clause>),
}

/// One clause of a symbolic mode, such as `g+rwX`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Clause {
    /// The bits of the classes it speaks of: some of 0o700, 0o070, 0o007.
    who: u32,
    actions: Vec<Action>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Action {
    op: Op,
    /// Permissions for one class, 0 to 7.
    permissions: u32,
    /// `X`: execute for directories and for files somebody may execute.
    conditional_execute: bool,
    set_id: bool,
    sticky: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Op {
    Add,
    Remove,
    Set,
}

/// A text that is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no mode: write octal (\"0775\"), symbolic (\"u=rwX,g=rwX,o=rX\") or \"keep\"")]
pub struct InvalidMode(String);

impl ModeRule {
    /// Returns the mode that `mode` is to become; applied to its own result it changes nothing.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Keep => mode,
            Self::Exact(bits) => *bits,
            // `g+X,u+x` makes a plain file executable for its owner first and for the group only
            // when it runs again. A declaration must not depend on how often it was applied.
            Self::Symbolic(clauses) => (0..MODE_PASSES).fold(mode, |mode, _| {
                clauses.iter().fold(mode, |mode, clause| clause.apply(mode, is_dir))
            }),
        }
    }

    /// Returns what the rule makes of these bits, where that is the same whatever they were.
    pub fn settles(&self, bits: u32, is_dir: bool) -> Option<u32> {
        let results = [0, MODE_BITS].map(|mode| self.apply(mode, is_dir) & bits);
        (results[0] == results[1]).then_some(results[0])
    }

    /// Returns whether the rule leaves every mode as it is.
    pub const fn is_keep(&self) -> bool {
        matches!(self, Self::Keep)
    }
}

impl Clause {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        self.actions.iter().fold(mode, |mode, action| action.apply(self.who, mode, is_dir))
    }
}

impl Action {
    fn apply(self, who: u32, mode: u32, is_dir: bool) -> u32 {
        let mut one = self.permissions;
        if self.conditional_execute && (is_dir || mode & 0o111 != 0) {
            one |= 0o1;
        }
        let mut bits = (one * 0o111) & who;
        if self.set_id {
            bits |= if who & 0o700 != 0 { 0o4000 } else { 0 };
            bits |= if who & 0o070 != 0 { 0o2000 } else { 0 };
        }
        if self.sticky {
            bits |= 0o1000;
        }
        match self.op {
            Op::Add => mode | bits,
            Op::Remove => mode & !bits,
            Op::Set => {
                // As `chmod` does, `=` on a directory leaves setuid and setgid unless they are named.
                let mut clear = who;
                if !is_dir {
                    clear |= if who & 0o700 != 0 { 0o4000 } else { 0 };
                    clear |= if who & 0o070 != 0 { 0o2000 } else { 0 };
                }
                (mode & !clear) | bits
            }
        }
    }
}

impl FromStr for ModeRule {
    type Err = InvalidMode;

    fn from_str(text: &str) -> Result<Self, InvalidMode> {
        if text == "keep" {
            return Ok(Self::Keep);
        }
        let invalid = || InvalidMode(text.to_owned());
        if text.bytes().all(|b| b.is_ascii_digit()) {
            let octal = (3..=5).contains(&text.len()).then(|| u32::from_str_radix(text, 8).ok());
            return octal
                .flatten()
                .filter(|m| *m <= MODE_BITS)
                .map(Self::Exact)
                .ok_or_else(invalid);
        }
        text.split(',')
            .map(parse_clause)
            .collect::<Option<_>>()
            .map(Self::Symbolic)
            .ok_or_else(invalid)
    }
}

fn parse_clause(text: &str) -> Option<Clause> {
    let ops = text.find(['+', '-', '='])?;
    let mut who = 0;
    for class in text[..ops].chars() {
        who |= match class {
            'u' => 0o700,
            'g' => 0o070,
            'o' => 0o007,
            'a' => 0o777,
            _ => return None,
        };
    }
    if who == 0 {
        // `chmod` would consult the umask here; a declaration must not depend on one.
        who = 0o777;
    }
    let mut actions = Vec::new();
    for c in text[ops..].chars() {
        let op = match c {
            '+' => Some(Op::Add),
            '-' => Some(Op::Remove),
            '=' => Some(Op::Set),
            _ => None,
        };
        if let Some(op) = op {
            let (permissions, conditional_execute) = (0, false);
            actions.push(Action {
                op,
                permissions,
                conditional_execute,
                set_id: false,
                sticky: false,
            });
            continue;
        }
        let action = actions.last_mut()?;
        match c {
            'r' => action.permissions |= 4,
            'w' => action.permissions |= 2,
            'x' => action.permissions |= 1,
            'X' => action.conditional_execute = true,
            's' => action.set_id = true,
            't' => action.sticky = true,
            _ => return None,
        }
    }
    Some(Clause { who, actions })
}

impl fmt::Display for ModeRule {
    /// Writes the rule so that equal rules look equal; symbolic rules appear by their effect.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("keep"),
            Self::Exact(bits) => write!(f, "{bits:04o}"),
            Self::Symbolic(clauses) => {
                for (i, clause) in clauses.iter().enumerate() {
                    if i > 0 {
                        f.write_str(",")?;
                    }
                    clause.fmt(f)?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let classes = [(0o700, "u"), (0o070, "g"), (0o007, "o")];
        for (_, letter) in classes.iter().filter(|(bits, _)| self.who & bits != 0) {
            f.write_str(letter)?;
        }
        for action in &self.actions {
            f.write_str(match action.op {
                Op::Add => "+",
                Op::Remove => "-",
                Op::Set => "=",
            })?;
            let letters = [
                (action.permissions & 4 != 0, "r"),
                (action.permissions & 2 != 0, "w"),
                (action.permissions & 1 != 0, "x"),
                (action.conditional_execute, "X"),
                (action.set_id, "s"),
                (action.sticky, "t"),
            ];
            for (_, letter) in letters.iter().filter(|(there, _)| *there) {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// What somebody may do with an entry: read, write, execute or enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Permissions(u8);

/// A text that is no permissions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` says nothing that somebody may do: write some of `rwx`")]
pub struct InvalidPermissions(String);

impl Permissions {
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// Returns the permissions with these bits, as one digit of an octal mode has them.
    pub fn new(bits: u32) -> Option<Self> {
        u8::try_from(bits).ok().filter(|bits| *bits <= 7).map(Self)
    }

    /// Returns the bits, as one digit of an octal mode.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Returns what either has.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromStr for Permissions {
    type Err = InvalidPermissions;

    /// Reads them as setfacl(1) does for a directory, for which `X` is `x`.
    fn from_str(text: &str) -> Result<Self, InvalidPermissions> {
        let bits = text.chars().try_fold(0, |bits, c| match c {
            'r' => Some(bits | 4),
            'w' => Some(bits | 2),
            'x' | 'X' => Some(bits | 1),
            '-' => Some(bits),
            _ => None,
        });
        let bits = bits.filter(|_| !text.is_empty());
        bits.map(Self).ok_or_else(|| InvalidPermissions(text.to_owned()))
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [(4, "r"), (2, "w"), (1, "x")];
        letters
            .iter()
            .try_for_each(|(bit, letter)| f.write_str(if self.0 & bit == 0 { "-" } else { letter }))
    }
}

/// A pattern for file names: `*` stands for any run of bytes, `?` for one byte.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePattern(String);

impl FilePattern {
    /// Returns the pattern, or `None` where it is empty or holds a slash, which no name does.
    pub fn new(text: &str) -> Option<Self> {
        (!text.is_empty() && !text.contains('/')).then(|| Self(text.to_owned()))
    }

    /// Returns the pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether `name` matches, in time linear in pattern times name.
    pub fn matches(&self, name: &[u8]) -> bool {
        let pattern = self.0.as_bytes();
        let (mut p, mut n) = (0, 0);
        // Where the last `*` stood, and how much of the name it has taken so far.
        let mut star: Option<(usize, usize)> = None;
        while n < name.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p, n));
                    p += 1;
                }
                Some(&b) if b == b'?' || b == name[n] => {
                    p += 1;
                    n += 1;
                }
                _ => match star {
                    Some((at, taken)) => {
                        star = Some((at, taken + 1));
                        p = at + 1;
                        n = taken + 1;
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|b| *b == b'*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(rule: &str, mode: u32, is_dir: bool) -> u32 {
        rule.parse::<ModeRule>().unwrap().apply(mode, is_dir)
    }

    /// Results of GNU `chmod` on files and directories of these modes.
    #[test]
    fn symbolic_modes_do_as_chmod_does() {
        for (rule, mode, is_dir, expected) in [
            ("u=rwX,g=rwX,o=rX", 0o600, false, 0o664),
            ("u=rwX,g=rwX,o=rX", 0o700, false, 0o775),
            ("u=rwX,g=rwX,o=rX", 0o600, true, 0o775),
            ("g+s", 0o755, true, 0o2755),
            ("u=rw", 0o4755, false, 0o655),
            ("g=rx", 0o2775, true, 0o2755),
            ("a-x", 0o777, false, 0o666),
            ("o=", 0o777, false, 0o770),
            ("+t", 0o755, true, 0o1755),
            ("u+x-w", 0o644, false, 0o544),
        ] {
            assert_eq!(apply(rule, mode, is_dir), expected, "{rule} on {mode:o}");
        }
    }

    #[test]
    fn applying_a_mode_twice_changes_nothing() {
        let rules = ["g+X,u+x", "u-x,g+X,u+x", "a+X,a-x", "u+x-w", "g=rX,o+x,u+X", "+X,-x,o+x"];
        for (rule, mode) in rules.iter().flat_map(|rule| (0..=MODE_BITS).map(move |m| (rule, m))) {
            for is_dir in [false, true] {
                let once = apply(rule, mode, is_dir);
                assert_eq!(apply(rule, once, is_dir), once, "{rule} on {mode:o}");
            }
        }
    }

    #[test]
    fn what_a_mode_settles_does_not_depend_on_what_was() {
        let settles =
            |rule: &str, bits, is_dir| rule.parse::<ModeRule>().unwrap().settles(bits, is_dir);
        for (rule, bits, is_dir, settled) in [
            ("2775", 0o7777, true, Some(0o2775)),
            ("u=rwX,g=rwXs,o=rX", 0o777, true, Some(0o775)),
            ("u=rwX,g=rwXs,o=rX", 0o7777, true, None),
            ("u=rwX,g=rwX,o=rX", 0o666, false, Some(0o664)),
            ("u=rwX,g=rwX,o=rX", 0o777, false, None),
            ("g+rw", 0o060, false, Some(0o060)),
            ("g+rw", 0o070, true, None),
            ("keep", 0o777, true, None),
            ("keep", 0, true, Some(0)),
        ] {
            assert_eq!(settles(rule, bits, is_dir), settled, "{rule} {bits:o} {is_dir}");
        }
    }

    #[test]
    fn permissions_are_read_as_setfacl_reads_them() {
        for (text, bits, shown) in
            [("rwX", 7, "rwx"), ("r-x", 5, "r-x"), ("wr", 6, "rw-"), ("---", 0, "---")]
        {
            let may: Permissions = text.parse().unwrap();
            assert_eq!((may.bits(), may.to_string()), (bits, shown.to_owned()), "{text}");
        }
        for text in ["", "7", "rws", "r w"] {
            assert!(text.parse::<Permissions>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn octal_sets_every_bit() {
        assert_eq!(apply("2775", 0o700, true), 0o2775);
        assert_eq!(apply("0640", 0o4777, false), 0o640);
        assert_eq!(apply("keep", 0o4777, false), 0o4777);
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in
            ["", "9", "07", "888", "017777", "rwx", "u", "u=q", "u=rw,", "z+x", "07 75", "-1"]
        {
            assert!(text.parse::<ModeRule>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn modes_are_written_as_they_are_read() {
        for text in ["keep", "0775", "2775", "u=rwX,g=rwX,o=rX", "ugo+x-w"] {
            assert_eq!(text.parse::<ModeRule>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn patterns_match_names_of_any_bytes() {
        for (pattern, name, expected) in [
            ("*.key", &b"a.key"[..], true),
            ("*.key", b".key", true),
            ("*.key", b"a.keys", false),
            ("*", b"\xff\n", true),
            ("a?c", b"abc", true),
            ("a?c", b"ac", false),
            ("*a*b*", b"xxaxxbxx", true),
            ("*a*b", b"ab/", false),
        ] {
            assert_eq!(FilePattern::new(pattern).unwrap().matches(name), expected, "{pattern}");
        }
    }
}
