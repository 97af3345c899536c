//! From files, standard input and the command line to a [`Config`].

use std::ffi::OsString;
use std::io::Read;

use super::{Config, Origin};

/// Why a configuration could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("todo")]
pub struct ConfigError;

impl Config {
    /// Reads `[CONF|-] [--directive value …]`.
    pub fn load(arguments: &[OsString], stdin: &mut dyn Read) -> Result<Config, ConfigError> {
        let _ = (arguments, stdin);
        Ok(Config::default())
    }

    /// The directives whose name or alias matches one of the glob `patterns`, as `CONFIG GET` shows them.
    pub fn get(&self, patterns: &[&[u8]]) -> Vec<(&'static str, Vec<u8>)> {
        let _ = patterns;
        Vec::new()
    }

    /// Changes all the directives named, or none: `CONFIG SET`. Returns the names (not the aliases) of those that
    /// have another value than before.
    ///
    /// # Errors
    /// Redis's text, to be sent after `-ERR `.
    pub fn set(&mut self, assignments: &[(&[u8], &[u8])], client: Origin) -> Result<Vec<&'static str>, String> {
        let _ = (assignments, client);
        Ok(Vec::new())
    }

    /// `CONFIG REWRITE`.
    pub fn rewrite(&self) -> Result<(), String> {
        Ok(())
    }
}
