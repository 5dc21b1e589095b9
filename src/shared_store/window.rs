//! A fixed window at one key: counted in one step, so that it is exact however many sidecars count.

use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{RedisResult, Script};

/// Answers whether it was counted, how many were, and how many milliseconds are left of the window.
///
/// A remaining time above `length` means that the window was opened with another length, or its key
/// by another program: it begins again, as it does where a process counts by itself. One key, so that a
/// cluster knows where it is. Redis from version 5, which repeats what a script did at its
/// replicas, and not the script.
const COUNT: &str = r"
local most, length = tonumber(ARGV[1]), tonumber(ARGV[2])
local count, left = 0, redis.call('PTTL', KEYS[1])
if left > 0 and left <= length then
  count = tonumber(redis.call('GET', KEYS[1])) or 0
else
  left = length
  redis.call('SET', KEYS[1], 0, 'PX', length)
end
if count >= most then return {0, count, left} end
return {1, redis.call('INCR', KEYS[1]), left}
";

/// Where a window stands after a request was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Whether there was room for it.
    pub is_counted: bool,
    /// With it, if it was.
    pub count: u32,
    /// Until the window ends.
    pub left: Duration,
}

/// Counts one more at `key`, unless `most` are. The script goes there once; then its digest is
/// enough.
pub(super) async fn count(
    connection: &mut impl ConnectionLike,
    key: &str,
    most: u32,
    length: Duration,
) -> RedisResult<Counted> {
    static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(COUNT));
    let length = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    let (is_counted, count, left): (bool, u64, u64) =
        SCRIPT.key(key).arg(most).arg(length).invoke_async(connection).await?;
    // SECURITY: a store that lies must not shut a client out for longer than a window is long.
    let left = Duration::from_millis(left.min(length));
    Ok(Counted { is_counted, count: u32::try_from(count).unwrap_or(u32::MAX), left })
}
