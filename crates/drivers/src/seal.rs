//! Values at rest: encrypted with a key of the state directory, named by keyed fingerprints.
//!
//! It protects a copy of the state directory without its key, and the journal; not from whoever can read the key.
//! Invariant: no error here holds a value.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use trundle_core::ids::EnvKey;
use trundle_core::revision::{Digest, Sealed, SealedKey, SealedOrigin, hex};

use crate::durable;
use crate::layout::Layout;
use crate::secret::Secret;
use crate::unused;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// Names the format, so that another one can follow it.
const MAGIC: &[u8] = b"trundle-sealed-1\n";
/// A sealed file is an environment: the kernel takes no greater one.
const SEALED_BYTES_MAX: u64 = 8 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("cannot {what} {}: {source}; check the state directory and its owner", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not a key: it must have exactly 32 bytes; put the right one back from your backup, or deploy with a new state directory", .0.display())]
    BadKey(PathBuf),
    #[error("the sealed values in {} cannot be opened: the file was changed, or another key sealed them; deploy again with the secrets set", .0.display())]
    BadSeal(PathBuf),
    #[error("the system gives no random bytes: {0}")]
    Random(String),
}

/// Fills `N` bytes from the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], SealError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| SealError::Random(error.to_string()))?;
    Ok(bytes)
}

pub(crate) struct Sealer {
    layout: Layout,
    key: [u8; KEY_BYTES],
}

impl Sealer {
    /// With the key file of the state directory, made if missing. It is the only place of the key: command line and
    /// daemon must have the same one.
    pub fn open(layout: &Layout) -> Result<Self, SealError> {
        Ok(Self { layout: layout.clone(), key: own_key(&layout.seal_key())? })
    }

    /// Writes the values and answers what a revision keeps of them. The same values give the same answer.
    pub fn seal(&self, values: &BTreeMap<EnvKey, (SealedOrigin, Secret)>) -> Result<Sealed, SealError> {
        let keys: BTreeMap<EnvKey, SealedKey> = values
            .iter()
            .map(|(key, (origin, value))| {
                (key.clone(), SealedKey { origin: *origin, fingerprint: self.fingerprint(key, value) })
            })
            .collect();
        let listed: String =
            keys.iter().map(|(key, sealed)| format!("{key}={}\n", sealed.fingerprint)).collect();
        let mut id = Digest::of(listed.as_bytes()).0;
        id.truncate(32);
        let sealed = Sealed { id, keys };
        let path = self.path(&sealed);
        let failed = |source| SealError::Io { what: "keep", path: path.clone(), source };
        let _lock = unused::lock(&self.layout).map_err(failed)?;
        // A file that is there and opens is this one: its name is made of its content.
        match self.open_values(&sealed) {
            Ok(_) => unused::renew(&path).map_err(failed)?,
            Err(_) => self.write(&sealed, values)?,
        }
        Ok(sealed)
    }

    fn write(
        &self,
        sealed: &Sealed,
        values: &BTreeMap<EnvKey, (SealedOrigin, Secret)>,
    ) -> Result<(), SealError> {
        let plain: BTreeMap<&str, &str> = values.iter().map(|(k, (_, v))| (k.as_str(), v.expose())).collect();
        let path = self.path(sealed);
        let text = serde_json::to_vec(&plain).map_err(|_| SealError::BadSeal(path.clone()))?;
        let nonce: [u8; NONCE_BYTES] = random()?;
        let payload = Payload { msg: &text, aad: sealed.id.as_bytes() };
        let encrypted = self.cipher().encrypt(&XNonce::from(nonce), payload);
        let encrypted = encrypted.map_err(|_| SealError::BadSeal(path.clone()))?;
        let failed = |what| {
            let path = path.clone();
            move |source| SealError::Io { what, path, source }
        };
        durable::private_folder(&self.layout.sealed()).map_err(failed("make the folder of"))?;
        durable::write(&path, &[MAGIC, &nonce, &encrypted].concat(), 0o600).map_err(failed("write"))
    }

    /// The values, for the environment of an instance.
    pub fn open_values(&self, sealed: &Sealed) -> Result<BTreeMap<String, String>, SealError> {
        let path = self.path(sealed);
        let bad = || SealError::BadSeal(path.clone());
        let bytes = read_own(&path, SEALED_BYTES_MAX).map_err(|source| SealError::Io {
            what: "read",
            path: path.clone(),
            source,
        })?;
        let (nonce, encrypted) = bytes
            .strip_prefix(MAGIC)
            .and_then(|rest| rest.split_first_chunk::<NONCE_BYTES>())
            .ok_or_else(bad)?;
        let payload = Payload { msg: encrypted, aad: sealed.id.as_bytes() };
        let text = self.cipher().decrypt(&XNonce::from(*nonce), payload).map_err(|_| bad())?;
        let values: BTreeMap<String, String> = serde_json::from_slice(&text).map_err(|_| bad())?;
        if sealed.keys.keys().all(|key| values.contains_key(key.as_str())) { Ok(values) } else { Err(bad()) }
    }

    /// The name is one of ours: hex, made above. Anything else in a journal is refused by looking for no such file.
    fn path(&self, sealed: &Sealed) -> PathBuf {
        let safe: String = sealed.id.chars().filter(char::is_ascii_hexdigit).collect();
        self.layout.sealed().join(safe)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&self.derived(b"trundle seal v1").into())
    }

    fn fingerprint(&self, key: &EnvKey, value: &Secret) -> String {
        let message = [key.as_str().as_bytes(), b"\0", value.expose().as_bytes()].concat();
        hex(&mac(&self.derived(b"trundle fingerprint v1"), &message)[..16])
    }

    /// One key for each purpose, so that none says anything about the other.
    fn derived(&self, purpose: &[u8]) -> [u8; KEY_BYTES] {
        mac(&self.key, purpose)
    }
}

fn mac(key: &[u8], message: &[u8]) -> [u8; KEY_BYTES] {
    let mut mac =
        <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

fn own_key(path: &Path) -> Result<[u8; KEY_BYTES], SealError> {
    match read_key(path) {
        Err(SealError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let nonce: [u8; 8] = random()?;
            make_key(path, &path.with_extension(hex(&nonce)), &random()?)
                .map_err(|source| SealError::Io { what: "write", path: path.to_owned(), source })?;
            read_key(path)
        }
        other => other,
    }
}

/// Two that need the first key at the same time must end with one: whoever names it first.
fn make_key(path: &Path, aside: &Path, key: &[u8; KEY_BYTES]) -> io::Result<()> {
    durable::write(aside, key, 0o600)?;
    let named = fs::hard_link(aside, path);
    fs::remove_file(aside)?;
    match named {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => durable::sync_folder(path.parent().unwrap_or(Path::new("/"))),
    }
}

fn read_key(path: &Path) -> Result<[u8; KEY_BYTES], SealError> {
    let bytes = read_own(path, 1024).map_err(|source| SealError::Io {
        what: "read",
        path: path.to_owned(),
        source,
    })?;
    bytes.try_into().map_err(|_| SealError::BadKey(path.to_owned()))
}

fn read_own(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file: fs::File = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn values(password: &str) -> BTreeMap<EnvKey, (SealedOrigin, Secret)> {
        let key: EnvKey = "DB_PASSWORD".parse().unwrap();
        [(key, (SealedOrigin::Secret, Secret::new(password.to_owned())))].into()
    }

    #[test]
    fn all_who_come_first_have_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let keys: std::collections::BTreeSet<_> = std::thread::scope(|scope| {
            let openers: Vec<_> =
                (0..16).map(|_| scope.spawn(|| Sealer::open(&layout).unwrap().key)).collect();
            openers.into_iter().map(|opener| opener.join().unwrap()).collect()
        });
        assert_eq!(keys.len(), 1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left aside");
    }

    #[test]
    fn seals_opens_and_tells_values_apart_without_showing_them() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let sealer = Sealer::open(&layout).unwrap();
        let sealed = sealer.seal(&values("canary-7781")).unwrap();
        assert_eq!(sealer.seal(&values("canary-7781")).unwrap(), sealed);
        assert_ne!(sealer.seal(&values("other")).unwrap().id, sealed.id);
        let again = Sealer::open(&layout).unwrap();
        assert_eq!(again.open_values(&sealed).unwrap()["DB_PASSWORD"], "canary-7781");
        let path = sealer.path(&sealed);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(layout.seal_key()).unwrap().permissions().mode() & 0o777, 0o600);
        let mut bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"canary"));
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(matches!(again.open_values(&sealed), Err(SealError::BadSeal(_))));
        sealer.seal(&values("canary-7781")).unwrap();
        assert!(again.open_values(&sealed).is_ok(), "sealing again heals");
        fs::write(layout.seal_key(), [7; 32]).unwrap();
        assert!(Sealer::open(&layout).unwrap().open_values(&sealed).is_err(), "another key");
        fs::write(layout.seal_key(), "short").unwrap();
        assert!(matches!(Sealer::open(&layout), Err(SealError::BadKey(_))));
        assert_eq!(format!("{:?}", Secret::new("canary".to_owned())), "***");
    }
}
