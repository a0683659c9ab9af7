//! The socket: bounded in connections, headers and patience.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The most connections at once; the next one waits.
pub const CONNECTIONS_MAX: usize = 1_024;
/// How long a connection may take to send the head of a request. Covers the wait between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest head of a request, in bytes, and the most headers in it.
const HEAD_BYTES_MAX: usize = 32 * 1024;
const HEADERS_MAX: usize = 64;
/// How long open requests get when the process stops.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// The pause after the system refused to give a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens the address. Requests and tokens travel in clear text: only this machine may reach it, unless
/// `allow_remote` says that something in front of it speaks TLS.
///
/// # Errors
/// When the address is wrong, taken, or reachable from outside without `allow_remote`.
pub async fn bind(listen: &str, allow_remote: bool) -> anyhow::Result<TcpListener> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host(listen)
        .await
        .with_context(|| {
            format!(
                "`api.listen` is `{listen}`, which is no address; write one like `127.0.0.1:7878`"
            )
        })?
        .collect();
    let outside = addresses.iter().find(|address| !address.ip().is_loopback());
    if let Some(outside) = outside
        && !allow_remote
    {
        bail!(
            "`api.listen` is `{listen}`: {} can be reached from other machines, and tokens would travel in clear text; \
             listen on `127.0.0.1`, or put a proxy that speaks TLS in front and set `api.allow_remote: true`",
            outside.ip()
        );
    }
    TcpListener::bind(addresses.as_slice())
        .await
        .with_context(|| format!("cannot listen on `{listen}`"))
}

/// Serves until `stop`, then lets open requests finish.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(async move {
                    let _place = place;
                    connection(stream, router, &stop).await;
                });
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot accept a connection"
                );
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(STOP_PATIENCE, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(open = connections.len(), "stopped with requests open");
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places)
        .acquire_owned()
        .await
        .map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

async fn connection(stream: TcpStream, router: Router, stop: &CancellationToken) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = pin!(served);
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        // A caller that went away or was too slow: its loss, and nothing to do here.
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "a connection ended early"
        );
    }
}
