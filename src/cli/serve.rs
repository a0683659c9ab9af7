//! `tenure serve`: a node and the API, until told to stop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use engine::runner::SystemClock;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::format::{Tone, paint};
use super::{Context, Exit};
use crate::api::mutual::MutualTls;
use crate::api::{self, events::door::Doors};
use workflows::notices::Links;

use crate::shell::{Running, database, notices, pulls, queries};
use crate::telemetry::{self, Look, Metrics};

/// How long the states that the last metrics show may take to be read.
const LAST_LOOK_LIMIT: Duration = Duration::from_secs(1);

/// Run a node and the API until told to stop
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Brings the database up to date, starts to work on the cases, and listens where `api.listen` of tenure.yaml says: only
this machine can reach the default. Prints one line when it is ready.

SIGTERM or SIGINT (Ctrl-C): takes nothing new, lets what is in flight come back, at most as long as `node.drain`
says, gives its work back. A second signal ends it at once; what was in flight is read back at the next start.

The log goes to the standard error; TENURE_LOG says how much (`info`, `tenure=debug`).

Examples:
  tenure serve
  tenure serve --listen 127.0.0.1:0
  tenure serve --no-api --store postgres://tenure@db.internal/tenure")]
pub struct Serve {
    /// Where to listen, instead of `api.listen`; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "no_api")]
    listen: Option<String>,
    /// Only the node, no API
    #[arg(long)]
    no_api: bool,
}

/// Serves until a signal.
///
/// # Errors
/// When the configuration is wrong, the port is taken, or the database cannot be used.
pub async fn run(context: &Context, serve: Serve) -> anyhow::Result<Exit> {
    // First, so that a signal during a slow start counts.
    let mut stop = Stop::new()?;
    let configuration = Arc::new(context.configuration()?);
    let opened = telemetry::open(&configuration.settings, true)?;
    let address = context.address()?;
    queries::check(&configuration.sources)?;
    pulls::check(&configuration.sources)?;
    notices::check(&configuration)?;
    let listener = if serve.no_api {
        None
    } else {
        let doors = Doors::open(&configuration.sources)?;
        let secured = secured(&configuration).await?;
        Some((
            listen(&configuration, serve.listen.as_deref()).await?,
            doors,
            secured,
        ))
    };
    let database = context.prepared_database().await?;
    opened.prepare(&database).await?;
    let telemetry = opened.telemetry.clone();
    let place = match &listener {
        Some((listener, ..)) => Some(format!("http://{}", listener.local_addr()?)),
        None => None,
    };
    let running = Running::start_at(
        Arc::clone(&configuration),
        database.clone(),
        &telemetry,
        place.clone(),
    )
    .await?;
    let look = look(&running);
    let sending = opened.send(Some(look.clone()));
    let api_stop = CancellationToken::new();
    let place = place.unwrap_or_else(|| "no API".to_owned());
    let api = match listener {
        Some((listener, doors, secured)) => {
            let links = notices::links(&running.configuration)?;
            let parts = parts(&running, doors, telemetry.metrics, links, look.clone());
            let router = api::router(parts);
            let stop = api_stop.clone();
            Some(tokio::spawn(async move {
                let beside = async {
                    if let Some((listener, tls)) = secured {
                        let router = api::mutual::router(router.clone());
                        api::server::serve_tls(listener, router, tls, stop.clone()).await;
                    }
                };
                tokio::join!(
                    api::server::serve(listener, router.clone(), stop.clone()),
                    beside
                );
            }))
        }
        None => None,
    };
    let ready = serde_json::json!({ "listening": place, "store": database::shown(&address), "pid": std::process::id() });
    if context.output.json {
        context.output.raw(&ready.to_string())?;
    } else {
        context.output.line(format!(
            "tenure is ready on {}, store {}",
            paint(&place, Tone::Strong),
            database::shown(&address)
        ))?;
    }
    stop.wait().await;
    context
        .output
        .note("stopping; a second signal ends at once")?;
    let limit = configuration.settings.node.drain.std();
    let drained = async {
        api_stop.cancel();
        // The last metrics leave when the database is closed already; a look is kept for a while.
        let _ = tokio::time::timeout(LAST_LOOK_LIMIT, look.now()).await;
        if let Some(api) = api {
            let _ = tokio::time::timeout(limit, api).await;
        }
        let drained = running.drain(limit).await;
        sending.end().await;
        drained
    };
    tokio::select! {
        drained = drained => {
            drained?;
            Ok(Exit::Good)
        }
        () = stop.wait() => {
            context.output.note("ended at once; what was in flight is read back at the next start")?;
            Ok(Exit::Bad)
        }
    }
}

async fn listen(
    configuration: &workflows::config::Configuration,
    given: Option<&str>,
) -> anyhow::Result<TcpListener> {
    let settings = &configuration.settings.api;
    api::server::bind(given.unwrap_or(&settings.listen), settings.allow_remote).await
}

/// The door for sources that show a certificate, if there is to be one.
async fn secured(
    configuration: &workflows::config::Configuration,
) -> anyhow::Result<Option<(TcpListener, MutualTls)>> {
    let Some(settings) = &configuration.settings.api.mutual_tls else {
        return Ok(None);
    };
    let tls = MutualTls::open(settings, &configuration.root, configuration.sources.keys())?;
    // It speaks TLS by itself and lets nobody in without a certificate, so it may be reached from outside.
    Ok(Some((
        api::server::bind(&settings.listen, true).await?,
        tls,
    )))
}

/// Where metrics find the states they show.
fn look(running: &Running) -> Look {
    let (_, _, node) = running.handles();
    Look::new(
        running.database.clone(),
        &running.configuration,
        node,
        Arc::new(SystemClock),
    )
}

fn parts(
    running: &Running,
    doors: Doors,
    metrics: Metrics,
    links: Option<Arc<Links>>,
    look: Look,
) -> api::Parts {
    let (nudge, event_nudge, node) = running.handles();
    let configuration = &running.configuration;
    api::Parts {
        database: running.database.clone(),
        intake: running.intake.clone(),
        definitions: Arc::clone(&running.definitions),
        sources: configuration.sources.clone(),
        doors,
        systems: Arc::clone(&configuration.systems),
        policy: Arc::clone(&configuration.policy),
        policies: running.policies.clone(),
        clock: Arc::new(SystemClock),
        nudge,
        event_nudge,
        node,
        metrics,
        links,
        look,
    }
}

/// The signals that mean stop.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
