//! One running plugin.
//!
//! A task owns the process and is the only one that talks to it. Callers hand it a line and wait for the
//! answer; a caller that goes away leaves nothing half-written behind, because it never writes. The plugin's
//! input is written by a second task, so that a plugin which is busy writing does not wait for us while we
//! wait for it.
//!
//! The task ends, and takes the process with it, when the plugin ends, says something that is not the
//! protocol, or does not answer in time. When nobody can call any more it closes the plugin's input, gives it
//! a moment to finish, and waits for it: no zombie is left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

use super::wire::{self, Ask, Hello, PROTOCOL, WireError};

/// The longest line in either direction, its end not counted.
pub const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How many requests may be under way in a plugin that takes several.
const IN_FLIGHT_MAX: usize = 64;
/// How many callers may wait for a plugin that is busy before the next one waits to wait.
const QUEUE_MAX: usize = 64;
/// How many requests a plugin may leave unanswered and still be trusted.
const UNANSWERED_MAX: usize = 16;
/// How long a plugin may take to finish after its input was closed.
const STOP_MS_MAX: u64 = 2_000;
/// How long to wait for the last words of a plugin that has ended.
const LAST_WORDS_MS_MAX: u64 = 200;
/// The longest line of a plugin's standard error that is logged; the rest of it is dropped.
const STDERR_BYTES_MAX: usize = 2_048;
/// How many such lines are logged in a second.
const STDERR_LINES_PER_S_MAX: u32 = 50;
/// What a plugin's environment takes over from ours. The rest may hold secrets that are none of its business.
pub(super) const ENV_KEPT: [&str; 8] = [
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// How a plugin is started.
pub(super) struct Spec {
    pub system: String,
    pub program: String,
    pub arguments: Vec<String>,
    pub directory: Option<PathBuf>,
    pub env: BTreeMap<String, SecretString>,
    pub secrets: BTreeMap<String, SecretString>,
    pub config: Value,
    /// For the greeting: a language may take its time to start.
    pub start_ms: u64,
    /// For every answer after it.
    pub timeout_ms: u64,
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The request never left: the plugin could not be started or was gone.
    NotSent(String),
    /// The request cannot be put on a line.
    TooLong(usize),
    /// The plugin ended with the request in its hands.
    Lost(String),
    TimedOut {
        after_ms: u64,
    },
    /// The plugin said something that is not the protocol.
    Garbage(String),
}

pub(super) type Answered = Result<Result<Value, WireError>, Failure>;

struct Request {
    id: u64,
    line: Vec<u8>,
    limit_ms: u64,
    reply: oneshot::Sender<Answered>,
}

/// A running plugin. Dropping it stops the plugin.
pub(super) struct Process {
    requests: mpsc::Sender<Request>,
    next_id: AtomicU64,
    answered: AtomicU64,
    timeout_ms: u64,
    owner: JoinHandle<()>,
    pub hello: Hello,
    pub started: Instant,
}

impl Process {
    /// Starts the plugin and greets it.
    pub async fn start(spec: &Spec) -> Result<Self, Failure> {
        let mut command = Command::new(&spec.program);
        command
            .args(&spec.arguments)
            .env_clear()
            .envs(
                ENV_KEPT
                    .iter()
                    .filter_map(|name| std::env::var_os(name).map(|value| (name, value))),
            )
            .envs(
                spec.env
                    .iter()
                    .map(|(name, value)| (name, value.expose_secret())),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            // Out of our group: Ctrl-C on a terminal is ours to handle, after what is under way is finished.
            .process_group(0);
        if let Some(directory) = &spec.directory {
            command.current_dir(directory);
        }
        let mut child = command.spawn().map_err(|error| {
            Failure::NotSent(format!("cannot start `{}`: {error}", spec.program))
        })?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Failure::NotSent(format!(
                "`{}` was started without pipes",
                spec.program
            )));
        };

        let (requests, queue) = mpsc::channel(QUEUE_MAX);
        let limit = Arc::new(AtomicUsize::new(1));
        let (lines, to_write) = mpsc::channel(IN_FLIGHT_MAX);
        tokio::spawn(write(stdin, to_write));
        let last_words = Arc::new(Mutex::new(String::new()));
        let listening = tokio::spawn(listen(spec.system.clone(), stderr, Arc::clone(&last_words)));
        let owner = Owner {
            system: spec.system.clone(),
            limit: Arc::clone(&limit),
            lines,
            in_flight: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            last_answer: None,
        };
        let owner = tokio::spawn(owner.run(child, stdout, queue, listening, last_words));

        let greeting = Ask::Hello {
            protocol: PROTOCOL,
            system: &spec.system,
            config: &spec.config,
            secrets: spec
                .secrets
                .iter()
                .map(|(name, secret)| (name.as_str(), secret.expose_secret()))
                .collect(),
        };
        let hello = greet(&requests, &greeting, spec.start_ms).await?;
        if hello.concurrent {
            limit.store(IN_FLIGHT_MAX, Ordering::Release);
        }
        tracing::debug!(
            system = spec.system,
            plugin = hello.name,
            version = hello.version,
            "plugin started"
        );
        Ok(Self {
            requests,
            next_id: AtomicU64::new(1),
            answered: AtomicU64::new(0),
            timeout_ms: spec.timeout_ms,
            owner,
            hello,
            started: Instant::now(),
        })
    }

    /// Stops the plugin and waits until it has ended.
    pub async fn stop(self) {
        drop(self.requests);
        let _ = self.owner.await;
    }

    pub fn is_alive(&self) -> bool {
        !self.requests.is_closed()
    }

    /// Whether it has ever answered anything after its greeting.
    pub fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed) > 0
    }

    pub async fn ask(&self, ask: &Ask<'_>) -> Answered {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let answer = request(&self.requests, id, ask, self.timeout_ms).await;
        if answer.is_ok() {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }
}

async fn request(
    requests: &mpsc::Sender<Request>,
    id: u64,
    ask: &Ask<'_>,
    limit_ms: u64,
) -> Answered {
    let line = wire::line(id, ask)
        .map_err(|error| Failure::NotSent(format!("cannot write the request: {error}")))?;
    if line.len() > LINE_BYTES_MAX {
        return Err(Failure::TooLong(line.len()));
    }
    let (reply, answer) = oneshot::channel();
    let gone = || Failure::NotSent("the plugin ended before the request was sent".to_owned());
    requests
        .send(Request {
            id,
            line,
            limit_ms,
            reply,
        })
        .await
        .map_err(|_| gone())?;
    answer.await.unwrap_or_else(|_| Err(gone()))
}

async fn greet(
    requests: &mpsc::Sender<Request>,
    greeting: &Ask<'_>,
    start_ms: u64,
) -> Result<Hello, Failure> {
    let not_started =
        |reason: String| Failure::NotSent(format!("the plugin did not start properly: {reason}"));
    let answer = match request(requests, 0, greeting, start_ms).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(not_started(error.into_error("").message)),
        Err(Failure::TimedOut { after_ms }) => {
            return Err(not_started(format!(
                "no answer to `hello` within {after_ms} ms"
            )));
        }
        Err(Failure::Lost(reason) | Failure::Garbage(reason) | Failure::NotSent(reason)) => {
            return Err(not_started(reason));
        }
        Err(Failure::TooLong(bytes)) => return Err(Failure::TooLong(bytes)),
    };
    let protocol = answer.get("protocol").and_then(Value::as_u64);
    if protocol != Some(u64::from(PROTOCOL)) {
        return Err(not_started(format!(
            "it speaks protocol {}, we speak {PROTOCOL}; use a version of the plugin that does too",
            protocol.map_or_else(|| "of no version".to_owned(), |version| version.to_string())
        )));
    }
    serde_json::from_value(answer)
        .map_err(|error| not_started(format!("its answer to `hello`: {error}")))
}

/// Writes line after line until there are no more or the plugin takes none.
async fn write(mut stdin: ChildStdin, mut lines: mpsc::Receiver<Vec<u8>>) {
    while let Some(line) = lines.recv().await {
        if stdin.write_all(&line).await.is_err() || stdin.flush().await.is_err() {
            // The plugin is gone or has closed its input; the task that reads will see it end.
            return;
        }
    }
}

/// Passes a plugin's standard error on to the log, within limits, and keeps the last line.
///
/// Reads to the end whatever comes, because a full pipe would stop the plugin; so this is not the codec that
/// reads answers, which ends at the first bad line.
async fn listen(system: String, mut stderr: ChildStderr, last_words: Arc<Mutex<String>>) {
    let mut log = StderrLog {
        system,
        last_words,
        window: Instant::now(),
        in_window: 0,
        dropped: 0,
    };
    let mut chunk = [0_u8; 4_096];
    let mut line = Vec::new();
    while let Ok(count @ 1..) = stderr.read(&mut chunk).await {
        for byte in chunk.iter().take(count) {
            if *byte == b'\n' {
                log.line(&String::from_utf8_lossy(&line));
                line.clear();
            } else if line.len() < STDERR_BYTES_MAX {
                line.push(*byte);
            }
        }
    }
    log.line(&String::from_utf8_lossy(&line));
}

struct StderrLog {
    system: String,
    last_words: Arc<Mutex<String>>,
    window: Instant,
    in_window: u32,
    dropped: u64,
}

impl StderrLog {
    fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if line.is_empty() {
            return;
        }
        line.clone_into(
            &mut self
                .last_words
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        if self.window.elapsed() >= Duration::from_secs(1) {
            if self.dropped > 0 {
                let dropped = self.dropped;
                tracing::warn!(
                    system = self.system,
                    dropped,
                    "plugin wrote too much to its standard error"
                );
            }
            (self.window, self.in_window, self.dropped) = (Instant::now(), 0, 0);
        }
        self.in_window = self.in_window.saturating_add(1);
        if self.in_window > STDERR_LINES_PER_S_MAX {
            self.dropped += 1;
        } else {
            tracing::info!(system = self.system, line, "plugin");
        }
    }
}

struct InFlight {
    reply: oneshot::Sender<Answered>,
    limit_ms: u64,
    sent: Instant,
    deadline: Instant,
}

/// The task that owns the process.
struct Owner {
    system: String,
    limit: Arc<AtomicUsize>,
    lines: mpsc::Sender<Vec<u8>>,
    in_flight: BTreeMap<u64, InFlight>,
    /// Requests whose time is over; an answer that comes all the same is ignored.
    unanswered: BTreeSet<u64>,
    last_answer: Option<Instant>,
}

/// Why the owner stops.
enum End {
    /// Nobody can ask any more.
    Unwanted,
    /// The plugin closed its output.
    Closed,
    Garbage(String),
    Hangs,
}

impl Owner {
    async fn run(
        mut self,
        mut child: Child,
        stdout: ChildStdout,
        mut queue: mpsc::Receiver<Request>,
        listening: JoinHandle<()>,
        last_words: Arc<Mutex<String>>,
    ) {
        let mut answers = FramedRead::new(stdout, LinesCodec::new_with_max_length(LINE_BYTES_MAX));
        let end = self.serve(&mut queue, &mut answers).await;
        // From here on nobody is let in; whoever is still in the queue learns that nothing was sent.
        drop(queue);
        let Self {
            system,
            in_flight,
            lines,
            ..
        } = self;
        drop(lines);
        let failure = match end {
            End::Unwanted => {
                stop(&mut child).await;
                return;
            }
            End::Garbage(reason) => {
                let _ = child.kill().await;
                Failure::Garbage(reason)
            }
            End::Hangs => {
                let _ = child.kill().await;
                Failure::Lost("the plugin was stopped because it no longer answered".to_owned())
            }
            End::Closed => {
                let status = stop(&mut child).await;
                // What it said last usually says why it ended.
                let _ =
                    tokio::time::timeout(Duration::from_millis(LAST_WORDS_MS_MAX), listening).await;
                let words = last_words
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                let words = if words.is_empty() {
                    words
                } else {
                    format!("; its last words: {words}")
                };
                Failure::Lost(format!("the plugin ended ({status}){words}"))
            }
        };
        tracing::warn!(system, reason = ?failure, waiting = in_flight.len(), "plugin ended");
        for (_, waiting) in in_flight {
            let _ = waiting.reply.send(Err(failure.clone()));
        }
    }

    async fn serve(
        &mut self,
        queue: &mut mpsc::Receiver<Request>,
        answers: &mut FramedRead<ChildStdout, LinesCodec>,
    ) -> End {
        loop {
            let has_room = self.in_flight.len() < self.limit.load(Ordering::Acquire);
            let deadline = self
                .in_flight
                .values()
                .map(|waiting| waiting.deadline)
                .min();
            let overdue = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                request = queue.recv(), if has_room => match request {
                    Some(request) => self.send(request).await,
                    None => return End::Unwanted,
                },
                line = answers.next() => {
                    if let Err(end) = self.hear(line) {
                        return end;
                    }
                }
                () = overdue => {
                    if self.give_up_overdue() {
                        return End::Hangs;
                    }
                }
            }
        }
    }

    async fn send(&mut self, request: Request) {
        // Somebody who stopped waiting in the queue does not want it done any more.
        if request.reply.is_closed() {
            return;
        }
        let now = Instant::now();
        let deadline = now + Duration::from_millis(request.limit_ms);
        let waiting = InFlight {
            reply: request.reply,
            limit_ms: request.limit_ms,
            sent: now,
            deadline,
        };
        self.in_flight.insert(request.id, waiting);
        // There is room: the channel is as long as the most that can be in flight. If the writer is gone the
        // plugin is ending, and the request ends with it as one whose fate is unknown.
        let _ = self.lines.try_send(request.line);
    }

    fn hear(&mut self, line: Option<Result<String, LinesCodecError>>) -> Result<(), End> {
        let line = match line {
            None => return Err(End::Closed),
            Some(Ok(line)) => line,
            Some(Err(LinesCodecError::MaxLineLengthExceeded)) => {
                return Err(End::Garbage(format!(
                    "a line is longer than {LINE_BYTES_MAX} bytes"
                )));
            }
            Some(Err(LinesCodecError::Io(error))) => {
                return Err(End::Garbage(format!("a line cannot be read: {error}")));
            }
        };
        if line.trim().is_empty() {
            return Ok(());
        }
        let said = wire::said(&line).map_err(End::Garbage)?;
        self.last_answer = Some(Instant::now());
        if let Some(waiting) = self.in_flight.remove(&said.id) {
            let _ = waiting.reply.send(Ok(said.answer));
            Ok(())
        } else if self.unanswered.remove(&said.id) {
            tracing::debug!(system = self.system, "plugin answered too late");
            Ok(())
        } else {
            Err(End::Garbage(format!(
                "there is an answer with id {} and no such question",
                said.id
            )))
        }
    }

    /// Tells whoever waits for an overdue answer; says whether the plugin as a whole hangs.
    fn give_up_overdue(&mut self) -> bool {
        let now = Instant::now();
        let mut hangs = self.limit.load(Ordering::Acquire) == 1;
        for (id, waiting) in self
            .in_flight
            .extract_if(.., |_, waiting| waiting.deadline <= now)
        {
            // One that answers others is alive and only slow with this one.
            hangs |= self.last_answer.is_none_or(|answer| answer < waiting.sent);
            self.unanswered.insert(id);
            let _ = waiting.reply.send(Err(Failure::TimedOut {
                after_ms: waiting.limit_ms,
            }));
        }
        hangs || self.unanswered.len() > UNANSWERED_MAX
    }
}

/// Waits for a plugin whose input is closed, and ends it if it does not end by itself.
async fn stop(child: &mut Child) -> String {
    let ended = tokio::time::timeout(Duration::from_millis(STOP_MS_MAX), child.wait()).await;
    match ended {
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(error)) => format!("its end is unknown: {error}"),
        Err(_) => {
            let _ = child.kill().await;
            "it had to be killed".to_owned()
        }
    }
}
