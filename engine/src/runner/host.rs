//! What a node asks of the machine under it, beside the time: who it is, chance, and tasks.
//!
//! It is handed in, as the clock is, so that one seed can be a whole run of a node.

use std::fmt;
use std::pin::Pin;

use tokio::task::JoinHandle;

use super::identity;

/// A task of a node.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

pub trait Host: fmt::Debug + Send + Sync {
    /// The name under which this life of the node called `name` owns shards.
    fn own_name(&self, name: &str) -> String;

    /// Whether `owner` is certainly dead, as seen from here. When in doubt it is not.
    fn is_dead(&self, owner: &str) -> bool;

    /// Whether [`Host::is_dead`] can tell anything about `owner`, so that asking often is worth it.
    fn is_neighbour(&self, owner: &str) -> bool {
        let _ = owner;
        false
    }

    /// Bytes that nobody can guess.
    fn random(&self) -> [u8; 16];

    fn spawn(&self, task: Task) -> JoinHandle<()>;
}

/// The machine this process runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemHost;

impl Host for SystemHost {
    fn own_name(&self, name: &str) -> String {
        identity::own(name)
    }

    fn is_dead(&self, owner: &str) -> bool {
        identity::is_dead(owner)
    }

    fn is_neighbour(&self, owner: &str) -> bool {
        identity::is_neighbour(owner)
    }

    fn random(&self) -> [u8; 16] {
        *uuid::Uuid::new_v4().as_bytes()
    }

    fn spawn(&self, task: Task) -> JoinHandle<()> {
        tokio::spawn(task)
    }
}
