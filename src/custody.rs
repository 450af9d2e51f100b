//! What the configuration wants of the keys, held to what the registry knows of them, before the HSM is opened.

use warifu_actors::store::{BdkRecord, Store};
use warifu_core::custody::{self, Environment, Purpose, State};
use warifu_hsm::BdkSpec;

use crate::exit::{Attempt as _, Exit, Failure};

/// The keys with the proofs they are registered with: a slot that holds others is refused.
///
/// # Errors
/// With exit code 2 where a key of the configuration is not registered, is registered as something else or for another
/// environment, or does not exist any more. A key that is merely not in use keeps nobody from starting.
pub(crate) async fn registered(
    bdks: &[BdkSpec],
    environment: Environment,
    store: &Store,
) -> Result<Vec<BdkSpec>, Failure> {
    let known = store.bdks().await.or_exit(Exit::Store, "read the registry of keys")?;
    bdks.iter()
        .map(|spec| {
            let record = known.iter().find(|record| record.id == spec.id);
            let record = record.ok_or_else(|| {
                let id = &spec.id;
                refused(format_args!("the key {id} is not in the registry: `warifu key register {id}` puts it there"))
            })?;
            check(spec, record, environment)?;
            Ok(BdkSpec { proof: Some(record.proof), ..spec.clone() })
        })
        .collect()
}

fn check(spec: &BdkSpec, record: &BdkRecord, environment: Environment) -> Result<(), Failure> {
    let id = &spec.id;
    if record.purpose != Purpose::Bdk {
        return Err(refused(format_args!("the key {id} is registered, and is no base derivation key")));
    }
    if (spec.scheme, spec.len) != (record.scheme, record.len) {
        return Err(refused(format_args!("the key {id} is registered with another scheme or length")));
    }
    if record.environment != environment {
        let (its, ours) = (record.environment.name(), environment.name());
        return Err(refused(format_args!("the key {id} is a {its} key, and this is a {ours} server")));
    }
    if environment == Environment::Live && custody::is_published(record.proof) {
        return Err(refused(format_args!("the key {id} is a published test key, which a live server never uses")));
    }
    if record.state == State::Destroyed {
        return Err(refused(format_args!("the key {id} is destroyed: take its [[bdk]] out of the configuration")));
    }
    Ok(())
}

fn refused(why: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, why)
}
