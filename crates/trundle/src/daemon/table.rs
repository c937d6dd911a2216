//! The proxy's tables and counts in the words of the core, and the other way round.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use trundle_core::event::Requests;
use trundle_core::formats::{Caller, Format, Watched};
use trundle_core::ids::{AppName, InstanceKey};
use trundle_core::revision::Protocol;
use trundle_core::settings::{AccessFormat, AccessLog, Listen};
use trundle_core::state::Window;
use trundle_core::traffic::{Field, Rule, Sticky, Traffic, WhenGone};
use trundle_engine::ports::{Route, RouteState};
use trundle_proxy as proxy;

use super::acme;

/// In the state directory.
pub const ACCESS_LOGS: &str = "access";

/// The proxy's counts in the words of the core.
pub fn requests(stats: &proxy::AppStats) -> Requests {
    Requests {
        total: stats.total,
        lost: stats.lost,
        crashed: stats.crashed,
        cut: stats.cut,
        told: stats.told,
        told_by_kind: stats.told_by_kind.clone(),
        cut_by_kind: stats.cut_by_kind.clone(),
        held: stats.held,
        app_errors: stats.app_errors,
        by_version: stats.by_version.clone(),
        mixed: stats.mixed.clone(),
        uses: stats.formats.iter().flat_map(uses).collect(),
    }
}

fn uses((format, uses): (&String, &proxy::FormatUses)) -> impl Iterator<Item = (String, u64)> {
    uses.callers.iter().map(move |(name, caller)| (format!("{format} by {name}"), caller.count))
}

/// Where an app's clients come in, and which of them are its own.
pub fn doors(name: &AppName, listen: &Listen) -> proxy::App {
    let address = |text: &Option<String>| text.as_ref().and_then(|address| address.parse().ok());
    let http = address(&listen.http).map(proxy::Listen::Http);
    let https = address(&listen.https).map(proxy::Listen::Https);
    let tcp = address(&listen.tcp).map(proxy::Listen::Tcp);
    let unix = listen.unix.as_ref().map(|path| proxy::Listen::Unix(PathBuf::from(path)));
    proxy::App {
        listen: [http, https, unix, tcp].into_iter().flatten().collect(),
        hosts: listen.hosts.clone(),
        paths: listen.paths.clone(),
        ..proxy::App::named(name.as_str())
    }
}

/// One app of a table.
pub fn app(
    name: &AppName,
    listen: &Listen,
    window: Window,
    routes: &BTreeMap<InstanceKey, Route>,
    state_dir: &Path,
) -> proxy::App {
    let tls = listen.tls.as_ref();
    let https_address = listen.https.as_ref().and_then(|address| address.parse().ok());
    let endpoints = routes.values().filter_map(|route| {
        Some(proxy::Endpoint {
            id: route.instance.name(name),
            incarnation: route.incarnation.to_string(),
            version: route.version.to_string(),
            revision: route.instance.revision.0,
            address: route.address.parse().ok()?,
            protocol: match route.protocol {
                Protocol::Http1 => proxy::Protocol::Http1,
                Protocol::H2c => proxy::Protocol::Http2,
                Protocol::H2 => proxy::Protocol::Http2Tls,
            },
            weight: 1,
            state: match route.state {
                RouteState::Routed => proxy::EndpointState::Routed,
                RouteState::Unready => proxy::EndpointState::Unready,
                RouteState::Kept => proxy::EndpointState::Kept,
                RouteState::Draining => proxy::EndpointState::Draining,
                RouteState::Cut => proxy::EndpointState::Cut,
            },
        })
    });
    proxy::App {
        trusted_proxies: listen.trusted_proxies.clone(),
        version_header: listen.version_header.clone().filter(|h| !h.is_empty()),
        limits: crate::config::proxy_limits(listen),
        tls: tls.map(|tls| match tls.acme {
            None => proxy::TlsFiles { cert: PathBuf::from(&tls.cert), key: PathBuf::from(&tls.key) },
            Some(_) => {
                let file = acme::certificate(state_dir, name);
                proxy::TlsFiles { cert: file.clone(), key: file }
            }
        }),
        challenges: tls.filter(|tls| tls.acme.is_some()).map(|_| acme::challenges(state_dir)),
        redirect_to: https_address.filter(|_| tls.is_some_and(|tls| tls.redirect)),
        hsts_s: tls.and_then(|tls| tls.hsts_ms).map(|ms| ms / 1000),
        access_log: listen.access_log.as_ref().map(|log| access_log(name, log, state_dir)),
        maintenance: listen.maintenance.as_ref().map(|maintenance| proxy::Maintenance {
            page: maintenance.page.as_ref().map(PathBuf::from),
            retry_after_s: maintenance.retry_after_ms.map(|ms| ms.div_ceil(1000)),
        }),
        traffic: traffic(listen.traffic.as_ref(), window),
        formats: listen.formats.iter().map(format).collect(),
        caller_header: listen.caller_header.clone(),
        endpoints: endpoints.collect(),
        ..doors(name, listen)
    }
}

fn wanted(to: &str) -> proxy::Wanted {
    match to {
        Rule::NEWEST => proxy::Wanted::Newest,
        Rule::OLDEST => proxy::Wanted::Oldest,
        range => proxy::Wanted::Versions(range.to_owned()),
    }
}

fn format(format: &Format) -> proxy::Format {
    proxy::Format {
        name: format.name.clone(),
        path: format.matches.path.clone(),
        header: format.matches.header.clone(),
        value: format.matches.value.clone(),
        query: format.matches.query.clone(),
        served: Some(format.served.clone()),
        deprecated_at_s: format.deprecated_at_s,
        sunset_s: format.sunset_s,
        link: format.link.clone(),
    }
}

/// What the proxy knows of who uses which format, at this moment of the wall clock.
pub fn watched(stats: &proxy::AppStats, now_ms: u64) -> Vec<Watched> {
    let ago_ms = |s: u64| now_ms.saturating_sub(s.saturating_mul(1_000));
    let of = |(format, uses): (&String, &proxy::FormatUses)| Watched {
        format: format.clone(),
        for_ms: uses.since_s.map(ago_ms),
        callers: uses
            .callers
            .iter()
            .map(|(name, c)| Caller { name: name.clone(), count: c.count, ago_ms: ago_ms(c.last_s) })
            .collect(),
    };
    stats.formats.iter().map(of).collect()
}

/// None: a request may go to any version.
fn traffic(written: Option<&Traffic>, window: Window) -> Option<proxy::Traffic> {
    if written.is_none() && window.share.is_none() {
        return None;
    }
    let default = Traffic::default();
    let written = written.unwrap_or(&default);
    let field = |field: &Field| match field {
        Field::Header(name) => proxy::Field::Header(name.clone()),
        Field::Cookie(name) => proxy::Field::Cookie(name.clone()),
    };
    let rule = |rule: &Rule| proxy::Rule {
        field: field(&rule.field),
        value: rule.value.clone(),
        to: wanted(&rule.to),
    };
    Some(proxy::Traffic {
        asked_in: written.asked_in.iter().map(field).collect(),
        when_gone: match written.when_gone {
            WhenGone::Fallback => proxy::WhenGone::Fallback,
            WhenGone::Refuse => proxy::WhenGone::Refuse,
        },
        rules: written.rules.iter().map(rule).collect(),
        sticky: match written.sticky {
            Sticky::None => proxy::Sticky::Nothing,
            Sticky::Version => proxy::Sticky::Version,
            Sticky::Instance => proxy::Sticky::Instance,
        },
        sticky_header: written.sticky_header.clone(),
        mirror: written.mirror.as_ref().map(|mirror| proxy::Mirror {
            to: wanted(&mirror.to),
            share: mirror.share,
            paths: mirror.paths.clone(),
        }),
        skew_paths: written.skew_paths.clone(),
        skew_max_age_s: u32::try_from(written.skew_max_age_ms.div_ceil(1_000)).unwrap_or(u32::MAX),
        newest: window.newest.map(|revision| revision.0),
        window: window.number,
        open: window.open,
        share: window.share,
    })
}

fn access_log(name: &AppName, log: &AccessLog, state_dir: &Path) -> proxy::AccessLog {
    let file = match &log.file {
        Some(file) => PathBuf::from(file),
        None => state_dir.join(ACCESS_LOGS).join(format!("{name}.log")),
    };
    let format = match log.format {
        AccessFormat::Json => proxy::AccessFormat::Json,
        AccessFormat::Combined => proxy::AccessFormat::Combined,
    };
    proxy::AccessLog { file, format }
}
