//! Writes the seeds of every fuzz target below a directory, one folder for each.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(dir), None) = (args.next(), args.next()) else {
        eprintln!("usage: seeds DIR");
        return ExitCode::from(2);
    };
    match write(Path::new(&dir)) {
        Ok(count) => {
            println!("{count} seeds in {}", Path::new(&dir).display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("seeds cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(dir: &Path) -> io::Result<usize> {
    let seeds = pctd_fuzz::seeds::all()?;
    for (at, seed) in seeds.iter().enumerate() {
        let folder = dir.join(seed.target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("seed-{at}")), &seed.bytes)?;
    }
    Ok(seeds.len())
}
