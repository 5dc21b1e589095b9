//! Reads the beginning of a value, sets one, and deletes one only if it is the expected one.

use std::sync::LazyLock;

use redis::aio::ConnectionLike;
use redis::{Cmd, RedisResult, Script};

/// How much of a value is read, in bytes.
// SECURITY: a forged value may have 512 MB, and every sidecar reads it every few seconds.
pub const MOST: usize = 2048;

/// Deletes the key if it holds the value, in one step, since other sidecars write to it.
const DELETE: &str = r"
if redis.call('GETRANGE', KEYS[1], 0, ARGV[2]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
";

/// The first [`MOST`] bytes; empty if there is no value.
pub(super) async fn read(connection: &mut impl ConnectionLike, key: &str) -> RedisResult<Vec<u8>> {
    let mut read = Cmd::new();
    read.arg("GETRANGE").arg(key).arg(0).arg(MOST - 1);
    read.query_async(connection).await
}

/// Sets the key for `seconds`.
pub(super) async fn write(
    connection: &mut impl ConnectionLike,
    key: &str,
    value: &[u8],
    seconds: u64,
) -> RedisResult<()> {
    let mut set = Cmd::new();
    set.arg("SET").arg(key).arg(value).arg("EX").arg(seconds);
    set.query_async(connection).await
}

/// Deletes the key if it holds `value`, of which the first [`MOST`] bytes are compared.
pub(super) async fn delete(connection: &mut impl ConnectionLike, key: &str, value: &[u8]) -> RedisResult<()> {
    static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(DELETE));
    SCRIPT.key(key).arg(value).arg(MOST - 1).invoke_async(connection).await
}
