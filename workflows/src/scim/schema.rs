//! Which attributes users and groups have here: one table from which `/Schemas`, the checks of what comes in
//! and the meaning of filters all follow (RFC 7643).

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::refusal::Refusal;

pub const USER: &str = "urn:ietf:params:scim:schemas:core:2.0:User";
pub const GROUP: &str = "urn:ietf:params:scim:schemas:core:2.0:Group";
pub const ENTERPRISE: &str = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User";
/// What employment needs and no standard schema has.
pub const TENURE: &str = "urn:ietf:params:scim:schemas:extension:tenure:2.0:User";

/// The most elements a list attribute may have, members of a group not counted.
pub const ELEMENTS_MAX: usize = 100;
/// The most members of a group.
pub const MEMBERS_MAX: usize = 10_000;
/// Schemas that widely used clients name without sending anything of them.
const ANNOUNCED: [&str; 2] = [
    "http://schemas.microsoft.com/2006/11/ResourceManagement/ADSCIM/2.0/User",
    "http://schemas.microsoft.com/2006/11/ResourceManagement/ADSCIM/2.0/Group",
];
/// The longest text in one attribute.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Text,
    Boolean,
    Reference,
    Binary,
    /// An instant (RFC 7643, 2.3.5).
    Time,
    Complex,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutability {
    ReadWrite,
    ReadOnly,
    WriteOnly,
    Immutable,
}

/// One attribute or sub-attribute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attribute {
    pub name: &'static str,
    pub of: Type,
    pub many: bool,
    pub required: bool,
    /// Whether comparing minds upper and lower case.
    pub exact: bool,
    pub mutability: Mutability,
    pub unique: bool,
    pub references: &'static [&'static str],
    pub canonical: &'static [&'static str],
    pub subs: &'static [Attribute],
    pub description: &'static str,
}

impl Attribute {
    const fn new(name: &'static str, of: Type, description: &'static str) -> Self {
        Self {
            name,
            of,
            many: false,
            required: false,
            exact: false,
            mutability: Mutability::ReadWrite,
            unique: false,
            references: &[],
            canonical: &[],
            subs: &[],
            description,
        }
    }
    const fn text(name: &'static str, description: &'static str) -> Self {
        Self::new(name, Type::Text, description)
    }
    const fn complex(
        name: &'static str,
        subs: &'static [Attribute],
        description: &'static str,
    ) -> Self {
        let mut attribute = Self::new(name, Type::Complex, description);
        attribute.subs = subs;
        attribute
    }
    const fn list(
        name: &'static str,
        subs: &'static [Attribute],
        description: &'static str,
    ) -> Self {
        let mut attribute = Self::complex(name, subs, description);
        attribute.many = true;
        attribute
    }
    const fn reference(
        name: &'static str,
        to: &'static [&'static str],
        description: &'static str,
    ) -> Self {
        let mut attribute = Self::new(name, Type::Reference, description);
        attribute.references = to;
        attribute.exact = true;
        attribute
    }
    const fn required(mut self) -> Self {
        self.required = true;
        self
    }
    const fn unique(mut self) -> Self {
        self.unique = true;
        self
    }
    const fn exact(mut self) -> Self {
        self.exact = true;
        self
    }
    const fn with(mut self, mutability: Mutability) -> Self {
        self.mutability = mutability;
        self
    }
    const fn one_of(mut self, canonical: &'static [&'static str]) -> Self {
        self.canonical = canonical;
        self
    }

    /// The sub-attribute of this name, in any case.
    pub fn sub(&self, name: &str) -> Option<&'static Attribute> {
        self.subs
            .iter()
            .find(|sub| sub.name.eq_ignore_ascii_case(name))
    }

    fn document(&self) -> Value {
        let mut document = json!({
            "name": self.name,
            "type": match self.of {
                Type::Text => "string",
                Type::Boolean => "boolean",
                Type::Reference => "reference",
                Type::Binary => "binary",
                Type::Time => "dateTime",
                Type::Complex => "complex",
            },
            "multiValued": self.many,
            "description": self.description,
            "required": self.required,
            "mutability": match self.mutability {
                Mutability::ReadWrite => "readWrite",
                Mutability::ReadOnly => "readOnly",
                Mutability::WriteOnly => "writeOnly",
                Mutability::Immutable => "immutable",
            },
            "returned": if self.mutability == Mutability::WriteOnly { "never" } else { "default" },
            "uniqueness": if self.unique { "server" } else { "none" },
        });
        if let Value::Object(fields) = &mut document {
            if matches!(self.of, Type::Text | Type::Reference | Type::Binary) {
                fields.insert("caseExact".to_owned(), json!(self.exact));
            }
            if !self.canonical.is_empty() {
                fields.insert("canonicalValues".to_owned(), json!(self.canonical));
            }
            if !self.references.is_empty() {
                fields.insert("referenceTypes".to_owned(), json!(self.references));
            }
            if !self.subs.is_empty() {
                let subs: Vec<Value> = self.subs.iter().map(Attribute::document).collect();
                fields.insert("subAttributes".to_owned(), Value::Array(subs));
            }
        }
        document
    }
}

const VALUE: Attribute = Attribute::text("value", "The value itself.");
const TYPE: Attribute =
    Attribute::text("type", "What the value is for.").one_of(&["work", "home", "other"]);
const DISPLAY: Attribute = Attribute::text("display", "A name for people.");
const PRIMARY: Attribute = Attribute::new(
    "primary",
    Type::Boolean,
    "Whether this is the preferred value.",
);

const NAME: &[Attribute] = &[
    Attribute::text("formatted", "The whole name as it is shown."),
    Attribute::text("familyName", "The family name."),
    Attribute::text("givenName", "The given name."),
    Attribute::text("middleName", "The middle names."),
    Attribute::text("honorificPrefix", "A title before the name."),
    Attribute::text("honorificSuffix", "A suffix after the name."),
];
const PLAIN_LIST: &[Attribute] = &[VALUE, DISPLAY, TYPE, PRIMARY];
const ADDRESSES: &[Attribute] = &[
    Attribute::text("formatted", "The whole address as it is shown."),
    Attribute::text("streetAddress", "Street and number."),
    Attribute::text("locality", "City."),
    Attribute::text("region", "State or region."),
    Attribute::text("postalCode", "Postal code."),
    Attribute::text("country", "Country as two letters."),
    TYPE,
    PRIMARY,
];
const CERTIFICATES: &[Attribute] = &[
    Attribute::new("value", Type::Binary, "The certificate, DER in base64.").exact(),
    DISPLAY,
    TYPE,
    PRIMARY,
];
const USER_GROUPS: &[Attribute] = &[
    Attribute::text("value", "The group's identifier.")
        .exact()
        .with(Mutability::ReadOnly),
    Attribute::reference("$ref", &["Group"], "The group's address.").with(Mutability::ReadOnly),
    Attribute::text("display", "The group's name.").with(Mutability::ReadOnly),
    Attribute::text("type", "How the membership came about.")
        .one_of(&["direct"])
        .with(Mutability::ReadOnly),
];
const MANAGER: &[Attribute] = &[
    Attribute::text("value", "The manager's identifier.").exact(),
    Attribute::reference("$ref", &["User"], "The manager's address."),
    Attribute::text("displayName", "The manager's name.").with(Mutability::ReadOnly),
];
const MEMBERS: &[Attribute] = &[
    Attribute::text("value", "The member's identifier.")
        .exact()
        .with(Mutability::Immutable),
    Attribute::reference("$ref", &["User"], "The member's address.").with(Mutability::Immutable),
    Attribute::text("type", "What the member is.")
        .one_of(&["User"])
        .with(Mutability::Immutable),
];

const USER_ATTRIBUTES: &[Attribute] = &[
    Attribute::text("userName", "The login name; unique without regard to case.")
        .required()
        .unique(),
    Attribute::complex("name", NAME, "The parts of the person's name."),
    Attribute::text("displayName", "The name shown to others."),
    Attribute::text("nickName", "The name the person goes by."),
    Attribute::reference("profileUrl", &["external"], "A page about the person."),
    Attribute::text("title", "The job title."),
    Attribute::text("userType", "Employee, contractor and so on."),
    Attribute::text("preferredLanguage", "The preferred language."),
    Attribute::text("locale", "How numbers and dates are shown."),
    Attribute::text("timezone", "IANA time zone."),
    Attribute::new("active", Type::Boolean, "Whether the user may log in."),
    Attribute::text("password", "The password; never shown.")
        .exact()
        .with(Mutability::WriteOnly),
    Attribute::list("emails", PLAIN_LIST, "Mail addresses."),
    Attribute::list("phoneNumbers", PLAIN_LIST, "Telephone numbers."),
    Attribute::list("addresses", ADDRESSES, "Postal addresses."),
    Attribute::list("groups", USER_GROUPS, "The groups the user is in.").with(Mutability::ReadOnly),
    Attribute::list("entitlements", PLAIN_LIST, "Rights of this application."),
    Attribute::list("roles", PLAIN_LIST, "Roles of this application."),
    Attribute::list("x509Certificates", CERTIFICATES, "Certificates."),
];
const ENTERPRISE_ATTRIBUTES: &[Attribute] = &[
    Attribute::text(
        "employeeNumber",
        "The number the organisation gave the person.",
    ),
    Attribute::text("costCenter", "Who pays."),
    Attribute::text("organization", "The organisation."),
    Attribute::text("division", "The division."),
    Attribute::text("department", "The department."),
    Attribute::complex("manager", MANAGER, "The manager."),
];
/// Days as `YYYY-MM-DD`. The canonical values are examples of the form, for clients that make values up from the schema.
const TENURE_ATTRIBUTES: &[Attribute] = &[
    Attribute::text("startDate", "The first day of work, as 2027-01-04.").one_of(&["2027-01-04"]),
    Attribute::text("endDate", "The last day of work, as 2027-12-31.").one_of(&["2027-12-31"]),
    Attribute::text(
        "contractStart",
        "The first day of the contract, as 2027-01-04.",
    )
    .one_of(&["2027-01-04"]),
    Attribute::text(
        "contractEnd",
        "The last day of the contract, as 2027-12-31.",
    )
    .one_of(&["2027-12-31"]),
    Attribute::text("contractId", "Which contract, or purchase order."),
    Attribute::text("sponsor", "Who answers for the contractor."),
    Attribute::text(
        "personType",
        "What the person is: employee, contractor or guest.",
    )
    .one_of(&["employee", "contractor", "guest"]),
    Attribute::text(
        "workTimeZone",
        "The IANA time zone in which the person's days of work begin and end.",
    )
    .one_of(&["Europe/Zurich", "America/New_York", "Asia/Tokyo", "UTC"]),
    Attribute::new(
        "onLeave",
        Type::Boolean,
        "Whether the person is away for long.",
    ),
];
const GROUP_ATTRIBUTES: &[Attribute] = &[
    Attribute::text(
        "displayName",
        "The group's name; unique without regard to case.",
    )
    .required()
    .unique(),
    Attribute::list("members", MEMBERS, "Who is in the group."),
];

/// The attribute every resource may carry (RFC 7643, 3.1).
static EXTERNAL_ID: Attribute =
    Attribute::text("externalId", "The client's own identifier.").exact();
static ID: Attribute = Attribute::text("id", "The identifier given by this server.")
    .exact()
    .with(Mutability::ReadOnly);
static SCHEMA_URNS: Attribute = Attribute {
    many: true,
    ..Attribute::reference("schemas", &["uri"], "The schemas of the resource.")
        .with(Mutability::ReadOnly)
};
static META: Attribute = Attribute::complex(
    "meta",
    &[
        Attribute::text("resourceType", "User or Group.")
            .exact()
            .with(Mutability::ReadOnly),
        Attribute::new("created", Type::Time, "When it was made.").with(Mutability::ReadOnly),
        Attribute::new("lastModified", Type::Time, "When it was changed last.")
            .with(Mutability::ReadOnly),
        Attribute::reference("location", &["uri"], "Its address.").with(Mutability::ReadOnly),
        Attribute::text("version", "Its ETag.")
            .exact()
            .with(Mutability::ReadOnly),
    ],
    "About the resource.",
)
.with(Mutability::ReadOnly);

/// One schema.
pub struct Schema {
    pub urn: &'static str,
    pub name: &'static str,
    pub attributes: &'static [Attribute],
}

pub static SCHEMAS: [Schema; 4] = [
    Schema {
        urn: USER,
        name: "User",
        attributes: USER_ATTRIBUTES,
    },
    Schema {
        urn: ENTERPRISE,
        name: "EnterpriseUser",
        attributes: ENTERPRISE_ATTRIBUTES,
    },
    Schema {
        urn: GROUP,
        name: "Group",
        attributes: GROUP_ATTRIBUTES,
    },
    Schema {
        urn: TENURE,
        name: "TenureUser",
        attributes: TENURE_ATTRIBUTES,
    },
];

/// Which resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A login of an application.
    User,
    /// A user whose employment is told: also has [`TENURE`].
    Person,
    Group,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::User | Self::Person => "User",
            Self::Group => "Group",
        }
    }
    pub fn endpoint(self) -> &'static str {
        match self {
            Self::User | Self::Person => "Users",
            Self::Group => "Groups",
        }
    }
    pub fn schema(self) -> &'static str {
        match self {
            Self::User | Self::Person => USER,
            Self::Group => GROUP,
        }
    }
    fn core(self) -> &'static [Attribute] {
        match self {
            Self::User | Self::Person => USER_ATTRIBUTES,
            Self::Group => GROUP_ATTRIBUTES,
        }
    }
    pub fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::User => &[ENTERPRISE],
            Self::Person => &[ENTERPRISE, TENURE],
            Self::Group => &[],
        }
    }

    /// The schemas that resources of this kind may have, the core one first.
    pub fn schemas(self) -> impl Iterator<Item = &'static Schema> {
        let urns = std::iter::once(self.schema()).chain(self.extensions().iter().copied());
        urns.filter_map(|urn| SCHEMAS.iter().find(|schema| schema.urn == urn))
    }

    /// The attributes of an extension; none when this kind does not have it.
    #[must_use]
    pub fn extension(self, urn: &str) -> &'static [Attribute] {
        let known = self.extensions().contains(&urn);
        let found = SCHEMAS.iter().find(|schema| known && schema.urn == urn);
        found.map_or(&[], |schema| schema.attributes)
    }

    /// The attribute of this name in the core schema (`schema` is `None`) or in an extension.
    pub fn attribute(self, schema: Option<&str>, name: &str) -> Option<&'static Attribute> {
        let attributes = match schema {
            None => {
                let common = [&EXTERNAL_ID, &ID, &META, &SCHEMA_URNS].into_iter();
                if let Some(found) = common
                    .into_iter()
                    .find(|it| it.name.eq_ignore_ascii_case(name))
                {
                    return Some(found);
                }
                self.core()
            }
            Some(urn) => self.extension(urn),
        };
        attributes
            .iter()
            .find(|attribute| attribute.name.eq_ignore_ascii_case(name))
    }

    /// Checks a whole resource and writes it with canonical names. What only the server sets is left out.
    pub fn accept(self, input: &Value) -> Result<Map<String, Value>, Refusal> {
        let Value::Object(fields) = input else {
            return Err(Refusal::invalid_syntax("the body must be a JSON object"));
        };
        let mut accepted = Map::new();
        for (name, value) in fields {
            if name.eq_ignore_ascii_case("schemas") {
                self.check_schemas(value)?;
            } else if let Some(urn) = self
                .extensions()
                .iter()
                .find(|urn| urn.eq_ignore_ascii_case(name))
            {
                let Value::Object(extension) = value else {
                    return Err(Refusal::invalid_value(&format!(
                        "`{urn}` must be an object"
                    )));
                };
                let part = self.accept_fields(Some(urn), extension)?;
                if !part.is_empty() {
                    accepted.insert((*urn).to_owned(), Value::Object(part));
                }
            } else {
                let one = Map::from_iter([(name.clone(), value.clone())]);
                for (name, value) in self.accept_fields(None, &one)? {
                    if accepted.insert(name.clone(), value).is_some() {
                        return Err(Refusal::invalid_syntax(&format!(
                            "`{name}` stands there twice"
                        )));
                    }
                }
            }
        }
        Ok(accepted)
    }

    /// Refuses a resource that lacks what it must have.
    pub fn check_required(self, resource: &Map<String, Value>) -> Result<(), Refusal> {
        for attribute in self.core().iter().filter(|attribute| attribute.required) {
            let text = resource
                .get(attribute.name)
                .and_then(Value::as_str)
                .unwrap_or_default();
            if text.trim().is_empty() {
                return Err(Refusal::invalid_value(&format!(
                    "`{}` is required",
                    attribute.name
                )));
            }
        }
        Ok(())
    }

    fn check_schemas(self, value: &Value) -> Result<(), Refusal> {
        let urns: Vec<&str> = value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if !urns
            .iter()
            .any(|urn| urn.eq_ignore_ascii_case(self.schema()))
        {
            return Err(Refusal::invalid_syntax(&format!(
                "`schemas` must hold `{}`",
                self.schema()
            )));
        }
        let known = |urn: &&str| {
            ANNOUNCED.contains(urn)
                || urn.eq_ignore_ascii_case(self.schema())
                || self
                    .extensions()
                    .iter()
                    .any(|it| it.eq_ignore_ascii_case(urn))
        };
        match urns.iter().find(|urn| !known(urn)) {
            Some(urn) => Err(Refusal::invalid_value(&format!(
                "schema `{urn}` is not known for {}",
                self.endpoint()
            ))),
            None => Ok(()),
        }
    }

    fn accept_fields(
        self,
        schema: Option<&str>,
        fields: &Map<String, Value>,
    ) -> Result<Map<String, Value>, Refusal> {
        let mut accepted = Map::new();
        for (name, value) in fields {
            // Some clients send it inside an extension too.
            if name.eq_ignore_ascii_case("schemas") {
                continue;
            }
            let attribute = self.attribute(schema, name).ok_or_else(|| {
                Refusal::invalid_value(&format!("{} have no attribute `{name}`", self.endpoint()))
            })?;
            if attribute.mutability == Mutability::ReadOnly {
                continue;
            }
            if let Some(value) = accept_value(attribute, value)? {
                accepted.insert(attribute.name.to_owned(), value);
            }
        }
        Ok(accepted)
    }
}

/// Checks one value; `None` when it says "no value" (RFC 7643, 2.5).
pub fn accept_value(attribute: &Attribute, value: &Value) -> Result<Option<Value>, Refusal> {
    match value {
        Value::Null => Ok(None),
        Value::Array(items) if attribute.many => {
            let most = if attribute.name == "members" {
                MEMBERS_MAX
            } else {
                ELEMENTS_MAX
            };
            if items.len() > most {
                return Err(Refusal::invalid_value(&format!(
                    "`{}` has more than {most} values",
                    attribute.name
                )));
            }
            let mut accepted = Vec::new();
            let mut seen = HashSet::new();
            for item in items {
                if let Some(item) = accept_one(attribute, item)?
                    && seen.insert(item.to_string())
                {
                    accepted.push(item);
                }
            }
            let primary = |item: &&Value| item.get("primary") == Some(&Value::Bool(true));
            if accepted.iter().filter(primary).count() > 1 {
                return Err(Refusal::invalid_value(&format!(
                    "`{}` has more than one primary value",
                    attribute.name
                )));
            }
            Ok((!accepted.is_empty()).then_some(Value::Array(accepted)))
        }
        one if attribute.many => {
            Ok(accept_one(attribute, one)?.map(|item| Value::Array(vec![item])))
        }
        one => accept_one(attribute, one),
    }
}

/// Checks one element.
pub fn accept_one(attribute: &Attribute, value: &Value) -> Result<Option<Value>, Refusal> {
    let wrong =
        |wanted: &str| Refusal::invalid_value(&format!("`{}` must be {wanted}", attribute.name));
    match (attribute.of, value) {
        (_, Value::Null) => Ok(None),
        (Type::Boolean, Value::Bool(_)) => Ok(Some(value.clone())),
        // Widely used clients send the word (RFC 7643 has no such form, but refusing helps nobody).
        (Type::Boolean, Value::String(text)) if text.eq_ignore_ascii_case("true") => {
            Ok(Some(Value::Bool(true)))
        }
        (Type::Boolean, Value::String(text)) if text.eq_ignore_ascii_case("false") => {
            Ok(Some(Value::Bool(false)))
        }
        (Type::Boolean, _) => Err(wrong("true or false")),
        (Type::Text | Type::Reference | Type::Binary | Type::Time, Value::String(text)) => {
            if text.len() > TEXT_BYTES_MAX {
                return Err(wrong(&format!("at most {TEXT_BYTES_MAX} bytes long")));
            }
            // Neither database keeps it inside JSON.
            if text.contains('\0') {
                return Err(wrong("without U+0000"));
            }
            Ok(Some(value.clone()))
        }
        (Type::Text | Type::Reference | Type::Binary | Type::Time, _) => Err(wrong("a text")),
        (Type::Complex, Value::Object(fields)) => {
            let mut accepted = Map::new();
            for (name, field) in fields {
                // Examples of the RFC give members a name; it is shown nowhere, so it is not kept.
                if attribute.name == "members" && name.eq_ignore_ascii_case("display") {
                    continue;
                }
                let sub = attribute.sub(name).ok_or_else(|| {
                    Refusal::invalid_value(&format!(
                        "`{}` has no sub-attribute `{name}`",
                        attribute.name
                    ))
                })?;
                if sub.mutability == Mutability::ReadOnly {
                    continue;
                }
                if let Some(field) = accept_value(sub, field)? {
                    accepted.insert(sub.name.to_owned(), field);
                }
            }
            Ok((!accepted.is_empty()).then_some(Value::Object(accepted)))
        }
        // A bare text stands for the `value` of an element.
        (Type::Complex, Value::String(_)) if attribute.sub("value").is_some() => {
            Ok(Some(json!({ "value": value })))
        }
        (Type::Complex, _) => Err(wrong("an object")),
    }
}

/// The document of one schema.
pub fn document(schema: &Schema, base: &str) -> Value {
    let attributes: Vec<Value> = schema.attributes.iter().map(Attribute::document).collect();
    json!({
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:Schema"],
        "id": schema.urn,
        "name": schema.name,
        "description": schema.name,
        "attributes": attributes,
        "meta": {
            "resourceType": "Schema",
            "location": format!("{base}/Schemas/{}", schema.urn),
        },
    })
}

/// The document of one resource type.
pub fn resource_type(kind: Kind, base: &str) -> Value {
    let extensions: Vec<Value> = kind
        .extensions()
        .iter()
        .map(|urn| json!({ "schema": urn, "required": false }))
        .collect();
    let mut document = json!({
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ResourceType"],
        "id": kind.name(),
        "name": kind.name(),
        "description": kind.name(),
        "endpoint": format!("/{}", kind.endpoint()),
        "schema": kind.schema(),
        "meta": {
            "resourceType": "ResourceType",
            "location": format!("{base}/ResourceTypes/{}", kind.name()),
        },
    });
    if let (false, Value::Object(fields)) = (extensions.is_empty(), &mut document) {
        fields.insert("schemaExtensions".to_owned(), Value::Array(extensions));
    }
    document
}
