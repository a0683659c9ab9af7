//! The socket: bounded in connections, headers and patience.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::mutual::MutualTls;

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
    serve_by(listener, router, None, stop).await;
}

/// As [`serve`], over TLS, for callers with a certificate.
pub async fn serve_tls(
    listener: TcpListener,
    router: Router,
    tls: MutualTls,
    stop: CancellationToken,
) {
    serve_by(listener, router, Some(tls), stop).await;
}

async fn serve_by(
    listener: TcpListener,
    router: Router,
    tls: Option<MutualTls>,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let (router, tls, stop) = (router.clone(), tls.clone(), stop.clone());
                connections.spawn(async move {
                    let _place = place;
                    let Some(tls) = tls else {
                        return connection(stream, router, &stop).await;
                    };
                    match tls.accept(stream).await {
                        Ok((stream, peer)) => {
                            connection(stream, router.layer(Extension(peer)), &stop).await;
                        }
                        Err(error) => {
                            let reason = format!("{error:#}");
                            tracing::warn!(reason, "a certificate was refused");
                        }
                    }
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

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    stop: &CancellationToken,
) {
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

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn router() -> Router {
        Router::new().route("/", axum::routing::get(|| async { "here" }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_never_ends_is_given_up() {
        let (mut ours, theirs) = tokio::io::duplex(1_024);
        let started = tokio::time::Instant::now();
        let served = tokio::spawn(async move {
            connection(theirs, router(), &CancellationToken::new()).await;
        });
        ours.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n")
            .await
            .unwrap();
        served.await.unwrap();
        assert_eq!(started.elapsed().as_secs(), HEAD_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_closed_when_the_process_stops() {
        let (mut ours, theirs) = tokio::io::duplex(1_024);
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let served = tokio::spawn(async move { connection(theirs, router(), &stopping).await });
        ours.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = vec![0; 512];
        let read = ours.read(&mut answer).await.unwrap();
        assert!(String::from_utf8_lossy(&answer[..read]).starts_with("HTTP/1.1 200"));
        let started = tokio::time::Instant::now();
        stop.cancel();
        served.await.unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn only_this_machine_is_listened_to_unless_said_otherwise() {
        for listen in ["127.0.0.1:0", "[::1]:0", "localhost:0"] {
            // Some machines have no IPv6; then the address is refused by the system, not by us.
            if let Err(error) = bind(listen, false).await {
                assert!(
                    !format!("{error:#}").contains("allow_remote"),
                    "{listen}: {error:#}"
                );
            }
        }
        for listen in ["0.0.0.0:0", "[::]:0"] {
            let error = bind(listen, false).await.unwrap_err().to_string();
            assert!(error.contains("allow_remote: true"), "{error}");
        }
        bind("0.0.0.0:0", true).await.unwrap();
        let error = bind("nonsense", false).await.unwrap_err().to_string();
        assert!(error.contains("no address"), "{error}");
    }
}
