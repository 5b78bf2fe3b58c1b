//! The digest of a conf: what `--digest` of `pct set` compares.

use std::fmt;

use sha1::Digest as _;

/// The SHA-1 of all bytes of a conf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 20]);

impl Digest {
    /// Returns the digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha1::Sha1::digest(bytes).into())
    }

    /// Returns its first 64 bits, for what is only to be told apart.
    pub fn prefix(self) -> u64 {
        let [first @ .., _, _, _, _, _, _, _, _, _, _, _, _] = self.0;
        u64::from_be_bytes(first)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_the_lower_case_sha_1() {
        assert_eq!(Digest::of(b"abc").to_string(), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(Digest::of(b"abc").prefix(), 0xa999_3e36_4706_816a);
    }
}
