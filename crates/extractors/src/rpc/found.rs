//! Which login is for a node that was found.
//!
//! A node is found by the name of its program, and says itself where its RPC interface is: whoever can start a program on this machine
//! can be such a node. So a login of the settings is for it only as far as its user may know that login anyway.

use peer_observer_node::process::User;
use peer_observer_node::rpc::{self, Login};
use peer_observer_node::windows::RpcWindow;

use super::{Config, Error};

/// Why the login of the settings is not for a node that was found.
#[derive(Debug, thiserror::Error)]
pub enum Withheld {
    /// It is in no file, so nothing says who may know it.
    #[error("the password in [rpc] is not sent to a node of another user (id {uid}) or in a container")]
    Password {
        /// Id of the node's user.
        uid: u32,
    },
    /// It is in a file that is not there for the node's user.
    #[error("the login in [rpc] is not sent to this node: {0}")]
    File(rpc::Error),
}

impl Withheld {
    /// What a person can do.
    pub fn fix(&self) -> &'static str {
        match self {
            Withheld::Password { .. } => {
                "put it into a file that the node's user may read (rpc.rpc_password_file), or ask this node with `extract rpc --rpc-host`"
            }
            Withheld::File(_) => {
                "let the node's user read that file, or ask this node with `extract rpc --rpc-host`"
            }
        }
    }
}

/// The login for a node that was found: that of the settings if it is for this node; else the one that was found, and why.
///
/// # Errors
/// When there is none, or half a one.
pub(super) fn login(config: &Config, found: &RpcWindow) -> Result<(Login, Option<Withheld>), Error> {
    let Some(configured) = config.login()? else {
        return Ok((found.login.clone().ok_or(Error::NoLogin)?, None));
    };
    let withheld = match configured.as_read_by(&found.access) {
        None if is_ours(found) => return Ok((configured, None)),
        None => Withheld::Password { uid: found.access.uid() },
        Some(login) => match login.header() {
            Err(error @ rpc::Error::LoginFile { .. }) if found.login.is_some() => Withheld::File(error),
            // Where there is no other, it may become readable, or be written when the node has started.
            _ => return Ok((login, None)),
        },
    };
    match &found.login {
        Some(login) => Ok((login.clone(), Some(withheld))),
        None => Err(Error::Withheld(withheld)),
    }
}

/// Its user could read the settings, and more. Root of a container is not that of the machine.
fn is_ours(found: &RpcWindow) -> bool {
    let access = &found.access;
    let own = User::own().map(|user| user.uid());
    !access.is_elsewhere() && (access.uid() == 0 || Some(access.uid()) == own)
}
