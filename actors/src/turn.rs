//! The order of an upload's parts: the next part may be opened while the one before becomes durable, but nothing of it is
//! taken until that is over, and nothing at all if that part has to be sent again.

use tokio::sync::oneshot;

/// What a part waits for before anything of it is taken.
pub struct Turn(Option<oneshot::Receiver<()>>);

/// What lets the next part have its turn. Dropped without a word where there must be none.
pub struct Next(oneshot::Sender<()>);

impl Turn {
    /// Of a part with nothing before it.
    pub const fn first() -> Self {
        Self(None)
    }

    /// Of a part that comes after another one.
    pub fn after() -> (Next, Self) {
        let (next, turn) = oneshot::channel();
        (Next(next), Self(Some(turn)))
    }

    /// Waits; `false` if there is no turn any more.
    pub async fn comes(self) -> bool {
        match self.0 {
            None => true,
            Some(turn) => turn.await.is_ok(),
        }
    }
}

impl Next {
    /// The part before is over, and nothing of it has to be sent again.
    pub fn goes(self) {
        // A part that has been given up needs no turn.
        let _ = self.0.send(());
    }
}
