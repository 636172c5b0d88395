//! Which system calls each kind of thread makes once it is confined, and with which arguments.
//!
//! Each list is in the order of the calls' numbers on x86-64, with a word on what a call is for. A
//! call that no run under load has been seen to make does not belong here: `tests/sandbox/unused`
//! finds those. A library's own calls (memory, locks, the end of a thread) are the same everywhere:
//! [`EVERY_THREAD`].

use libc::*;

use super::requests;

/// A system call that may be made.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Its number.
    pub number: c_long,
    /// With which argument; `None`: with any.
    pub argument: Option<Argument>,
}

/// What an argument must be; `index` counts from 0.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// One of these values.
    OneOf {
        /// Which argument.
        index: u8,
        /// Lower halves count.
        values: &'static [u64],
    },
    /// All of these bits, whatever else.
    With {
        /// Which argument.
        index: u8,
        /// A mask.
        bits: u64,
    },
    /// None of these bits, whatever else.
    Without {
        /// Which argument.
        index: u8,
        /// A mask.
        bits: u64,
    },
}

const fn any(number: c_long) -> Call {
    Call { number, argument: None }
}

const fn one_of(number: c_long, index: u8, values: &'static [u64]) -> Call {
    Call { number, argument: Some(Argument::OneOf { index, values }) }
}

const fn without(number: c_long, index: u8, bits: u64) -> Call {
    Call { number, argument: Some(Argument::Without { index, bits }) }
}

const fn with(number: c_long, index: u8, bits: c_int) -> Call {
    Call { number, argument: Some(Argument::With { index, bits: bits as u64 }) }
}

const fn ioctl(requests: &'static [u64]) -> Call {
    one_of(SYS_ioctl, 1, requests)
}

/// What every thread does: it has memory, locks and events, sleeps, logs and ends.
pub const EVERY_THREAD: &[Call] = &[
    any(SYS_read),                              // eventfds
    any(SYS_write),                             // eventfds; a report's file
    any(SYS_close),                             // whatever it holds last
    any(SYS_poll),                              // waits
    without(SYS_mmap, 2, PROT_EXEC as u64),     // memory, never code
    without(SYS_mprotect, 2, PROT_EXEC as u64), // glibc's heaps grow so
    any(SYS_munmap),                            // memory
    any(SYS_brk),                               // memory
    any(SYS_rt_sigprocmask),                    // the end of a thread
    any(SYS_rt_sigreturn),                      // a vCPU's kick
    any(SYS_sched_yield),                       // a channel that both ends hold at once
    any(SYS_mremap),                            // vectors grow so
    any(SYS_madvise),                           // memory given back
    any(SYS_exit),                              // the end of a thread
    #[cfg(debug_assertions)]
    one_of(SYS_fcntl, 1, &[F_GETFD as u64]), // whether what is closed was open
    any(SYS_sigaltstack),                       // the end of a thread
    one_of(SYS_prctl, 0, &[PR_GET_NAME as u64]), // a report
    any(SYS_gettid),                            // its number: at its start, and in a panic's words
    any(SYS_futex),                             // locks
    any(SYS_restart_syscall),                   // a wait goes on after SIGCONT
    any(SYS_clock_gettime),                     // where the vDSO cannot tell
    any(SYS_exit_group),                        // a report
    any(SYS_getrandom),                         // hash tables
];

/// The cgroup's files and the process's, which are open.
pub const MEMORY: &[Call] = &[
    any(SYS_pread64),
    any(SYS_mlock), // the program's own pages
];

/// Files that are opened by name, and read. musl and glibc do it by different calls.
pub const FILES: &[Call] = &[
    any(SYS_open),
    any(SYS_stat),
    any(SYS_fstat),
    any(SYS_lseek),
    any(SYS_fcntl), // musl's open; descriptors are duplicated
    any(SYS_openat),
    any(SYS_newfstatat),
    any(SYS_statx),
];

/// A vCPU: guest code, and the registers of every device.
pub const VCPU: &[Call] = &[
    one_of(SYS_ioctl, 1, &[requests::KVM_RUN]),
    ioctl(requests::KVM_REGISTERS),
    ioctl(requests::KVM_PLACES),
    ioctl(requests::TAP), // a driver starts its interface
    any(SYS_eventfd2),    // a queue's thread is told to stop by one
];

/// The machine: resets, what is booted after them, and the last flush.
pub const MACHINE: &[Call] = &[
    ioctl(requests::KVM_PLACES),    // devices are reset
    ioctl(requests::KVM_CHIPS),     // the board is
    ioctl(requests::TAP),           // an interface is
    ioctl(requests::BLOCK_DEVICE),  // an image's clusters
    any(SYS_pread64),               // an image's tables
    any(SYS_pwrite64),              // an image's tables
    any(SYS_getpid),                // glibc: vCPUs are stopped
    any(SYS_fdatasync),             // disks
    any(SYS_ftruncate),             // an image grows
    one_of(SYS_tkill, 1, &[KICK]),  // musl: the same
    one_of(SYS_tgkill, 2, &[KICK]), // glibc: the same
    any(SYS_fallocate),             // an image's clusters
];

/// SIGRTMIN, as libraries count it: glibc and musl keep the first signals to themselves.
#[cfg(target_env = "musl")]
const KICK: u64 = 35;
#[cfg(not(target_env = "musl"))]
const KICK: u64 = 34;

/// A reader of the guest's file systems.
pub const GUESTFS: &[Call] = &[
    any(SYS_pread64), // an image's tables
    any(SYS_preadv),  // images
];

/// A disk's queue.
pub const DISK: &[Call] = &[
    any(SYS_fstat),                                    // how long a file is
    any(SYS_lseek),                                    // holes of a base
    ioctl(requests::BLOCK_DEVICE),                     // discard, zeroes
    any(SYS_pread64),                                  // an image's tables
    any(SYS_pwrite64),                                 // the same
    any(SYS_fcntl),                                    // how a file was opened
    any(SYS_fdatasync),                                // flush
    any(SYS_ftruncate),                                // an image grows
    any(SYS_fstatfs),                                  // whether reads may be tried without waiting
    any(SYS_timerfd_create),                           // limits
    any(SYS_fallocate),                                // discard, zeroes
    any(SYS_timerfd_settime),                          // limits
    any(SYS_eventfd2),                                 // events
    any(SYS_preadv),                                   // without io_uring
    any(SYS_pwritev),                                  // the same
    any(SYS_preadv2),                                  // what is in the page cache
    any(SYS_pwritev2),                                 // the same
    any(SYS_statx),                                    // how long a file is
    any(SYS_io_uring_enter),                           // transfers, and waiting
    one_of(SYS_io_uring_register, 1, &[ENABLE_RINGS]), // its own ring, which was made before
];

/// IORING_REGISTER_ENABLE_RINGS.
const ENABLE_RINGS: u64 = 12;

/// A pair of an interface's queues, or their control queue.
pub const NET: &[Call] = &[
    ioctl(requests::TAP),
    ioctl(requests::VHOST),
    ioctl(requests::KVM_PLACES), // interrupts are handed to the kernel
    any(SYS_readv),              // frames
    any(SYS_writev),             // frames
    any(SYS_eventfd2),           // errors of the kernel's
];

/// The sockets between host and guest.
pub const VSOCK: &[Call] = &[
    one_of(SYS_socket, 0, &[AF_UNIX as u64]), // to a program of the host
    any(SYS_connect),                         // the same
    any(SYS_sendto),                          // data
    any(SYS_recvfrom),                        // data
    any(SYS_shutdown),                        // the end of one direction
    any(SYS_accept4),                         // from a program of the host
];

/// The painter.
pub const PAINTER: &[Call] = &[ioctl(requests::KVM_DISPLAY)];

/// Whoever accepts connections.
pub const LISTENER: &[Call] = &[
    one_of(SYS_ioctl, 1, &[requests::FIONBIO]),
    any(SYS_setsockopt), // buffers, keep-alive
    any(SYS_accept4),
];

/// One connection: a viewer, a browser, a scraper, `berth status`.
pub const CONNECTION: &[Call] = &[
    one_of(SYS_ioctl, 1, &[requests::FIONBIO]),
    any(SYS_pread64), // /proc, opened before
    any(SYS_writev),  // answers
    any(SYS_mincore), // how much of the guest's memory is there
    one_of(SYS_socket, 0, &[AF_INET as u64, AF_INET6 as u64]), // --ready tcp:PORT
    any(SYS_connect), // the same
    any(SYS_sendto),  // answers; netlink's questions
    any(SYS_recvfrom), // requests; netlink's answers
    any(SYS_getsockopt), // --ready tcp:PORT
    any(SYS_eventfd2), // a console is followed
    any(SYS_openat2), // noVNC
];

/// Hears signals.
pub const SIGNALS: &[Call] = &[
    any(SYS_wait4), // children that a process 1 has inherited
];

/// The main thread, which waits, and cleans up.
pub const MAIN: &[Call] = &[
    ioctl(requests::TERMINAL), // raw mode, and back
    any(SYS_sendto),           // what the interface has counted
    any(SYS_recvfrom),         // the same
    any(SYS_unlink),           // the control socket
    any(SYS_getpgrp),          // glibc: whether the terminal is ours
    any(SYS_getpgid),          // musl: the same
    any(SYS_pipe2),            // console input is told to stop by one
];

/// The process that takes a network back.
pub const CARETAKER: &[Call] = &[
    any(SYS_nanosleep),                       // a wait: older libraries
    one_of(SYS_socket, 0, &[AF_UNIX as u64]), // the lock
    any(SYS_sendto),                          // netlink
    any(SYS_recvfrom),                        // netlink
    any(SYS_bind),                            // the lock
    any(SYS_listen),                          // the lock
    any(SYS_clock_nanosleep),                 // the same
];

/// What nothing but the start of threads and of the machine takes.
pub const STARTING: &[Call] = &[
    any(SYS_rt_sigaction),            // the vCPUs' kick
    with(SYS_clone, 0, CLONE_THREAD), // threads, never processes
    any(SYS_rmdir),                   // what was made for a machine that does not start
    any(SYS_prctl),                   // a thread's name; filters
    any(SYS_sched_getaffinity),       // glibc: where a stack is
    any(SYS_getdents64),              // the vCPUs' threads are found
    any(SYS_set_robust_list),         // glibc: a thread
    any(SYS_seccomp),                 // a thread's filter
    any(SYS_rseq),                    // glibc: a thread
    any(SYS_io_uring_setup),          // a queue's ring
    any(SYS_io_uring_register),       // its limits
    any(SYS_clone3),                  // glibc: answered with ENOSYS
    any(SYS_landlock_restrict_self),  // files
];
