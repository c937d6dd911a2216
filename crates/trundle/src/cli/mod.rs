//! The command line: parsed here, resolved into a [`Context`], carried out by one file a command.

mod app;
mod completions;
mod daemon;
mod deploy;
mod follow;
mod history;
mod import;
mod init;
pub mod internal;
mod logs;
mod maintenance;
mod man;
mod mirrored;
mod plan;
mod report;
mod schema;
mod show;
mod simulate;
mod status;
mod stop;
mod validate;

use std::io::{IsTerminal, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, Parser, Subcommand};
use trundle_core::ids::{AppName, InstanceKey, RevisionNumber};
use trundle_core::state::Request;
use trundle_drivers::logs::printable;

use crate::api::client::Client;
use crate::daemon::DaemonConfig;
use crate::exit::Exit;
pub use stop::error_object;
use stop::{Stop, at_now, print_json, told};

/// Rolls a new version of an application out over its running instances, a few at a time: no request is lost, a bad
/// version stops by itself, and you can always go on from there or go back.
#[derive(Parser)]
#[command(name = "trundle", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Clone)]
struct Global {
    /// Where the journal, the logs and the sockets are
    #[arg(long, global = true, env = "TRUNDLE_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The daemon's socket, if it is not in the state directory
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Prints JSON: one object, or one a line
    #[arg(long, global = true)]
    json: bool,
    /// Says only what must be said
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Says more
    #[arg(short, long, global = true)]
    verbose: bool,
    /// No colours (NO_COLOR does the same)
    #[arg(long, global = true)]
    no_color: bool,
}

#[derive(Args, Clone)]
struct FileArgs {
    /// The file that describes the app
    #[arg(short, long, default_value = "trundle.toml", value_name = "FILE")]
    file: PathBuf,
    /// Overrides a key of the file, such as version=3.2 or run.env.DB_POOL=40
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    sets: Vec<(String, String)>,
}

#[derive(Args, Clone)]
struct FollowArgs {
    /// Returns as soon as the request is accepted
    #[arg(long)]
    detach: bool,
    /// Stops following after this time (exit 15); the rollout goes on
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
}

#[derive(Subcommand)]
enum Command {
    /// Writes a commented trundle.toml, or one made of a Deployment, a compose file or a Procfile
    Init {
        /// What to make it of: a Kubernetes Deployment, a compose file or a Procfile
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        /// Which process, service or Deployment, when the file has more than one
        #[arg(long, value_name = "NAME", visible_alias = "service", requires = "from")]
        process: Option<String>,
    },
    /// Checks the file and prints every problem with line and hint
    Validate {
        #[command(flatten)]
        file: FileArgs,
    },
    /// Shows what deploy would do: batches, floor, ceiling, mix, time
    Plan {
        #[command(flatten)]
        file: FileArgs,
        /// Exits with 20 when there are changes
        #[arg(long)]
        exit_code: bool,
        /// Answers for a described situation instead of the running one
        #[arg(long, value_name = "FILE")]
        state: Option<PathBuf>,
    },
    /// Rolls the described version out in a world of numbers: how long, how low, what if instances fail
    Simulate {
        #[command(flatten)]
        file: FileArgs,
        #[command(flatten)]
        world: simulate::WorldArgs,
    },
    /// Makes the described version the running one, a few instances at a time
    Deploy {
        #[command(flatten)]
        file: FileArgs,
        #[command(flatten)]
        follow: FollowArgs,
        /// Noted in the history, such as commit=1a2b3c
        #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = key_value)]
        meta: Vec<(String, String)>,
        /// Refuses (13) when another rollout holds the app
        #[arg(long)]
        if_idle: bool,
        /// Pauses after each batch (10) until `trundle resume`
        #[arg(long)]
        step: bool,
        /// Also what would be refused for the sake of clients; what spoke against it is journaled
        #[arg(long)]
        force: bool,
    },
    /// Follows a rollout and ends with its exit code
    Wait {
        /// The number of the rollout; without it the newest
        rollout: Option<u32>,
        #[command(flatten)]
        which: AppArgs,
        /// Stops following after this time (exit 15)
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        timeout: Option<Duration>,
    },
    /// Shows the app, its rollout, and why it waits
    Status {
        app: Option<AppName>,
        /// Goes on showing
        #[arg(short, long)]
        watch: bool,
    },
    /// Stops the rollout where it is
    Pause { app: Option<AppName> },
    /// Lets a paused rollout go on from where it stopped
    Resume {
        app: Option<AppName>,
        #[command(flatten)]
        follow: FollowArgs,
    },
    /// Stops the rollout and goes back
    Abort {
        app: Option<AppName>,
        #[command(flatten)]
        follow: FollowArgs,
    },
    /// Goes back to the last version that succeeded, or to a named revision
    #[command(alias = "undo")]
    Rollback {
        app: Option<AppName>,
        revision: Option<u32>,
        #[command(flatten)]
        follow: FollowArgs,
    },
    /// Tries the place of a failed instance once more; a pause stays
    Retry {
        /// Such as web-2-3
        #[arg(value_parser = InstanceKey::read_name)]
        instance: (AppName, InstanceKey),
        #[command(flatten)]
        follow: FollowArgs,
    },
    /// Leaves the place of an instance out of the rollout: the version before comes back to it
    Skip {
        /// Such as web-2-3
        #[arg(value_parser = InstanceKey::read_name)]
        instance: (AppName, InstanceKey),
    },
    /// Changes the number of replicas
    Scale {
        app: AppName,
        replicas: u32,
        #[command(flatten)]
        follow: FollowArgs,
    },
    /// Replaces every instance by a new one of the same version
    Restart {
        app: AppName,
        #[command(flatten)]
        follow: FollowArgs,
    },
    /// Of a hundred requests so many get the new version, while its rollout is paused
    Share {
        app: AppName,
        /// Whole percent, such as 20 or 20%; `auto`: as many as its instances are
        #[arg(value_parser = share)]
        share: Share,
    },
    /// Compares what two versions have answered to mirrored requests
    Mirrored { app: Option<AppName> },
    /// Answers clients in the place of an app, or lets them in again
    Maintenance {
        #[command(subcommand)]
        what: maintenance::What,
    },
    /// Lists revisions and rollouts
    History { app: Option<AppName> },
    /// Shows the evidence of one rollout
    Report {
        /// The number of the rollout; without it the newest
        rollout: Option<u32>,
        #[command(flatten)]
        which: AppArgs,
        #[command(flatten)]
        files: report::Files,
    },
    /// Shows logs of instances, also of those that are gone
    Logs {
        /// An app, or an instance such as web-2-3
        name: Option<String>,
        /// Goes on showing
        #[arg(short, long)]
        follow: bool,
        /// How many lines of each instance
        #[arg(short = 'n', long, default_value_t = 50)]
        lines: usize,
    },
    /// Prints what is counted and what runs, as Prometheus reads it
    Metrics,
    /// Runs the daemon in the foreground
    Daemon {
        /// The ports that instances get
        #[arg(long, env = "TRUNDLE_PORTS", default_value = "20000-29999", value_parser = port_range)]
        ports: (u16, u16),
        /// Answers /metrics for Prometheus and /gates/APP there, to anybody who can connect; `trundle metrics` needs none
        #[arg(long, env = "TRUNDLE_METRICS", value_name = "ADDRESS")]
        metrics: Option<SocketAddr>,
        #[arg(long, hide = true)]
        detach: bool,
    },
    /// Runs a complete rollout on this machine, under load, with the proof at the end
    Demo {
        /// Plants a bug in the demo's daemon, to see the demo find it (only in debug builds)
        #[arg(long, hide = true, value_name = "BUG")]
        plant: Option<String>,
    },
    /// Stops an app, or all of them and the proxy and the daemon
    Down { app: Option<AppName> },
    /// Prints the JSON Schema of trundle.toml, for editors
    Schema,
    /// Prints what makes a shell complete the commands and flags
    Completions { shell: clap_complete::Shell },
    /// Prints the manual page
    Man {
        /// Writes a page for each command into this folder instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Args, Clone)]
struct AppArgs {
    /// The app, when there is more than one
    #[arg(long)]
    app: Option<AppName>,
}

/// What every command needs.
struct Context {
    state_dir: PathBuf,
    client: Client,
    json: bool,
    /// With `json`: one object a line, not one in all.
    streams: bool,
    quiet: bool,
    /// Somebody looks at a terminal.
    live: bool,
}

/// Parses, runs, and answers with the exit code.
pub fn run() -> i32 {
    let cli = Cli::try_parse().unwrap_or_else(|error| harmless(error).exit());
    let colour = !cli.global.no_color && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    crate::term::set_colour(colour && std::io::stdout().is_terminal());
    if let Command::Daemon { detach: true, .. } = cli.command {
        trundle_drivers::detach();
    }
    let (json, quiet) = (cli.global.json, cli.global.quiet);
    if let Some(code) = without_state(&cli.command, json) {
        return code;
    }
    let state_dir = match crate::state_dir::resolve(cli.global.state_dir) {
        Ok(dir) => dir,
        Err(error) => return Stop::Error(error.to_string()).tell(json),
    };
    let socket = cli.global.socket.unwrap_or_else(|| crate::state_dir::socket_path(&state_dir));
    if let Command::Daemon { ports, metrics, .. } = cli.command {
        return daemon::run(DaemonConfig { state_dir, socket, ports: ports.0..=ports.1, metrics });
    }
    end_with_the_reader();
    let context = Context {
        state_dir,
        client: Client::new(socket),
        json,
        streams: matches!(
            cli.command,
            Command::Deploy { .. } | Command::Status { watch: true, .. } | Command::Logs { follow: true, .. }
        ),
        quiet,
        live: !json && !quiet && std::io::stdout().is_terminal(),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Stop::Error(format!("cannot start: {error}")).tell(json),
    };
    runtime.block_on(carry_out(&context, cli.command))
}

/// Carries out what needs neither a state directory nor a daemon: it works where there is no home, as in a package's build.
fn without_state(command: &Command, json: bool) -> Option<i32> {
    let ended = match command {
        Command::Init { from: Some(file), process } => import::run(file, process.as_deref(), json),
        Command::Init { from: None, .. } if json => {
            let written = init::write_template(&std::env::current_dir().unwrap_or_default());
            let printed = written.map(|path| print_json(&serde_json::json!({ "file": path })));
            printed.map_err(Stop::Error).flatten().map(|()| Exit::Done)
        }
        Command::Init { from: None, .. } => {
            return Some(init::run(&std::env::current_dir().unwrap_or_default()));
        }
        Command::Schema => schema::run(),
        Command::Completions { shell } => completions::run(*shell),
        Command::Man { dir } => man::run(dir.as_deref(), json),
        _ => return None,
    };
    Some(ended.map_or_else(|stop| stop.tell(json), Exit::code))
}

/// Prints a whole text. When whoever reads has left, as `head` does, nobody is left to be told.
fn print_text(text: &[u8]) -> Result<Exit, Stop> {
    match std::io::stdout().write_all(text) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Stop::Code(READER_LEFT)),
        Err(error) => Err(Stop::Error(format!("cannot print: {error}"))),
        Ok(()) => Ok(Exit::Done),
    }
}

/// Like that of a program that the signal for it ended, in a shell.
const READER_LEFT: i32 = 141;

/// How the command ends if nobody reads any more what it says.
static WITHOUT_READER: AtomicI32 = AtomicI32::new(READER_LEFT);

/// From here on the command ends with this code when its reader leaves: what it asked for goes on, or has ended.
fn without_reader(code: i32) {
    WITHOUT_READER.store(code, Ordering::Relaxed);
}

/// When whoever reads our output has left, as `head` does, the command ends quietly. The signal for that stays off: it
/// would also end us when a daemon closes its socket.
fn end_with_the_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to std") {
            if !text.contains("Broken pipe") {
                let _ = writeln!(std::io::stderr(), "error: {text}");
                std::process::exit(Exit::Error.code());
            }
            std::process::exit(WITHOUT_READER.load(Ordering::Relaxed));
        }
        usual(panic);
    }));
}

async fn carry_out(context: &Context, command: Command) -> i32 {
    let ended = match command {
        Command::Validate { file } => return validate::run(&file.file, &file.sets, context.json),
        Command::Plan { state: Some(state), .. } => plan::for_situation(context, &state),
        Command::Plan { file, exit_code, state: None } => plan::for_file(context, &file, exit_code).await,
        Command::Simulate { file, world } => simulate::run(context, &file, &world),
        Command::Deploy { file, follow, meta, if_idle, step, force } => {
            deploy::run(context, &file, &follow, &meta, deploy::How { if_idle, step, force }).await
        }
        Command::Wait { rollout, which, timeout } => follow::wait(context, rollout, which.app, timeout).await,
        Command::Status { app, watch } => status::run(context, app, watch).await,
        Command::Pause { app } => app::now(context, app, Request::Pause).await,
        Command::Resume { app, follow } => app::followed(context, app, Request::Resume, &follow).await,
        Command::Abort { app, follow } => app::followed(context, app, Request::Abort, &follow).await,
        Command::Rollback { app, revision, follow } => {
            let request = Request::Rollback(revision.map(RevisionNumber));
            app::followed(context, app, request, &follow).await
        }
        Command::Retry { instance: (app, key), follow } => {
            app::followed(context, Some(app), Request::Retry(key), &follow).await
        }
        Command::Skip { instance: (app, key) } => app::now(context, Some(app), Request::Skip(key)).await,
        Command::Scale { app, replicas, follow } => {
            app::followed(context, Some(app), Request::Scale(replicas), &follow).await
        }
        Command::Restart { app, follow } => {
            app::followed(context, Some(app), Request::Restart, &follow).await
        }
        Command::Share { app, share: Share(share) } => {
            app::now(context, Some(app), Request::Share(share)).await
        }
        Command::Mirrored { app } => mirrored::run(context, app).await,
        Command::Maintenance { what } => maintenance::run(context, what).await,
        Command::History { app } => history::run(context, app).await,
        Command::Report { rollout, which, files } => report::run(context, rollout, which.app, &files).await,
        Command::Logs { name, follow, lines } => logs::run(context, name.as_deref(), follow, lines).await,
        Command::Demo { plant } => return crate::demo::run(context.json, plant.as_deref()).await,
        Command::Metrics => match context.client.metrics().await {
            Ok(text) => print_text(&text),
            Err(error) => Err(Stop::Error(error.to_string())),
        },
        Command::Down { app } => daemon::down(context, app).await,
        // Carried out before.
        Command::Daemon { .. }
        | Command::Init { .. }
        | Command::Schema
        | Command::Completions { .. }
        | Command::Man { .. } => Ok(Exit::Done),
    };
    match ended {
        Ok(exit) => exit.code(),
        Err(stop) => stop.tell(context.json),
    }
}

/// `ann@host`
fn who() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"]
        .iter()
        .find_map(|key| std::env::var(key).ok().filter(|u| !u.is_empty()));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    format!("{user}@{host}").chars().filter(|c| !c.is_control()).take(100).collect()
}

/// What was typed, or pasted, is shown escaped.
fn harmless(mut error: clap::Error) -> clap::Error {
    let escaped = |(kind, value): (ContextKind, &ContextValue)| match value {
        ContextValue::String(text) => Some((kind, ContextValue::String(printable(text)))),
        _ => None,
    };
    let typed: Vec<_> = error.context().filter_map(escaped).collect();
    for (kind, value) in typed {
        error.insert(kind, value);
    }
    error
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    if key.is_empty() {
        Err("the key is missing: write KEY=VALUE".into())
    } else {
        Ok((key.into(), value.into()))
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let ms =
        crate::config::parse_duration(text).map_err(|why| format!("it {why}; write 90s, 5m or 1h30m"))?;
    Ok(Duration::from_millis(ms))
}

/// Of a hundred; None: by the instances.
#[derive(Debug, Clone, Copy)]
struct Share(Option<u32>);

fn share(text: &str) -> Result<Share, String> {
    if text == "auto" {
        return Ok(Share(None));
    }
    let percent = text.strip_suffix('%').unwrap_or(text).parse().ok().filter(|percent| *percent <= 100);
    percent
        .map(|percent| Share(Some(percent)))
        .ok_or_else(|| "write 0 to 100, such as 20%, or auto".to_owned())
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let wrong = || "write FIRST-LAST, such as 20000-29999".to_owned();
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let range = (first.parse::<u16>().map_err(|_| wrong())?, last.parse::<u16>().map_err(|_| wrong())?);
    if range.0 == 0 || range.0 > range.1 { Err(wrong()) } else { Ok(range) }
}
