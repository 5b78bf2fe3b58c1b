//! The pure part of pctd (map to be written).

pub mod conf;
pub mod desired;
pub mod idmap;
pub mod ids;
pub mod ledger;
pub mod modes;
pub mod observed;
pub mod ownership;
