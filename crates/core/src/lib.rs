//! The pure part of pctd: what is wanted, what is there, and what follows from the two.
//!
//! Nothing here opens a file, starts a program, asks a clock or waits; everything can be tried in
//! a table. `pctd-node` reads and changes the machine, `pctd` decides when.
//!
//! ```text
//! JSON files --config--> desired --+
//!                                  +--plan--> steps, holds, notices, records
//! confs, /proc --conf, vmlist,     |             |
//!   presence--> observed ----------+             +--condition, report--> people and programs
//! ```
//!
//! - Names and values that can only be valid: [`ids`], [`modes`], [`acl`], [`idmap`];
//!   [`mount_map`] makes the map of one mount.
//! - What is wanted: [`config`] reads and checks the files, [`desired`] is what they say.
//! - What is there: [`conf`] reads a container's conf as Proxmox does, [`vmlist`] and [`presence`]
//!   tell where a container is, [`observed`] is one snapshot of it all, [`ledger`] what pctd did.
//! - What follows: [`plan`], and for each entry of a volume [`ownership`], which [`undo`] takes back;
//!   [`shift`] is another rule for them.
//! - What is said of it: [`condition`], [`report`]; of one container and one path, [`doctor`].
//! - What clients may ask of the daemon: [`request`], and of that what is ordered: [`order`].

pub mod acl;
pub mod condition;
pub mod conf;
pub mod config;
pub mod desired;
pub mod doctor;
pub mod idmap;
pub mod ids;
pub mod ledger;
pub mod modes;
pub mod mount_map;
pub mod observed;
pub mod order;
pub mod ownership;
pub mod plan;
pub mod presence;
pub mod report;
pub mod request;
pub mod shift;
pub mod subids;
pub mod undo;
pub mod vmlist;
