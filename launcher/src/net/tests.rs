//! The network: plans as data, and plans done in network namespaces of the tests' own.

mod direct;
mod fence;
mod namespace;
mod nat;
mod native;
mod plans;
mod taking;
