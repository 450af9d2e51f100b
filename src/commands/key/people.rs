//! Who takes part in what takes two people, and how they are spoken to.

use std::path::PathBuf;

use clap::Args;
use warifu_core::custody::{Environment, Purpose};
use warifu_hsm::BdkSpec;

use super::new_file::NewFile;
use crate::ceremony::{Admitted, CeremonyError, Dialogue, Door, Language, NotAdmitted, Plan, attend};
use crate::commands::registry::{Desk, Stored as _, now_ms};
use crate::exit::{Attempt as _, Exit, Failure};
use crate::process;

/// Fewest people it takes.
const FEWEST: u8 = 2;

/// What is spoken with whom.
#[derive(Args)]
pub(in crate::commands) struct Company {
    /// What is spoken.
    #[arg(long, value_enum, default_value_t = Language::En)]
    lang: Language,
    /// Read the answers from standard input, one a line: in the test environment only.
    #[arg(long)]
    script: bool,
}

/// The people of a ceremony.
#[derive(Args)]
pub(in crate::commands) struct People {
    /// How many custodians take part.
    #[arg(
        long,
        value_name = "N",
        default_value_t = FEWEST,
        value_parser = clap::value_parser!(u8).range(i64::from(FEWEST)..=9)
    )]
    custodians: u8,
    /// Where the signed transcript goes.
    #[arg(long, value_name = "FILE")]
    transcript: PathBuf,
    #[command(flatten)]
    company: Company,
}

impl Company {
    /// Whoever answers, and the door they come in by. Nothing is typed before it is known that it will not be swapped out.
    pub(in crate::commands) async fn assemble(&self, desk: &Desk) -> Result<(Dialogue, Door), Failure> {
        let dialogue = match (self.script, desk.config.server.environment) {
            (true, Environment::Test) => Dialogue::Script,
            (true, Environment::Live) => {
                return Err(Failure::new(Exit::Usage, "--script is for the test environment: people make live keys"));
            }
            (false, _) => Dialogue::with_people().ok_or_else(|| {
                Failure::new(Exit::Usage, "custodians answer at a terminal; --script is for the test environment")
            })?,
        };
        process::lock_memory().or_exit(Exit::Usage, "keep components out of swap; give this account CAP_IPC_LOCK")?;
        let roster = desk.store.custodians().await.stored("list the custodians")?;
        let door = Door::new(roster, &desk.config.tls.client_ca).or_exit(Exit::Usage, "use tls.client_ca")?;
        Ok((dialogue, door))
    }

    /// What is spoken.
    pub(in crate::commands) fn language(&self) -> Language {
        self.lang
    }
}

impl People {
    /// What is spoken.
    pub(in crate::commands) fn language(&self) -> Language {
        self.company.language()
    }

    /// How many they are.
    pub(in crate::commands) fn custodians(&self) -> u8 {
        self.custodians
    }

    /// As [`Company::assemble`], with a place for the transcript.
    pub(in crate::commands) async fn assemble(&self, desk: &Desk) -> Result<(Dialogue, Door, NewFile), Failure> {
        let transcript = NewFile::at(&self.transcript)?;
        let (dialogue, door) = self.company.assemble(desk).await?;
        Ok((dialogue, door, transcript))
    }

    /// Has all of them come.
    pub(in crate::commands) fn attend(
        &self,
        what: &str,
        dialogue: Dialogue,
        door: &mut Door,
    ) -> Result<Vec<(Admitted, i64)>, CeremonyError> {
        attend(what, self.custodians.into(), self.company.language(), dialogue, door, now_ms)
    }

    /// What is to be made with them.
    pub(in crate::commands) fn plan<'a>(
        &self,
        purpose: Purpose,
        spec: &'a BdkSpec,
        expected: Option<&str>,
    ) -> Plan<'a> {
        Plan {
            key: spec.id.as_str(),
            purpose,
            scheme: spec.scheme,
            len: spec.len,
            custodians: usize::from(self.custodians),
            expected: expected.map(str::to_owned),
            language: self.company.language(),
        }
    }
}

/// Whether the people who were let in may still take part, now that they have typed.
pub(in crate::commands) async fn still_admitted<'a>(
    desk: &Desk,
    mut people: impl Iterator<Item = &'a Admitted>,
) -> Result<Result<(), NotAdmitted>, Failure> {
    let roster = desk.store.custodians().await.stored("list the custodians")?;
    Ok(people.try_for_each(|person| person.still(&roster)))
}
