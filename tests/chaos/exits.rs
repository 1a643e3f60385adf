//! Which ends of a stage process are in order, and which are a finding.

use crate::faults::Fault;
use crate::world::Stage;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// "Temporary: start it again", as `tagstream run --help` says.
const TEMPORARY: i32 = 75;

/// What of a round's faults may end a process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// A broker, the store, or the process itself was away for a while.
    temporary: bool,
}

impl Allowed {
    pub fn by(faults: &[Fault]) -> Allowed {
        let away = |fault: &Fault| {
            matches!(
                fault,
                Fault::S3(_)
                    | Fault::S3Restart
                    | Fault::BrokerRestart
                    | Fault::BrokerFrozen
                    | Fault::LeaderMove
                    | Fault::Zombie
                    | Fault::FrozenPut
            )
        };
        Allowed {
            temporary: faults.iter().any(away),
        }
    }

    /// Why this end is a finding, if it is one. A process that was told to end does so with 0; one
    /// that was not told never does.
    pub fn objection(self, stage: &Stage, status: ExitStatus) -> Option<String> {
        let right = match status.code() {
            Some(0) => stage.is_told(),
            // A drain that met the fault says so.
            Some(TEMPORARY) => self.temporary,
            Some(_) => false,
            None => status.signal() == Some(9) && stage.is_killed(),
        };
        (!right).then(|| format!("{} ended with {status}; see its log", stage.name))
    }
}
