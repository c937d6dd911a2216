//! Everything that can happen: breadth first, so that the first counterexample is a shortest one, or depth first, which
//! keeps few whole states in memory at a time.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use crate::app::App;
use crate::happening::Happening;
use crate::key::Key;
use crate::node::{Broken, Node};
use crate::sometimes::Sometimes;

#[derive(Debug, Clone)]
pub struct Found {
    pub app: App,
    pub states: usize,
    pub transitions: usize,
    pub depth: usize,
    pub fair_runs: usize,
    pub took: Duration,
    pub sometimes: Sometimes,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { app, states, transitions, depth, fair_runs, took, .. } = self;
        write!(
            f,
            "{states} states, {transitions} transitions, depth {depth}, {fair_runs} fair runs, {took:.1?}: {app}"
        )
    }
}

/// Which state is looked at next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The oldest. A state is 3 KiB, and the widest layer stands in memory.
    Breadth,
    /// The newest. In memory stands one way down and what branches off it: for apps whose layers do not fit. `depth` is
    /// then that of the longest way that was followed, and a counterexample is not a shortest one.
    Depth,
}

/// The rule that broke, and the way there, the shortest one where the order is [`Order::Breadth`].
#[derive(Debug)]
pub struct Counterexample {
    pub app: App,
    pub broken: Broken,
    pub path: Vec<Happening>,
}

impl Counterexample {
    /// As a file of `replays/`.
    pub fn scenario(&self) -> String {
        let mut text = format!("# {}\n{}\n", self.broken.0, self.app);
        self.path.iter().for_each(|happening| text += &format!("{happening}\n"));
        text
    }
}

/// Where a state came from; the first has none.
struct Trace {
    from: u32,
    happening: Happening,
}

/// Everything that is reachable. From one state in `fair_every` a fair world runs to its end.
pub fn search(app: &App, fair_every: u128, order: Order) -> Result<Found, Box<Counterexample>> {
    let began = Instant::now();
    let mut sometimes = Sometimes::default();
    let broken = |broken, path| Box::new(Counterexample { app: *app, broken, path });
    let first = Node::first(app).map_err(|b| broken(b, Vec::new()))?;
    let mut seen: HashSet<Key> = HashSet::from([first.key(app)]);
    let mut traces: Vec<Trace> = vec![Trace { from: 0, happening: Happening::Tick }];
    let mut open = VecDeque::from([(0_u32, 0_usize, first)]);
    let (mut transitions, mut depth, mut fair_runs) = (0, 0, 0);
    while let Some((at, above, node)) = take(&mut open, order) {
        depth = depth.max(above);
        for happening in node.happenings(app) {
            let next = node.after(app, happening, &mut sometimes);
            let here = |last| path(&traces, at).into_iter().chain(last).collect();
            let Some(next) = next.map_err(|b| broken(b, here(Some(happening))))? else { continue };
            transitions += 1;
            let key = next.key(app);
            if !seen.insert(key) {
                continue;
            }
            if key % fair_every == 0 {
                fair_runs += 1;
                crate::fair::ends(app, &next, &mut sometimes)
                    .map_err(|b| broken(b, here(Some(happening))))?;
            }
            let number = u32::try_from(traces.len()).expect("fewer states than fit in memory");
            traces.push(Trace { from: at, happening });
            open.push_back((number, above + 1, next));
        }
    }
    let (states, took) = (traces.len(), began.elapsed());
    Ok(Found { app: *app, states, transitions, depth, fair_runs, took, sometimes })
}

fn take<T>(open: &mut VecDeque<T>, order: Order) -> Option<T> {
    match order {
        Order::Breadth => open.pop_front(),
        Order::Depth => open.pop_back(),
    }
}

fn path(traces: &[Trace], mut at: u32) -> Vec<Happening> {
    let mut found = Vec::new();
    while at != 0 {
        let trace = &traces[at as usize];
        found.push(trace.happening);
        at = trace.from;
    }
    found.reverse();
    found
}

/// All of them, the largest first, on two threads.
pub fn search_all(apps: &[App], fair_every: u128, order: Order) -> Vec<Result<Found, Box<Counterexample>>> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let worker = || {
        let mut found = Vec::new();
        loop {
            let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(app) = apps.get(n) else { return found };
            let one = search(app, fair_every, order);
            one.iter().for_each(|one| println!("{one}"));
            found.push((n, one));
        }
    };
    let mut found: Vec<_> = std::thread::scope(|scope| {
        let threads = [scope.spawn(worker), scope.spawn(worker)];
        threads.into_iter().flat_map(|t| t.join().expect("a search does not panic")).collect()
    });
    found.sort_by_key(|(n, _)| *n);
    found.into_iter().map(|(_, found)| found).collect()
}
