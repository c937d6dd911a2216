//! A command of the test: what it said and how it ended. It must end, and so must its output.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// No command of a test takes longer; one that does is a failure.
const LONGEST_COMMAND: Duration = Duration::from_secs(120);

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Ends the test unless the exit code is this one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code {}\n{self}", self.code);
        self
    }

    /// The last line of JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        self.json_lines().pop().unwrap_or_else(|| panic!("no JSON in\n{self}"))
    }

    pub fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Where the failure card begins, to its end.
    #[track_caller]
    pub fn card(&self) -> Vec<&str> {
        let lines: Vec<_> = self.stdout.lines().collect();
        let at = lines.iter().position(|l| l.starts_with('✗') || l.starts_with('‖'));
        lines[at.unwrap_or_else(|| panic!("no card in\n{self}"))..].to_vec()
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr)
    }
}

/// A command that runs.
pub struct Running {
    child: Child,
    readers: Vec<JoinHandle<String>>,
    what: String,
}

impl Running {
    pub fn of(mut command: Command) -> Self {
        let what = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let readers = vec![reader(child.stdout.take().unwrap()), reader(child.stderr.take().unwrap())];
        Self { child, readers, what }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Its end, and the end of its output: a process that it leaves behind must hold neither pipe.
    pub fn finish(mut self) -> Output {
        let deadline = Instant::now() + LONGEST_COMMAND;
        while !self.has_ended() || self.readers.iter().any(|r| !r.is_finished()) {
            if Instant::now() > deadline {
                let ended = self.has_ended();
                let _ = self.child.kill();
                std::thread::sleep(Duration::from_millis(200));
                let whole = self.readers.into_iter().filter(JoinHandle::is_finished);
                let said: Vec<_> = whole.map(|reader| reader.join().unwrap()).collect();
                panic!(
                    "{} has {}ended; it said\n{}",
                    self.what,
                    if ended { "" } else { "not " },
                    said.join("\n")
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = self.child.wait().unwrap();
        let mut said = self.readers.into_iter().map(|reader| reader.join().unwrap());
        let (stdout, stderr) = (said.next().unwrap(), said.next().unwrap());
        Output { code: status.code().unwrap_or(-1), stdout, stderr }
    }
}

fn reader(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
