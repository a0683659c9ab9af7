//! Notices on a running node: the ways by which they leave, and the loops that send them.
//!
//! Three loops beside the lane: one makes messages of notices that are due, one for each way sends them. A way that hangs holds
//! up nothing but itself. All of them look at the shards this node owns; two nodes that both believe they own one do no harm,
//! because a message is taken in hand in the state in which it was read.

mod mail;
pub mod view;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chrono::TimeDelta;
use engine::runner::{Clock, SystemClock};
use engine::store::StoreError;
use secrecy::ExposeSecret as _;
use tokio::sync::Notify;
use workflows::config::Configuration;
use workflows::intake::PolicyCell;
use workflows::notices::{
    Carrier, Courier, Expiries, Links, NotificationSettings, Outbox, Router, Sponsors,
};
use workflows::sources::signature::SigningKey;

use super::{Database, now};
use crate::telemetry::Metrics;

pub use mail::Mail;
pub use webhook::Webhook;

/// The longest pause between two looks. A notice of this process is looked for at once; the clock is for those of others.
const LOOK_PAUSE: Duration = Duration::from_secs(5);
/// From the word that something is about to be written to the look for it.
const WRITTEN_PAUSE: Duration = Duration::from_millis(50);
/// When it is looked for again.
const WRITTEN_AGAIN: Duration = Duration::from_millis(500);
/// The pause after a look that failed.
const FAILED_PAUSE: Duration = Duration::from_secs(2);
/// How often it is looked for contractors whom nobody answers for.
const SPONSORS_PAUSE: Duration = Duration::from_secs(900);
/// How often it is looked for credentials that end.
const EXPIRIES_PAUSE: Duration = Duration::from_secs(600);
/// How often it is looked for what is over.
const FORGET_PAUSE: Duration = Duration::from_secs(600);

/// The configured ways.
///
/// # Errors
/// When a secret or a certificate is not where it should be.
pub fn carriers(settings: &NotificationSettings) -> anyhow::Result<Vec<Box<dyn Carrier>>> {
    let mut carriers: Vec<Box<dyn Carrier>> = Vec::new();
    if let Some(email) = &settings.email {
        let mail = Mail::new(email).context("cannot use `notifications.email`")?;
        carriers.push(Box::new(mail));
    }
    if let Some(webhook) = &settings.webhook {
        let hook = Webhook::new(webhook).context("cannot use `notifications.webhook`")?;
        carriers.push(Box::new(hook));
    }
    Ok(carriers)
}

/// What signs links in mails, if there are any.
///
/// # Errors
/// When the key is not where it should be.
pub fn links(configuration: &Configuration) -> anyhow::Result<Option<Arc<Links>>> {
    let settings = configuration.notices.settings();
    let Some((settings, base)) =
        settings.and_then(|settings| settings.links.as_ref().zip(settings.link.as_deref()))
    else {
        return Ok(None);
    };
    let place = String::from(settings.secret.clone());
    let key = SigningKey::read(settings.secret.resolve()?.expose_secret())
        .with_context(|| format!("`{place}`"))
        .context("cannot use `notifications.links`")?;
    Ok(Some(Arc::new(Links::new(key, base, settings.valid))))
}

/// Whether everything is there that sending takes: passwords, keys and certificates.
///
/// # Errors
/// The first that is not.
pub fn check(configuration: &Configuration) -> anyhow::Result<()> {
    match configuration.notices.settings() {
        Some(settings) => {
            links(configuration)?;
            carriers(settings).map(|_| ())
        }
        None => Ok(()),
    }
}

/// What the loops share.
#[derive(Clone)]
pub struct Shared {
    pub database: Database,
    pub configuration: Arc<Configuration>,
    /// The policy in force, which may change.
    pub policy: PolicyCell,
    /// The name under which this node owns shards.
    pub owner: String,
    pub links: Option<Arc<Links>>,
    /// Told when something new is about to be written.
    pub written: Arc<Notify>,
    pub metrics: Metrics,
}

impl Shared {
    fn outbox(&self) -> Outbox {
        Outbox::new(self.database.directory.clone())
    }

    async fn shards(&self) -> Result<Vec<i32>, StoreError> {
        let shards = self.database.store.shards().await?;
        let mine = |owner: Option<&str>| owner == Some(self.owner.as_str());
        Ok(shards
            .iter()
            .filter(|row| mine(row.owner.as_deref()) && row.is_held())
            .map(|row| row.shard.0)
            .collect())
    }
}

/// Makes messages of notices, for ever. `routed` is told when there are new ones.
pub async fn keep_routing(shared: Shared, routed: Arc<Notify>) {
    let sources = shared.configuration.sources.values();
    let silent = sources
        .filter_map(|source| Some((source.name().to_owned(), source.silent_after()?)))
        .collect();
    let notices = Arc::clone(&shared.configuration.notices);
    let router = Router::new(shared.outbox(), notices, silent);
    let mut pause_max = LOOK_PAUSE;
    loop {
        let looked = async {
            let shards = shared.shards().await?;
            router.look(&shards, now()).await
        };
        let pause = match looked.await {
            Ok(looked) => {
                if looked.routed > 0 {
                    routed.notify_waiters();
                }
                until(looked.next)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot look for notices");
                FAILED_PAUSE
            }
        };
        let woken = tokio::time::timeout(pause.min(pause_max), shared.written.notified()).await;
        // The word comes before the commit, which may take longer than the first look waits for it.
        pause_max = LOOK_PAUSE;
        if woken.is_ok() {
            tokio::time::sleep(WRITTEN_PAUSE).await;
            pause_max = WRITTEN_AGAIN;
        }
    }
}

/// Sends messages by one way, for ever.
pub async fn keep_sending(shared: Shared, carrier: Box<dyn Carrier>, routed: Arc<Notify>) {
    let way = carrier.way().as_str();
    let notices = Arc::clone(&shared.configuration.notices);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let owner = shared.owner.clone();
    let courier = Courier::new(shared.outbox(), notices, carrier, owner, clock);
    let mut courier = courier.with_links(shared.links.clone());
    let mut away = None;
    loop {
        // Asked for before the look: what is made meanwhile is not missed.
        let woken = routed.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        let round = async {
            let shards = shared.shards().await?;
            courier.round(&shards).await
        };
        let pause = match round.await {
            Ok(round) => {
                for (notice, result) in &round.tried {
                    shared.metrics.notice(way, notice, result);
                }
                if round.away != away {
                    // Neither answer nor address: only whether the way is there. `tenure notice` shows the rest.
                    match &round.away {
                        Some(_) => tracing::warn!(way, "notices cannot be sent; they wait"),
                        None if round.tried.is_empty() => {}
                        None => tracing::info!(way, "notices can be sent again"),
                    }
                }
                if round.away.is_some() || !round.tried.is_empty() {
                    shared.metrics.notices_away(way, round.away.is_some());
                    away = round.away;
                }
                until(round.next)
            }
            Err(error) => {
                tracing::warn!(way, %error, "cannot look for messages");
                FAILED_PAUSE
            }
        };
        let _ = tokio::time::timeout(pause, woken).await;
    }
}

/// Looks for contractors whom nobody answers for, for ever.
pub async fn keep_watching_sponsors(shared: Shared) {
    loop {
        // Not at once: a node that has just started owns nothing yet.
        tokio::time::sleep(LOOK_PAUSE).await;
        let looked = async {
            let in_force = shared.policy.get();
            let Some(rules) = in_force.as_ref().and_then(|policy| policy.contracts()) else {
                return Ok(0);
            };
            let notices = Arc::clone(&shared.configuration.notices);
            let sponsors = Sponsors::new(shared.outbox(), notices, rules.clone());
            let shards = shared.shards().await?;
            sponsors.look(&shards, now()).await
        };
        match looked.await {
            Ok(0) => {}
            Ok(_) => shared.written.notify_one(),
            Err(error) => tracing::warn!(%error, "cannot look for contractors without a sponsor"),
        }
        tokio::time::sleep(SPONSORS_PAUSE).await;
    }
}

/// Looks for credentials that end before long, for ever.
pub async fn keep_watching_expiries(shared: Shared) {
    loop {
        // Not at once: a node that has just started owns nothing yet.
        tokio::time::sleep(LOOK_PAUSE).await;
        let looked = async {
            let in_force = shared.policy.get();
            let Some(policy) = in_force.as_ref() else {
                return Ok(0);
            };
            let notices = Arc::clone(&shared.configuration.notices);
            let rules = policy.credentials().to_vec();
            let expiries = Expiries::new(shared.outbox(), notices, rules);
            let shards = shared.shards().await?;
            expiries.look(&shards, now()).await
        };
        match looked.await {
            Ok(0) => {}
            Ok(_) => shared.written.notify_one(),
            Err(error) => tracing::warn!(%error, "cannot look for credentials that end"),
        }
        tokio::time::sleep(EXPIRIES_PAUSE).await;
    }
}

/// Removes notices that are over, for ever.
pub async fn keep_forgetting(shared: Shared) {
    let Some(settings) = shared.configuration.notices.settings() else {
        return;
    };
    let keep: TimeDelta = settings.keep.delta();
    let outbox = shared.outbox();
    loop {
        let forgotten = async {
            let shards = shared.shards().await?;
            outbox.forget_links(now() - keep).await?;
            outbox.forget(&shards, now() - keep).await
        };
        match forgotten.await {
            Ok(0) => tokio::time::sleep(FORGET_PAUSE).await,
            Ok(count) => shared.metrics.removed("notices", count as u64),
            Err(error) => {
                tracing::warn!(%error, "cannot remove notices that are over");
                tokio::time::sleep(FORGET_PAUSE).await;
            }
        }
    }
}

fn until(next: Option<chrono::DateTime<chrono::Utc>>) -> Duration {
    let left = next.map(|next| (next - now()).to_std().unwrap_or_default());
    left.unwrap_or(LOOK_PAUSE).min(LOOK_PAUSE)
}
