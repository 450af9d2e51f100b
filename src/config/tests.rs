//! The configuration's promises.

use std::path::Path;

use warifu_core::ksn::Scheme;
use warifu_hsm::DecryptionMode;

use super::layers::Layers;
use super::*;

const LEAST: &str = r#"
[tls]
certificate = "server.pem"
key = "server.key"
client_ca = "ca.pem"
[hsm]
module = "/usr/lib/softhsm/libsofthsm2.so"
token_label = "warifu"
pin_file = "pin"
"#;

fn layers(text: &str) -> Result<Layers, ConfigError> {
    Layers::defaults()?.file(Path::new("warifu.toml"), text)
}

fn config(text: &str) -> Result<Config, ConfigError> {
    Config::parse(&layers(text)?, Path::new("/etc/warifu"))
}

fn with(extra: &str) -> Result<Config, ConfigError> {
    config(&format!("{LEAST}{extra}"))
}

#[test]
fn later_layers_win() {
    let variable = |value: &str| [("WARIFU__SERVER__LISTEN".to_owned(), value.to_owned())].into_iter();
    let file = "[server]\nlisten = \"127.0.0.1:1\"\n";
    let listen = |layers: &Layers| layers.text("server.listen").unwrap().to_owned();

    assert_eq!(listen(&Layers::defaults().unwrap()), "127.0.0.1:7443");
    assert_eq!(listen(&layers(file).unwrap()), "127.0.0.1:1");
    let over = layers(file).unwrap().environment(variable("127.0.0.1:2")).unwrap();
    assert_eq!(listen(&over), "127.0.0.1:2");
    assert_eq!(listen(&over.flags([("server.listen", "127.0.0.1:3")]).unwrap()), "127.0.0.1:3");
}

#[test]
fn an_unknown_key_is_named_with_its_nearest() {
    for (text, message) in [
        ("[server]\nlisen = \"x\"", "unknown key \"server.lisen\"; did you mean \"server.listen\"?"),
        ("[sever]\nlisten = \"x\"", "unknown key \"sever.listen\"; did you mean \"server.listen\"?"),
        ("[[bdk]]\nmod = \"x\"", "unknown key \"bdk.mod\"; did you mean \"bdk.mode\"?"),
        ("colour = 1", "unknown key \"colour\""),
        ("[bdk]\nid = \"x\"", "\"bdk\" must be a list of tables, each begun with [[bdk]]"),
    ] {
        assert_eq!(layers(text).unwrap_err().to_string(), message);
    }
    let variable = [("WARIFU__HSM__PINFILE".to_owned(), "x".to_owned())].into_iter();
    assert_eq!(
        Layers::defaults().unwrap().environment(variable).unwrap_err().to_string(),
        "unknown variable WARIFU__HSM__PINFILE in the environment; did you mean \"WARIFU__HSM__PIN_FILE\"?"
    );
}

#[test]
fn a_value_of_the_wrong_kind_is_named() {
    for (text, message) in [
        ("[server]\nlisten = 7443", "\"server.listen\" must be a text"),
        ("[hsm]\nderivers = -1", "\"hsm.derivers\" must be a whole number"),
        ("[hsm]\naccept_non_p2pe = \"yes\"", "\"hsm.accept_non_p2pe\" must be true or false"),
    ] {
        assert_eq!(layers(text).unwrap_err().to_string(), message);
    }
}

#[test]
fn what_has_no_default_must_be_set() {
    assert!(matches!(config(""), Err(ConfigError::Missing("tls.certificate"))));
    assert!(with("").is_ok());
}

#[test]
fn relative_paths_start_at_the_file() {
    let config = with("").unwrap();
    assert_eq!(config.tls.key, Path::new("/etc/warifu/server.key"));
    assert_eq!(config.store.url().unwrap(), "sqlite:///etc/warifu/warifu.db?mode=rwc");
}

#[test]
fn tdes_needs_to_be_asked_for_twice() {
    let tdes = "[[bdk]]\nid = \"t\"\nscheme = \"tdes\"\n";
    let mode = "mode = \"host-derived\"\n";
    assert!(with(tdes).unwrap_err().to_string().contains("tdes needs host-derived"));
    assert!(with(&format!("{tdes}{mode}")).unwrap_err().to_string().contains("hsm.accept_non_p2pe = true"));
    let text = format!("{LEAST}accept_non_p2pe = true\n{tdes}{mode}");
    let bdk = config(&text).unwrap().bdks.remove(0);
    assert_eq!((bdk.scheme, bdk.mode), (Scheme::Tdes, DecryptionMode::HostDerived));
}

#[test]
fn impossible_values_are_named() {
    for (extra, key) in [
        ("[server]\nlisten = \"here\"", "server.listen"),
        ("[server]\ndrain_ms = 60000", "server.drain_ms"),
        ("[server]\ninstance = \"a b\"", "server.instance"),
        ("[server]\nmax_message_bytes = 1", "server.max_message_bytes"),
        ("[store]\nurl = \"mysql://db\"", "store.url"),
        ("[acquirer]\nkind = \"bank\"", "acquirer.kind"),
        ("[telemetry]\nlog_format = \"xml\"", "telemetry.log_format"),
        ("[telemetry]\notlp_endpoint = \"127.0.0.1:4317\"", "telemetry.otlp_endpoint"),
        ("[[bdk]]\nid = \"b\"\nscheme = \"aes\"\nbits = 129", "bdk.bits"),
        ("[[bdk]]\nid = \"b\"\nscheme = \"aes\"\n[[bdk]]\nid = \"b\"\nscheme = \"aes\"", "bdk.id"),
    ] {
        match with(extra) {
            Err(ConfigError::Value { path, .. }) => assert_eq!(path, key),
            other => panic!("{extra}: {other:?}"),
        }
    }
}

#[test]
fn a_password_never_leaves_the_configuration() {
    let text = format!("{LEAST}[store]\nurl = \"postgres://pos:hunter2@db/warifu\"\n");
    assert!(!show(&layers(&text).unwrap()).contains("hunter2"));
    assert!(!format!("{:?}", config(&text).unwrap()).contains("hunter2"));
}

#[test]
fn an_error_of_syntax_repeats_nothing_of_the_file() {
    let text = "[store]\nurl = \"postgres://pos:hunter2@db/warifu\n";
    let error = layers(text).unwrap_err();
    let whole = format!("{:#}", anyhow::Error::from(error));
    assert!(whole.starts_with("warifu.toml is not valid TOML: line 2, column "), "{whole}");
    assert!(!whole.contains("hunter2") && !whole.contains("postgres"), "{whole}");
}

#[test]
fn a_password_is_not_taken_from_the_command_line() {
    let set = |url| Layers::defaults().unwrap().flags([("store.url", url)]);
    let error = set("postgres://pos:hunter2@db/warifu").unwrap_err().to_string();
    assert!(error.contains("store.url_file") && !error.contains("hunter2"), "{error}");
    assert!(set("postgres://pos@db/warifu").is_ok());
}

#[test]
fn the_example_is_accepted_and_names_every_key() {
    let example = include_str!("../../deploy/warifu.toml");
    config(example).unwrap();
    for key in &key::KEYS {
        let (_, name) = key.path.split_once('.').unwrap();
        assert!(example.contains(name), "{} is missing in deploy/warifu.toml", key.path);
    }
}
