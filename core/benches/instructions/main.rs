//! How many instructions the ciphers of one card take, counted one by one: the same on a busy machine and on a quiet
//! one, so that `./check` can hold every figure to its budget.
//!
//! A child of this process does each piece of work between two stops, and its parent lets it go on one instruction at a
//! time (`ptrace(2)`). What the compiler and the libraries contribute is part of the count: after an update of either,
//! a figure may move with no change here, and its budget with it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench reports")]

use std::error::Error;
use std::hint::black_box;
use std::process::{Command, ExitCode, Stdio};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

mod work;

use work::{NOTHING, Work};

/// How far above its budget a count may be before it fails, and how far below before it is worth a new budget. The
/// count itself does not move by a thousandth; compilers differ by more.
const PERCENT: u64 = 10;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("--alone"), Some(name)) => alone(&name),
        _ => match count_all() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("instructions: cannot count: {error}; the system must allow a process to trace its child");
                ExitCode::FAILURE
            }
        },
    }
}

/// The child: everything that is made once is made before the first stop.
fn alone(name: &str) -> ExitCode {
    let Some(mut work) = work::all().into_iter().find(|work| work.name == name) else {
        eprintln!("instructions: no such work");
        return ExitCode::FAILURE;
    };
    (work.run)();
    if ptrace::traceme().and_then(|()| raise(Signal::SIGSTOP)).is_err() {
        return ExitCode::FAILURE;
    }
    black_box(&mut work.run)();
    if raise(Signal::SIGSTOP).is_err() {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Counts and prints everything; false when a count is above its budget.
fn count_all() -> Result<bool, Box<dyn Error>> {
    let around = count(NOTHING)?;
    let mut within = true;
    println!("{:<52} {:>9} {:>9}", "instructions for each record", "counted", "budget");
    for Work { name, records, budget, .. } in work::all().into_iter().filter(|work| work.name != NOTHING) {
        let counted = (count(name)? - around).div_ceil(records);
        let verdict = match counted {
            counted if counted * 100 > budget * (100 + PERCENT) => {
                within = false;
                "  ABOVE ITS BUDGET"
            }
            counted if counted * 100 < budget * (100 - PERCENT) => "  below: lower the budget",
            _ => "",
        };
        println!("{name:<52} {counted:>9} {budget:>9}{verdict}");
    }
    for name in work::not_here() {
        println!("{name:<52} {:>9}", "not on this processor");
    }
    Ok(within)
}

/// Instructions between the two stops of a child.
fn count(name: &str) -> Result<u64, Box<dyn Error>> {
    let child = Command::new(std::env::current_exe()?).args(["--alone", name]).stdin(Stdio::null()).spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    stopped(pid)?;
    let mut counted = 0;
    loop {
        ptrace::step(pid, None)?;
        match waitpid(pid, None)? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => counted += 1,
            WaitStatus::Stopped(_, Signal::SIGSTOP) => break,
            other => return Err(format!("{name}: the child ended with {other:?}").into()),
        }
    }
    ptrace::detach(pid, Signal::SIGCONT)?;
    match waitpid(pid, None)? {
        WaitStatus::Exited(_, 0) => Ok(counted),
        other => Err(format!("{name}: the child ended with {other:?}").into()),
    }
}

fn stopped(pid: Pid) -> Result<(), Box<dyn Error>> {
    match waitpid(pid, None)? {
        WaitStatus::Stopped(_, Signal::SIGSTOP) => Ok(()),
        other => Err(format!("the child did not stop, but {other:?}").into()),
    }
}
