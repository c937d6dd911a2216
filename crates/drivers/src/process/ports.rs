//! Which port an instance gets. Reservations live in memory; a new daemon derives them from what runs.
//!
//! Invariant: no port is given to two instances, and one that was given back comes last.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use trundle_core::event::RefusalCode;
use trundle_core::revision::Port;

use crate::layout::{InstanceDir, Layout};
use crate::shim::record::Refusal;
use crate::{procfs, sockets};

pub(super) struct Ports {
    range: RangeInclusive<u16>,
    /// Where the search goes on, so that a port rests as long as possible before it is given again.
    next: u16,
    /// With the name of the instance that has it.
    taken: BTreeMap<u16, String>,
}

impl Ports {
    pub fn recovered(range: RangeInclusive<u16>, layout: &Layout, boot_id: &str) -> Self {
        let mut taken = BTreeMap::new();
        let mut newest = None;
        for (app, key) in layout.all() {
            let dir = layout.instance(&app, key);
            let Some(record) = dir.shim() else { continue };
            let made =
                fs::metadata(dir.0.join(InstanceDir::SHIM)).and_then(|metadata| metadata.modified()).ok();
            newest = newest.max(Some((made, record.port)));
            if record.boot_id == boot_id && procfs::lives(record.shim_pid, record.shim_start_ticks) {
                taken.insert(record.port, key.name(&app));
            }
        }
        let last = newest.map(|(_, port)| port).filter(|port| range.contains(port));
        let mut ports = Self { next: *range.start(), range, taken };
        if let Some(last) = last {
            ports.next = ports.after(last);
        }
        ports
    }

    fn after(&self, port: u16) -> u16 {
        if port >= *self.range.end() { *self.range.start() } else { port + 1 }
    }

    /// Reserves a port that is free at this moment.
    pub fn take(&mut self, wanted: Port, name: &str) -> Result<u16, Refusal> {
        let port = match wanted {
            Port::Auto => self.search()?,
            Port::Fixed(port) => self.fixed(port)?,
        };
        self.taken.insert(port, name.to_owned());
        Ok(port)
    }

    /// Notes the port of one that was found running.
    pub fn adopt(&mut self, port: u16, name: &str) {
        self.taken.insert(port, name.to_owned());
    }

    /// Only what this instance has: it may be another one's by now.
    pub fn give_back(&mut self, port: u16, name: &str) {
        if self.taken.get(&port).is_some_and(|holder| holder == name) {
            self.taken.remove(&port);
        }
    }

    fn search(&mut self) -> Result<u16, Refusal> {
        for _ in 0..self.range.len() {
            let port = self.next;
            self.next = self.after(port);
            // On all addresses: nobody knows yet on which one the app will listen.
            let free = |port| sockets::is_free(Ipv4Addr::UNSPECIFIED, port);
            if !self.taken.contains_key(&port)
                && free(port).map_err(|e| Refusal::system("cannot try a port", e))?
            {
                return Ok(port);
            }
        }
        let text = format!(
            "no port of {}-{} is free: {} are in use by instances, the others by somebody else; widen `ports`",
            self.range.start(),
            self.range.end(),
            self.taken.len()
        );
        Err(Refusal::new(RefusalCode::PortInUse, text))
    }

    fn fixed(&self, port: u16) -> Result<u16, Refusal> {
        if let Some(holder) = self.taken.get(&port) {
            let text = format!("port {port} is in use by {holder}; stop it first, or use port = \"auto\"");
            return Err(Refusal::new(RefusalCode::PortInUse, text));
        }
        let free = sockets::is_free(Ipv4Addr::LOCALHOST, port);
        if free.map_err(|error| Refusal::system("cannot try the port", error))? {
            return Ok(port);
        }
        let holder = sockets::holder_text(port).unwrap_or_else(|| "somebody who cannot be named".to_owned());
        let text =
            format!("port {port} is in use by {holder}; stop it, or use another port or port = \"auto\"");
        Err(Refusal::new(RefusalCode::PortInUse, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Three ports in a row that are free now.
    fn three() -> RangeInclusive<u16> {
        (23_000..32_000)
            .step_by(3)
            .find(|p| (*p..*p + 3).all(|p| sockets::is_free(Ipv4Addr::UNSPECIFIED, p).unwrap()))
            .map(|p| p..=p + 2)
            .unwrap()
    }

    #[test]
    fn goes_round_and_never_gives_one_twice() {
        let range = three();
        let first = *range.start();
        let dir = tempfile::tempdir().unwrap();
        let mut ports = Ports::recovered(range, &Layout::new(dir.path()), "boot");
        assert_eq!(ports.take(Port::Auto, "a"), Ok(first));
        ports.give_back(first, "a");
        assert_eq!(ports.take(Port::Auto, "b"), Ok(first + 1), "not the one just given back");
        let foreign = TcpListener::bind(("127.0.0.1", first + 2)).unwrap();
        assert_eq!(ports.take(Port::Auto, "c"), Ok(first), "over the foreign listener");
        let refusal = ports.take(Port::Auto, "d").unwrap_err();
        assert_eq!(refusal.code, RefusalCode::PortInUse);
        let refusal = ports.take(Port::Fixed(first + 2), "e").unwrap_err();
        assert!(refusal.text.contains(&format!("pid {}", std::process::id())), "{}", refusal.text);
        drop(foreign);
        assert_eq!(ports.take(Port::Fixed(first + 2), "e"), Ok(first + 2));
        assert!(ports.take(Port::Fixed(first + 1), "f").unwrap_err().text.contains("in use by b"));
        ports.give_back(first + 1, "not its holder");
        assert!(ports.take(Port::Fixed(first + 1), "f").is_err());
    }
}
