//! The program `sectora`, also under the names of the tools it stands in for.

use std::process::ExitCode;

fn main() -> ExitCode {
    sectora::cli::main()
}
