//! The last step of a turn: the world is told what it shall look like, of the instances that something happened to.

use trundle_core::event::Event;
use trundle_core::ids::AppName;
use trundle_core::state::GateState;

use crate::effects::{self, Changes, Shape, Told};
use crate::engine::Engine;
use crate::journal::Store;
use crate::ports::{Driver, Ensure, RouteState, Router, Routes};

impl<S: Store, D: Driver, R: Router> Engine<S, D, R> {
    /// A proven instance joins the table before its record is written: nothing is lost if that fails.
    pub(super) fn route_the_ready(&mut self, name: &AppName) {
        let observed = self.unwritten.iter().all(|e| matches!(e.event, Event::Observed { .. }));
        let Some(app) = self.apps.get_mut(name).filter(|app| !app.fresh) else { return };
        if !observed || self.trouble.is_some() {
            return;
        }
        let mut routes = Vec::new();
        app.touched.sort_unstable();
        app.touched.dedup();
        for key in &app.touched {
            let told = app.told.of(*key);
            let instance = app.state.instance(*key);
            let now = effects::shape(instance).route;
            if now == Some(RouteState::Routed) && (now != told.route || told.doubtful) {
                routes.extend(effects::route(&app.state, *key, instance, now));
            }
        }
        if routes.is_empty() {
            return;
        }
        for route in &routes {
            let shape = app.told.of(route.instance);
            app.told.set(route.instance, Shape { route: Some(route.state), doubtful: false, ..shape });
        }
        self.fence.n += 1;
        let listen = effects::listen(&app.state);
        let window = effects::window(&app.state);
        app.told_listen = listen.cloned();
        app.told_window = window;
        let unrouted = Vec::new();
        self.router.set(&Routes {
            fence: self.fence,
            app: name,
            listen,
            window,
            whole: false,
            routes,
            unrouted,
        });
    }

    /// Tells the world what it shall look like, where that has changed.
    pub(super) fn act(&mut self, name: &AppName) {
        let Some(app) = self.apps.get_mut(name) else { return };
        // First of all: a gate is closed before somebody starts who does not understand what is written behind it.
        let gates = app.state.gates();
        if gates != app.told_gates || app.fresh && !gates.is_empty() {
            app.gate_trouble = self.driver.gates(name, &gates).err();
            let is_told_open = |gate: &GateState| {
                app.fresh || app.told_gates.iter().any(|told| told.name == gate.name && told.open)
            };
            if app.gate_trouble.is_none() {
                app.told_gates = gates;
            } else if gates.iter().any(|gate| !gate.open && is_told_open(gate)) {
                return; // nobody starts before it is closed; it is tried again
            }
        }
        let whole = std::mem::take(&mut app.fresh);
        let mut touched = std::mem::take(&mut app.touched);
        if whole {
            app.told = Told::default();
            touched = app.state.instances().map(|i| i.key()).collect();
        }
        touched.sort_unstable();
        touched.dedup();
        let mut changes = Changes::default();
        for key in touched {
            let told = app.told.of(key);
            let now = changes.note(&app.state, key, told);
            if now != told {
                app.told.set(key, now);
            }
        }
        app.told.forget(&app.state);
        let listen = effects::listen(&app.state);
        let window = effects::window(&app.state);
        let Changes { processes, routes, unrouted, .. } = changes;
        let is_known = listen == app.told_listen.as_ref() && window == app.told_window;
        if whole || !routes.is_empty() || !unrouted.is_empty() || !is_known {
            self.fence.n += 1;
            self.router.set(&Routes {
                fence: self.fence,
                app: name,
                listen,
                window,
                whole,
                routes,
                unrouted,
            });
            app.told_listen = listen.cloned();
            app.told_window = window;
        }
        for (number, instances) in &processes {
            let Some(revision) = app.state.revision(*number) else { continue };
            if instances.keep.is_empty() && instances.victims.is_empty() {
                continue;
            }
            self.fence.n += 1;
            self.driver.ensure(&Ensure {
                fence: self.fence,
                app: name,
                revision,
                want: app.state.book(*number).map_or(0, |b| b.want()),
                keep: &instances.keep,
                victims: &instances.victims,
                stop_grace_period_ms: app.state.settings().map_or(0, |s| s.rollout.stop_grace_period_ms),
            });
        }
    }
}
