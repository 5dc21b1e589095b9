//! A value that is read again when it is too old, by one reader at a time. A network has one for
//! each site in use, so it is small.

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

pub(super) struct Fresh<T> {
    known: RwLock<Option<(Instant, T)>>,
    lasts: Duration,
    /// Locked while it is read.
    reading: Mutex<()>,
}

impl<T: Clone> Fresh<T> {
    /// Empty; each value lasts for `lasts`.
    pub(super) fn new(lasts: Duration) -> Self {
        Fresh { known: RwLock::new(None), lasts, reading: Mutex::new(()) }
    }

    pub(super) fn get(&self) -> Option<T> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|(since, _)| since.elapsed() < self.lasts).map(|(_, value)| value.clone())
    }

    pub(super) fn put(&self, value: T) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), value));
    }

    /// Reads the value if it is too old. Callers that arrive meanwhile wait for that result.
    pub(super) async fn get_or_read(&self, read: impl Future<Output = T>) -> T {
        let _reading = self.reading.lock().await;
        if let Some(value) = self.get() {
            return value;
        }
        let value = read.await;
        self.put(value.clone());
        value
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn it_is_read_once_for_all_and_again_when_it_is_old() {
        let (fresh, read) = (Fresh::new(Duration::from_millis(200)), AtomicU32::new(0));
        let reading = || async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            read.fetch_add(1, Ordering::Relaxed) + 1
        };
        assert_eq!(fresh.get(), None);
        let all =
            tokio::join!(fresh.get_or_read(reading()), fresh.get_or_read(reading()), fresh.get_or_read(reading()));
        assert_eq!((all, fresh.get()), ((1, 1, 1), Some(1)));
        tokio::time::sleep(Duration::from_millis(210)).await;
        assert_eq!((fresh.get(), fresh.get_or_read(reading()).await), (None, 2));
        fresh.put(7);
        assert_eq!(fresh.get_or_read(reading()).await, 7);
    }
}
