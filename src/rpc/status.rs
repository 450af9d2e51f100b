//! The one place where a refusal becomes a gRPC status: code, `ErrorInfo` with a stable reason, who can mend it and
//! whether to ask again, `RequestInfo` where the request is known.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use warifu_core::merchant::RequestId;
use warifu_core::refusal::Refusal;

/// The domain of every `ErrorInfo` of this server.
pub(super) const DOMAIN: &str = "warifu";

/// A refusal of a request whose id was readable, or of one whose id was not.
pub(super) fn status(refusal: Refusal, request: Option<&RequestId>) -> Status {
    let metadata = HashMap::from([
        ("who".to_owned(), refusal.fixer().name().to_owned()),
        ("retry".to_owned(), refusal.retry().name().to_owned()),
    ]);
    let mut details = ErrorDetails::with_error_info(refusal.reason(), DOMAIN, metadata);
    if let Some(request) = request {
        details.set_request_info(request.as_str(), "");
    }
    Status::with_error_details(code(refusal), refusal.message(), details)
}

/// The gRPC code of a refusal.
pub(super) const fn code(refusal: Refusal) -> Code {
    match refusal {
        Refusal::RequestIdInvalid
        | Refusal::OrderInvalid
        | Refusal::AmountInvalid
        | Refusal::CurrencyInvalid
        | Refusal::ChannelInvalid
        | Refusal::FrameMalformed
        | Refusal::CounterIllegal
        | Refusal::FrameRefused
        | Refusal::CardInvalid => Code::InvalidArgument,
        Refusal::ModuleUnknown => Code::Unauthenticated,
        Refusal::NotPermitted => Code::PermissionDenied,
        Refusal::RequestIdReused | Refusal::FrameReplayed => Code::AlreadyExists,
        Refusal::DeviceUnknown | Refusal::KeyUnknown => Code::NotFound,
        Refusal::DeviceNotActive | Refusal::KeyNotActive | Refusal::KeyMoveIllegal | Refusal::ModeNotAllowed => {
            Code::FailedPrecondition
        }
        Refusal::Busy | Refusal::TokensExhausted => Code::ResourceExhausted,
        Refusal::TimedOut => Code::DeadlineExceeded,
        Refusal::HsmUnavailable | Refusal::StoreUnavailable | Refusal::AuditUnavailable | Refusal::Draining => {
            Code::Unavailable
        }
        Refusal::Internal => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_why_who_and_whether_to_retry() {
        let request = RequestId::parse("order-42").unwrap();
        for refusal in Refusal::ALL {
            let status = status(refusal, Some(&request));
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!(info.domain, "warifu");
            assert_eq!(Refusal::from_reason(&info.reason), Some(refusal));
            assert_eq!(info.metadata["who"], refusal.fixer().name());
            assert_eq!(info.metadata["retry"], refusal.retry().name());
            assert_eq!(details.request_info().unwrap().request_id, "order-42");
            assert_eq!(status.message(), refusal.message());
            assert_ne!(status.code(), Code::Ok);
        }
    }

    #[test]
    fn codes_are_those_of_the_contract() {
        for (refusal, expected) in [
            (Refusal::ModuleUnknown, Code::Unauthenticated),
            (Refusal::RequestIdInvalid, Code::InvalidArgument),
            (Refusal::RequestIdReused, Code::AlreadyExists),
            (Refusal::OrderInvalid, Code::InvalidArgument),
            (Refusal::AmountInvalid, Code::InvalidArgument),
            (Refusal::CurrencyInvalid, Code::InvalidArgument),
            (Refusal::ChannelInvalid, Code::InvalidArgument),
            (Refusal::FrameMalformed, Code::InvalidArgument),
            (Refusal::DeviceUnknown, Code::NotFound),
            (Refusal::DeviceNotActive, Code::FailedPrecondition),
            (Refusal::KeyNotActive, Code::FailedPrecondition),
            (Refusal::NotPermitted, Code::PermissionDenied),
            (Refusal::KeyUnknown, Code::NotFound),
            (Refusal::KeyMoveIllegal, Code::FailedPrecondition),
            (Refusal::CounterIllegal, Code::InvalidArgument),
            (Refusal::FrameReplayed, Code::AlreadyExists),
            (Refusal::FrameRefused, Code::InvalidArgument),
            (Refusal::CardInvalid, Code::InvalidArgument),
            (Refusal::ModeNotAllowed, Code::FailedPrecondition),
            (Refusal::TokensExhausted, Code::ResourceExhausted),
            (Refusal::Busy, Code::ResourceExhausted),
            (Refusal::TimedOut, Code::DeadlineExceeded),
            (Refusal::HsmUnavailable, Code::Unavailable),
            (Refusal::StoreUnavailable, Code::Unavailable),
            (Refusal::AuditUnavailable, Code::Unavailable),
            (Refusal::Draining, Code::Unavailable),
            (Refusal::Internal, Code::Internal),
        ] {
            assert_eq!(code(refusal), expected, "{refusal:?}");
        }
    }

    #[test]
    fn a_request_without_a_readable_id_has_no_request_info() {
        let details = status(Refusal::RequestIdInvalid, None).get_error_details();
        assert!(details.request_info().is_none());
    }
}
