//! Restarts a queue's worker task when it panics.

use tracing::error;

/// Runs `work` until it ends by itself. A bug in it costs the item that it was working on, not all
/// later ones.
pub async fn keep_working<F>(what: &str, work: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    // The runtime's shutdown is not an error.
    while let Err(error) = tokio::spawn(work()).await
        && error.is_panic()
    {
        // SECURITY: the error quotes the panic's message; the log line before contains its place.
        error!("a worker for {what} failed and is started again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::{Mutex, mpsc};

    #[tokio::test]
    async fn who_fails_is_started_again() {
        let (queue, waiting) = mpsc::unbounded_channel();
        let (done, mut ended) = mpsc::unbounded_channel();
        for number in 1..=5 {
            queue.send(number).unwrap();
        }
        drop(queue);
        let waiting = Arc::new(Mutex::new(waiting));
        keep_working("tests", || {
            let (waiting, done) = (Arc::clone(&waiting), done.clone());
            async move {
                while let Some(number) = waiting.lock().await.recv().await {
                    assert!(number > 2, "meant to fail");
                    done.send(number).unwrap();
                }
            }
        })
        .await;
        drop(done);
        let mut said = Vec::new();
        while let Some(number) = ended.recv().await {
            said.push(number);
        }
        assert_eq!(said, [3, 4, 5]);
    }
}
