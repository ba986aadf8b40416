//! What `emberctl` exits with, beside the exit code of the program it ran.

use std::process::ExitCode;

/// A check said no: a step of `test`, a row of `doctor`, an option of `image check`.
pub const CHECK_FAILED: u8 = 1;
/// The program ran into its time limit, as timeout(1) has it.
pub const TIMED_OUT: u8 = 124;
/// `emberctl` itself failed: wrong usage, no daemon, a refused request.
pub const OWN_ERROR: u8 = 125;
/// The program could not be started in the guest.
pub const NOT_STARTED: u8 = 126;

/// Stands for a program's exit code that no process can have.
const CODE_IMPOSSIBLE: u8 = 255;

/// The exit code of a program that said `code`; never 0 unless it said 0.
pub fn of_program(code: i32) -> ExitCode {
    u8::try_from(code).unwrap_or(CODE_IMPOSSIBLE).into()
}
