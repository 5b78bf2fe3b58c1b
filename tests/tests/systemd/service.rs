//! What systemd and the journal are told.

use pctd_tests::world::UNPRIVILEGED;
use serde_json::{Value, json};

use crate::machine::{Machine, until};

/// Returns these fields of an entry of the journal.
fn fields(entry: &Value, names: &[&str]) -> Value {
    names.iter().map(|name| ((*name).to_owned(), entry[name].clone())).collect()
}

fn config(volumes: &str) -> String {
    format!(
        r#"{{"settings": {{"seed_defaults": false, "poll_interval": "100ms"}},
            "shared_volumes": {{{volumes}}}}}"#
    )
}

const DATA: &str = r#""data": {"host_path": "/tank/data", "owner": "container_root",
    "dir_mode": "0750", "mounts": {"953": "/data", "950": "/data"}}"#;

#[test]
fn the_journal_has_what_was_done_by_its_fields_and_with_its_priority() {
    let Some(machine) = Machine::node() else { return };
    machine.container(953, &[UNPRIVILEGED]);
    machine.container(950, &[UNPRIVILEGED, "protection: 1"]);
    machine.boot_and_install();
    machine.configure(&config(DATA));

    let names = ["CTID", "STEP", "KEY", "VALUE", "MESSAGE", "PRIORITY", "_SYSTEMD_UNIT"];
    let entries = machine.until_logged("CTID=953 STEP=set_mount");
    let entries: Vec<Value> = entries.iter().map(|entry| fields(entry, &names)).collect();
    let information = json!({
        "CTID": "953", "STEP": "set_mount", "KEY": "mp0", "VALUE": "/tank/data,mp=/data",
        "MESSAGE": "953: set mp0: /tank/data,mp=/data", "PRIORITY": "6",
        "_SYSTEMD_UNIT": "pctd.service",
    });
    assert_eq!(entries, [information]);

    let names = ["CTID", "REASON", "PRIORITY"];
    let entries = machine.until_logged("-p warning CTID=950");
    let entries: Vec<Value> = entries.iter().map(|entry| fields(entry, &names)).collect();
    assert_eq!(entries, [json!({"CTID": "950", "REASON": "Protected", "PRIORITY": "4"})]);

    assert_eq!(machine.journal("-p err"), Vec::<Value>::new());
    machine.configure("{");
    let entries = machine.until_logged("-p err");
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!(entries[0]["PRIORITY"], "3");
    let message = entries[0]["MESSAGE"].as_str().unwrap();
    assert!(message.contains("/etc/pctd/config.json:1:"), "{message}");
}

#[test]
fn systemd_is_told_how_it_goes() {
    let Some(machine) = Machine::node() else { return };
    machine.container(953, &[UNPRIVILEGED]);
    machine.container(950, &[UNPRIVILEGED, "protection: 1"]);
    machine.boot_and_install();
    machine.configure(&config(DATA));
    until("the status text", || machine.show("StatusText") == "2 of 3 in place, 1 held");
}

#[test]
fn a_reload_reads_what_no_event_told_of() {
    let Some(machine) = Machine::node() else { return };
    machine.container(953, &[UNPRIVILEGED]);
    machine.boot_and_install();
    // Written through a link, so that the directory that is watched does not change; and nothing
    // looks at the files again by itself.
    machine.write("/srv/more.json", "{}");
    machine.ok("ln -s /srv/more.json /etc/pctd/conf.d/more.json");
    machine.configure(r#"{"settings": {"seed_defaults": false, "poll_interval": "1h"}}"#);
    machine.ok("systemctl restart pctd");
    let main = machine.show("MainPID");
    machine.write("/srv/more.json", &format!(r#"{{"shared_volumes": {{{DATA}}}}}"#));
    machine.ok("sleep 3");
    assert_eq!(machine.journal("CTID=953"), Vec::<Value>::new(), "nothing told of it");
    machine.ok("systemctl reload pctd");
    machine.until_logged("CTID=953 STEP=set_mount");
    assert_eq!(machine.show("MainPID"), main, "it is the same process");
    assert_eq!(machine.show("ActiveState"), "active");
    // A reload that changes nothing says nothing more.
    let lines = machine.journal("_COMM=pctd").len();
    machine.ok("systemctl reload pctd; systemctl reload pctd");
    machine.until_converged();
    assert_eq!(machine.journal("_COMM=pctd").len(), lines);
}
