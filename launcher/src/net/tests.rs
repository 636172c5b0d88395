//! The network: plans as data, and plans done in network namespaces of the tests' own.

mod namespace;
mod native;
mod plans;
