//! Times in columns of the type DATETIME, in UTC.

use mysql_async::Value;
use time::{Date, OffsetDateTime, PrimitiveDateTime, Time};

/// The column's value. Times beyond its year 9999 are NULL, which the token table's columns refuse.
/// The server could calculate it, but FROM_UNIXTIME ends in 2038 on older ones, and adding dates
/// took a microsecond per row.
pub fn datetime(unix_seconds: u64) -> Value {
    let time = i64::try_from(unix_seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let Some((time, Ok(year))) = time.map(|time| (time, u16::try_from(time.year()))) else { return Value::NULL };
    Value::Date(year, time.month().into(), time.day(), time.hour(), time.minute(), time.second(), 0)
}

/// The reverse, from a prepared statement; `None` for NULL, a time before 1970 and invalid times
/// such as `0000-00-00`.
pub fn unix_seconds(column: &Value) -> Option<u64> {
    let Value::Date(year, month, day, hour, minute, second, _) = *column else { return None };
    let date = Date::from_calendar_date(year.into(), month.try_into().ok()?, day).ok()?;
    let time = Time::from_hms(hour, minute, second).ok()?;
    u64::try_from(PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_those_of_the_column() {
        assert_eq!(datetime(0), Value::Date(1970, 1, 1, 0, 0, 0, 0));
        assert_eq!(datetime(4_107_542_399), Value::Date(2100, 2, 28, 23, 59, 59, 0));
        assert_eq!(datetime(253_402_300_799), Value::Date(9999, 12, 31, 23, 59, 59, 0));
        assert_eq!(datetime(253_402_300_800), Value::NULL);
        assert_eq!(datetime(u64::MAX), Value::NULL);
    }

    #[test]
    fn what_is_no_time_is_none() {
        for column in [
            Value::NULL,
            Value::Date(0, 0, 0, 0, 0, 0, 0),
            Value::Date(1969, 12, 31, 23, 59, 59, 0),
            Value::Date(2026, 2, 30, 0, 0, 0, 0),
            Value::Bytes(b"2026-11-29 00:00:00".to_vec()),
        ] {
            assert_eq!(unix_seconds(&column), None, "{column:?}");
        }
    }

    proptest! {
        #[test]
        fn a_time_comes_back(seconds in 0..253_402_300_800_u64) {
            prop_assert_eq!(unix_seconds(&datetime(seconds)), Some(seconds));
        }
    }
}
