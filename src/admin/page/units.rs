//! Formats numbers for people: short, with units, and of constant width.

use std::time::Duration;

/// Shown for an unknown value.
pub const NOTHING: &str = "–";

/// `12.3/s`, or `4.5/min` for small rates.
pub fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate <= 0.0 => "0/s".to_owned(),
        rate if rate < 1.0 => format!("{}/min", digits(rate * 60.0)),
        rate => format!("{}/s", digits(rate)),
    }
}

/// `850 µs`, `12.3 ms`, `1.24 s`, `2 min`.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        short if short < 0.000_999_5 => format!("{:.0} µs", short * 1e6),
        short if short < 0.999_5 => format!("{} ms", digits(short * 1e3)),
        long if long < 60.0 => format!("{} s", digits(long)),
        long => span(Duration::from_secs_f64(long.min(1e9))),
    }
}

/// `12,345`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `23.4 MiB`.
pub fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 999.5 {
            return format!("{} {unit}", digits(value));
        }
        value /= 1024.0;
    }
    format!("{} TiB", digits(value))
}

/// `12 s`, `5 min`, `3 h 20 min`, `12 d 4 h`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if minutes == 0 => format!("{seconds} s"),
        () if hours == 0 => format!("{minutes} min"),
        () if days == 0 => format!("{hours} h {} min", minutes % 60),
        () => format!("{days} d {} h", hours % 24),
    }
}

/// With three significant digits.
fn digits(value: f64) -> String {
    match value {
        value if value >= 99.95 => count(value.round() as u64),
        value if value >= 9.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (rate_per_second, text) in [
            (0.0, "0/s"),
            (0.001, "0.06/min"),
            (0.5, "30.0/min"),
            (1.0, "1.00/s"),
            (12.34, "12.3/s"),
            (12_345.6, "12,346/s"),
        ] {
            assert_eq!(rate(rate_per_second), text);
        }
    }

    #[test]
    fn durations() {
        for (value, text) in [
            (0.0, "0 µs"),
            (0.000_85, "850 µs"),
            (0.001, "1.00 ms"),
            (0.0123, "12.3 ms"),
            (0.9999, "1.00 s"),
            (12.0, "12.0 s"),
            (125.0, "2 min"),
        ] {
            assert_eq!(seconds(value), text);
        }
        for (value, text) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (12_000, "3 h 20 min"), (86_400 * 12 + 3600 * 4, "12 d 4 h")]
        {
            assert_eq!(span(Duration::from_secs(value)), text);
        }
    }

    #[test]
    fn counts_and_bytes() {
        for (value, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(value), text);
        }
        for (value, text) in
            [(0, "0.00 B"), (999, "999 B"), (1023, "1.00 KiB"), (24 << 20, "24.0 MiB"), (u64::MAX, "16,777,216 TiB")]
        {
            assert_eq!(bytes(value), text);
        }
    }
}
