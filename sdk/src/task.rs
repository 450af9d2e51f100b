//! A background task that ends with its owner.

use std::future::Future;

use tokio::task::JoinHandle;

/// Owns a task; dropping it stops the task at its next await.
pub(crate) struct Task(JoinHandle<()>);

impl Task {
    pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
