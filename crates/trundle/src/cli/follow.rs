//! Follows a rollout to its end, a pause, or the end of our patience.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use trundle_core::ids::AppName;
use trundle_core::state::Phase;
use trundle_engine::view::{History, Status};

use super::show::Show;
use super::{Context, FollowArgs, Stop, at_now, print_json};
use crate::api::client::{Client, ClientError};
use crate::api::types::{Told, Watched};
use crate::exit::Exit;
use crate::term::{card, report};

/// What counts as success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The new version runs.
    GoOn,
    /// The old one does.
    GoBack,
    /// Nothing moves any more, be it in a pause.
    Settle,
}

#[derive(Debug, Clone, Copy)]
enum Target {
    Rollout(u32),
    /// What is desired runs: for changes that need no rollout.
    Settled,
}

/// How the target ended.
enum End {
    As(Exit),
    /// Another rollout is in its place: it tells nothing of how ours ended.
    Newer,
}

/// Where no daemon lives long enough to answer, something else is wrong.
const ASKED_AT_MOST: u32 = 5;
/// A daemon that is gone may come back: instances and proxy go on without it.
const WAIT_FOR_DAEMON: Duration = Duration::from_secs(120);

/// After a request was accepted.
pub async fn after(
    context: &Context,
    app: &AppName,
    answer: &Told,
    follow: &FollowArgs,
    purpose: Purpose,
) -> Result<Exit, Stop> {
    let nothing_to_do = answer.rollout.is_none() && answer.unchanged;
    let ends_here = follow.detach || nothing_to_do;
    super::without_reader(if ends_here { Exit::Done } else { Exit::StillRunning }.code());
    if context.json && (context.streams || follow.detach) {
        print_json(&accepted(answer))?;
    } else if !context.json && !context.quiet {
        println!("{}", answer.says);
    }
    if follow.detach {
        return Ok(Exit::Done);
    }
    if nothing_to_do {
        let status = context.client.status(app.as_str()).await.ok();
        return tell_result(context, Exit::Done, status.as_ref(), Some(&answer.says));
    }
    let target = answer.rollout.map_or(Target::Settled, Target::Rollout);
    let show = Show::new(context);
    if !answer.began && answer.rollout.is_some() {
        stand(context, app, &show, purpose).await;
    }
    let followed = Followed { context, app, target, purpose, deadline: deadline(follow.timeout) };
    followed.watch(show, Some(answer.after)).await
}

/// `wait`
pub async fn wait(
    context: &Context,
    rollout: Option<u32>,
    app: Option<AppName>,
    timeout: Option<Duration>,
) -> Result<Exit, Stop> {
    let app = super::status::the_app(context, app).await?;
    let wanted = match rollout {
        Some(id) => id,
        None => {
            let status = super::status::one(context, &app).await?;
            status.rollout.map(|r| r.id).ok_or_else(|| Stop::Error(format!("{app} never had a rollout")))?
        }
    };
    let history = history(&context.state_dir, &context.client, &app).await?;
    if !history.rollouts.iter().any(|row| row.rollout == wanted) {
        return Err(Stop::Error(format!("{app} has no rollout {wanted}; see `trundle history {app}`")));
    }
    super::without_reader(Exit::StillRunning.code());
    let show = Show::new(context);
    if history.rollouts.last().is_some_and(|last| last.rollout == wanted) {
        stand(context, &app, &show, Purpose::GoOn).await;
    }
    let (target, deadline) = (Target::Rollout(wanted), deadline(timeout));
    let followed = Followed { context, app: &app, target, purpose: Purpose::GoOn, deadline };
    followed.watch(show, None).await
}

/// A daemon may die with the question in its hands. To look changes nothing: the next one is asked.
async fn history(state_dir: &Path, client: &Client, app: &AppName) -> Result<History, Stop> {
    let mut asked = 1;
    loop {
        crate::daemon::start::ensure(state_dir, client).await?;
        match client.history(app.as_str()).await {
            Err(ClientError::Unreachable { .. } | ClientError::Broken { .. }) if asked < ASKED_AT_MOST => {
                asked += 1
            }
            said => return super::told(said),
        }
    }
}

fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.map(|t| Instant::now() + t)
}

/// Of one that is on its way: how one ended is told by its end.
async fn stand(context: &Context, app: &AppName, show: &Show, purpose: Purpose) {
    let Ok(status) = context.client.status(app.as_str()).await else { return };
    if status.rollout.as_ref().is_some_and(|r| outcome_of(&r.state, purpose).is_none()) {
        show.stand(&status);
    }
}

struct Followed<'a> {
    context: &'a Context,
    app: &'a AppName,
    target: Target,
    purpose: Purpose,
    deadline: Option<Instant>,
}

impl Followed<'_> {
    /// `after`: the number of the last line that is known already.
    async fn watch(&self, mut show: Show, mut after: Option<u64>) -> Result<Exit, Stop> {
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        let mut lost_at: Option<Instant> = None;
        loop {
            let ended = tokio::select! {
                ended = self.read(&mut show, &mut after, &mut lost_at) => ended?,
                () = over(self.deadline) => {
                    show.end();
                    return self.still_running("the time of --timeout passed");
                }
                _ = &mut interrupted => {
                    show.end();
                    return self.still_running("interrupted");
                }
            };
            if let Some((status, exit, newer)) = ended {
                show.end();
                super::without_reader(exit.code());
                return self.finish(status, exit, newer).await;
            }
            // The daemon has gone. It is told once, until it was seen again.
            let lost_since = *lost_at.get_or_insert_with(|| {
                show.note(
                    "the daemon does not answer; instances and proxy go on; waiting for it to come back",
                );
                Instant::now()
            });
            if lost_since.elapsed() > WAIT_FOR_DAEMON {
                show.end();
                return self.still_running("the daemon does not answer");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Shows what the daemon tells, until the end of the target; None when the daemon has gone.
    async fn read(
        &self,
        show: &mut Show,
        after: &mut Option<u64>,
        lost_at: &mut Option<Instant>,
    ) -> Result<Option<(Status, Exit, bool)>, Stop> {
        let Ok(mut stream) = self.context.client.watch(self.app.as_str(), *after).await else {
            return Ok(None);
        };
        while let Some(watched) = stream.next().await {
            match watched {
                Watched::Line(line) if after.is_none_or(|n| line.n > n) => {
                    *after = Some(line.n);
                    show.line(&line)?;
                }
                Watched::Line(_) => {}
                Watched::Status(told) => {
                    *lost_at = None;
                    match self.ended(&told.status) {
                        None => show.status(&told)?,
                        Some(End::As(exit)) => {
                            show.status(&told)?;
                            return Ok(Some((told.status, exit, false)));
                        }
                        Some(End::Newer) => {
                            let Some(exit) = self.outcome_in_history().await else { return Ok(None) };
                            return Ok(Some((told.status, exit, true)));
                        }
                    }
                }
            }
        }
        Ok(None)
    }

    /// How it stands with the target; None while it is on its way.
    fn ended(&self, status: &Status) -> Option<End> {
        let Target::Rollout(id) = self.target else {
            let wanted = if status.down { 0 } else { status.replicas };
            let settled = status.available == wanted && status.live == wanted;
            return settled.then_some(End::As(Exit::Done));
        };
        let rollout = status.rollout.as_ref()?;
        if rollout.id > id {
            return Some(End::Newer);
        }
        let moves =
            |phase| matches!(phase, Phase::Intended | Phase::Starting | Phase::Draining | Phase::Stopping);
        if self.purpose == Purpose::Settle && status.instances.iter().any(|i| moves(i.phase)) {
            return None;
        }
        outcome_of(&rollout.state, self.purpose).map(End::As)
    }

    /// Ours may have ended well, or badly, just before the newer one began. None when the daemon has gone.
    async fn outcome_in_history(&self) -> Option<Exit> {
        let Target::Rollout(id) = self.target else { return None };
        let history = self.context.client.history(self.app.as_str()).await.ok()?;
        let row = history.rollouts.iter().find(|row| row.rollout == id)?;
        outcome_of(&row.state, self.purpose)
    }

    async fn finish(&self, seen: Status, exit: Exit, newer: bool) -> Result<Exit, Stop> {
        // The last word is asked for anew: it has the final counts. A daemon that is gone by now changes no outcome.
        let status = self.context.client.status(self.app.as_str()).await.unwrap_or(seen);
        if newer {
            let text = self.made_way(&status, exit);
            if self.context.json {
                return tell_result(self.context, exit, Some(&status), Some(&text));
            }
            if exit == Exit::Done {
                if !self.context.quiet {
                    println!("{text}");
                }
            } else {
                eprintln!("{text}");
            }
            return Ok(exit);
        }
        if self.context.json {
            return tell_result(self.context, exit, Some(&status), None);
        }
        if matches!(exit, Exit::Paused | Exit::RolledBack | Exit::Failed) {
            print!("{}", card::render(&status));
        }
        if !self.context.quiet && matches!(exit, Exit::Done | Exit::RolledBack) {
            let rolled = matches!(self.target, Target::Rollout(_));
            print!("{}", if rolled { report::summary(&status) } else { report::runs(&status, None) });
        }
        Ok(exit)
    }

    /// What became of ours, when `status` is that of a newer one.
    fn made_way(&self, status: &Status, exit: Exit) -> String {
        let was = match self.target {
            Target::Rollout(was) => was,
            Target::Settled => 0,
        };
        let (id, to, by) =
            status.rollout.as_ref().map_or((0, "", ""), |r| (r.id, r.to_version.as_str(), r.by.as_str()));
        let newer = format!("rollout {id} to {to}, begun by {by}; follow that one with `trundle wait {id}`");
        match exit {
            Exit::Superseded => format!("rollout {was} was superseded by {newer}"),
            Exit::Done => format!("rollout {was} is done; after it came {newer}"),
            Exit::RolledBack => format!("rollout {was} went back; after it came {newer}"),
            _ => format!("rollout {was} failed; after it came {newer}"),
        }
    }

    fn still_running(&self, why: &str) -> Result<Exit, Stop> {
        let app = self.app;
        let says = format!(
            "{why}; the rollout goes on: follow it with `trundle wait --app {app}`, look with `trundle status {app}`"
        );
        if self.context.json {
            return tell_result(self.context, Exit::StillRunning, None, Some(&says));
        }
        eprintln!("{says}");
        Ok(Exit::StillRunning)
    }
}

async fn over(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn outcome_of(state: &str, purpose: Purpose) -> Option<Exit> {
    let went_back = if purpose == Purpose::GoBack { Exit::Done } else { Exit::RolledBack };
    match state {
        "succeeded" => Some(Exit::Done),
        "paused" => Some(Exit::Paused),
        "rolled_back" | "aborted" => Some(went_back),
        "failed" => Some(Exit::Failed),
        "superseded" => Some(Exit::Superseded),
        _ => None,
    }
}

/// What a request came to, as an object.
pub fn accepted(answer: &Told) -> Value {
    let Told { rollout, says, unchanged, began, .. } = answer;
    json!({ "at": at_now(), "type": "accepted", "rollout": rollout, "says": says, "unchanged": unchanged,
        "began": began })
}

/// The last object of a command that follows. In plain text there is nothing more to say.
fn tell_result(
    context: &Context,
    exit: Exit,
    status: Option<&Status>,
    text: Option<&str>,
) -> Result<Exit, Stop> {
    if context.json {
        print_json(&json!({ "at": at_now(), "type": "result", "exit_code": exit.code(), "text": text,
            "status": status }))?;
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    /// Answers that it is there, and dies with the first `dying` other questions in its hands.
    async fn daemon(listener: UnixListener, mut dying: u32) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = vec![0; 4096];
            let count = stream.read(&mut bytes).await.unwrap();
            let body = if bytes[..count].starts_with(b"GET /v1/daemon ") {
                r#"{"pid":1,"release":"0","apps":["web"]}"#
            } else if dying > 0 {
                dying -= 1;
                continue;
            } else {
                r#"{"app":"web","revisions":[],"rollouts":[]}"#
            };
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_daemon_that_dies_with_the_question_is_followed_by_one_that_answers() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("daemon.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let client = Client::new(socket);
        let serving = tokio::spawn(daemon(listener, ASKED_AT_MOST - 1 + ASKED_AT_MOST));
        let app = "web".parse().unwrap();
        let refused = history(dir.path(), &client, &app).await.err().unwrap();
        assert!(matches!(&refused, Stop::Error(why) if why.contains("did not answer as expected")));
        assert_eq!(history(dir.path(), &client, &app).await.ok().unwrap().app, "web");
        serving.abort();
    }
}
