//! What the configuration wants of the keys, held to what the registry knows of them, before the HSM is opened.

use warifu_actors::store::{BdkRecord, Store};
use warifu_core::custody::{self, Environment, KeyProof, Purpose, State};
use warifu_core::key::KeyLen;
use warifu_core::ksn::Scheme;
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
    belongs(record, environment)?;
    if record.state == State::Destroyed {
        return Err(refused(format_args!("the key {id} is destroyed: take its [[bdk]] out of the configuration")));
    }
    Ok(())
}

/// Whether a key may be touched in this environment at all.
///
/// # Errors
/// With exit code 2 where it is of the other one, or a published one in a live one.
pub(crate) fn belongs(record: &BdkRecord, environment: Environment) -> Result<(), Failure> {
    let BdkRecord { id, purpose, scheme, len, proof, .. } = record;
    if record.environment != environment {
        let (its, ours) = (record.environment.name(), environment.name());
        return Err(refused(format_args!("the key {id} is a {its} key, and this is a {ours} server")));
    }
    refuse_published(environment, *purpose, *scheme, *len, *proof)
        .map_err(|_| refused(format_args!("the key {id} is a published test key, which a live server never uses")))
}

/// Whether a new key is one that everybody can have.
///
/// # Errors
/// With exit code 2 in a live environment.
pub(crate) fn refuse_published(
    environment: Environment,
    purpose: Purpose,
    scheme: Scheme,
    len: KeyLen,
    proof: KeyProof,
) -> Result<(), Failure> {
    match environment == Environment::Live && custody::is_published(purpose, scheme, len, proof) {
        true => Err(refused("this is a published test key, which a live server never uses")),
        false => Ok(()),
    }
}

fn refused(why: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, why)
}
