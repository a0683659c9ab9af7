//! A TCP proxy that misbehaves on command, and counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What happens to answers.
pub(super) enum Mode {
    Pass = 0,
    /// Answers are thrown away and the connection is broken: the request was carried out.
    LoseAnswer = 1,
    /// Answers never come and the connection stays.
    Stall = 2,
}

pub(super) struct Proxy {
    pub(super) url: String,
    mode: Arc<AtomicU8>,
    connections: Arc<AtomicUsize>,
    cut: Arc<Notify>,
}

impl Proxy {
    /// Stands before the server at `ldap://host:port`.
    pub(super) async fn before(url: &str) -> Self {
        let server = url.trim_start_matches("ldap://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            url: format!("ldap://{}", listener.local_addr().unwrap()),
            mode: Arc::new(AtomicU8::new(Mode::Pass as u8)),
            connections: Arc::new(AtomicUsize::new(0)),
            cut: Arc::new(Notify::new()),
        };
        let (mode, connections, cut) = (
            Arc::clone(&proxy.mode),
            Arc::clone(&proxy.connections),
            Arc::clone(&proxy.cut),
        );
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                let server = TcpStream::connect(&server).await.unwrap();
                let (mode, cut) = (Arc::clone(&mode), Arc::clone(&cut));
                tokio::spawn(async move {
                    tokio::select! {
                        () = carry(client, server, &mode) => {}
                        () = cut.notified() => {}
                    }
                });
            }
        });
        proxy
    }

    pub(super) fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// Closes every connection that is open now.
    pub(super) fn cut(&self) {
        self.cut.notify_waiters();
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn carry(client: TcpStream, server: TcpStream, mode: &AtomicU8) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let there = async {
        let mut chunk = [0; 4096];
        while let Ok(read @ 1..) = from_client.read(&mut chunk).await {
            if to_server.write_all(&chunk[..read]).await.is_err() {
                break;
            }
        }
    };
    let back = async {
        let mut chunk = [0; 4096];
        while let Ok(read @ 1..) = from_server.read(&mut chunk).await {
            match mode.load(Ordering::SeqCst) {
                0 if to_client.write_all(&chunk[..read]).await.is_ok() => {}
                2 => {}
                _ => break,
            }
        }
    };
    tokio::select! { () = there => {}, () = back => {} }
}
