//! System call filters (seccomp(2)): lists of [`calls`](super::calls) made into programs of the
//! kernel's, and given to the calling thread.
//!
//! Filters add up: a thread is under that of its own kind and under those of the threads that it
//! descends from. [`base`] is the one for the whole process. Of arguments it knows few, so that most
//! are looked at once.

use std::collections::{BTreeMap, BTreeSet};

use libc::{ENOSYS, SYS_clone3};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::calls::{self, Argument, Call};
use super::threads::Kind;
use super::{Enforcement, SandboxError, refused};

/// The programs, ready to be applied.
pub struct Filters {
    /// In the order of [`Kind::ALL`].
    kinds: Vec<BpfProgram>,
    /// For the whole process: what any thread needs, and what starts them.
    pub base: BpfProgram,
    /// For the whole process: `clone3`, whose flags no filter can see, is not there, so that glibc
    /// goes back to `clone`.
    pub no_clone3: BpfProgram,
}

impl Filters {
    /// That of `kind`. Empty: the kind has none.
    pub fn of(&self, kind: Kind) -> &BpfProgram {
        static NONE: BpfProgram = Vec::new();
        self.kinds.get(kind as usize).unwrap_or(&NONE)
    }
}

/// Makes every filter.
///
/// # Errors
/// [`SandboxError::Refused`]: a list that is no filter is a mistake in it, and tests find it.
pub fn compile_all(mode: Enforcement) -> Result<Filters, SandboxError> {
    let otherwise = match mode {
        Enforcement::Log => SeccompAction::Log,
        Enforcement::On | Enforcement::Off => SeccompAction::Trap,
    };
    let kinds = Kind::ALL.into_iter().map(|kind| match kind.calls() {
        Some(own) => compile(
            calls::EVERY_THREAD.iter().chain(own.iter().copied().flatten()).copied(),
            otherwise.clone(),
        ),
        None => Ok(Vec::new()),
    });
    let kinds = kinds.collect::<Result<_, _>>()?;
    let rules = BTreeMap::from([(SYS_clone3, Vec::new())]);
    let absent = SeccompAction::Errno(ENOSYS as u32);
    Ok(Filters {
        kinds,
        base: compile(base().into_iter(), otherwise)?,
        no_clone3: program(rules, SeccompAction::Allow, absent)?,
    })
}

/// Gives the calling thread `filter`.
///
/// # Errors
/// The kernel refuses.
pub fn apply(filter: &BpfProgram) -> Result<(), seccompiler::Error> {
    if filter.is_empty() {
        return Ok(());
    }
    seccompiler::apply_filter(filter)
}

/// What the whole process may do: whatever one of its threads may.
fn base() -> Vec<Call> {
    let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Caretaker);
    let kinds = kinds.filter_map(Kind::calls).flatten().copied().flatten();
    let mut all: Vec<Call> = calls::EVERY_THREAD.iter().chain(kinds).copied().collect();
    for call in &mut all {
        // That no memory is code is true of every thread.
        if !matches!(call.argument, Some(Argument::Without { .. })) {
            call.argument = None;
        }
    }
    all.extend(calls::STARTING);
    all.sort_by_key(|call| call.number);
    all.dedup_by_key(|call| call.number);
    all
}

fn compile(
    calls: impl Iterator<Item = Call>,
    otherwise: SeccompAction,
) -> Result<BpfProgram, SandboxError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut unconditional = BTreeSet::new();
    for call in calls {
        if call.argument.is_none() {
            unconditional.insert(call.number);
        }
        let conditions = match call.argument {
            None => Vec::new(),
            Some(Argument::OneOf { index, values }) => (values.iter())
                .map(|value| condition(index, SeccompCmpOp::Eq, *value))
                .collect::<Result<_, _>>()
                .map_err(wrong)?,
            Some(Argument::Without { index, bits }) => {
                vec![condition(index, SeccompCmpOp::MaskedEq(bits), 0).map_err(wrong)?]
            }
            Some(Argument::With { index, bits }) => {
                vec![condition(index, SeccompCmpOp::MaskedEq(bits), bits).map_err(wrong)?]
            }
        };
        // Any one of them will do.
        let any: Result<Vec<_>, _> =
            conditions.into_iter().map(|one| SeccompRule::new(vec![one])).collect();
        rules.entry(call.number).or_default().extend(any.map_err(wrong)?);
    }
    // None at all means that none is needed, whatever another list says of the same call.
    for number in unconditional {
        rules.insert(number, Vec::new());
    }
    program(rules, otherwise, SeccompAction::Allow)
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, SandboxError> {
    let filter = SeccompFilter::new(rules, otherwise, matched, TargetArch::x86_64);
    filter.and_then(TryInto::try_into).map_err(wrong)
}

fn wrong(error: seccompiler::BackendError) -> SandboxError {
    refused("a filter")(&error)
}

/// Arguments are compared by their lower halves, as the kernel takes them: requests and flags are
/// `unsigned int` there, but that of `clone`, which has no flags above.
fn condition(
    index: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
}
