//! How a command ends. Scripts depend on these numbers.

/// The exit codes of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Exit {
    /// What was asked for is running and was verified, or there was nothing to do.
    Done = 0,
    /// A bad file, an unreachable daemon, refused input.
    Error = 1,
    /// The rollout is paused.
    Paused = 10,
    /// The rollout was rolled back, or aborted by somebody else.
    RolledBack = 11,
    /// The rollout failed and needs a person.
    Failed = 12,
    /// Not allowed now.
    Refused = 13,
    /// Another revision took over.
    Superseded = 14,
    /// The rollout goes on without us.
    StillRunning = 15,
    /// `plan --exit-code`: there are changes.
    Changes = 20,
}

impl Exit {
    pub fn code(self) -> i32 {
        self as i32
    }
}

/// Tells an error and answers with its code.
pub fn fail(text: &str) -> i32 {
    eprintln!("{}: {text}", crate::term::red("error"));
    Exit::Error.code()
}
