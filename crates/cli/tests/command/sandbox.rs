//! A folder with a tiny model and a few rows, in which the command runs with relative paths.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

pub(crate) const ROWS: &str = r#"{"instruction": "Name a colour.", "input": "", "output": "Red is a colour."}
{"instruction": "Add.", "input": "2 and 3", "output": "5"}
{"instruction": "Say hello.", "input": "", "output": "Hello there!"}
{"instruction": "Count to three.", "input": "", "output": "One, two, three."}
"#;

pub(crate) struct Sandbox {
    root: TempDir,
}

impl Sandbox {
    pub(crate) fn new(family: &str) -> Self {
        Self::within(&std::env::temp_dir(), family)
    }

    /// In a folder of `parent`.
    pub(crate) fn within(parent: &Path, family: &str) -> Self {
        let root = tempfile::tempdir_in(parent).unwrap();
        testkit::tiny_model(family, &root.path().join("model"));
        std::fs::write(root.path().join("rows.jsonl"), ROWS).unwrap();
        Self { root }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    /// The command with `line`'s words, ready to start.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = self.command_of(Path::new(env!("CARGO_BIN_EXE_lowrank")));
        command.args(line.split(' ').filter(|word| !word.is_empty()));
        command
    }

    /// The same of a copy of the command.
    pub(crate) fn command_of(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.root.path())
            .env_remove("COLUMNS") // clap would wrap at it
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// Runs what must succeed.
    pub(crate) fn done(&self, line: &str) {
        let output = self.run(line);
        let talk = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {talk}");
    }

    /// Exit code, stdout and stderr; the folder's own path is normalised.
    pub(crate) fn told(&self, output: &Output) -> String {
        let mut text = format!("exit: {}\n", output.status.code().unwrap_or(-1));
        let stdout = String::from_utf8_lossy(&output.stdout);
        if !stdout.is_empty() {
            text.push_str(&format!("stdout: {stdout}"));
        }
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        let root = self.root.path();
        for path in [root.canonicalize().unwrap(), root.to_owned()] {
            text = text.replace(&path.to_string_lossy().into_owned(), "<root>");
        }
        text
    }
}

/// The words of a training run on the sandbox's model and rows.
pub(crate) fn train(rest: &str) -> String {
    format!("train --model model --dataset rows.jsonl --output-dir lora --max-steps 2 {rest}")
}

pub(crate) fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
