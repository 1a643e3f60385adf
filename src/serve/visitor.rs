//! Who looks at a page.

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// See.
    Read,
    /// See, label, promote and roll back.
    Act,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Visitor {
    /// The name that stands on what they do.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Whether the name was proven; on loopback nobody is asked.
    pub known: bool,
    /// Whether there is a session that can be ended.
    pub session: bool,
    /// What a form of theirs must carry.
    pub form_token: String,
}

impl Visitor {
    /// Whether they may act.
    pub(crate) fn acts(&self) -> bool {
        self.role == Role::Act
    }
}
