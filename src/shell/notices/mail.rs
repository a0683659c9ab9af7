//! Mail by SMTP: one connection a round, protected before anything is said.

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, ensure};
use async_trait::async_trait;
use chrono::TimeDelta;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters,
};
use lettre::transport::smtp::extension::ClientId;
use secrecy::ExposeSecret as _;
use workflows::notices::{Away, Carrier, EmailSettings, Line, MailTls, Parcel, Said, Way};

/// The longest name beside an address, in characters.
const NAME_CHARS_MAX: usize = 100;
/// The largest file of certificates, in bytes.
const CA_BYTES_MAX: u64 = 1024 * 1024;

/// A server that takes mail. Cheap to clone.
#[derive(Clone)]
pub struct Mail {
    inner: Arc<Inner>,
}

struct Inner {
    server: String,
    port: u16,
    mode: MailTls,
    tls: TlsParameters,
    login: Option<Credentials>,
    hello: ClientId,
    from: Mailbox,
    domain: String,
    limit: Duration,
}

impl Mail {
    /// # Errors
    /// When the password or the certificates are not where they should be.
    pub fn new(settings: &EmailSettings) -> anyhow::Result<Self> {
        let login = settings
            .login
            .as_ref()
            .map(|login| {
                let password = login.password.resolve()?;
                let password = password.expose_secret().to_owned();
                anyhow::Ok(Credentials::new(login.user.clone(), password))
            })
            .transpose()
            .context("cannot read `login.password`")?;
        let mut tls = TlsParameters::builder(settings.server.clone());
        if let Some(path) = &settings.ca_file {
            let shown = path.display();
            let size = std::fs::metadata(path).with_context(|| format!("cannot read `{shown}`"))?;
            ensure!(
                size.len() <= CA_BYTES_MAX,
                "`{shown}` is larger than {CA_BYTES_MAX} bytes"
            );
            let pem = std::fs::read(path).with_context(|| format!("cannot read `{shown}`"))?;
            let certificate = Certificate::from_pem(&pem)
                .map_err(|_| anyhow!("`{shown}` holds no PEM certificate"))?;
            tls = tls
                .certificate_store(CertificateStore::None)
                .add_root_certificate(certificate);
        }
        let address = settings.from.as_str();
        let address = address
            .parse()
            .map_err(|_| anyhow!("`from` `{address}` is no address for mail"))?;
        Ok(Self {
            inner: Arc::new(Inner {
                server: settings.server.clone(),
                port: settings.port(),
                mode: settings.tls,
                tls: tls.build().context("cannot set up TLS")?,
                login,
                hello: ClientId::Domain(settings.hello().to_owned()),
                from: Mailbox::new(Some(settings.from_name.clone()), address),
                domain: settings.from.domain().to_owned(),
                limit: settings.timeout.std(),
            }),
        })
    }
}

impl Inner {
    async fn connect(&self) -> Result<AsyncSmtpConnection, String> {
        let place = format!("`{}:{}`", self.server, self.port);
        let implicit = (self.mode == MailTls::Implicit).then(|| self.tls.clone());
        let server = self.server.trim_matches(['[', ']']);
        let mut connection = AsyncSmtpConnection::connect_tokio1(
            (server, self.port),
            Some(self.limit),
            &self.hello,
            implicit,
            None,
        )
        .await
        .map_err(|error| format!("cannot open {place}: {}", told(&error)))?;
        if self.mode == MailTls::Starttls {
            // Never in the clear because somebody in between took the word out.
            if !connection.can_starttls() {
                connection.abort().await;
                return Err(format!(
                    "{place} does not offer STARTTLS; see `notifications.email.tls`"
                ));
            }
            connection
                .starttls(self.tls.clone(), &self.hello)
                .await
                .map_err(|error| format!("cannot protect {place}: {}", told(&error)))?;
        }
        if let Some(login) = &self.login {
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            if let Err(error) = connection.auth(&mechanisms, login).await {
                let reason = told(&error);
                connection.abort().await;
                return Err(format!("{place} refuses the login: {reason}"));
            }
        }
        Ok(connection)
    }

    async fn open(&self) -> Result<AsyncSmtpConnection, Away> {
        match tokio::time::timeout(self.limit, self.connect()).await {
            Ok(opened) => opened.map_err(Away),
            Err(_) => Err(Away(self.slow("opening"))),
        }
    }

    fn slow(&self, what: &str) -> String {
        format!(
            "`{}:{}` did not answer within {} s while {what}",
            self.server,
            self.port,
            self.limit.as_secs()
        )
    }

    fn message(&self, parcel: &Parcel) -> Result<lettre::Message, String> {
        let address: lettre::Address = parcel
            .address
            .parse()
            .map_err(|_| "the address is none that mail can be sent to".to_owned())?;
        // A name comes from a feed, and a header is one line.
        let name = parcel.person_name.as_ref().map(|name| {
            let name = name.chars().filter(|c| !c.is_control());
            name.take(NAME_CHARS_MAX).collect::<String>()
        });
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        let builder = lettre::Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(name, address))
            .message_id(Some(format!("<{}@{}>", parcel.message_id, self.domain)))
            .date(SystemTime::from(parcel.date))
            .subject(parcel.says.subject.clone())
            // Nobody's absence is to be answered to us.
            .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()));
        let text = parcel.says.text.clone();
        let made = match &parcel.says.html {
            Some(html) => builder.multipart(MultiPart::alternative_plain_html(text, html.clone())),
            None => builder.singlepart(SinglePart::plain(text)),
        };
        made.map_err(|error| format!("the message cannot be made: {error}"))
    }
}

#[async_trait]
impl Carrier for Mail {
    fn way(&self) -> Way {
        Way::Email
    }

    fn limit(&self) -> TimeDelta {
        TimeDelta::from_std(self.inner.limit).unwrap_or(TimeDelta::MAX)
    }

    async fn open(&self) -> Result<Box<dyn Line>, Away> {
        let connection = self.inner.open().await?;
        Ok(Box::new(OpenMail {
            inner: Arc::clone(&self.inner),
            connection: Some(connection),
        }))
    }
}

struct OpenMail {
    inner: Arc<Inner>,
    /// Gone after an answer that was not good: the library leaves then.
    connection: Option<AsyncSmtpConnection>,
}

#[async_trait]
impl Line for OpenMail {
    fn is_open(&self) -> bool {
        self.connection.is_some()
    }

    async fn send(&mut self, parcel: &Parcel) -> Said {
        let message = match self.inner.message(parcel) {
            Ok(message) => message,
            Err(answer) => return Said::Refused { answer },
        };
        let Some(mut connection) = self.connection.take() else {
            return Said::Broken {
                reason: "the connection is gone".to_owned(),
            };
        };
        let bytes = message.formatted();
        let sending = connection.send(message.envelope(), &bytes);
        let sent = tokio::time::timeout(self.inner.limit, sending).await;
        match sent {
            Ok(Ok(response)) => {
                let words: Vec<&str> = response.message().collect();
                self.connection = Some(connection);
                Said::Taken {
                    answer: format!("{} {}", response.code(), words.join(" ")),
                }
            }
            Ok(Err(error)) => {
                let answer = told(&error);
                if error.is_permanent() || error.is_client() {
                    Said::Refused { answer }
                } else if error.is_transient() {
                    Said::NotNow {
                        answer,
                        until: None,
                    }
                } else {
                    Said::Broken { reason: answer }
                }
            }
            Err(_) => Said::Broken {
                reason: self.inner.slow("sending"),
            },
        }
    }

    async fn close(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            // It has everything already; how it says good-bye does not matter.
            let _ = tokio::time::timeout(GOOD_BYE, connection.quit()).await;
        }
    }
}

/// How long a server may take to say good-bye.
const GOOD_BYE: Duration = Duration::from_secs(1);

/// The error with what is behind it, once each.
fn told(error: &lettre::transport::smtp::Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !told.contains(&text) {
            told.push_str(": ");
            told.push_str(&text);
        }
        cause = error.source();
    }
    told
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::Value;
    use workflows::notices::{NotificationSettings, Rendered};

    use super::*;

    fn mail() -> Mail {
        let text = "email: { server: 127.0.0.1, tls: none, from: tenure@example.org }";
        let settings: NotificationSettings = serde_saphyr::from_str(text).unwrap();
        Mail::new(&settings.email.unwrap()).unwrap()
    }

    fn parcel(name: &str, subject: &str, address: &str) -> Parcel {
        Parcel {
            message_id: "4f5b8a1e".to_owned(),
            address: address.to_owned(),
            person_name: Some(name.to_owned()),
            date: "2026-03-02T12:00:00Z".parse().unwrap(),
            says: Rendered {
                subject: subject.to_owned(),
                text: "Hello\n.\nBcc: z@example.org\n".to_owned(),
                html: None,
            },
            data: Value::Null,
        }
    }

    #[test]
    fn nothing_in_a_value_becomes_a_header_or_another_recipient() {
        let mail = mail();
        let hostile = "Ann\r\nBcc: x@example.org\r\n\r\nbody, \"<y@example.org>\"";
        let made = mail
            .inner
            .message(&parcel(hostile, hostile, "ann@example.org"));
        let made = made.unwrap();
        assert_eq!(made.envelope().to().len(), 1);
        let text = String::from_utf8(made.formatted()).unwrap();
        let (head, _) = text.split_once("\r\n\r\n").unwrap();
        let starts = |name: &str| head.lines().filter(|line| line.starts_with(name)).count();
        assert_eq!(
            (starts("Bcc"), starts("To:"), starts("Subject:")),
            (0, 1, 1),
            "{head}"
        );
        assert_eq!(starts("Message-ID: <4f5b8a1e@example.org>"), 1, "{head}");
        for bad in ["a@b\r\nRCPT TO:<x@y>", "a@b c@d", "@", ""] {
            let made = mail.inner.message(&parcel("Ann", "s", bad));
            assert!(made.is_err(), "{bad:?}");
        }
    }
}
