//! What the suite has to know about the system it is pointed at.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;

use crate::connector::{Account, Attributes, Credential, EntitlementName, NativeId};

/// The system as the suite finds it. Everything but the prefix may be left out; tests that need what is
/// missing are reported as not applicable.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixture {
    /// Every name the suite makes starts with it. Letters and digits; must be new for every run.
    pub prefix: String,
    /// Two entitlements that exist and that a new account may be given.
    #[serde(default)]
    pub entitlements: Vec<EntitlementName>,
    /// Attributes of every account made. `{name}` in a string becomes the account's name.
    #[serde(default)]
    pub attributes: Attributes,
    /// Attributes to change afterwards: other values than in `attributes`. `{name}` as above.
    #[serde(default)]
    pub changed: Attributes,
    /// An attribute that takes any text.
    #[serde(default)]
    pub text_attribute: Option<String>,
    /// The longest account name in bytes, if the system has a limit.
    #[serde(default)]
    pub name_bytes_max: Option<usize>,
    /// How many accounts one page of the listing holds: the suite makes more than that. Leave it out where
    /// a page holds thousands.
    #[serde(default)]
    pub page_size: Option<usize>,
    /// A password that the system's rules accept; a second one is made by adding to it.
    #[serde(skip, default = "password")]
    pub password: SecretString,
    /// The identifier of an account that does not exist, for systems where the suite cannot delete one.
    #[serde(default)]
    pub missing_account: Option<NativeId>,
    /// A named action and its input, safe to carry out twice.
    #[serde(default)]
    pub action: Option<(String, Value)>,
    /// Attributes whose values are credentials: an update with them gives an account these.
    #[serde(default)]
    pub credential_attributes: Attributes,
    /// A named action that gives an account a credential, and its input; `{account}` in a string of it becomes the
    /// account's identifier.
    #[serde(default)]
    pub credential_action: Option<(String, Value)>,
    /// Whom credentials are issued to where there are no accounts: the suite makes names that start with it.
    #[serde(default)]
    pub holder: Option<NativeId>,
    /// What a new credential says; `{name}` in a string becomes its holder's identifier.
    #[serde(default)]
    pub issue_attributes: Attributes,
    /// How long a new credential lives, where the system has to be told.
    #[serde(default)]
    pub issue_lifetime_s: Option<u64>,
    /// A public half for credentials whose secret half is not the system's: a signing request, a public key.
    #[serde(default)]
    pub public_half: Option<String>,
    /// An account that takes what the suite's accounts own in the end, where one that owns something cannot be deleted.
    #[serde(default)]
    pub heir: Option<NativeId>,
    /// A named action that makes an account own something, and its input; `{account}` as above.
    #[serde(default)]
    pub ownership_action: Option<(String, Value)>,
    /// How long a read may lag behind a write. Zero where reads are exact.
    #[serde(default)]
    pub settle_ms: u64,
    /// The way into the system apart from the connector; without it effects are not checked independently.
    #[serde(skip)]
    pub door: Option<Arc<dyn Door>>,
}

fn password() -> SecretString {
    SecretString::from("C0nformance-Run!".to_owned())
}

impl Fixture {
    /// A fixture that knows only its prefix.
    #[must_use]
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            entitlements: Vec::new(),
            attributes: Attributes::new(),
            changed: Attributes::new(),
            text_attribute: None,
            name_bytes_max: None,
            page_size: None,
            password: password(),
            missing_account: None,
            action: None,
            credential_attributes: Attributes::new(),
            credential_action: None,
            holder: None,
            issue_attributes: Attributes::new(),
            issue_lifetime_s: None,
            public_half: None,
            ownership_action: None,
            heir: None,
            settle_ms: 0,
            door: None,
        }
    }
}

/// Keeps a session open for as long as it lives.
pub type Session = Box<dyn Any + Send + Sync>;

/// The system's own front door: what somebody with the password experiences. Must not use the connector.
#[async_trait]
pub trait Door: Send + Sync {
    /// Whether a login with this password succeeds now.
    ///
    /// # Errors
    /// In words, when the login could not even be tried.
    async fn opens(&self, account: &Account, password: &SecretString) -> Result<bool, String>;

    /// Logs in and stays until the session is dropped; `None` where the system has no sessions.
    ///
    /// # Errors
    /// In words, when the login did not succeed.
    async fn enter(
        &self,
        account: &Account,
        password: &SecretString,
    ) -> Result<Option<Session>, String> {
        let _ = (account, password);
        Ok(None)
    }

    /// Whether the credential proves now who somebody is, to whatever looks at credentials of its kind; `None` where
    /// this door knows no such thing.
    ///
    /// # Errors
    /// In words, when it could not even be tried.
    async fn takes(
        &self,
        account: &Account,
        credential: &Credential,
    ) -> Result<Option<bool>, String> {
        let _ = (account, credential);
        Ok(None)
    }

    /// Gives the account credentials, two if it can have two, by the system's own means; `false` where this door
    /// cannot.
    ///
    /// # Errors
    /// In words.
    async fn plants(&self, account: &Account) -> Result<bool, String> {
        let _ = account;
        Ok(false)
    }

    /// Makes the account own something, by the system's own means; `false` where this door cannot.
    ///
    /// # Errors
    /// In words.
    async fn gives(&self, account: &Account) -> Result<bool, String> {
        let _ = account;
        Ok(false)
    }
}
