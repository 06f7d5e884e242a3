//! What extractors and tools have in common.

/// What `doctor` has to say of one thing that a component needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// It is as it should be.
    pub ok: bool,
    /// What was looked at and what was found, one line.
    pub what: String,
    /// What the user can do about it, when it is not as it should be.
    pub fix: Option<String>,
}

impl Finding {
    /// It is as it should be.
    pub fn good(what: impl Into<String>) -> Self {
        Finding { ok: true, what: what.into(), fix: None }
    }

    /// It is not as it should be; `fix` says what to do.
    pub fn bad(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Finding { ok: false, what: what.into(), fix: Some(fix.into()) }
    }
}
