//! The pure part of pctd (map to be written).

pub mod condition;
pub mod conf;
pub mod config;
pub mod desired;
pub mod idmap;
pub mod ids;
pub mod ledger;
pub mod modes;
pub mod observed;
pub mod ownership;
pub mod plan;
pub mod presence;
pub mod report;
pub mod vmlist;
