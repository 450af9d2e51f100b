//! The rules of the house that a compiler does not read: who may name what, and what no file may hold.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file with this ending below a folder of the project, build output left out.
fn files(under: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(under)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("a readable folder").path()) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() && name != "target" && name != ".git" {
                folders.push(path);
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no {ending} files under {under}");
    found
}

/// Lines of code, without comments: a rule about what code names is not about what a comment says.
fn code_lines(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).expect("a readable file");
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default().to_owned()))
        .collect()
}

/// Fails with every place where code under a folder names one of `words`, except in files whose path holds one of
/// `except`.
fn never_named(under: &str, words: &[&str], except: &[&str]) {
    let mut found = Vec::new();
    for path in files(under, ".rs") {
        let shown = path.strip_prefix(root()).expect("below the root").display().to_string();
        if except.iter().any(|part| shown.contains(part)) {
            continue;
        }
        for (number, line) in code_lines(&path) {
            if let Some(word) = words.iter().find(|word| line.contains(*word)) {
                found.push(format!("{shown}:{number} names {word}"));
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// The names under `[dependencies]` of a member.
fn dependencies(member: &str) -> Vec<String> {
    let manifest = fs::read_to_string(root().join(member).join("Cargo.toml")).expect("a manifest");
    let manifest: toml::Table = manifest.parse().expect("a manifest is TOML");
    manifest["dependencies"].as_table().expect("a table").keys().cloned().collect()
}

#[test]
fn core_has_no_clock_randomness_io_or_async() {
    never_named(
        "core/src",
        &[
            "SystemTime",
            "Instant",
            "std::fs",
            "std::net",
            "std::env",
            "std::io",
            "std::thread",
            "getrandom",
            " rand::",
            "tokio",
            "async fn",
            "tracing::",
            "println!",
            "serde",
        ],
        &[],
    );
}

#[test]
fn arrows_point_inward() {
    let forbidden: [(&str, &[&str]); 5] = [
        (
            "core",
            &[
                "tokio",
                "actix",
                "sea-orm",
                "tonic",
                "axum",
                "cryptoki",
                "serde",
                "getrandom",
                "warifu-hsm",
                "warifu-actors",
            ],
        ),
        ("hsm", &["tokio", "actix", "sea-orm", "tonic", "axum", "warifu-actors", "warifu-sdk"]),
        ("actors", &["tonic", "axum", "prost", "clap", "toml", "cryptoki", "warifu-sdk"]),
        ("sdk", &["warifu-hsm", "warifu-actors", "cryptoki", "sea-orm", "actix"]),
        ("device-emu", &["warifu-hsm", "warifu-actors", "cryptoki", "sea-orm", "actix", "tonic"]),
    ];
    for (member, names) in forbidden {
        let has = dependencies(member);
        let wrong: Vec<_> = names.iter().filter(|name| has.iter().any(|has| has == *name)).collect();
        assert!(wrong.is_empty(), "{member} depends on {wrong:?}");
    }
}

#[test]
fn sea_orm_is_named_in_the_store_alone() {
    never_named("actors/src", &["sea_orm", "sqlx::"], &["actors/src/store", "actors/src/house/tests"]);
    // Telemetry names them to keep them quiet.
    never_named("src", &["sea_orm", "sqlx::"], &["src/telemetry"]);
}

#[test]
fn the_sdk_has_no_type_that_can_hold_a_card_number() {
    never_named("sdk/src", &["::card", "Pan::", " Pan", "AccountData", "SecurityCode", "::track"], &[]);
}

#[test]
fn a_track_3_in_clear_is_read_by_the_bench_alone() {
    for folder in ["hsm/src", "actors/src", "sdk/src"] {
        never_named(folder, &["clear_track3"], &[]);
    }
    never_named("src", &["clear_track3"], &["src/commands/calc/"]);
}

#[test]
fn no_proto_field_can_carry_card_data() {
    for path in files("sdk/proto", ".proto") {
        for (number, line) in code_lines(&path) {
            for word in [" pan =", "track", "cvv", "cvc", "security_code", "pin ", "card_number"] {
                assert!(!line.contains(word), "{}:{number} has a field {word}", path.display());
            }
        }
    }
}

#[test]
fn unsafe_code_is_where_it_is_audited() {
    never_named("core/src", &["unsafe "], &["core/src/dukpt/lanes/x86/", "core/src/dukpt/des/word.rs"]);
    never_named("actors/src", &["unsafe "], &[]);
    never_named("sdk/src", &["unsafe "], &[]);
    never_named("hsm/src", &["unsafe "], &["hsm/src/pkcs11/raw.rs"]);
    never_named("tests/faulty-module", &["unsafe "], &["tests/faulty-module/src/stand_in.rs"]);
}

#[test]
fn nothing_is_left_undone_or_skipped() {
    let marks =
        [["to", "do!("].concat(), ["unimple", "mented!("].concat(), ["FIX", "ME"].concat(), ["#[ign", "ore"].concat()];
    let marks: Vec<&str> = marks.iter().map(String::as_str).collect();
    for folder in ["core", "hsm", "actors", "sdk", "device-emu", "src", "tests", "benches"] {
        never_named(folder, &marks, &[]);
    }
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut broken = Vec::new();
    for path in files(".", ".md") {
        let text = fs::read_to_string(&path).expect("a readable document");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            if !path.parent().expect("a file has a folder").join(target).exists() {
                broken.push(format!("{} -> {target}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn every_refusal_is_documented_as_it_is() {
    let text = fs::read_to_string(root().join("docs/errors.md")).expect("the table of refusals");
    for refusal in warifu_core::refusal::Refusal::ALL {
        let row = text.lines().find(|line| line.starts_with(&format!("| `{}` |", refusal.reason())));
        let row = row.unwrap_or_else(|| panic!("{} is not in docs/errors.md", refusal.reason()));
        let cells =
            [refusal.fixer().name().to_owned(), format!("`{}`", refusal.retry().name()), refusal.message().to_owned()];
        for cell in cells {
            assert!(
                row.contains(&format!("| {cell} |")),
                "docs/errors.md does not say {cell:?} of {}",
                refusal.reason()
            );
        }
    }
}
