//! `daemon` and `down`.

use std::time::Duration;

use trundle_core::ids::AppName;
use trundle_core::state::Request;

use super::{Context, Stop, print_json, told, who};
use crate::daemon::DaemonConfig;
use crate::exit::{Exit, fail};

pub fn run(config: DaemonConfig) -> i32 {
    match crate::daemon::run(config) {
        Ok(()) => Exit::Done.code(),
        Err(error) => fail(&error.to_string()),
    }
}

/// Stops one app, or everything: all apps in parallel, then the proxy and the daemon.
pub async fn down(context: &Context, app: Option<AppName>) -> Result<Exit, Stop> {
    if !context.client.answers().await {
        let running = trundle_drivers::still_running(&context.state_dir);
        if running.is_empty() && trundle_proxy::runs(&context.state_dir) {
            // A daemon died in the middle of `down`: only the last step is left.
            expect_no_proxy(crate::daemon::proxy::stop(&context.state_dir).await)?;
            say(context, "everything is down: no instance ran any more, and the proxy has ended")?;
            return Ok(Exit::Done);
        }
        if running.is_empty() {
            say(context, "no daemon and no instance runs: nothing to stop")?;
            return Ok(Exit::Done);
        }
        // Instances outlive their daemon; only one that knows them may stop them.
        crate::daemon::start::ensure(&context.state_dir, &context.client).await?;
    }
    match app {
        Some(app) => {
            told(context.client.ask(app.as_str(), who(), Request::Down).await)?;
            loop {
                let status = told(context.client.status(app.as_str()).await)?;
                if status.live == 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            say(context, &format!("{app} is down"))?;
        }
        None => {
            told(context.client.down(who()).await)?;
            // The daemon stops the proxy, then ends itself; the kernel takes its lock back as it does.
            while trundle_engine::lock::StateLock::holder(&context.state_dir).is_some() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            expect_no_proxy(!trundle_proxy::runs(&context.state_dir))?;
            say(context, "everything is down: apps, proxy and daemon")?;
        }
    }
    Ok(Exit::Done)
}

fn expect_no_proxy(ended: bool) -> Result<(), Stop> {
    if ended {
        return Ok(());
    }
    let text = "the apps are down, but the proxy does not end; its log is proxy.log in the state directory";
    Err(Stop::Error(text.to_owned()))
}

fn say(context: &Context, text: &str) -> Result<(), Stop> {
    if context.json {
        return print_json(&serde_json::json!({ "says": text }));
    }
    if !context.quiet {
        println!("{text}");
    }
    Ok(())
}
