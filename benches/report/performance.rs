//! Writes `docs/performance.md` from the last `cargo bench`: every figure with its spread, the machine, what it is not.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

mod figures;
mod served;

use figures::{Figure, figures};
use served::{Titled, served};

/// What is known to be slower than it could be, and why. Kept true by whoever changes it.
const NOT_YET: &str = "
## What is slower than it could be

Ratios move between machines; where two figures stand, they are those of the slowest and the fastest machine of three, all with
two cores.

- **AES, many records** (aim: four times one by one). With VAES-512 seven to eight times from 64 records on, for 16 records
  three to four; with VAES-256 four at the most, because one by one has become so fast. A quarter of a small batch is planning
  the lanes and making room for the keys.
- **TDES, one record** (aim: twice the `des` crate). 1.7 to 2.7 times; its number of instructions does not move, so it is the
  processor that does.
- **The server does not use the batches** (`docs/decisions/0011-batches.md`). A frame opened with keys at hand takes under
  a microsecond of the hundred or more that a card takes on its whole way, and keys in an HSM cannot be derived side by
  side. The batches are for whoever recomputes many records: `warifu_core` has them in its interface.
- **Ratios to the database** (aims: one caller at most 3 commits, 64 callers 0.8 or 2 times its rows). They are ratios to
  a disk. Where a commit takes 0.25 ms or more they are met; where it takes 0.14 ms, and a single row 0.1 ms, the processors,
  shared with the load, are the bound: 0.1 ms a card, four commits for one caller.
- **1,000 cards a call** (aim: three times as fast as 64 callers, who have become faster too). 2.0 to 2.7 times. The next
  part of an upload is opened while the one before becomes durable. What is left is mostly work for each card: its record, its
  rows as JSON (SQLite) or as arrays (PostgreSQL).
- **Idle links** (aim: 20 KiB). 46 KiB, of which HTTP/2 keeps 24 (8 to read into, 16 to write from) that no setting of its
  library makes smaller; the rest is TLS and the tasks of a connection. It would take a library whose buffers go when they
  are empty.
- **SoftHSM, 64 callers** (aim: three quarters of what the HSM does alone). 0.45 to 0.65. SoftHSM computes on the same two
  processors as the server and the load, which need theirs meanwhile.
- **SoftHSM, consecutive counters** (aim: four times as fast as with nothing kept). With eight one-bits in the counter 3.5 to
  3.8 times: eleven derivations become three, and what stays is the MAC, the decryption and the objects' end, each a call.
- **SoftHSM, 10,000 devices** (aim: no slower). An eighth slower, and hardly in the module: what is kept of a device that was
  not seen for 10,000 frames is in no cache of the processor any more.
- **Ten million stored tokens** (aim: at most 1.3 times the cost). A known card stays below it on both databases, a new one
  on PostgreSQL. On SQLite a new card writes to leaves of two trees at random places, which are no longer in its 64 MiB of
  cache: 1.6 to 1.8 times. A larger cache moves that, and a table for each year would end it.
";

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let groups = figures(&target.join("criterion"))?;
    if groups.is_empty() {
        return Err("nothing was measured yet: run scripts/performance".into());
    }
    fs::write(root.join("docs/performance.md"), document(&groups, &served(&target.join("warifu-bench"))?)?)?;
    Ok(())
}

fn document(groups: &BTreeMap<String, Vec<Figure>>, served: &[Titled]) -> Result<String, Box<dyn Error>> {
    let mut text = String::from(
        "# Performance\n\n\
         Written by `scripts/performance` from one run of `cargo bench` and `warifu bench`; never edited by hand. Each\n\
         figure is a median; criterion's have the 95 % confidence interval of the median. What a figure is to be read\n\
         against was measured in the same run.\n\n",
    );
    writeln!(text, "| machine | |\n|---|---|")?;
    for (name, value) in machine() {
        writeln!(text, "| {name} | {value} |")?;
    }
    for (group, figures) in groups {
        writeln!(text, "\n## {group}\n\n| | median | between | a second | against |\n|---|---:|---:|---:|---|")?;
        for figure in figures {
            writeln!(
                text,
                "| {} | {} | {} to {} | {} | {} |",
                figure.name,
                time(figure.median_ns),
                time(figure.low_ns),
                time(figure.high_ns),
                rate(figure.median_ns),
                figure.against(figures).unwrap_or_default(),
            )?;
        }
    }
    for (name, rows) in served {
        writeln!(text, "\n## {name}\n\n| | median | a second | against |\n|---|---:|---:|---|")?;
        for row in rows {
            writeln!(text, "| {} | {} | {} | {} |", row.what, time(row.median_ns), rate(row.median_ns), row.against)?;
        }
    }
    text.push_str(NOT_YET);
    text.push_str(
        "\n## What these figures do not show\n\n\
         - SoftHSM is a test tool in the server's own process. A real HSM is reached over a network and has its own limits; what\n  \
           carries over is the number of calls for each frame, which `cargo bench --bench hsm` prints.\n\
         - The floor of AES is the fewest cipher operations the standard leaves, done with the `aes` crate. That crate expands\n  \
           keys with AESKEYGENASSIST, which is slow on some processors; the kernels here do without it, and are then faster\n  \
           than the floor.\n\
         - The whole way is measured with the load's callers on the same machine as the server, so both share its processors.\n\
         - Figures of different machines, or of one machine under other load, cannot be compared. What can be is the number\n  \
           of instructions: `./check` counts those of the ciphers and holds them to budgets (`core/benches/instructions`).\n",
    );
    Ok(text)
}

fn machine() -> Vec<(&'static str, String)> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, model)| model));
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let known = ["aes", "vaes", "avx2", "avx512f"].into_iter().filter(|flag| flags.split(' ').any(|has| has == *flag));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
    vec![
        ("processor", format!("{}, {cores} cores", model.unwrap_or("unknown"))),
        ("instructions", known.collect::<Vec<_>>().join(", ")),
        ("memory", format!("{} GiB", memory / 1024 / 1024)),
        ("build", "release, thin LTO".to_owned()),
    ]
}

fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.2} µs", ns / 1e3),
        ns => format!("{:.2} ms", ns / 1e6),
    }
}

fn rate(ns: f64) -> String {
    match 1e9 / ns {
        rate if rate >= 1e6 => format!("{:.2} M", rate / 1e6),
        rate if rate >= 1e4 => format!("{:.0} k", rate / 1e3),
        rate => format!("{rate:.0}"),
    }
}
