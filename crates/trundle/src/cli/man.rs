//! `trundle man`: the manual page, or a page for each command. The words are those of `--help`.

use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap_mangen::Man;

use super::stop::{Stop, print_json};
use super::{Cli, print_text};
use crate::exit::Exit;

pub fn run(dir: Option<&Path>, json: bool) -> Result<Exit, Stop> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        Man::new(Cli::command()).render(&mut page)?;
        page.extend(exit_status().bytes());
        return print_text(&page);
    };
    let pages = write_pages(dir).map_err(|error| {
        let hint = "check that the folder can be made and may be written to";
        Stop::Error(format!("cannot write to {}: {error}\nhint: {hint}", dir.display()))
    })?;
    if json {
        print_json(&serde_json::json!({ "files": pages }))?;
    } else {
        print_text(format!("wrote {} pages to {}\n", pages.len(), dir.display()).as_bytes())?;
    }
    Ok(Exit::Done)
}

/// The section of the codes, which scripts depend on.
fn exit_status() -> String {
    let codes = [
        (Exit::Done, "what was asked for is running and was verified, or there was nothing to do"),
        (Exit::Error, "a bad file, an unreachable daemon, refused input (2: wrong usage)"),
        (Exit::Paused, "the rollout is paused"),
        (Exit::RolledBack, "the rollout was rolled back, or aborted by somebody else"),
        (Exit::Failed, "the rollout failed and needs a person"),
        (Exit::Refused, "not allowed now; the message says by what, and until when"),
        (Exit::Superseded, "another revision took over"),
        (Exit::StillRunning, "the rollout goes on without this command"),
        (Exit::Changes, "plan --exit-code: there are changes"),
    ];
    let entry = |(exit, text): &(Exit, &str)| format!(".TP\n{}\n{}\n", exit.code(), text.replace('-', "\\-"));
    format!(".SH \"EXIT STATUS\"\n{}", codes.iter().map(entry).collect::<String>())
}

/// `trundle.1`, `trundle-deploy.1` and so on; pages that are there are replaced.
fn write_pages(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir)?;
    let mut main = Cli::command().disable_help_subcommand(true);
    // What is global is then said on every page.
    main.build();
    let commands = main.get_subcommands().filter(|command| !command.is_hide_set());
    let pages = std::iter::once(&main).chain(commands);
    pages
        .map(|command| {
            let page = Man::new(command.clone());
            let path = dir.join(page.get_filename());
            let mut text = Vec::new();
            page.render(&mut text)?;
            text.extend(exit_status().bytes());
            std::fs::write(&path, text).map(|()| path)
        })
        .collect()
}
