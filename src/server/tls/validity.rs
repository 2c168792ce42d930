//! Until when a certificate is valid (RFC 5280, section 4.1). rustls judges that of other people's
//! certificates and does not tell it of our own, so this walks to the one field. Pure.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const SEQUENCE: u8 = 0x30;
/// The version, which may be left out.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The last second, since 1970; None where `certificate` (DER) is none.
pub fn not_after(certificate: &[u8]) -> Option<i64> {
    let (signed, _) = sequence(certificate)?;
    let (mut fields, _) = sequence(signed)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields)?.2;
    }
    // The number, the signature's kind, the issuer.
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (validity, _) = sequence(fields)?;
    let (tag, text, _) = element(element(validity)?.2)?;
    seconds(tag, std::str::from_utf8(text).ok()?)
}

/// What stands in a sequence, and behind it.
fn sequence(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (tag, body, rest) = element(der)?;
    (tag == SEQUENCE).then_some((body, rest))
}

/// The first element: its tag, its body, what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let [tag, length, rest @ ..] = der else { return None };
    let (bytes, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (body, rest) = rest.split_at_checked(bytes)?;
    Some((*tag, body, rest))
}

/// `YYMMDDhhmmssZ`, or with a year of four digits.
fn seconds(tag: u8, text: &str) -> Option<i64> {
    let digits = text.strip_suffix('Z').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year: i16 = year.parse().ok()?;
            (year + if year < 50 { 2000 } else { 1900 }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let part = |at: usize| rest.get(2 * at..2 * at + 2)?.parse::<i8>().ok();
    let time = DateTime::new(year, part(0)?, part(1)?, part(2)?, part(3)?, part(4)?, 0).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn made(year: i32, month: u8, day: u8) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["localhost".to_string()]).unwrap();
        params.not_after = date_time_ymd(year, month, day);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn both_forms_of_a_time_are_read() {
        assert_eq!(not_after(&made(2030, 1, 2)), Some(1_893_542_400));
        assert_eq!(not_after(&made(2100, 3, 1)), Some(4_107_542_400), "beyond 2049 by four digits");
    }

    proptest! {
        /// Whatever is cut or changed, it is read or not, and nothing else.
        #[test]
        fn no_bytes_confuse_it(cut in 0usize..600, at in 0usize..600, byte: u8) {
            let mut der = made(2030, 1, 2);
            let places = der.len();
            der[at % places] = byte;
            der.truncate(cut);
            not_after(&der);
        }
    }
}
