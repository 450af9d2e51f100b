//! Who writes down what a ceremony did: its records in the audit log, and the transcript.

use sha2::{Digest as _, Sha256};
use warifu_actors::record::{Kind, Record};
use warifu_core::custody::KeyProof;
use warifu_core::kcv::Kcv;
use warifu_core::merchant::MerchantId;
use warifu_hsm::{BdkSpec, CallTally, Signature, VaultGeneration};

use super::new_file::NewFile;
use crate::ceremony::{Admitted, CeremonyError, FORM, Part, Signed, Transcript};
use crate::commands::output::moment;
use crate::commands::registry::{Desk, Stored as _, now_ms};
use crate::exit::{Attempt as _, Exit, Failure};
use crate::rpc::scheme_name;

/// What a ceremony is about.
pub(in crate::commands) struct Subject {
    key: String,
    scheme: &'static str,
    bits: u16,
}

impl Subject {
    /// A key of the registry.
    pub(in crate::commands) fn key(spec: &BdkSpec) -> Self {
        Self { key: spec.id.to_string(), scheme: scheme_name(spec.scheme), bits: spec.len.bits() }
    }

    /// The vault keys of a generation.
    pub(in crate::commands) fn vault_keys(generation: VaultGeneration) -> Self {
        Self { key: format!("vault keys {generation}"), scheme: "aes, hmac", bits: 256 }
    }

    /// The keys every server needs.
    pub(in crate::commands) fn service_keys() -> Self {
        Self { key: "service keys".to_owned(), scheme: "aes, hmac, ecdsa", bits: 256 }
    }
}

/// Watches one ceremony.
pub(in crate::commands) struct Witness<'a> {
    pub(in crate::commands) desk: &'a Desk,
    subject: Subject,
    merchant: Option<&'a MerchantId>,
    file: NewFile,
    begun_ms: i64,
}

/// One person's part.
pub(in crate::commands) struct Attended(Part);

impl Attended {
    /// Who brought a component.
    pub(in crate::commands) fn with(person: &Admitted, component: Kcv, at_ms: i64) -> Self {
        let Self(part) = Self::present(person, at_ms);
        Self(Part { component_kcv: Some(component.to_string()), ..part })
    }

    /// Who was there.
    pub(in crate::commands) fn present(person: &Admitted, at_ms: i64) -> Self {
        Self(Part {
            custodian: person.id.to_string(),
            certificate_sha256: person.certificate.to_string(),
            component_kcv: None,
            at: moment(at_ms),
        })
    }
}

impl<'a> Witness<'a> {
    /// From now on.
    pub(in crate::commands) fn new(
        desk: &'a Desk,
        subject: Subject,
        merchant: Option<&'a MerchantId>,
        file: NewFile,
    ) -> Self {
        Self { desk, subject, merchant, file, begun_ms: now_ms() }
    }

    /// What was done, to be signed.
    pub(in crate::commands) fn transcript(
        &self,
        act: &str,
        people: Vec<Attended>,
        kcv: Option<Kcv>,
        proof: Option<KeyProof>,
    ) -> Result<String, Failure> {
        let config = &self.desk.config;
        let transcript = Transcript {
            form: FORM.to_owned(),
            program: concat!("warifu ", env!("CARGO_PKG_VERSION")).to_owned(),
            instance: config.server.instance.clone(),
            environment: config.server.environment.name().to_owned(),
            token: config.hsm.token_label.clone(),
            key: self.subject.key.clone(),
            scheme: self.subject.scheme.to_owned(),
            bits: self.subject.bits,
            merchant: self.merchant.map(ToString::to_string),
            act: act.to_owned(),
            custodians: people.into_iter().map(|Attended(part)| part).collect(),
            kcv: kcv.map(|kcv| kcv.to_string()),
            proof: proof.map(|proof| proof.to_string()),
            begun: moment(self.begun_ms),
            ended: moment(now_ms()),
        };
        serde_json::to_string(&transcript).or_exit(Exit::Internal, "write the transcript")
    }

    /// Writes down that it is done, and the transcript.
    pub(in crate::commands) async fn sign_off(
        self,
        text: String,
        (Signature(signature), public_key): (Signature, [u8; 65]),
        calls: &CallTally,
    ) -> Result<(), Failure> {
        let digest = hex::encode(Sha256::digest(text.as_bytes()));
        self.note(Kind::CeremonyHeld, &format!("transcript sha256 {digest}"), calls).await?;
        let signed =
            Signed { transcript: text, public_key: hex::encode(public_key), signature: hex::encode(signature) };
        let text = serde_json::to_string_pretty(&signed).or_exit(Exit::Internal, "write the transcript")?;
        self.file.write(&(text + "\n"))
    }

    /// Writes down that it came to nothing, and says so.
    pub(in crate::commands) async fn gave_up(&self, error: &CeremonyError) -> Result<Failure, Failure> {
        self.note(Kind::CeremonyAbandoned, &error.to_string(), &CallTally::default()).await?;
        let exit = if matches!(error, CeremonyError::Hsm(_)) { Exit::Hsm } else { Exit::Refused };
        Ok(Failure::new(exit, format_args!("{error}; nothing was left behind")))
    }

    /// Writes down that the HSM failed over it.
    pub(in crate::commands) async fn failed(&self, failure: &Failure, calls: &CallTally) -> Result<(), Failure> {
        let cause = if failure.exit() == Exit::Hsm { "the HSM failed" } else { "the registry refused" };
        self.note(Kind::CeremonyAbandoned, cause, calls).await
    }

    /// Writes down another use of the HSM.
    pub(in crate::commands) async fn note_use(&self, cause: &str, calls: &CallTally) -> Result<(), Failure> {
        self.note(Kind::HsmSessionOpened, cause, calls).await
    }

    async fn note(&self, kind: Kind, cause: &str, calls: &CallTally) -> Result<(), Failure> {
        let mut record =
            Record::new(u64::try_from(now_ms()).unwrap_or_default(), kind).because(cause).with_calls(calls);
        record.key = Some(self.subject.key.clone());
        self.desk.registry.note(&record).await.stored("write the audit record")
    }
}
