//! The schema, step by step. A step that has been released is never changed.

use sea_orm::{ConnectionTrait, DbBackend, Statement};
use sea_orm_migration::prelude::*;
use sea_orm_migration::{MigrationStatus, MigrationTrait, MigratorTrait};

use super::Store;
use super::error::StoreError;

mod m0001_foundation;
mod m0002_registry_generation;
mod m0003_bdk;
mod m0004_vault;
mod m0005_head_frontier;

/// Held while a process migrates a PostgreSQL database, so that two servers can start at once.
const MIGRATION_LOCK: i64 = 0x7761_7269_6675;

/// Makes the index of fingerprints that vaults begin with.
pub(super) const FINGERPRINT_ODD: &str = m0004_vault::FINGERPRINT_ODD;

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_foundation::Step),
            Box::new(m0002_registry_generation::Step),
            Box::new(m0003_bdk::Step),
            Box::new(m0004_vault::Step),
            Box::new(m0005_head_frontier::Step),
        ]
    }
}

/// How a database's schema stands to this version of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// It is this version's.
    Current,
    /// So many steps are missing: [`Store::migrate`] makes them.
    Behind {
        /// How many.
        steps: usize,
    },
    /// A newer version of the server made it: this one must not use it.
    Ahead,
}

impl Store {
    /// How the schema stands.
    pub async fn schema_state(&self) -> Result<SchemaState, StoreError> {
        match Migrator::get_migration_with_status_read_only(&self.reading()).await {
            Ok(all) => {
                let steps = all.iter().filter(|step| step.status() == MigrationStatus::Pending).count();
                Ok(if steps == 0 { SchemaState::Current } else { SchemaState::Behind { steps } })
            }
            // Only steps this version does not know make this error.
            Err(DbErr::Custom(_)) => Ok(SchemaState::Ahead),
            Err(error) => Err(error.into()),
        }
    }

    /// Brings the schema up to this version. Nothing happens if it is.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        if self.schema_state().await? == SchemaState::Current {
            return Ok(());
        }
        if self.backend() == DbBackend::Sqlite {
            return Ok(Migrator::up(&self.writing().now(), None).await?);
        }
        let lock = self.begin_patiently().await?;
        let sql = "SELECT pg_advisory_xact_lock($1)";
        lock.execute_raw(Statement::from_sql_and_values(self.backend(), sql, [MIGRATION_LOCK.into()])).await?;
        // A step over large tables takes longer than any read may.
        let own = self.unlimited().await?;
        Migrator::up(&own, None).await?;
        own.close().await?;
        Ok(lock.commit().await?)
    }
}
