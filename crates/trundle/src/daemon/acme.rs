//! Certificates from an authority (ACME, RFC 8555), proven by HTTP-01, or by TLS-ALPN-01 (RFC 8737) where nobody listens without TLS:
//! ordered for the hosts of an app, renewed when a third of their
//! time is left, and tried again with a growing pause. The proxy answers what the authority asks for, and reads the file anew.
//!
//! Invariant: the file of an app always holds one whole certificate with its key. Until the first one is issued it is one that we have
//! signed ourselves, so that the address is there.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder,
    OrderStatus, RetryPolicy,
};
use trundle_core::ids::AppName;
use trundle_core::settings::Acme;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::Handle;

/// Between two looks whether a certificate is due.
const BETWEEN: Duration = Duration::from_secs(2);
/// After a failure, and then twice as long each time.
const AGAIN_FIRST: Duration = Duration::from_secs(30);
const AGAIN_MOST: Duration = Duration::from_secs(60 * 60);
/// For the authority to look at the challenge, and to make the certificate.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Who has signed what stands in for a certificate.
const STAND_IN: &str = "stand-in until a certificate is issued";

/// Of each app, what is wrong with its certificate.
#[derive(Debug, Clone, Default)]
pub struct Troubles(Arc<Mutex<BTreeMap<AppName, String>>>);

impl Troubles {
    pub fn of(&self, app: &AppName) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(app).cloned()
    }

    fn set(&self, app: &AppName, trouble: Option<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match trouble {
            Some(text) => drop(all.insert(app.clone(), text)),
            None => drop(all.remove(app)),
        }
    }
}

fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("acme")
}

/// Chain and key in one file, so that both change at once.
pub fn certificate(state_dir: &Path, app: &AppName) -> PathBuf {
    folder(state_dir).join(format!("{app}.pem"))
}

/// What the proxy answers to the authority, a file each.
pub fn challenges(state_dir: &Path) -> PathBuf {
    folder(state_dir).join("challenges")
}

/// Something to begin with. Without it the proxy refuses the table, and says why.
pub fn prepare(state_dir: &Path, app: &AppName, hosts: &[String]) {
    let file = certificate(state_dir, app);
    if file.exists() {
        return;
    }
    let made = (|| {
        let key = rcgen::KeyPair::generate().map_err(|error| error.to_string())?;
        let mut params = rcgen::CertificateParams::new(hosts.to_vec()).map_err(|error| error.to_string())?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, STAND_IN);
        let cert = params.self_signed(&key).map_err(|error| error.to_string())?;
        replace(&file, &format!("{}{}", cert.pem(), key.serialize_pem())).map_err(|error| error.to_string())
    })();
    if let Err(error) = made {
        log(app, &format!("nothing can stand in for the certificate: {error}"));
    }
}

/// For the life of the daemon.
pub async fn keep(handle: Handle, troubles: Troubles, state_dir: PathBuf) {
    // Of an order that a daemon died in.
    let _ = fs::remove_dir_all(challenges(&state_dir));
    let mut failed: BTreeMap<AppName, (Instant, Duration)> = BTreeMap::new();
    loop {
        let wanted = handle.look(|engine| {
            let apps = engine.apps().iter().filter(|(_, app)| !app.state.is_down());
            let wanted = apps.filter_map(|(name, app)| {
                let listen = app.state.settings()?.listen.as_ref()?;
                let by = if listen.http.is_some() { ChallengeType::Http01 } else { ChallengeType::TlsAlpn01 };
                Some((name.clone(), (listen.tls.as_ref()?.acme.clone()?, by), listen.hosts.clone()))
            });
            wanted.collect::<Vec<_>>()
        });
        let Some(wanted) = wanted.await else { return };
        failed.retain(|app, _| wanted.iter().any(|(name, ..)| name == app));
        for (app, (acme, by), hosts) in wanted {
            let Some(why) = due(&certificate(&state_dir, &app), &hosts) else {
                troubles.set(&app, None);
                continue;
            };
            if failed.get(&app).is_some_and(|(at, _)| *at > Instant::now()) {
                continue;
            }
            log(&app, &format!("orders a certificate for {}: {why}", hosts.join(", ")));
            match order(&state_dir, &app, (&acme, by), &hosts).await {
                Ok(()) => {
                    log(&app, "the certificate is there");
                    failed.remove(&app);
                    troubles.set(&app, None);
                }
                Err(error) => {
                    let pause =
                        failed.get(&app).map_or(AGAIN_FIRST, |(_, pause)| (*pause * 2).min(AGAIN_MOST));
                    failed.insert(app.clone(), (Instant::now() + pause, pause));
                    let text = format!(
                        "no certificate for {}: {error}; tried again in {} s",
                        hosts.join(", "),
                        pause.as_secs()
                    );
                    log(&app, &text);
                    troubles.set(&app, Some(text));
                }
            }
        }
        tokio::time::sleep(BETWEEN).await;
    }
}

/// Why another one is needed.
fn due(file: &Path, hosts: &[String]) -> Option<String> {
    let Ok(text) = fs::read(file) else { return Some("there is none".to_owned()) };
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(&text) else {
        return Some("the file holds none".to_owned());
    };
    let Ok((_, cert)) = X509Certificate::from_der(&pem.contents) else {
        return Some("the file holds none that can be read".to_owned());
    };
    if cert.subject().iter_common_name().any(|name| name.as_str().is_ok_and(|name| name == STAND_IN)) {
        return Some("none was issued yet".to_owned());
    }
    let names = cert.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let is_named = |host: &&String| {
        names.iter().any(|name| matches!(name, GeneralName::DNSName(name) if name.eq_ignore_ascii_case(host)))
    };
    if let Some(host) = hosts.iter().find(|host| !is_named(host)) {
        return Some(format!("the one there is not for {host}"));
    }
    let (from, to) = (cert.validity().not_before.timestamp(), cert.validity().not_after.timestamp());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().cast_signed();
    (to - now < (to - from) / 3).then(|| format!("the one there ends in {} h", (to - now) / 3600))
}

async fn order(
    state_dir: &Path,
    app: &AppName,
    (acme, by): (&Acme, ChallengeType),
    hosts: &[String],
) -> Result<(), String> {
    let told = |error: instant_acme::Error| chain(&error);
    let identifiers: Vec<Identifier> = hosts.iter().cloned().map(Identifier::Dns).collect();
    let new = NewOrder::new(&identifiers);
    let mut order = match account(state_dir, acme, false).await?.new_order(&new).await {
        // It was forgotten there, or closed.
        Err(instant_acme::Error::Api(problem)) if is_about_the_account(&problem) => {
            account(state_dir, acme, true).await?.new_order(&new).await.map_err(told)?
        }
        order => order.map_err(told)?,
    };
    let mut answers = Answers(Vec::new());
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(told)?;
        match authorization.status {
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Valid => continue,
            ref other => return Err(format!("the authority says {other:?} of a host")),
        }
        let host = authorization.identifier().to_string();
        let challenge = authorization.challenge(by.clone());
        let mut challenge =
            challenge.ok_or_else(|| format!("the authority does not offer {by:?} for {host}"))?;
        let authorized = challenge.key_authorization();
        let (name, text) = match by {
            ChallengeType::Http01 => (challenge.token.clone(), authorized.as_str().to_owned()),
            _ => (format!("{host}.pem"), proof(&host, authorized.digest().as_ref())?),
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.starts_with('.') || !name.bytes().all(is_plain) {
            return Err("the authority asks for what cannot be the name of a file".to_owned());
        }
        let path = challenges(state_dir).join(name);
        replace(&path, &text).map_err(|error| error.to_string())?;
        answers.0.push(path);
        challenge.set_ready().await.map_err(told)?;
    }
    proven(&mut order).await?;
    let patience = RetryPolicy::new().timeout(PATIENCE);
    let key = order.finalize().await.map_err(told)?;
    let chain = order.poll_certificate(&patience).await.map_err(told)?;
    replace(&certificate(state_dir, app), &format!("{chain}\n{key}")).map_err(|error| error.to_string())
}

/// The certificate that is shown to an authority that asks over TLS, with its key.
fn proof(host: &str, digest: &[u8]) -> Result<String, String> {
    let digest: [u8; 32] = digest.try_into().map_err(|_| "the digest has a wrong length".to_owned())?;
    let key = rcgen::KeyPair::generate().map_err(|error| error.to_string())?;
    let mut params = rcgen::CertificateParams::new([host.to_owned()]).map_err(|error| error.to_string())?;
    params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(&digest)];
    let cert = params.self_signed(&key).map_err(|error| error.to_string())?;
    Ok(format!("{}{}", cert.pem(), key.serialize_pem()))
}

/// Waits until the authority has seen whose the hosts are. The error has its words.
async fn proven(order: &mut instant_acme::Order) -> Result<(), String> {
    let until = Instant::now() + PATIENCE;
    loop {
        let status = order.refresh().await.map_err(|error| chain(&error))?.status;
        if matches!(status, OrderStatus::Ready | OrderStatus::Valid) {
            return Ok(());
        }
        // Some leave the order pending though they have judged a host.
        let mut found = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| chain(&error))?;
            let state = authorization.refresh().await.map_err(|error| chain(&error))?;
            if state.status == AuthorizationStatus::Invalid {
                let errors = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
                let errors: Vec<String> = errors.map(ToString::to_string).collect();
                let why =
                    if errors.is_empty() { "it does not say why".to_owned() } else { errors.join("; ") };
                found.push(format!("the authority could not see that {} is here: {why}", state.identifier()));
            }
        }
        if !found.is_empty() {
            return Err(found.join("; "));
        }
        if status == OrderStatus::Invalid || Instant::now() >= until {
            return Err(format!("the authority says {status:?} after all that it asked for"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Answers to challenges, removed in the end.
struct Answers(Vec<PathBuf>);

impl Drop for Answers {
    fn drop(&mut self) {
        self.0.iter().for_each(|path| drop(fs::remove_file(path)));
    }
}

/// Nothing else: authorities allow few new accounts, and one that is refused for another reason is no reason for the next.
fn is_about_the_account(problem: &instant_acme::Problem) -> bool {
    problem.r#type.as_deref().is_some_and(|kind| kind.ends_with(":accountDoesNotExist"))
}

/// The account of before, or a new one: for each directory and contact one. Ordering one agrees to the authority's terms.
async fn account(state_dir: &Path, acme: &Acme, anew: bool) -> Result<Account, String> {
    let told = |error: instant_acme::Error| chain(&error);
    let builder = || match &acme.root {
        Some(root) => Account::builder_with_root(root).map_err(told),
        None => Account::builder().map_err(told),
    };
    let path = folder(state_dir).join("accounts.json");
    let known = fs::read(&path).ok();
    let mut known: BTreeMap<String, serde_json::Value> =
        known.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let name = format!("{} {}", acme.directory, acme.contact);
    if let Some(credentials) = known.get(&name).filter(|_| !anew)
        && let Ok(credentials) = serde_json::from_value::<AccountCredentials>(credentials.clone())
    {
        return builder()?.from_credentials(credentials).await.map_err(told);
    }
    let contact = format!("mailto:{}", acme.contact);
    let new = NewAccount { contact: &[&contact], terms_of_service_agreed: true, only_return_existing: false };
    let (account, credentials) = builder()?.create(&new, acme.directory.clone(), None).await.map_err(told)?;
    known.insert(name, serde_json::to_value(&credentials).map_err(|error| error.to_string())?);
    let text = serde_json::to_string(&known).map_err(|error| error.to_string())?;
    replace(&path, &text).map_err(|error| error.to_string())?;
    Ok(account)
}

/// Whole or not at all, and for us alone.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().ok_or(std::io::ErrorKind::InvalidInput)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let aside = path.with_extension("tmp");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(aside, path)
}

/// An error with what caused it: the outer one often says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn log(app: &AppName, text: &str) {
    let _ = writeln!(std::io::stderr(), "certificate of {app}: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: &Path, hosts: &[&str], days: (i64, i64)) {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(hosts).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
        let at = |days: i64| {
            let date =
                jiff::Timestamp::from_second(now + days * 86_400).unwrap().to_zoned(jiff::tz::TimeZone::UTC);
            rcgen::date_time_ymd(date.year().into(), date.month().cast_unsigned(), date.day().cast_unsigned())
        };
        (params.not_before, params.not_after) = (at(days.0), at(days.1));
        let cert = params.self_signed(&key).unwrap();
        replace(file, &format!("{}{}", cert.pem(), key.serialize_pem())).unwrap();
    }

    #[test]
    fn one_is_due_when_there_is_none_for_these_hosts_or_a_third_of_its_time_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let app: AppName = "web".parse().unwrap();
        let file = certificate(dir.path(), &app);
        let due = |hosts: &[&str]| {
            let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
            due(&file, &hosts).unwrap_or_default()
        };
        assert_eq!(due(&["a.test"]), "there is none");
        prepare(dir.path(), &app, &["a.test".to_owned()]);
        assert_eq!(due(&["a.test"]), "none was issued yet");
        write(&file, &["a.test", "b.test"], (-10, 80));
        assert_eq!(
            (due(&["a.test", "B.test"]), due(&["c.test"])),
            (String::new(), "the one there is not for c.test".into())
        );
        write(&file, &["a.test"], (-62, 28));
        assert!(due(&["a.test"]).starts_with("the one there ends in 6"), "{}", due(&["a.test"]));
        fs::write(&file, "nonsense").unwrap();
        assert!(due(&["a.test"]).contains("holds none"));
    }
}
