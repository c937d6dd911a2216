//! `trundle completions SHELL`: what makes a shell complete commands and flags. Names of apps are not completed.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::stop::Stop;
use super::{Cli, print_text};
use crate::exit::Exit;

pub fn run(shell: Shell) -> Result<Exit, Stop> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "trundle", &mut script);
    print_text(&script)
}
