//! The environment in which cargo builds the workspace.

use std::process::Command;

use crate::failure::Result;
use crate::layout::{Layout, TargetLock};
use crate::{libclang, python, rocksdb, system};

/// Variables for cargo and for the tests it runs, in the order in which they are printed.
pub struct BuildEnv {
    variables: Vec<(&'static str, String)>,
    _target: Option<TargetLock>,
}

impl BuildEnv {
    /// Puts compiler, libclang and RocksDB in place.
    pub fn prepare(layout: &Layout) -> Result<Self> {
        system::ensure_compiler()?;
        let mut variables = vec![("LIBCLANG_PATH", libclang::ensure(layout)?.display().to_string())];
        variables.extend(libclang::bindgen_arguments().map(|arguments| ("BINDGEN_EXTRA_CLANG_ARGS", arguments)));
        let library = rocksdb::ensure(layout, &variables)?;
        variables.push(("ROCKSDB_LIB_DIR", library.display().to_string()));
        variables.push(("ROCKSDB_STATIC", "1".to_string()));
        let target = layout.own_target()?;
        variables.push(("CARGO_TARGET_DIR", layout.target.display().to_string()));
        Ok(BuildEnv { variables, _target: Some(target) })
    }

    /// As `prepare`, and the engine that tests compare SQL results with.
    pub fn prepare_for_tests(layout: &Layout) -> Result<Self> {
        // First, because it takes seconds: who has no network learns it before the long compilation.
        let oracle = python::ensure_oracle(layout)?;
        let mut env = BuildEnv::prepare(layout)?;
        env.variables.push(("WEIR_ORACLE_PYTHON", oracle.display().to_string()));
        Ok(env)
    }

    pub fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("cargo");
        command.args(arguments).envs(self.variables.iter().map(|(name, value)| (name, value)));
        // What `cargo run` has told this program about its own package. ring's build script looks at it, so that ring
        // and all above it would be compiled anew whenever this cargo and a plain one take turns.
        let of_this_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_this_package)) {
            command.env_remove(name);
        }
        command
    }

    /// Lines for a POSIX shell to evaluate.
    pub fn exports(&self) -> String {
        self.variables
            .iter()
            .map(|(name, value)| format!("export {name}='{}'\n", value.replace('\'', r"'\''")))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::BuildEnv;

    #[test]
    fn quotes_for_the_shell() {
        let env = BuildEnv { variables: vec![("A", "it's $HOME".to_string())], _target: None };
        assert_eq!(env.exports(), "export A='it'\\''s $HOME'\n");
    }
}
