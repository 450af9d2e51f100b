//! Answers of the SDK as JSON.

use std::error::Error;
use std::process::ExitCode;
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};
use warifu_sdk::{Card, Order, Outcome, Payment, RequestId, SdkError};

/// `{"card": {...}, "request_id": "..."}`, or an error.
pub(crate) fn card(request_id: &RequestId, answer: Result<Card, SdkError>) -> Value {
    match answer {
        Ok(card) => json!({ "card": card_fields(&card), "request_id": request_id.as_str() }),
        Err(error) => self::error(&error),
    }
}

/// `{"payment": {...}, "request_id": "..."}`, or an error.
pub(crate) fn payment(order: &Order, answer: Result<Payment, SdkError>) -> Value {
    match answer {
        Ok(payment) => json!({ "payment": payment_fields(&payment), "request_id": order.request_id().as_str() }),
        Err(error) => self::error(&error),
    }
}

/// `{"payments": [...]}`, or an error.
pub(crate) fn payments(answer: Result<Vec<Payment>, SdkError>) -> Value {
    match answer {
        Ok(payments) => json!({ "payments": payments.iter().map(payment_fields).collect::<Vec<_>>() }),
        Err(error) => self::error(&error),
    }
}

/// `{"refused": {...}}` if the server said no, `{"error": {...}}` for anything else.
pub(crate) fn error(error: &SdkError) -> Value {
    let request_id = error.request_id().map(RequestId::as_str);
    if let SdkError::Refused { reason, who, retry, message, .. } = error {
        let refused = json!({
            "reason": reason, "who": who.name(), "retry": retry.name(), "message": message, "request_id": request_id,
        });
        return json!({ "refused": refused });
    }
    let kind = match error {
        SdkError::Timeout { .. } => "timeout",
        SdkError::Transport { .. } => "transport",
        SdkError::Device(_) => "device",
        SdkError::Config(_) => "config",
        _ => "answer",
    };
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    json!({ "error": { "kind": kind, "message": error.to_string(), "causes": causes, "request_id": request_id } })
}

/// 0 for an answer, 2 for a refusal, 1 for anything else.
pub(crate) fn exit_code(answer: Option<&Value>) -> ExitCode {
    match answer {
        Some(answer) if answer.get("refused").is_some() => ExitCode::from(2),
        Some(answer) if answer.get("error").is_some() => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn card_fields(card: &Card) -> Value {
    json!({
        "token": card.token.as_str(),
        "masked_pan": card.masked_pan,
        "brand": card.brand,
        "device": card.device,
        "entry": card.entry,
        "decryption_mode": card.decryption_mode,
        "scheme": card.scheme,
    })
}

fn payment_fields(payment: &Payment) -> Value {
    let (approval_code, response_code) = match &payment.outcome {
        Outcome::Authorized { approval_code } => (Some(approval_code.as_str()), Some("00")),
        Outcome::Declined { response_code } => (None, Some(response_code.as_str())),
        Outcome::Unknown | Outcome::Reversed => (None, None),
    };
    let since_1970 = payment.created_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    json!({
        "payment_id": payment.payment_id,
        "order": payment.order,
        "amount": { "minor": payment.minor, "currency": payment.currency },
        "channel": payment.channel.name(),
        "outcome": payment.outcome.name(),
        "approval_code": approval_code,
        "response_code": response_code,
        "card": card_fields(&payment.card),
        "created_at_ms": u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
    })
}
