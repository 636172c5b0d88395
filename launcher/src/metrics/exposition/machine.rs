//! The machine's own metrics: state, stages, vCPUs, memory, who looks on.

use std::fmt;
use std::time::Duration;

use vmm::ExitKind;

use super::super::{Sample, State};
use super::{Family, Labels, Page, alone};

const BUILD: Family = Family::new("build", "The version of Berth");
const STATE: Family = Family::new(
    "state",
    "1 for what the machine does and 0 for the rest: running, paused (it waits for room on the host), \
     stopping (its end was asked for)",
);
const READY: Family = Family::new(
    "ready",
    "1 if the machine is ready by the rule of --ready; tcp:PORT as it was found last by whoever asked",
);
const START: Family =
    Family::seconds("start_time", "When the machine was started, since the beginning of 1970");
const UPTIME: Family = Family::seconds("uptime", "How long ago the machine was started");
const STAGES: Family = Family::seconds(
    "stage_duration",
    "From the start of the machine to when the guest first reached the stage: console (it printed \
     something), lease (it took its address), tcp, cloud-init, ready; absent until then",
);
const RESETS: Family =
    Family::new("guest_resets", "Resets of the machine, by the guest (a reboot) or from outside");
const VIEWERS: Family =
    Family::new("vnc_viewers", "Who watches the screen; absent without a VNC server");
const CONSOLES: Family = Family::new("console_readers", "Serial consoles that are attached");
const EXITS: Family = Family::new(
    "vcpu_exits",
    "Returns of a vCPU from guest mode to Berth: io_in, io_out, mmio_read, mmio_write, interrupted (to \
     stop it), other. Halts and doorbells stay in the kernel",
);
const CPU_TIME: Family = Family::seconds(
    "vcpu_cpu",
    "Processor time of a vCPU's thread: user, which includes the guest's, and system",
);
const GUEST_TIME: Family = Family::seconds(
    "vcpu_guest",
    "Processor time of a vCPU's thread in guest mode, a part of user",
);
const PROCESS_TIME: Family = Family::seconds(
    "process_cpu",
    "Processor time of Berth, all vCPUs included: user, which includes the guest's, and system",
);
const MEMORY: Family = Family::bytes("guest_memory", "The guest's RAM");
const GUEST_RESIDENT: Family =
    Family::bytes("guest_memory_resident", "What of the guest's RAM is in the host's memory");
const RESIDENT: Family = Family::bytes(
    "process_resident_memory",
    "What of Berth is in the host's memory, the guest's RAM included",
);

pub(super) fn write(sample: &Sample, page: &mut Page<'_>) -> fmt::Result {
    page.infos(&BUILD, [vec![("version", sample.version.clone())]])?;
    let state =
        |state: State| (vec![("state", state.word().to_owned())], u32::from(state == sample.state));
    page.gauges(&STATE, State::ALL.map(state))?;
    page.gauges(&READY, alone(Some(u32::from(sample.ready))))?;
    page.gauges(&START, alone(Some(sample.started_at.as_secs_f64())))?;
    page.gauges(&UPTIME, alone(Some(sample.uptime.as_secs_f64())))?;
    let stages = sample.stages.iter();
    let stages = stages.map(|(stage, after)| (stage.word(), after.as_secs_f64()));
    page.gauges(&STAGES, stages.map(|(word, after)| (vec![("stage", word.to_owned())], after)))?;
    page.counters(&RESETS, alone(Some(sample.resets)))?;
    page.gauges(&VIEWERS, alone(sample.vnc_viewers))?;
    page.gauges(&CONSOLES, alone(Some(sample.consoles)))?;
    cpus(sample, page)?;
    page.counters(
        &PROCESS_TIME,
        sample.times.into_iter().flat_map(|times| modes(Labels::new(), times.user, times.system)),
    )?;
    let memory = &sample.memory;
    page.gauges(&MEMORY, alone(Some(memory.guest)))?;
    page.gauges(&GUEST_RESIDENT, alone(memory.guest_resident))?;
    page.gauges(&RESIDENT, alone(memory.process_resident))
}

fn cpus(sample: &Sample, page: &mut Page<'_>) -> fmt::Result {
    let cpus = || (0..).zip(&sample.cpus).map(|(number, cpu)| (label(number), cpu));
    page.counters(
        &EXITS,
        cpus().flat_map(|(labels, cpu)| {
            cpu.exits.iter().map(move |(kind, count)| {
                ([labels.clone(), vec![("kind", exit(*kind).to_owned())]].concat(), *count)
            })
        }),
    )?;
    let times = || cpus().filter_map(|(labels, cpu)| Some((labels, cpu.times?)));
    page.counters(
        &CPU_TIME,
        times().flat_map(|(labels, times)| modes(labels, times.user, times.system)),
    )?;
    page.counters(&GUEST_TIME, times().map(|(labels, times)| (labels, times.guest.as_secs_f64())))
}

fn label(number: u32) -> Labels {
    vec![("vcpu", number.to_string())]
}

fn modes(labels: Labels, user: Duration, system: Duration) -> [(Labels, f64); 2] {
    [("user", user), ("system", system)].map(|(mode, time)| {
        ([labels.clone(), vec![("mode", mode.to_owned())]].concat(), time.as_secs_f64())
    })
}

fn exit(kind: ExitKind) -> &'static str {
    match kind {
        ExitKind::PortIn => "io_in",
        ExitKind::PortOut => "io_out",
        ExitKind::MmioRead => "mmio_read",
        ExitKind::MmioWrite => "mmio_write",
        ExitKind::Interrupted => "interrupted",
        ExitKind::Other => "other",
    }
}
