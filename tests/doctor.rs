//! `warifu hsm doctor` against modules that can do more or less, and a server that does not start where it could not serve.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod stage;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use stage::desk::entries;
use stage::shop::{Shop, folder};
use stage::{Options, Server, program, softokn};

/// NSS's token with no database: nothing is kept, so there is nobody to log in.
const NO_DATABASE: &str = "configdir='' flags=noCertDB,noModDB,forceOpen";
const NSS_LABEL: &str = "NSS Generic Crypto Services";

/// Runs the doctor on a module that no configuration names.
fn doctor(module: &Path, label: &str, more: &[&str]) -> Output {
    let dir = folder();
    let pin = dir.path().join("pin");
    fs::write(&pin, "none").unwrap();
    fs::set_permissions(&pin, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut command = Command::new(program("warifu"));
    command.args(["hsm", "doctor", "--token-label", label, "--module"]).arg(module).arg("--pin-file").arg(pin);
    command.args(more).output().unwrap()
}

fn found(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// What it says beside the findings, which must be one line.
fn line(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    said
}

/// Has the SoftHSM of a server in this folder do without a mechanism from its next start.
fn leave_out(dir: &Path, mechanism: &str) {
    let file = dir.join("softhsm2.conf");
    let configuration = fs::read_to_string(&file).unwrap();
    // SoftHSM 2.6.1 overlooks the first and the last of what is to be left out.
    fs::write(file, format!("{configuration}slots.mechanisms = -CKM_MD5,{mechanism},CKM_MD5\n")).unwrap();
}

async fn closed_shop() -> Shop {
    let mut shop = Shop::open().await;
    assert_eq!(tokio::task::block_in_place(|| shop.server.terminate(Duration::from_secs(15))), Some(0));
    shop
}

fn records(server: &Server, kind: &str) -> Vec<Value> {
    let export = server.export_audit("audit-doctor.log");
    let text = fs::read_to_string(&export).unwrap();
    fs::remove_file(export).unwrap();
    let records = entries(&text).into_iter().filter(|entry| entry.log == "dev").map(|entry| entry.record);
    records.filter(|record| record["kind"] == kind).collect()
}

#[test]
fn a_second_module_runs_every_mode_and_its_holes_are_told() {
    let examined = doctor(&softokn(), NSS_LABEL, &["--module-arguments", NO_DATABASE, "--json"]);
    assert_eq!(examined.status.code(), Some(0), "{examined:?}");
    let found = found(&examined);
    assert_eq!(found["modes"], json!({ "hardware": true, "hybrid": true, "host-derived": true }));
    for (name, value) in [
        ("usable", true),
        ("not_for_production", true),
        ("enforces_non_extractable", false),
        ("refuses_to_wrap_non_extractable", false),
        ("honours_allowed_mechanisms", false),
        ("honours_derive_template", false),
    ] {
        assert_eq!(found[name], value, "{name}: {found:#}");
    }
    assert_eq!(found["mac_check"], "made by the slot and compared here");
    assert_eq!(found["configured"], json!([]));
    assert_eq!(found["module"]["manufacturer"], "Mozilla Foundation");

    let table = doctor(&softokn(), NSS_LABEL, &["--module-arguments", NO_DATABASE]);
    let table = String::from_utf8(table.stdout).unwrap();
    for needle in ["NOT FOR PRODUCTION", "accepted, NOT ENFORCED", "AES-192 DUKPT", "NSS Internal Crypto Services"] {
        assert!(table.contains(needle), "{needle} is missing from\n{table}");
    }
}

#[test]
fn a_module_that_cannot_be_loaded_has_its_own_exit_code_and_one_line() {
    for (module, said) in [
        (Path::new("/nowhere/libmodule.so"), "/nowhere/libmodule.so could not be used: No such file"),
        (Path::new("/etc/hostname"), "/etc/hostname could not be used"),
        (&softokn(), "it may need arguments (hsm.module_arguments)"),
    ] {
        let refused = doctor(module, "warifu", &[]);
        assert_eq!(refused.status.code(), Some(7), "{refused:?}");
        assert!(line(&refused).contains(said), "{refused:?}");
        assert!(refused.stdout.is_empty());
    }
    // A module that is there, with no such token in it, is another matter.
    let refused = doctor(&softokn(), "warifu", &["--module-arguments", NO_DATABASE]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(line(&refused).contains("no slot holds a token labelled \"warifu\""), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_slot_cannot_run_a_configured_mode_no_server_starts_and_both_say_why() {
    let shop = closed_shop().await;
    let server = &shop.server;
    let sound = server.operate(&["hsm", "doctor", "--json"]);
    assert_eq!(sound.status.code(), Some(0), "{sound:?}");
    let sound = found(&sound);
    let configured = sound["configured"].as_array().unwrap();
    assert!(configured.len() >= 2 && configured.iter().all(|one| one["can_run"] == true), "{sound:#}");
    assert_eq!(
        (&sound["honours_allowed_mechanisms"], &sound["refuses_to_wrap_non_extractable"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(sound["honours_derive_template"], false);

    leave_out(server.dir(), "CKM_AES_CBC");
    let lacking = server.operate(&["hsm", "doctor", "--json"]);
    assert_eq!(lacking.status.code(), Some(3));
    let why = "cannot be used in hardware mode: the slot has no CKM_AES_CBC";
    assert!(line(&lacking).contains(why), "{lacking:?}");
    let lacking = found(&lacking);
    assert_eq!(lacking["modes"], json!({ "hardware": false, "hybrid": true, "host-derived": true }));
    assert_eq!(lacking["usable"], false);
    for one in lacking["configured"].as_array().unwrap() {
        assert_eq!(one["can_run"], one["mode"] != "hardware", "{one}");
        let missing = if one["mode"] == "hardware" { json!(["CKM_AES_CBC"]) } else { json!([]) };
        assert_eq!(one["missing"], missing, "{one}");
    }

    let refused = server.operate(&["serve", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
    assert_eq!(refused.status.code(), Some(3));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.trim_end().lines().last().unwrap().contains(why), "{said}");
    let failed = records(server, "hsm.failed");
    let [failed] = &failed[..] else { panic!("{failed:?}") };
    assert!(failed["cause"].as_str().unwrap().contains(why), "{failed}");
    assert!(failed["calls"]["C_Initialize"] == 1 && failed["calls"]["C_Finalize"] == 1, "{failed}");

    // The mode the slot can run is one line away.
    let config = server.dir().join("warifu.toml");
    let text = fs::read_to_string(&config).unwrap().replace("\"hardware\"", "\"hybrid\"");
    fs::write(&config, text).unwrap();
    assert_eq!(server.operate(&["hsm", "doctor"]).status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_recorded_with_what_was_found_of_the_hsm() {
    let mut shop = closed_shop().await;
    let before = records(&shop.server, "hsm.examined").len();
    shop.serve(&Options::default()).await;
    let examined = records(&shop.server, "hsm.examined");
    assert_eq!((before, examined.len()), (1, 2));
    let found = &examined[1]["found"];
    assert_eq!(found["modes"], "hardware hybrid host-derived");
    assert_eq!(found["enforces"], "CKA_EXTRACTABLE, wrapped; CKA_ALLOWED_MECHANISMS");
    assert!(found["module"].as_str().unwrap().contains("SoftHSM"), "{found}");
    assert!(found["standing"].as_str().unwrap().starts_with("NOT FOR PRODUCTION"), "{found}");
    assert!(examined[1]["calls"]["C_DeriveKey"].as_u64().unwrap() > 10, "{examined:?}");
}
