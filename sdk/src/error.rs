//! Everything that can go wrong, and what to do next.

use std::error::Error;
use std::io;
use std::time::Duration;

use tonic::{Code, Status, TimeoutExpired};
use tonic_types::StatusExt;
use warifu_core::refusal::{Fixer, Refusal, Retry};

use crate::config::ConfigError;
use crate::device::DeviceError;
use crate::request_id::RequestId;
use crate::wire::v1;

/// Why a call has no answer. Each text says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SdkError {
    /// The server said no. A decline by the acquirer is not this: it is an [`Outcome`](crate::Outcome).
    #[error("refused, {reason}: {message}; {}", next_step(*who, *retry))]
    Refused {
        /// The refusal, if this build knows it.
        refusal: Option<Refusal>,
        /// Its stable name, also where this build does not know it.
        reason: String,
        /// Who can mend it.
        who: Fixer,
        /// Whether to ask again, and how.
        retry: Retry,
        /// One sentence for a person.
        message: String,
        /// The request it answers.
        request_id: Option<RequestId>,
    },
    /// The server cannot be reached, or the connection broke.
    #[error("{advice}{}", ask_again(request_id.as_ref()))]
    Transport {
        /// What to check.
        advice: &'static str,
        /// The request that has no answer; it may still take effect.
        request_id: Option<RequestId>,
        /// What broke.
        source: Box<dyn Error + Send + Sync>,
    },
    /// No answer in time. The request may still take effect.
    #[error("no answer within {waited:?}; check the network and the server{}", ask_again(request_id.as_ref()))]
    Timeout {
        /// How long the call waited, all attempts together.
        waited: Duration,
        /// The request that has no answer.
        request_id: Option<RequestId>,
    },
    /// The server's answer lacks what the protocol promises.
    #[error("the server's answer has {what}; update this SDK to the server's version")]
    Answer {
        /// What is missing.
        what: &'static str,
    },
    /// The device or its wire.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A setting that cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl SdkError {
    /// The request that was refused or has no answer.
    pub fn request_id(&self) -> Option<&RequestId> {
        match self {
            Self::Refused { request_id, .. }
            | Self::Transport { request_id, .. }
            | Self::Timeout { request_id, .. } => request_id.as_ref(),
            Self::Answer { .. } | Self::Device(_) | Self::Config(_) => None,
        }
    }
}

fn next_step(who: Fixer, retry: Retry) -> &'static str {
    match (retry, who) {
        (Retry::SameRequest, _) => "ask again later with the same request_id and content: it has one effect",
        (Retry::NewCard, _) => "collect the card again and ask under a new request_id",
        (Retry::No, Fixer::Developer) => "correct the calling program",
        (Retry::No, Fixer::Merchant) => "use another card or device",
        (Retry::No, Fixer::Operator) => "ask the server's operator",
    }
}

fn ask_again(request_id: Option<&RequestId>) -> String {
    match request_id {
        Some(id) => format!("; ask again with request_id {id} and the same content: it has one effect"),
        None => String::new(),
    }
}

/// Why one attempt failed, and whether the same request may be sent again.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// A refusal, and the shortest pause before the SDK itself may send the same request again.
    Refused {
        refusal: Option<Refusal>,
        reason: String,
        who: Fixer,
        retry: Retry,
        message: String,
        repeat_after: Option<Duration>,
    },
    /// Broken or no connection; trying again may help.
    Broken(Status),
    /// TLS failed: trying again does not help.
    Untrusted(Status),
    /// No answer within the attempt's limit.
    Silent,
}

impl Failure {
    /// Reads the refusal of one request among many.
    pub(crate) fn of_one(refused: v1::Refused) -> Self {
        let refusal = Refusal::from_reason(&refused.reason);
        let who = fixer_from_name(&refused.who).or_else(|| refusal.map(Refusal::fixer));
        let retry = Retry::from_name(&refused.retry).or_else(|| refusal.map(Refusal::retry)).unwrap_or(Retry::No);
        Self::Refused {
            refusal,
            reason: refused.reason,
            who: who.unwrap_or(Fixer::Operator),
            retry,
            message: refused.message,
            repeat_after: (retry == Retry::SameRequest).then_some(Duration::ZERO),
        }
    }

    /// Reads a status: the server's own words if it has [`ErrorInfo`](tonic_types::ErrorInfo), else the transport's.
    pub(crate) fn read(status: Status) -> Self {
        if let Some(info) = status.get_details_error_info().filter(|info| info.domain == "warifu") {
            let refusal = Refusal::from_reason(&info.reason);
            let named = |key| info.metadata.get(key).map(String::as_str);
            let who = named("who").and_then(fixer_from_name).or_else(|| refusal.map(Refusal::fixer));
            let retry = named("retry").and_then(Retry::from_name).or_else(|| refusal.map(Refusal::retry));
            let retry = retry.unwrap_or(Retry::No);
            let wait = status.get_details_retry_info().and_then(|info| info.retry_delay).unwrap_or_default();
            return Self::Refused {
                refusal,
                who: who.unwrap_or(Fixer::Operator),
                retry,
                message: status.message().to_owned(),
                repeat_after: (retry == Retry::SameRequest).then_some(wait),
                reason: info.reason,
            };
        }
        let chain = Chain(status.source());
        if chain.any(|error| error.is::<TimeoutExpired>()) {
            return Self::Silent;
        }
        if chain.any(is_tls) {
            return Self::Untrusted(status);
        }
        if status.source().is_some() {
            return Self::Broken(status);
        }
        // From here on the status came over the wire, without a refusal: a proxy's, or the gRPC library's own.
        match status.code() {
            Code::Unavailable => Self::Broken(status),
            // tonic answers an expired grpc-timeout with CANCELLED.
            Code::DeadlineExceeded | Code::Cancelled => Self::Silent,
            code => Self::Refused {
                refusal: None,
                reason: format!("GRPC_{}", code_name(code)),
                who: Fixer::Operator,
                retry: match code {
                    Code::Unknown | Code::Internal | Code::Aborted | Code::ResourceExhausted => Retry::SameRequest,
                    _ => Retry::No,
                },
                message: status.message().to_owned(),
                // Safe for a caller to ask again, but nothing says that it would help.
                repeat_after: None,
            },
        }
    }

    /// Whether a stream of cards ended because of one of them, which nobody could read.
    pub(crate) fn is_of_one_card(&self) -> bool {
        matches!(self, Self::Refused { refusal: Some(Refusal::FrameMalformed), .. })
    }

    /// The shortest pause before the same request may be sent again; `None` if it must not be.
    pub(crate) fn may_repeat(&self) -> Option<Duration> {
        match self {
            Self::Refused { repeat_after, .. } => *repeat_after,
            Self::Untrusted(_) => None,
            Self::Broken(_) | Self::Silent => Some(Duration::ZERO),
        }
    }

    /// The error a caller sees.
    pub(crate) fn into_error(self, request_id: Option<&RequestId>, waited: Duration) -> SdkError {
        let request_id = request_id.cloned();
        match self {
            Self::Refused { refusal, reason, who, retry, message, repeat_after: _ } => {
                SdkError::Refused { refusal, reason, who, retry, message, request_id }
            }
            Self::Broken(status) => SdkError::Transport {
                advice: "the server cannot be reached; check the URL, the network and that the server runs",
                request_id,
                source: status.into(),
            },
            Self::Untrusted(status) => SdkError::Transport {
                advice: "TLS failed; check the CA, the host name in the URL, and that the module's certificate is \
                         valid and was issued for this server",
                request_id,
                source: status.into(),
            },
            Self::Silent => SdkError::Timeout { waited, request_id },
        }
    }
}

/// An error and its causes.
#[derive(Clone, Copy)]
struct Chain<'a>(Option<&'a (dyn Error + 'static)>);

impl Chain<'_> {
    fn any(self, test: impl Fn(&(dyn Error + 'static)) -> bool) -> bool {
        let mut link = self.0;
        while let Some(error) = link {
            if test(error) {
                return true;
            }
            // An io::Error made of another error hides it from source().
            link = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        false
    }
}

/// A refused client certificate arrives as an alert after the handshake (RFC 8446 §4.4.2), and by then the HTTP/2
/// layer has turned the TLS error into text.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    error.is::<rustls::Error>() || error.to_string().contains("received fatal alert")
}

fn fixer_from_name(name: &str) -> Option<Fixer> {
    [Fixer::Developer, Fixer::Merchant, Fixer::Operator].into_iter().find(|fixer| fixer.name() == name)
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn refusal_status(refusal: Refusal) -> Status {
        let metadata = [("who", refusal.fixer().name()), ("retry", refusal.retry().name())];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let details = ErrorDetails::with_error_info(refusal.reason(), "warifu", metadata);
        Status::with_error_details(Code::InvalidArgument, refusal.message(), details)
    }

    #[test]
    fn every_refusal_comes_back_as_itself_and_only_same_request_is_repeated() {
        for refusal in Refusal::ALL {
            let failure = Failure::read(refusal_status(refusal));
            assert_eq!(failure.may_repeat().is_some(), refusal.retry() == Retry::SameRequest, "{refusal:?}");
            let error = failure.into_error(None, Duration::ZERO);
            let SdkError::Refused { refusal: known, reason, who, retry, message, .. } = &error else {
                panic!("{error:?}");
            };
            assert_eq!((*known, reason.as_str()), (Some(refusal), refusal.reason()));
            assert_eq!((*who, *retry, message.as_str()), (refusal.fixer(), refusal.retry(), refusal.message()));
            assert!(error.to_string().contains(refusal.reason()), "{error}");
        }
    }

    #[test]
    fn a_refusal_of_a_newer_server_keeps_its_reason_and_its_advice() {
        let metadata = [("who".to_owned(), "merchant".to_owned()), ("retry".to_owned(), "same-request".to_owned())];
        let details = ErrorDetails::with_error_info("MOON_IN_THE_WAY", "warifu", metadata);
        let failure = Failure::read(Status::with_error_details(Code::Unavailable, "wait", details));
        assert!(failure.may_repeat().is_some());
        let SdkError::Refused { refusal: None, reason, who: Fixer::Merchant, .. } =
            failure.into_error(None, Duration::ZERO)
        else {
            panic!("not read");
        };
        assert_eq!(reason, "MOON_IN_THE_WAY");
    }

    #[test]
    fn a_status_without_a_refusal_is_repeated_only_if_the_way_was_closed() {
        for (code, repeated) in [
            (Code::Unavailable, true),
            (Code::DeadlineExceeded, true),
            (Code::Unimplemented, false),
            (Code::Internal, false),
            (Code::PermissionDenied, false),
            (Code::ResourceExhausted, false),
        ] {
            assert_eq!(Failure::read(Status::new(code, "")).may_repeat().is_some(), repeated, "{code:?}");
        }
    }

    #[test]
    fn a_tls_error_wrapped_in_an_io_error_is_found() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let status = Status::from_error(Box::new(io::Error::new(io::ErrorKind::InvalidData, tls)));
        assert!(matches!(Failure::read(status), Failure::Untrusted(_)));
    }
}
