//! Reading many cases, each version of a workflow once.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context as _;
use engine::core::case::Case;
use engine::core::definition::Definition;
use engine::core::id::{CaseId, DefinitionHash, ShardId};
use engine::store::assemble;
use workflows::actions::FACT_ROOTS;

use super::Database;

/// Reads cases one after another.
pub struct CaseReader<'a> {
    database: &'a Database,
    definitions: HashMap<DefinitionHash, Arc<Definition>>,
}

impl<'a> CaseReader<'a> {
    #[must_use]
    pub fn new(database: &'a Database) -> Self {
        Self {
            database,
            definitions: HashMap::new(),
        }
    }

    /// A case with its own version of the workflow; `None` when there is no such case.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read(&mut self, shard: ShardId, id: CaseId) -> anyhow::Result<Option<Case>> {
        let Some(stored) = self.database.store.load(shard, id).await? else {
            return Ok(None);
        };
        let hash = stored.head.definition.clone();
        let definition = match self.definitions.get(&hash) {
            Some(definition) => Arc::clone(definition),
            None => {
                let text = self.database.store.definition(&hash).await?;
                let text = text.with_context(|| {
                    format!("workflow version `{}` is not stored", hash.short())
                })?;
                // A version of before may use actions this program has no more.
                let parsed = Definition::parse(&stored.head.workflow, &text, FACT_ROOTS, &|_| true)
                    .with_context(|| {
                        format!("workflow version `{}` cannot be read", hash.short())
                    })?;
                let definition = Arc::new(parsed);
                self.definitions.insert(hash, Arc::clone(&definition));
                definition
            }
        };
        Ok(Some(assemble(definition, stored)?))
    }
}
