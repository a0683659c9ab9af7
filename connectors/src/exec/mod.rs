//! Any language: a program that speaks JSON lines on its standard input and output.
//!
//! Settings:
//!
//! ```yaml
//! command: [python3, /opt/tenure/example_directory.py]
//! config: { database: /var/lib/example/directory.db }   # handed to the plugin as it is
//! secrets: { token: "file:/run/secrets/token" }         # handed to the plugin on its standard input
//! env: { MODE: "value:production", HTTPS_PROXY: "env:HTTPS_PROXY" }
//! directory: /opt/tenure                                # where it runs
//! start_ms: 10000                                       # for the greeting
//! timeout_ms: 10000                                     # for one answer
//! processes_max: 1                                      # more for a plugin that does one thing at a time
//! restart: { first_ms: 200, max_ms: 30000 }             # pauses while it only dies
//! capabilities: { operations: [create_account] }        # default: what the plugin says
//! ```
//!
//! The protocol is written down in `docs/exec-protocol.md`. What the plugin gets of our environment is a short
//! list; secrets travel on its standard input, and one that comes back in an answer is taken out.
//!
//! How a failure is read, for a write and for everything else:
//!
//! | what happened | a write | a read |
//! |---|---|---|
//! | the plugin could not be started | unreachable | unreachable |
//! | it ended, hung or talked nonsense with the request in its hands | ambiguous | transient, timeout, bug |
//! | it answered an error | that error; a time-out is ambiguous | that error |

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::connector::{
    Capabilities, Changes, Claim, Connector, Coverage, Credential, CredentialId, Cursor, Error,
    ErrorKind, Finding, Handle, Health, Kind, NativeId, Object, ObjectRef, Operation, OperationKey,
    Outcome, Page, Receipt, Renewal, Use, Verdict,
};
use crate::handover::to_be_tried;

mod pool;
mod process;
mod settings;
mod wire;

#[cfg(test)]
mod tests;

use pool::Pool;
use process::{Failure, LINE_BYTES_MAX, Process, Spec};
use wire::{
    Ask, Forms, WireCapabilities, WireChanges, WireCredentials, WireHealth, WireMinted,
    WireOutcome, WirePage, WireUses, secrets_of,
};

/// A connector whose work is done by another program.
pub struct Exec {
    system: String,
    capabilities: Capabilities,
    pool: Pool,
}

impl Exec {
    /// Reads the settings of `system`. Unless they state the plugin's capabilities the plugin is started once
    /// to say them, and stopped again; it must not contact its system for that.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] names the setting that is wrong, missing or unknown, or says why the plugin
    /// could not be asked.
    pub fn from_settings(system: &str, settings: Value) -> Result<Self, Error> {
        let parsed = settings::parse(system, settings)?;
        let (spec, promised) = match parsed.capabilities {
            Some(capabilities) => (parsed.spec, capabilities),
            None => ask_once(parsed.spec)?,
        };
        Ok(Self {
            system: system.to_owned(),
            capabilities: promised.clone().into(),
            pool: Pool::new(spec, parsed.restart, parsed.processes_max, promised),
        })
    }

    async fn read<T: DeserializeOwned>(&self, ask: &Ask<'_>) -> Result<T, Error> {
        match self.pool.ask(ask).await {
            Ok(Ok(answer)) => self.decoded(answer),
            Ok(Err(error)) => Err(error.into_error(&self.system)),
            Err(failure) => Err(self.failed(failure)),
        }
    }

    fn decoded<T: DeserializeOwned>(&self, answer: Value) -> Result<T, Error> {
        serde_json::from_value(answer).map_err(|error| {
            let message = format!(
                "plugin of system `{}` gave an answer that is not the protocol",
                self.system
            );
            Error::new(ErrorKind::Bug, message).with_source(error)
        })
    }

    /// What an answer to `apply` says, with what was issued handed over. One that cannot be understood leaves open what
    /// was done.
    async fn outcome(&self, operation: &Operation, mut answer: Value) -> Outcome {
        let ambiguous = |reason: &str| Outcome::Ambiguous {
            reason: format!("plugin of system `{}`: {reason}", self.system),
        };
        let minted = match WireMinted::out_of(&mut answer) {
            Ok(minted) => minted,
            Err(reason) => return ambiguous(&reason),
        };
        Forms::of(secrets_of(operation).into_iter().chain(&minted.secret)).redact(&mut answer);
        let outcome = match self.decoded::<WireOutcome>(answer) {
            Ok(outcome) => Outcome::from(outcome),
            Err(error) => {
                return Outcome::Ambiguous {
                    reason: error.whole(),
                };
            }
        };
        let Operation::IssueCredential(new) = operation else {
            return outcome;
        };
        let (receipt, so): (Receipt, fn(Receipt) -> Outcome) = match outcome {
            Outcome::Done(receipt) => (receipt, Outcome::Done),
            Outcome::AlreadySo(receipt) => (receipt, Outcome::AlreadySo),
            Outcome::Accepted(_) => {
                return ambiguous(
                    "it accepted an issue for later, where nobody could hand it over",
                );
            }
            other => return other,
        };
        match receipt.credential.clone() {
            Some(credential) => new.into.settle(minted.of(credential), receipt, so).await,
            None => ambiguous("it issued a credential and its receipt does not name it"),
        }
    }

    fn failed(&self, failure: Failure) -> Error {
        let (kind, what) = match failure {
            Failure::NotSent(reason) => (ErrorKind::Unreachable, reason),
            Failure::TooLong(bytes) => (
                ErrorKind::Invalid,
                format!("a request of {bytes} bytes is longer than {LINE_BYTES_MAX}"),
            ),
            Failure::Lost(reason) => (ErrorKind::Transient, reason),
            Failure::TimedOut { after_ms } => (
                ErrorKind::Timeout,
                format!("no answer within {after_ms} ms"),
            ),
            Failure::Garbage(reason) => (ErrorKind::Bug, reason),
        };
        Error::new(kind, format!("plugin of system `{}`: {what}", self.system))
    }

    fn offers(&self, offered: bool, what: &str) -> Result<(), Error> {
        if offered {
            Ok(())
        } else {
            Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the plugin of system `{}` does not offer `{what}`",
                    self.system
                ),
            ))
        }
    }
}

/// Starts the plugin only to hear what it can do. On a thread of its own, because a connector is built
/// outside of any runtime as well as inside one.
fn ask_once(spec: Spec) -> Result<(Spec, WireCapabilities), Error> {
    let system = spec.system.clone();
    let cannot = |reason: String| {
        let fix = "correct `command`, or state `capabilities` in the settings";
        Error::new(
            ErrorKind::Invalid,
            format!("cannot ask the plugin of system `{system}`: {reason}; {fix}"),
        )
    };
    let asked = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(async {
            match Process::start(&spec).await {
                Ok(process) => {
                    let capabilities = process.hello.capabilities.clone();
                    process.stop().await;
                    Ok((spec, capabilities))
                }
                Err(Failure::NotSent(reason)) => Err(reason),
                Err(other) => Err(format!("{other:?}")),
            }
        })
    });
    match asked.join() {
        Ok(answer) => answer.map_err(cannot),
        Err(_) => Err(cannot("the thread that asked it ended".to_owned())),
    }
}

#[async_trait]
impl Connector for Exec {
    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    async fn check(&self) -> Result<Health, Error> {
        let away = |failure: Failure| {
            let error = self.failed(failure);
            let fix = "run the command by hand and see what it says on its standard error";
            Health {
                findings: vec![Finding::bad("reach", error.whole(), fix)],
            }
        };
        let hello = match self.pool.hello().await {
            Ok(hello) => hello,
            Err(failure) => return Ok(away(failure)),
        };
        let mut findings = vec![Finding::good(
            "plugin",
            format!(
                "{} {}, protocol {}",
                hello.name, hello.version, hello.protocol
            ),
        )];
        match self.pool.ask(&Ask::Check).await {
            Ok(Ok(answer)) => findings.extend(self.decoded::<WireHealth>(answer)?.findings),
            Ok(Err(error)) => return Err(error.into_error(&self.system)),
            Err(failure) => findings.extend(away(failure).findings),
        }
        Ok(Health { findings })
    }

    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        self.offers(self.capabilities.lists.contains(&kind), "list")?;
        self.read::<WirePage>(&Ask::List { kind, after })
            .await
            .map(Into::into)
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Object>, Error> {
        if matches!(object, ObjectRef::AccountOwnedBy(_)) {
            self.offers(self.capabilities.finds_by_owner, "finds_by_owner")?;
        }
        self.read(&Ask::Get { object }).await
    }

    async fn changes(&self, after: Option<Cursor>) -> Result<Changes, Error> {
        self.offers(self.capabilities.changes, "changes")?;
        self.read::<WireChanges>(&Ask::Changes { after })
            .await
            .map(Into::into)
    }

    async fn apply(&self, operation: &Operation, key: &OperationKey) -> Result<Outcome, Error> {
        let name = operation.name();
        self.offers(self.capabilities.operations.contains(&name), name.as_str())?;
        let answer = self
            .pool
            .ask(&Ask::Apply {
                operation: operation.into(),
                key,
            })
            .await;
        let ambiguous = |error: Error| {
            Ok(Outcome::Ambiguous {
                reason: error.whole(),
            })
        };
        match answer {
            Ok(Ok(answer)) => Ok(self.outcome(operation, answer).await),
            Ok(Err(mut error)) => {
                error.redact(&Forms::of(secrets_of(operation)));
                let error = error.into_error(&self.system);
                if error.kind == ErrorKind::Timeout {
                    ambiguous(error)
                } else {
                    Err(error)
                }
            }
            Err(failure @ (Failure::NotSent(_) | Failure::TooLong(_))) => Err(self.failed(failure)),
            Err(failure @ (Failure::Lost(_) | Failure::TimedOut { .. } | Failure::Garbage(_))) => {
                ambiguous(self.failed(failure))
            }
        }
    }

    async fn poll(&self, handle: &Handle) -> Result<Outcome, Error> {
        self.read::<WireOutcome>(&Ask::Poll { handle })
            .await
            .map(Into::into)
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        let name = claim.name();
        self.offers(self.capabilities.claims.contains(&name), &wire::word(&name))?;
        let secret = wire::secret_in(claim).map(to_be_tried).transpose()?;
        let form = wire::claim(claim, secret.as_ref()).map_err(|error| {
            Error::new(ErrorKind::Bug, "the claim cannot be written").with_source(error)
        })?;
        let forms = Forms::of(&secret);
        match self.pool.ask(&Ask::Verify { claim: form }).await {
            Ok(Ok(mut answer)) => {
                forms.redact(&mut answer);
                self.decoded(answer)
            }
            Ok(Err(mut error)) => {
                error.redact(&forms);
                Err(error.into_error(&self.system))
            }
            Err(failure) => Err(self.failed(failure)),
        }
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        self.offers(!self.capabilities.credentials.is_empty(), "credentials")?;
        self.read::<WireCredentials>(&Ask::Credentials { account })
            .await
            .map(Into::into)
    }

    async fn renewal(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Renewal, Error> {
        self.offers(self.capabilities.renewal, "renewal")?;
        self.read(&Ask::Renewal {
            account,
            credential,
        })
        .await
    }

    async fn dependents(&self, object: &ObjectRef) -> Result<Coverage<Vec<Use>>, Error> {
        self.offers(self.capabilities.dependents, "dependents")?;
        self.read::<WireUses>(&Ask::Dependents { object })
            .await
            .map(Into::into)
    }
}
