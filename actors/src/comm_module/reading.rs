//! Reading a device output as far as that is possible without keys: whose device, which format, which counter.

use std::sync::Arc;

use warifu_core::custody;
use warifu_core::device::{Format, Profile, State};
use warifu_core::frame::{FrameError, MAGIC, SealedFrame};
use warifu_core::merchant::RequestId;
use warifu_core::reader;
use warifu_core::refusal::Refusal;

use super::Desk;
use crate::refused::Refused;
use crate::store::DeviceRecord;
use crate::tokenizer::Collected;

impl Desk {
    /// Reads an output, finds its device, and checks that it may be used. Whether the counter was used before is
    /// not asked.
    pub(super) async fn read(
        &self,
        output: &[u8],
        request: &RequestId,
        digest: [u8; 32],
    ) -> Result<Collected, Refused> {
        let (format, seen) = parse(output)?;
        let device = self.device_of(&seen).await?;
        if device.profile.format != format {
            return Err(Refused::because(Refusal::FrameMalformed, "the device is registered with another format"));
        }
        let frame = if device.profile == profile(format) { seen } else { by_profile(&device.profile, output)? };
        if device.state != State::Active {
            let cause = match device.state {
                State::Registered => "the device is not in use yet",
                State::Suspended => "the device is suspended",
                State::Retired | State::Active => "the device is retired",
            };
            return Err(Refused::because(Refusal::DeviceNotActive, cause));
        }
        self.check_key(&device).await?;
        self.warn_of_old_approval(&device);
        let counter = frame.ksn().counter().map_err(|error| Refused::because(Refusal::CounterIllegal, error))?;
        Ok(Collected { caller: self.caller.clone(), request: request.clone(), digest, frame, counter, device })
    }

    async fn device_of(&self, frame: &SealedFrame) -> Result<Arc<DeviceRecord>, Refused> {
        let unknown = |cause| Refused::because(Refusal::DeviceUnknown, cause);
        let device = self.store.device_by_ksn(&frame.ksn().device()).await?;
        let device = device.ok_or_else(|| unknown("no device has this key serial number"))?;
        // A foreign device and one that does not exist give the same answer.
        if device.merchant == self.caller.merchant { Ok(device) } else { Err(unknown("another merchant's device")) }
    }

    /// Whether the key the device was loaded from may be used, and for this merchant.
    async fn check_key(&self, device: &DeviceRecord) -> Result<(), Refused> {
        let refuse = |cause| Err(Refused::because(Refusal::KeyNotActive, cause));
        let Some(bdk) = self.store.bdk(&device.bdk).await? else {
            return refuse("the device's base derivation key is not in the registry");
        };
        if bdk.purpose != custody::Purpose::Bdk {
            return refuse("the device's key is no base derivation key");
        }
        match bdk.state {
            custody::State::Active => {}
            custody::State::PreActive => return refuse("the device's base derivation key is not in use yet"),
            custody::State::Suspended => return refuse("the device's base derivation key is suspended"),
            custody::State::Deactivated | custody::State::Destroyed => {
                return refuse("the device's base derivation key is out of use for good");
            }
        }
        match &bdk.merchant {
            Some(merchant) if *merchant != self.caller.merchant => {
                refuse("the device's base derivation key is another merchant's")
            }
            _ => Ok(()),
        }
    }

    /// Whether the counter is unused as far as this server knew a moment ago.
    pub(super) fn is_fresh(&self, collected: &Collected) -> Result<(), Refused> {
        let Collected { device, counter, .. } = collected;
        let admitted = self.store.guard_of(device).admit(*counter, device.window);
        admitted.map(|_| ()).map_err(|replay| Refused::because(Refusal::FrameReplayed, replay))
    }

    /// An approval that has ended is the operator's decision, so it is told and nothing refused.
    fn warn_of_old_approval(&self, device: &DeviceRecord) {
        let now = i64::try_from(self.log.clock().now_ms()).unwrap_or(i64::MAX);
        if device.sred.as_ref().is_some_and(|sred| sred.expires_at_ms < now) {
            metrics::counter!("warifu_expired_approvals_total").increment(1);
            tracing::warn!(device = %device.id, "the PCI approval of a device in use has ended");
        }
    }
}

/// Parses an output of unknown format, for its key serial number.
fn parse(output: &[u8]) -> Result<(Format, SealedFrame), Refused> {
    if output.len() > reader::MAX_OUTPUT_LEN {
        return Err(Refused::because(Refusal::FrameMalformed, "the device output is too long"));
    }
    let format = if output.starts_with(&MAGIC) { Some(Format::Native) } else { reader::detect(output) };
    let format = format.ok_or_else(|| Refused::because(Refusal::FrameMalformed, FrameError::Start))?;
    Ok((format, by_profile(&profile(format), output)?))
}

fn by_profile(profile: &Profile, output: &[u8]) -> Result<SealedFrame, Refused> {
    reader::parse(profile, output).map_err(|error| Refused::because(Refusal::FrameMalformed, error))
}

const fn profile(format: Format) -> Profile {
    Profile { format, key: None }
}
