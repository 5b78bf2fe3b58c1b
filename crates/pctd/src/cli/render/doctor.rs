//! What `doctor` explains: sentences, those first that the others rest on.

use pctd_core::doctor::{DoctorMount, DoctorReport};

use super::line;
use crate::cli::style::{Palette, Tone};

/// Returns an explanation as text.
pub(crate) fn doctor(report: &DoctorReport, palette: Palette) -> String {
    let mut text = String::new();
    let title = match &report.path {
        Some(path) => format!("container {}, {}", report.ctid, path.asked),
        None => format!("container {}", report.ctid),
    };
    line(&mut text, format_args!("{}", palette.paint(Tone::Heading, title)));
    for mount in report.mounts.iter().filter(|_| report.path.is_none()) {
        line(&mut text, format_args!("  {}", mounted(mount)));
    }
    for finding in &report.findings {
        if finding.problem {
            let reason = palette.paint(Tone::Hold, format!("! {}", finding.reason));
            line(&mut text, format_args!("  {reason}: {}", finding.message));
        } else {
            line(&mut text, format_args!("  {}", finding.message));
        }
    }
    text
}

fn mounted(mount: &DoctorMount) -> String {
    let DoctorMount { key, line, source, target, volume, pending, going, own_idmap, ids } = mount;
    let by = key.map(|key| key.to_string()).or_else(|| line.clone()).unwrap_or_default();
    let whose = match volume {
        Some(volume) => format!("volume {volume}"),
        None => "of no volume".to_owned(),
    };
    let mut more = String::new();
    for (is, what) in [
        (*pending, ", waits for a restart"),
        (*going, ", goes away at the next restart"),
        (*own_idmap, ", with an id map of its own"),
    ] {
        if is {
            more.push_str(what);
        }
    }
    if let Some(ids) = ids {
        more = format!("{more}: {ids}");
    }
    format!("{by}: {source} at {target}, {whose}{more}")
}

#[cfg(test)]
mod tests {
    use pctd_core::doctor::{DoctorPath, Finding};
    use pctd_core::ids::MpKey;

    use super::*;

    #[test]
    fn problems_stand_out_and_mounts_are_left_out_where_a_path_is_asked_for() {
        let finding = |reason: &str, problem, message: &str| Finding {
            reason: reason.to_owned(),
            problem,
            message: message.to_owned(),
        };
        let mount = |key, pending| DoctorMount {
            key: (key < 2).then(|| MpKey::new(key)),
            line: (key == 2).then(|| "lxc.mount.entry: ...".to_owned()),
            source: "/tank/a".to_owned(),
            target: "/a".to_owned(),
            volume: (key == 0).then(|| "a".parse().unwrap()),
            pending,
            going: false,
            own_idmap: pending,
            ids: pending.then(|| "every id inside is the same on disk".to_owned()),
        };
        let mut report = DoctorReport {
            version: 1,
            ctid: "100".parse().unwrap(),
            presence: "here".to_owned(),
            idmap: Vec::new(),
            mounts: vec![mount(0, false), mount(1, true), mount(2, false)],
            path: None,
            findings: vec![
                finding("IdMap", false, "container 100 is privileged"),
                finding("Locked", true, "it is locked"),
            ],
        };
        let expected = "\
container 100
  mp0: /tank/a at /a, volume a
  mp1: /tank/a at /a, of no volume, waits for a restart, with an id map of its own: every id inside is the same on disk
  lxc.mount.entry: ...: /tank/a at /a, of no volume
  container 100 is privileged
  ! Locked: it is locked
";
        assert_eq!(doctor(&report, Palette::none()), expected);
        report.path = Some(DoctorPath {
            asked: "/a/x".to_owned(),
            host: "/tank/a/x".to_owned(),
            inside: None,
            mount: None,
            volume: None,
            entry: None,
        });
        let expected = "\
container 100, /a/x
  container 100 is privileged
  ! Locked: it is locked
";
        assert_eq!(doctor(&report, Palette::none()), expected);
    }
}
