//! Bugs planted on purpose, to see that the simulation finds them. All of them are in the simulated world, none in
//! the engine: each makes the world behave towards the engine, or the engine's writes towards the world, as if
//! the engine lacked one of its rules.

use clap::ValueEnum;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Plant {
    /// The database takes a batch of a node that lost the shard: as if no epoch were compared.
    NoEpochFence,
    /// The database knows no case that is asked after: as if a start that comes again were not recognised.
    StartedTwice,
    /// The commit answers before it is written: as if effects left before their intent is durable.
    EarlyEffects,
    /// The database knows of no subject that it has begun another life: as if the engine did not keep them.
    ForgottenLives,
    /// An attempt whose outcome is unknown is made again without being read back.
    NoReadBack,
}
