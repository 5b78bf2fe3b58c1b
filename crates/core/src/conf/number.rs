//! Perl's numbers, as far as a conf shows them: 64-bit integers that become floats when too big.

use std::cmp::Ordering;
use std::fmt;

use crate::conf::text::is_digits;

/// A number that is not negative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// Exact.
    Integer(u64),
    /// Beyond 64 bits, or with a fraction on the way there.
    Float(f64),
}

impl Number {
    /// Reads digits, however many.
    pub fn from_digits(digits: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(digits).ok().filter(|_| is_digits(digits))?;
        text.parse().map(Self::Integer).or_else(|_| text.parse().map(Self::Float)).ok()
    }

    /// Reads a disk size such as `8G` or `1.5T` in bytes (`PVE::JSONSchema::parse_size`).
    pub fn from_size(text: &[u8]) -> Option<Self> {
        let (number, unit) = match text.split_last()? {
            (b'K', number) => (number, 1_u64 << 10),
            (b'M', number) => (number, 1 << 20),
            (b'G', number) => (number, 1 << 30),
            (b'T', number) => (number, 1 << 40),
            _ => (text, 1),
        };
        if let Some(number) = Self::from_digits(number) {
            return Some(number.times(unit));
        }
        let dot = number.iter().position(|b| *b == b'.')?;
        if !is_digits(&number[..dot]) || !is_digits(&number[dot + 1..]) {
            return None;
        }
        let number: f64 = std::str::from_utf8(number).ok()?.parse().ok()?;
        Some(Self::Float(number).times(unit).truncated())
    }

    /// Returns the number where it is exact.
    pub const fn as_u64(self) -> Option<u64> {
        match self {
            Self::Integer(number) => Some(number),
            Self::Float(_) => None,
        }
    }

    /// Returns the sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let exact = self.as_u64().zip(other.as_u64()).and_then(|(a, b)| a.checked_add(b));
        exact.map_or_else(|| Self::Float(self.to_float() + other.to_float()), Self::Integer)
    }

    fn times(self, factor: u64) -> Self {
        let exact = self.as_u64().and_then(|number| number.checked_mul(factor));
        let product = || Self::Float(self.to_float() * Self::Integer(factor).to_float());
        exact.map_or_else(product, Self::Integer)
    }

    /// Returns the number without its fraction, exact where it fits (`int`).
    fn truncated(self) -> Self {
        match self {
            Self::Integer(_) => self,
            Self::Float(number) => {
                // The only lossless way from one to the other is by their digits.
                let digits = format!("{:.0}", number.trunc());
                digits.parse().map_or(Self::Float(number.trunc()), Self::Integer)
            }
        }
    }

    fn to_float(self) -> f64 {
        match self {
            // Digits always read as a float; see above.
            Self::Integer(number) => number.to_string().parse().unwrap_or(f64::INFINITY),
            Self::Float(number) => number,
        }
    }

    /// Compares as `<=>` does.
    pub fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => a.cmp(&b),
            _ => self.to_float().total_cmp(&other.to_float()),
        }
    }

    /// Returns the number of bytes with the biggest unit that divides it (`format_size`).
    pub fn to_size(self) -> String {
        let mut number = self;
        for unit in ["", "K", "M", "G"] {
            match number.exact_kilo() {
                Some(fewer) => number = fewer,
                None => return format!("{number}{unit}"),
            }
        }
        format!("{number}T")
    }

    /// Returns the 1024th part where that is whole.
    fn exact_kilo(self) -> Option<Self> {
        match self {
            Self::Integer(number) => (number % 1024 == 0).then_some(Self::Integer(number / 1024)),
            Self::Float(number) => {
                let part = (number / 1024.0).trunc();
                let whole = (part * 1024.0).total_cmp(&number) == Ordering::Equal;
                whole.then_some(Self::Float(part).truncated())
            }
        }
    }
}

impl fmt::Display for Number {
    /// Writes the number as Perl prints it, floats with 15 digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => number.fmt(f),
            Self::Float(number) if number.is_infinite() => f.write_str("Inf"),
            Self::Float(number) => {
                let text = format!("{number:.14e}");
                let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                let digits = digits.trim_end_matches('0').trim_end_matches('.');
                write!(f, "{digits}e+{exponent:0>2}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn big_numbers_are_printed_as_perl_prints_them() {
        for (digits, expected) in [
            ("007", "7"),
            ("18446744073709551615", "18446744073709551615"),
            ("18446744073709551616", "1.84467440737096e+19"),
            ("99999999999999999999", "1e+20"),
            ("123456789012345678901234567890", "1.23456789012346e+29"),
        ] {
            let number = Number::from_digits(digits.as_bytes()).unwrap();
            assert_eq!(number.to_string(), expected, "{digits}");
        }
        assert_eq!(Number::from_digits(&[b'9'; 400]).unwrap().to_string(), "Inf");
    }

    #[test]
    fn sizes_are_read_and_written_as_proxmox_does() {
        for (text, bytes, size) in [
            ("8G", "8589934592", "8G"),
            ("1.5T", "1649267441664", "1536G"),
            ("1024K", "1048576", "1M"),
            ("10", "10", "10"),
            ("0", "0", "0T"),
            ("2048T", "2251799813685248", "2048T"),
            ("0.3", "0", "0T"),
            ("1.0001K", "1024", "1K"),
        ] {
            let number = Number::from_size(text.as_bytes()).unwrap();
            assert_eq!(
                (number.to_string(), number.to_size()),
                (bytes.into(), size.into()),
                "{text}"
            );
        }
        for text in ["", "K", ".5G", "8g", "8 G", "8GB", "1e3", "1.", "1.G", "-1", "+1"] {
            assert_eq!(Number::from_size(text.as_bytes()), None, "{text}");
        }
    }
}
