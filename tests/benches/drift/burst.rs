//! Many wrong files at once: a restore from a backup, an archive unpacked by the host's root.

use std::time::{Duration, Instant};

use pctd_tests::machine::cpu_ticked;
use pctd_tests::table::Bound::AtMost;
use pctd_tests::table::Table;
use rustix::fs::{AtFlags, statat};

use crate::subject::{FILE_MODE, OWNER, Subject, make_files};
use crate::{Bench, Measured};

/// How long the count of wrong files may stay the same.
const STUCK: Duration = Duration::from_secs(10);

pub(crate) fn measure(bench: &mut Bench) -> Measured {
    eprintln!("burst");
    let subject = Subject::start(&bench.dir, &[("always", "always")], |_| {})?;
    let (pid, files) = (subject.daemon.pid(), bench.burst);
    let before = cpu_ticked(pid);
    let begun = Instant::now();
    let dirs = make_files(&subject.volume("always"), files, 0, 0o600);
    let made = begun.elapsed();
    let (mut left, mut since) = (u32::MAX, Instant::now());
    let converged = loop {
        let wrong: u32 = dirs.iter().map(|(dir, count)| count_wrong(dir, *count)).sum();
        if wrong == 0 {
            break begun.elapsed();
        }
        if wrong < left {
            (left, since) = (wrong, Instant::now());
        }
        if since.elapsed() > STUCK {
            return Err(format!(
                "{wrong} of {files} files stay wrong: nothing repaired one of them \
                                within {} s",
                STUCK.as_secs()
            ));
        }
        // Looking on costs a core, which the daemon may want.
        std::thread::sleep(Duration::from_millis(50));
    };
    subject.until_quiet()?;
    let cpu = cpu_ticked(pid).saturating_sub(before);
    let micros = cpu.as_secs_f64() * 1e6 / f64::from(files);
    let wrong: u32 = dirs.iter().map(|(dir, count)| count_wrong(dir, *count)).sum();
    let mut table = Table::new(format!("{files} wrong files made at once"), &["", ""]);
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    table.row(["making them".into(), seconds(made)]);
    table
        .row(["all right after the last was made".into(), seconds(converged.saturating_sub(made))]);
    table.row(["CPU of the daemon, for a file".into(), format!("{micros:.1} us")]);
    table.print(bench.style);
    let judge = &mut bench.targets;
    judge.judge("burst: files left wrong", AtMost(0.0), "", Some(f64::from(wrong)));
    judge.judge("burst: CPU of the daemon for a file", AtMost(25.0), " us", Some(micros));
    drop(dirs);
    subject.daemon.stop();
    Ok(())
}

fn count_wrong(dir: &std::fs::File, count: u32) -> u32 {
    let is_wrong = |n: &u32| {
        let stat = statat(dir, format!("file-{n}"), AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.expect("nobody removes it");
        (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777) != (OWNER, OWNER, FILE_MODE)
    };
    u32::try_from((0..count).filter(is_wrong).count()).unwrap_or(u32::MAX)
}
