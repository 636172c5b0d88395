# What a cluster's nodes forbid a container by RuntimeDefault, as an OCI seccomp profile. The defaults of
# containerd and CRI-O are lists of what is allowed; this is what they leave out on x86-64 for a
# container without SYS_ADMIN and its like, of what Linux has.
def forbidden: {
    names: [
        "acct", "add_key", "bpf", "clock_adjtime", "clock_settime", "create_module", "delete_module",
        "fanotify_init", "finit_module", "fsconfig", "fsmount", "fsopen", "fspick", "get_kernel_syms",
        "get_mempolicy", "init_module", "io_uring_enter", "io_uring_register", "io_uring_setup", "ioperm",
        "iopl", "kcmp", "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "mbind", "mount",
        "mount_setattr", "move_mount", "move_pages", "nfsservctl", "open_by_handle_at", "open_tree",
        "perf_event_open", "pivot_root", "query_module", "quotactl", "quotactl_fd", "reboot", "request_key",
        "set_mempolicy", "setdomainname", "sethostname", "setns", "settimeofday", "stime", "swapoff", "swapon",
        "_sysctl", "sysfs", "syslog", "umount", "umount2", "unshare", "uselib", "userfaultfd", "ustat", "vhangup"
    ],
    action: "SCMP_ACT_ERRNO",
    errnoRet: 1
};
{
    defaultAction: "SCMP_ACT_ALLOW",
    architectures: ["SCMP_ARCH_X86_64"],
    syscalls: [
        forbidden,
        # New namespaces; clone3 hides its flags, and is not there.
        {names: ["clone"], action: "SCMP_ACT_ERRNO", errnoRet: 1,
            args: [{index: 0, value: 2114060288, valueTwo: 2114060288, op: "SCMP_CMP_MASKED_EQ"}]},
        {names: ["clone3"], action: "SCMP_ACT_ERRNO", errnoRet: 38},
        # Sockets of the kind vsock.
        {names: ["socket"], action: "SCMP_ACT_ERRNO", errnoRet: 1, args: [{index: 0, value: 40, op: "SCMP_CMP_EQ"}]}
    ]
}
