//! The workflow definitions a node knows.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::core::definition::Definition;
use crate::core::id::DefinitionHash;

/// Definitions by name (the current version) and by hash (every version a case still runs).
#[derive(Debug, Default)]
pub struct Definitions {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_name: HashMap<String, Arc<Definition>>,
    by_hash: HashMap<DefinitionHash, Arc<Definition>>,
}

impl Definitions {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes `definition` the current one of its name.
    pub fn add(&self, definition: Definition) -> Arc<Definition> {
        let definition = Arc::new(definition);
        let mut inner = self.write();
        inner
            .by_name
            .insert(definition.name.clone(), Arc::clone(&definition));
        inner
            .by_hash
            .insert(definition.hash.clone(), Arc::clone(&definition));
        definition
    }

    /// Keeps an older version for the cases that still run it.
    pub fn keep(&self, definition: Definition) -> Arc<Definition> {
        let definition = Arc::new(definition);
        self.write()
            .by_hash
            .insert(definition.hash.clone(), Arc::clone(&definition));
        definition
    }

    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<Arc<Definition>> {
        self.read().by_name.get(name).cloned()
    }

    #[must_use]
    pub fn by_hash(&self, hash: &DefinitionHash) -> Option<Arc<Definition>> {
        self.read().by_hash.get(hash).cloned()
    }

    /// The current definitions that a business event of this type starts when it takes effect, in order of their names.
    #[must_use]
    pub fn started_by(&self, event: &str) -> Vec<Arc<Definition>> {
        let mut found = self.all();
        found.retain(|definition| {
            !definition.is_offset() && definition.on.iter().any(|on| on == event)
        });
        found
    }

    /// The current definitions that start before their event takes effect, or after, in order of their names.
    #[must_use]
    pub fn offset(&self) -> Vec<Arc<Definition>> {
        let mut found = self.all();
        found.retain(|definition| definition.is_offset());
        found
    }

    /// All current definitions, in order of their names.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Definition>> {
        let mut all: Vec<_> = self.read().by_name.values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}
