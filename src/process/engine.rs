//! The programs that serve nodes: where they are, which version they have, how they are called.
//!
//! ```text
//! $ redis-server --version
//! Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d7c971a948f0
//! $ valkey-server --version
//! Valkey server v=8.1.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=…
//! ```
//!
//! The family `repld` without a path is this very executable, called as `replctl serve CONF`: its version is ours.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::host;
use crate::topology::{Engine, EngineFamily};

/// How long `ENGINE --version` may take.
const VERSION_LIMIT: Duration = Duration::from_secs(5);

/// An engine's program on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Arguments that stand before the configuration file.
    pub leading_args: &'static [&'static str],
}

/// Why an engine cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No directory of `PATH` has it.
    #[error("{0} is not on PATH")]
    NotOnPath(&'static str),
    /// No directory of `PATH` has a Sentinel.
    #[error("neither {alone} nor {server} is on PATH")]
    NoSentinelOnPath {
        /// The program that is nothing else.
        alone: &'static str,
        /// The server that can be one.
        server: &'static str,
    },
    /// A repld is asked to be a Sentinel.
    #[error("repld is no sentinel")]
    NoSentinel,
    /// The topology names a program that is not there or not executable.
    #[error("{} is not an executable file", .0.display())]
    NotExecutable(PathBuf),
    /// `--version` failed, hung, or said something else than a version.
    #[error("{} did not tell its version: {reason}", .program.display())]
    NoVersion {
        /// The executable.
        program: PathBuf,
        /// What happened instead.
        reason: String,
    },
    /// Another program than `replctl` cannot serve as a repld, and there is no `replctl`.
    #[error("there is no replctl, which serves as repld")]
    NoReplctl,
    /// This executable cannot be found, so that it cannot start itself as a server.
    #[error("this program cannot find its own executable: {0}")]
    NoSelf(#[source] io::Error),
}

impl EngineError {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotOnPath(_) => Some(
                "install it, or give its path: engine = { family = \"redis\", path = \"/opt/redis/redis-server\" }, or use the engine \"repld\", which is built in",
            ),
            Self::NoSentinelOnPath { .. } => Some(
                "install redis-server or valkey-server, or give its path: [sentinel] engine = { family = \"redis\", path = \"/opt/redis/redis-server\" }",
            ),
            Self::NoSentinel => Some("[sentinel] engine = \"redis-server\", or \"valkey-server\""),
            Self::NotExecutable(_) | Self::NoVersion { .. } => Some("check the engine's path in the topology file"),
            Self::NoReplctl => Some("install replctl, build it (cargo build), or name it in REPLCTL_PROGRAM"),
            Self::NoSelf(_) => None,
        }
    }
}

/// Why an engine cannot be told by its name.
#[derive(Debug, thiserror::Error)]
pub enum EngineNameError {
    /// It is neither an engine's name nor a path.
    #[error("there is no engine {0:?}")]
    Unknown(String),
    /// It is a program whose version does not say which engine it is.
    #[error("{} is no server that replctl knows: its version is {version:?}", .path.display())]
    Stranger {
        /// The executable.
        path: PathBuf,
        /// What it says of itself.
        version: String,
    },
    /// It cannot be run.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The engine that a command line names: as a topology does (`redis-server`), or by the path of its executable, which is asked
/// what it is.
///
/// # Errors
/// It is none.
pub async fn engine_named(name: &str) -> Result<Engine, EngineNameError> {
    if let Some(family) = EngineFamily::ALL.into_iter().find(|family| family.program() == name) {
        return Ok(Engine { family, path: None });
    }
    if !name.contains('/') {
        return Err(EngineNameError::Unknown(name.to_owned()));
    }
    if !is_executable(Path::new(name)) {
        return Err(EngineError::NotExecutable(name.into()).into());
    }
    let program = Program::at(Path::new(name));
    let text = program.version_text().await?;
    let first_word = text.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
    let family = EngineFamily::ALL.into_iter().find(|family| family.name() == first_word);
    let stranger = || EngineNameError::Stranger {
        path: program.path.clone(),
        version: text.lines().next().unwrap_or_default().chars().take(80).collect(),
    };
    Ok(Engine { family: family.ok_or_else(stranger)?, path: Some(program.path.clone()) })
}

impl Program {
    /// Finds the program of an engine: its path if it has one, else the family's usual name on `PATH`.
    ///
    /// # Errors
    /// It is not there or not executable.
    pub fn find(engine: &Engine) -> Result<Self, EngineError> {
        if let Some(path) = &engine.path {
            if !is_executable(path) {
                return Err(EngineError::NotExecutable(path.clone()));
            }
            return Ok(Self::at(path));
        }
        if engine.family == EngineFamily::Repld {
            let own = std::env::current_exe().map_err(EngineError::NoSelf)?;
            let path = if host::is_replctl() { own } else { replctl_near(&own).ok_or(EngineError::NoReplctl)? };
            return Ok(Self { path, leading_args: &["serve"] });
        }
        let name = engine.family.program();
        on_path(name).map(|path| Self::at(&path)).ok_or(EngineError::NotOnPath(name))
    }

    /// Finds a program that runs as a Sentinel: an engine's server does, called with `--sentinel`, and some systems have a
    /// package with nothing else (`redis-sentinel`).
    ///
    /// # Errors
    /// It is not there or not executable.
    pub fn find_sentinel(engine: &Engine) -> Result<Self, EngineError> {
        let alone = match engine.family {
            EngineFamily::Repld => return Err(EngineError::NoSentinel),
            EngineFamily::Redis => "redis-sentinel",
            EngineFamily::Valkey => "valkey-sentinel",
        };
        match Self::find(engine) {
            Err(EngineError::NotOnPath(server)) => {
                on_path(alone).map(|path| Self::at(&path)).ok_or(EngineError::NoSentinelOnPath { alone, server })
            }
            found => found,
        }
    }

    /// A server runs in its node's directory: a relative path would lead elsewhere from there.
    fn at(path: &Path) -> Self {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self { path, leading_args: &[] }
    }

    /// The program's version, as `7.0.15`. Runs `--version`, except for this very executable.
    ///
    /// # Errors
    /// [`EngineError::NoVersion`]: it fails, takes longer than five seconds, or names no version.
    pub async fn version(&self) -> Result<String, EngineError> {
        if self.leading_args == ["serve"] && host::is_replctl() {
            return Ok(env!("CARGO_PKG_VERSION").to_owned());
        }
        let text = self.version_text().await?;
        parse_version(&text).map(str::to_owned).ok_or_else(|| self.no_version(format!("{:?}", text.lines().next())))
    }

    /// What `--version` prints.
    async fn version_text(&self) -> Result<String, EngineError> {
        let run = Command::new(&self.path).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(VERSION_LIMIT, run)
            .await
            .map_err(|_| self.no_version(format!("no answer in {} s", VERSION_LIMIT.as_secs())))?
            .map_err(|error| self.no_version(error.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.success() || !text.is_empty() {
            true => Ok(text),
            false => Err(self.no_version(output.status.to_string())),
        }
    }

    fn no_version(&self, reason: String) -> EngineError {
        EngineError::NoVersion { program: self.path.clone(), reason }
    }
}

/// The `replctl` for a program that is none: the one that `REPLCTL_PROGRAM` names, the one beside it or one directory above, as cargo
/// builds them, or the one on `PATH`.
fn replctl_near(own: &Path) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("REPLCTL_PROGRAM") {
        return std::path::absolute(named).ok().filter(|path| is_executable(path));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let near = own.ancestors().skip(1).take(2).map(Path::to_owned);
    near.chain(std::env::split_paths(&path)).map(|dir| dir.join("replctl")).find(|path| is_executable(path))
}

fn on_path(name: &str) -> Option<PathBuf> {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&dirs).map(|dir| dir.join(name)).find(|path| is_executable(path))
}

/// The first word that is digits and dots, with or without `v=` before it.
fn parse_version(text: &str) -> Option<&str> {
    text.split_whitespace().map(|word| word.trim_start_matches("v=")).find(|word| {
        word.contains('.') && word.len() <= 32 && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    })
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_what_each_engine_prints() {
        let redis = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d7c971a948f0";
        assert_eq!(parse_version(redis), Some("7.0.15"));
        assert_eq!(parse_version("Valkey server v=8.1.1 sha=00000000:0 malloc=libc bits=64"), Some("8.1.1"));
        assert_eq!(parse_version("repld 0.1.0"), Some("0.1.0"));
        assert_eq!(parse_version("bash: 12: command not found"), None);
    }

    #[test]
    fn a_missing_program_is_named_with_what_to_do() {
        let engine = Engine { family: EngineFamily::Redis, path: Some("/nowhere/redis-server".into()) };
        let error = Program::find(&engine).expect_err("there is no such file");
        assert_eq!(error.to_string(), "/nowhere/redis-server is not an executable file");
        assert!(error.hint().is_some());
    }

    #[tokio::test]
    async fn a_program_that_is_no_server_is_told_from_one() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("mute");
        std::fs::write(&path, "#!/bin/sh\nexit 7\n").expect("the directory is ours");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("the file is ours");
        let error = Program { path, leading_args: &[] }.version().await.expect_err("it prints nothing");
        assert!(error.to_string().contains("did not tell its version"), "{error}");
    }
}
