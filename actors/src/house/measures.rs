//! What the house measures, by name. Labels come from closed lists: never a serial, a token or a merchant.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Tells the metrics recorder what each number of this crate means. Once, after the recorder is installed.
pub fn describe_metrics() {
    describe_counter!("warifu_requests_total", "Requests answered, by call and outcome");
    describe_counter!("warifu_refusals_total", "Requests refused, by reason");
    describe_gauge!("warifu_requests_in_flight", "Requests being worked on");
    describe_gauge!("warifu_links", "Linked comm modules");
    describe_counter!("warifu_refused_callers_total", "Callers that were not let in");
    describe_histogram!("warifu_hsm_open_seconds", Unit::Seconds, "Time the HSM took to open a frame");
    describe_histogram!("warifu_hsm_module_seconds", Unit::Seconds, "Time one use of the HSM spent in its module");
    describe_gauge!("warifu_hsm_pin_refused", "1 if the HSM refused the PIN, which is not tried again");
    describe_counter!("warifu_deriver_restarts_total", "HSM sessions dropped after a panic or an outage");
    describe_counter!("warifu_actor_restarts_total", "Actors rebuilt after a panic, by actor");
    describe_counter!("warifu_actor_full_total", "Messages turned away at a full gate, by actor");
    describe_counter!("warifu_payments_total", "Payments that reached a state, by state");
    describe_gauge!("warifu_payments_open", "Payments whose outcome nobody knows yet");
    describe_gauge!("warifu_audit_records", "Records in this server's audit log");
    describe_counter!("warifu_audit_mentions_dropped_total", "Refusals too many at a time to be written one by one");
    describe_counter!("warifu_expired_approvals_total", "Frames of devices whose PCI approval has ended");
    describe_gauge!("warifu_key_expires_seconds", Unit::Seconds, "Time until a base derivation key is to be replaced");
    describe_counter!("warifu_store_failed_batches_total", "Batches that could not be made durable, by cause");
    describe_counter!("warifu_store_batches_read_total", "Batches decided over rows that had to be read first");
    describe_histogram!("warifu_store_batch_seconds", Unit::Seconds, "Time one batch took to become durable");
    describe_histogram!("warifu_store_batch_jobs", "Jobs made durable together");
}
