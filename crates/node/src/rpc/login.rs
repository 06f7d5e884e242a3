//! Who calls: user and password, or a cookie.
//!
//! A node writes a new cookie file whenever it starts, so a login from a file is read again when the node refuses it.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;

use super::Error;
use crate::access::Access;
use crate::regular;

/// A login is shorter, bytes.
const MAX_LOGIN: u64 = 4096;

/// How to log in.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// User and password.
    Password {
        /// User.
        user: String,
        /// Password.
        password: String,
    },
    /// User, and a file with the password; white space around it is ignored.
    PasswordFile {
        /// User.
        user: String,
        /// The file.
        file: LoginFile,
    },
    /// Bitcoin Core's cookie file, `USER:PASSWORD`.
    Cookie(LoginFile),
}

/// A file with a login, or with half of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginFile {
    path: PathBuf,
    /// Who may read it; nothing when that is whoever runs this.
    access: Option<Access>,
}

impl LoginFile {
    /// A file that is read with all rights of this process.
    pub fn of_ours(path: impl Into<PathBuf>) -> Self {
        LoginFile { path: path.into(), access: None }
    }

    /// A file that is read only as far as `access` goes.
    pub fn of_node(path: PathBuf, access: Access) -> Self {
        LoginFile { path, access: Some(access) }
    }

    /// The file with this path where `access` is, read as far as that goes.
    fn as_read_by(&self, access: &Access) -> Self {
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        LoginFile::of_node(path, access.clone())
    }

    fn read(&self) -> Result<String, Error> {
        let error = |source| Error::LoginFile { path: self.path.clone(), source };
        let opened = match &self.access {
            Some(access) => access.open(&self.path),
            None => regular::open(&self.path),
        };
        let file = opened.map_err(error)?;
        let mut text = String::new();
        file.take(MAX_LOGIN).read_to_string(&mut text).map_err(error)?;
        Ok(text)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())
    }
}

impl Login {
    /// This login as far as a node's user may read it; nothing when it is in no file, so that nobody says who may know it.
    pub fn as_read_by(&self, access: &Access) -> Option<Login> {
        match self {
            Login::Password { .. } => None,
            Login::PasswordFile { user, file } => {
                Some(Login::PasswordFile { user: user.clone(), file: file.as_read_by(access) })
            }
            Login::Cookie(file) => Some(Login::Cookie(file.as_read_by(access))),
        }
    }

    /// The `Authorization` header of HTTP Basic (RFC 7617), as it is now.
    ///
    /// # Errors
    /// When a file cannot be read, or what is there is no login.
    pub fn header(&self) -> Result<HeaderValue, Error> {
        let (user, password) = match self {
            Login::Password { user, password } => (user.clone(), password.clone()),
            Login::PasswordFile { user, file } => (user.clone(), file.read()?.trim().to_owned()),
            Login::Cookie(file) => self.cookie(&file.read()?)?,
        };
        if user.is_empty() || user.contains(':') || user.len() + password.len() > MAX_LOGIN as usize {
            return Err(self.bad_form());
        }
        let value = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let mut value = HeaderValue::try_from(value).map_err(|_| self.bad_form())?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn cookie(&self, text: &str) -> Result<(String, String), Error> {
        let (user, password) = text.trim().split_once(':').ok_or_else(|| self.bad_form())?;
        Ok((user.to_owned(), password.to_owned()))
    }

    fn place(&self) -> String {
        match self {
            Login::Password { user, .. } => format!("user {user:?}"),
            Login::PasswordFile { file, .. } | Login::Cookie(file) => file.path.display().to_string(),
        }
    }

    fn bad_form(&self) -> Error {
        Error::LoginForm { from: self.place() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_become_the_header_of_the_rfc() {
        // RFC 7617, section 2.
        let expected = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
        let dir = tempfile::tempdir().unwrap();
        let (cookie, password) = (dir.path().join(".cookie"), dir.path().join("password"));
        std::fs::write(&cookie, "Aladdin:open sesame").unwrap();
        std::fs::write(&password, "open sesame\n").unwrap();
        let user = "Aladdin".to_owned();
        for login in [
            Login::Password { user: user.clone(), password: "open sesame".into() },
            Login::PasswordFile { user, file: LoginFile::of_ours(password) },
            Login::Cookie(LoginFile::of_ours(cookie)),
        ] {
            assert_eq!(login.header().unwrap(), expected);
            assert!(!format!("{login:?}{:?}", login.header().unwrap()).contains("sesame"), "{login:?}");
        }
    }

    #[test]
    fn what_is_no_login_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "no colon", ":password"] {
            let path = dir.path().join("cookie");
            std::fs::write(&path, text).unwrap();
            let error = Login::Cookie(LoginFile::of_ours(path)).header().unwrap_err();
            assert!(error.to_string().contains("cookie is empty"), "{text:?}: {error}");
        }
        for path in ["/nonexistent/.cookie", "/dev/zero"] {
            let error = Login::Cookie(LoginFile::of_ours(path)).header().unwrap_err();
            assert!(error.to_string().contains(path), "{error}");
        }
    }
}
