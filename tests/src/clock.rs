//! A clock of one process that a test can set, forward and back, while the process runs.
//!
//! A library (`clock.c`) stands between the process and the C library: the time of day is another
//! one, what only measures (`CLOCK_MONOTONIC`) and what the kernel writes into inodes is as ever.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use crate::world::World;

/// The clock of a daemon that was started with its variables.
#[derive(Debug)]
pub struct Clock {
    offset: File,
    variables: [(&'static str, String); 2],
}

impl Clock {
    /// Makes a clock that is right.
    pub fn new(world: &World) -> Self {
        let [source, library, path] =
            ["clock.c", "clock.so", "clock"].map(|name| world.host("/run").join(name));
        fs::write(&source, include_str!("clock.c")).unwrap();
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .status()
            .expect("there is a C compiler, since this was linked");
        assert!(built.success(), "{}: {built}", source.display());
        let offset = File::create_new(&path).unwrap();
        let text = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
        let variables = [("LD_PRELOAD", text(library)), ("CLOCK_OFFSET", text(path))];
        let clock = Self { offset, variables };
        clock.set(0);
        clock
    }

    /// Sets it so many seconds ahead of the real time, or behind.
    pub fn set(&self, seconds: i64) {
        self.offset.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// Returns what a process has to be started with.
    pub fn variables(&self) -> [(&str, &str); 2] {
        self.variables.each_ref().map(|(name, value)| (*name, value.as_str()))
    }
}
