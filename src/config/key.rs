//! The list of settings: name, kind, default, meaning. Files, environment and `config show` all read this one list.

/// What a setting's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// A whole number, not negative.
    Number,
    /// `true` or `false`.
    Flag,
}

impl Kind {
    /// How a message names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Number => "a whole number",
            Self::Flag => "true or false",
        }
    }
}

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// Section and name: `server.listen`. In the environment: `WARIFU__SERVER__LISTEN`.
    pub path: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What it is when nobody sets it, as it would be written in the environment; `None`: not set.
    pub default: Option<&'static str>,
    /// What it is for.
    pub help: &'static str,
}

const fn key(path: &'static str, kind: Kind, default: Option<&'static str>, help: &'static str) -> Key {
    Key { path, kind, default, help }
}

use Kind::{Flag, Number, Text};

/// Every setting outside `[[bdk]]`, in the order `config show` prints them.
pub static KEYS: [Key; 39] = [
    key("server.listen", Text, Some("127.0.0.1:7443"), "address of gRPC over mutual TLS"),
    key(
        "server.http_listen",
        Text,
        Some("127.0.0.1:7480"),
        "address of health and metrics: plain HTTP, keep it private",
    ),
    key(
        "server.instance",
        Text,
        Some("warifu-1"),
        "name of this process: its audit log, and whose payments it recovers",
    ),
    key(
        "server.environment",
        Text,
        Some("live"),
        "live or test: only keys registered for it are used, and published keys never in live",
    ),
    key("server.data_dir", Text, Some("."), "folder for files this server writes"),
    key("server.request_timeout_ms", Number, Some("10000"), "longest time a request may take"),
    key("server.queue_wait_ms", Number, Some("250"), "longest time a request waits to be admitted"),
    key("server.admission", Number, Some("256"), "most requests in flight"),
    key("server.max_message_bytes", Number, Some("65536"), "longest message a module may send"),
    key("server.max_connections", Number, Some("1024"), "most connections at once"),
    key("server.module_connections", Number, Some("16"), "most connections at once by one module's certificate"),
    key("server.connection_requests", Number, Some("64"), "most requests in flight on one connection"),
    key("server.idle_timeout_ms", Number, Some("30000"), "a connection that sends nothing for so long is cut"),
    key("server.drain_ms", Number, Some("8000"), "longest time to finish work when stopping; at most 10000"),
    key("server.fault_limit", Number, Some("10"), "bad frames in a row after which a device without MAC is suspended"),
    key("server.reflection", Flag, Some("false"), "answer gRPC reflection"),
    key("server.dumpable", Flag, Some("false"), "allow debuggers and core dumps: never in service"),
    key("tls.certificate", Text, None, "PEM file: this server's certificate chain"),
    key("tls.key", Text, None, "PEM file: its private key"),
    key("tls.client_ca", Text, None, "PEM file: the authority of the modules' certificates"),
    key("store.url", Text, Some("sqlite://warifu.db?mode=rwc"), "sqlite://FILE?mode=rwc or postgres://..."),
    key("store.url_file", Text, None, "file holding store.url, when it contains a password"),
    key("store.max_batch", Number, Some("256"), "most requests made durable in one transaction"),
    key("store.queue", Number, Some("4096"), "most requests waiting for the writer"),
    key("hsm.module", Text, None, "PKCS#11 module (shared library)"),
    key("hsm.module_arguments", Text, None, "text the module wants when it is initialized; most want none"),
    key("hsm.token_label", Text, None, "label of the PKCS#11 token"),
    key("hsm.pin_file", Text, None, "file holding the user PIN"),
    key("hsm.derivers", Number, Some("2"), "threads that use the HSM, one session each"),
    key("hsm.cache_nodes", Number, Some("4096"), "derivation-tree nodes each of them keeps in the HSM"),
    key(
        "hsm.accept_non_p2pe",
        Flag,
        Some("false"),
        "allow mode host-derived, which is not P2PE by anyone's definition",
    ),
    key("hsm.softhsm_config", Text, None, "SoftHSM only: its configuration file (SOFTHSM2_CONF)"),
    key("acquirer.kind", Text, Some("simulator"), "simulator"),
    key("acquirer.journal", Text, Some("acquirer.jsonl"), "file where the simulator remembers its answers"),
    key("acquirer.timeout_ms", Number, Some("5000"), "longest time to wait for the acquirer"),
    key("audit.window_ms", Number, Some("1000"), "the log must have been written so recently before the HSM is used"),
    key("audit.sign_every_ms", Number, Some("10000"), "how often the head of the log is signed"),
    key("telemetry.log_format", Text, Some("auto"), "json, pretty, or auto: pretty on a terminal"),
    key("telemetry.otlp_endpoint", Text, None, "OTLP gRPC collector for traces, such as http://127.0.0.1:4317"),
];

/// Settings of one `[[bdk]]`.
pub static BDK_KEYS: [Key; 4] = [
    key("id", Text, None, "its name, and the label in the HSM"),
    key("scheme", Text, None, "aes or tdes"),
    key("bits", Number, Some("128"), "128, 192 or 256; 128 for tdes"),
    key("mode", Text, Some("hardware"), "hardware, hybrid or host-derived; tdes has host-derived only"),
];

/// Finds a setting.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The name closest to a wrong one, for a message; `None` if nothing is near.
pub fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = wrong.chars().count().div_ceil(3).max(2);
    let ranked = names.map(|name| (distance(wrong, name), name)).min_by_key(|(distance, _)| *distance);
    ranked.filter(|(distance, _)| *distance <= most).map(|(_, name)| name)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_mistake_finds_its_key() {
        let names = || KEYS.iter().map(|key| key.path);
        assert_eq!(nearest("server.lisen", names()), Some("server.listen"));
        assert_eq!(nearest("hsm.pinfile", names()), Some("hsm.pin_file"));
        assert_eq!(nearest("colour", names()), None);
    }

    #[test]
    fn every_default_is_of_its_kind() {
        for key in KEYS.iter().chain(&BDK_KEYS) {
            let Some(default) = key.default else { continue };
            match key.kind {
                Text => {}
                Number => assert!(default.parse::<u64>().is_ok(), "{}", key.path),
                Flag => assert!(default.parse::<bool>().is_ok(), "{}", key.path),
            }
        }
    }
}
