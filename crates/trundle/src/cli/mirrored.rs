//! `trundle mirrored`: what two versions have answered to the same request.

use trundle_core::ids::AppName;
use trundle_drivers::logs::printable;
use trundle_proxy::{Client, Comparison, Reply, Request, Side};

use super::{Context, Stop, print_json};
use crate::exit::Exit;

/// Asked of the proxy itself, which keeps the newest in its memory.
pub async fn run(context: &Context, app: Option<AppName>) -> Result<Exit, Stop> {
    let app = super::status::the_app(context, app).await?;
    let path = context.state_dir.join(trundle_proxy::SOCKET_NAME);
    let failed = |error: trundle_proxy::ClientError| Stop::Error(error.to_string());
    let mut client = Client::connect(&path).await.map_err(failed)?;
    client.send(&Request::Compared { app: app.to_string() }).await.map_err(failed)?;
    let Some(Reply::Compared(all)) = client.recv().await.map_err(failed)? else {
        return Err(Stop::Error(
            "the proxy is of an older release; the daemon replaces it when it starts".to_owned(),
        ));
    };
    if context.json {
        print_json(&serde_json::json!({ "app": app, "mirrored": all }))?;
        return Ok(Exit::Done);
    }
    let differ: Vec<&Comparison> = all.iter().filter(|one| !one.same).collect();
    println!("{} of the last {} answers of {app} differ", differ.len(), all.len());
    for one in differ {
        println!("{} {}", one.method, printable(&one.target));
        for side in [&one.live, &one.mirrored] {
            println!("  {:<10} {}", side.version, answer(side));
        }
    }
    Ok(Exit::Done)
}

fn answer(side: &Side) -> String {
    let Some(status) = side.status else { return "no answer in time".to_owned() };
    let of = side.content_type.as_deref().unwrap_or("no content type");
    let whole = if side.whole { "" } else { ", not whole" };
    let body: String = printable(&side.body).chars().take(80).collect();
    format!("{status}, {of}, {} bytes{whole}, {} µs: {body}", side.bytes, side.took_us)
}
