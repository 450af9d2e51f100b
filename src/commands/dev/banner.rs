//! What a dev server says when it is ready: what it is, what there is, what to type next.

use serde_json::{Value, json};

use super::devices::{Emulators, arguments, beside};
use super::folder::{AES_BDK_ID, Folder, MERCHANT, MODULE, TDES_BDK_ID};
use super::registered::{EMULATED, PUBLISHED};
use crate::app::Addresses;
use crate::commands::output::remark;

/// What there is, on stderr.
pub(super) fn print(folder: &Folder, addresses: Addresses, emulators: &Emulators) {
    let dir = folder.path().display();
    remark("");
    remark("  ################################################################");
    remark("  ##  DEV server: public TEST keys, SoftHSM, throw-away data.   ##");
    remark("  ##  Never type a real card. Not reachable from other hosts.   ##");
    remark("  ################################################################");
    remark("");
    remark(format_args!("  gRPC     https://{}   (merchant {MERCHANT}, module {MODULE})", addresses.grpc));
    remark(format_args!("  health   http://{0}/healthz   http://{0}/readyz   http://{0}/metrics", addresses.http));
    remark(format_args!("  folder   {dir}"));
    remark("");
    for device in &EMULATED {
        let place = emulators.of(device.id).map_or("not started", |(_, connection)| connection);
        remark(format_args!("  {:6} {:24} {:5} {:13} {place}", device.id, device.what, scheme(device), device.mode()));
    }
    let others: Vec<&str> = PUBLISHED.iter().map(|device| device.id).collect();
    remark(format_args!("  and, for their published outputs: {}", others.join(", ")));
}

fn scheme(device: &super::registered::Known) -> &'static str {
    crate::rpc::scheme_name(device.scheme)
}

/// For people without a program in between: it shows a test card, which has no business in a program's log.
pub(super) fn next_steps(folder: &Folder, addresses: Addresses, emulators: &Emulators) {
    let (keypad, warifu) = (&EMULATED[0], beside("warifu"));
    let pki = folder.pki();
    remark("");
    remark("  What to type next, each in another terminal:");
    remark("");
    let connection = match emulators.of(keypad.id) {
        Some((_, connection)) => connection.to_owned(),
        None => {
            remark("  Start the keypad (it listens where it says):");
            let words = arguments(keypad, folder).join(" ");
            remark(format_args!("    {} --listen tcp:127.0.0.1:7501 {words}", beside("device-emu").display()));
            remark("");
            "tcp:127.0.0.1:7501".to_owned()
        }
    };
    remark("  An order app waits for a card and asks for 1200 yen:");
    remark(format_args!("    {} \\", order_app()));
    remark(format_args!("      --server https://{} --ca {} \\", addresses.grpc, pki.join("ca.pem").display()));
    remark(format_args!(
        "      --cert {} --key {} \\",
        pki.join(format!("{MODULE}.pem")).display(),
        pki.join(format!("{MODULE}.key")).display()
    ));
    remark(format_args!(
        "      authorize --order 2026-0001 --amount 1200 --currency JPY --channel telephone --attach {connection}"
    ));
    remark("");
    match emulators.of(keypad.id) {
        Some((pipe, _)) => {
            remark("  Key a test card on the keypad:");
            remark(format_args!("    echo 'key 4111111111111111 3012 123' > {}", pipe.display()));
        }
        None => remark("  Then type into the keypad's terminal: key 4111111111111111 3012 123"),
    }
    remark("");
    remark("  Look at the books:");
    remark(format_args!("    {} sales list --config {}", warifu.display(), folder.config().display()));
    remark("");
    remark("  Ctrl-C stops everything.");
    remark("");
}

/// The order app of the same build, or how to build it.
fn order_app() -> String {
    let built = beside("examples").join("order-app");
    if built.is_file() {
        built.display().to_string()
    } else {
        "cargo run -q -p warifu-sdk --example order-app --".to_owned()
    }
}

/// For programs, one line.
pub(super) fn json(folder: &Folder, addresses: Addresses, emulators: &Emulators) -> Value {
    let pki = folder.pki();
    let published: Vec<Value> = PUBLISHED
        .iter()
        .map(
            |device| json!({ "id": device.id, "what": device.what, "format": device.format.name(), "ksn": device.ksn }),
        )
        .collect();
    json!({
        "server": format!("https://{}", addresses.grpc),
        "http": format!("http://{}", addresses.http),
        "dir": folder.path(),
        "config": folder.config(),
        "merchant": MERCHANT,
        "module": MODULE,
        "bdks": { "aes": AES_BDK_ID, "tdes": TDES_BDK_ID },
        "pki": {
            "ca": pki.join("ca.pem"),
            "ca_key": pki.join("ca.key"),
            "server_cert": pki.join("server.pem"),
            "module_cert": pki.join(format!("{MODULE}.pem")),
            "module_key": pki.join(format!("{MODULE}.key")),
        },
        "devices": emulators.json(),
        "published": published,
    })
}
