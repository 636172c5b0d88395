# shellcheck shell=bash disable=SC2154
#
# machine.sh - what this machine has, and where a command finds KVM.
#
# Sourced by run, demo, chart/run, container/* and bench/run, which define die and say, and set clone (this
# clone's directory), target (cargo's) and logs (a directory in it).

have() { command -v "$1" >/dev/null 2>&1; }

need_programs() { # PROGRAM=PACKAGE...: install what is missing, or say how
    local pair missing=()
    for pair in "$@"; do have "${pair%%=*}" || missing+=("${pair#*=}"); done
    ((${#missing[@]})) || return 0
    have apt-get || die "missing: ${missing[*]} (Debian's names); this machine has no apt-get to install them with"
    ((EUID == 0)) || die "missing; as root: apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get -q -q update && apt-get -q -q install -y --no-install-recommends "${missing[@]}"; } >"$logs/apt.log" 2>&1 ||
        { tail -n 20 "$logs/apt.log" >&2; die "apt-get could not install ${missing[*]}"; }
}

need_package_lists() { # the guest builders download packages without installing them
    [[ $(apt-cache depends linux-image-cloud-amd64 2>/dev/null) == *Depends:* ]] && return
    ((EUID == 0)) || die "apt has no package lists; as root: apt-get update"
    say "updating apt's package lists"
    apt-get -q -q update >"$logs/apt.log" 2>&1 || { tail -n 20 "$logs/apt.log" >&2; die "apt-get update failed"; }
}

need_rust() {
    have cargo || die "no cargo: install Rust 1.91 or newer first"
}

# A KVM that runs stock kernels at speed has the processor's own virtualisation
# under it. Paravirtual ones (PVM) offer /dev/kvm without: they interpret.
hardware_kvm() {
    [[ -c /dev/kvm && -r /dev/kvm && -w /dev/kvm ]] && grep -qE '^flags.* (vmx|svm)( |$)' /proc/cpuinfo
}

describe_kvm() {
    if hardware_kvm; then echo "hardware KVM"
    elif [[ -e /dev/kvm ]]; then echo "a nested machine (/dev/kvm here has no processor support under it, or is not ours to open)"
    else echo "a nested machine (no /dev/kvm here)"; fi
}

on_kvm() { # [NESTED-KVM OPTION]... -- COMMAND...: run COMMAND here, or in a nested machine
    if hardware_kvm; then
        while [[ $1 != -- ]]; do shift; done
        shift
        "$@"
    else
        "$clone/tests/nested-kvm" "$@"
    fi
}

# QEMU's TCG may give a nested guest an interrupt twice: what VMRUN injects stays in the CPU's exception_index
# until the next #VMEXIT (helper_vmrun in 7.2), and is delivered again if a time slice ends before that, as they
# do all the time under --icount; also while the guest has interrupts disabled. A guest that then waits for a
# lock waits for ever, and with it, since a pause costs much and moves a clock that counts instructions
# little, everything else. So what is measured says that time goes on.
on_steady_kvm() { # OUT [NESTED-KVM OPTION]... -- COMMAND...: its output to OUT; again if it stands still
    local out=$1 try pid size before still
    shift
    if hardware_kvm; then
        on_kvm "$@" >"$out"
        return
    fi
    for ((try = 1; try <= 4; try++)); do
        "$clone/tests/nested-kvm" --icount "$@" >"$out" 2>"$out.log" &
        pid=$! before=-1 still=0
        while kill -0 "$pid" 2>/dev/null && ((still < 300)); do
            sleep 2
            size=$(stat -c %s "$out.log")
            if ((size == before)); then still=$((still + 2)); else still=0; fi
            before=$size
        done
        if ((still < 300)); then
            wait "$pid" && return
            grep -v '^time goes on' "$out.log" >&2 || :
            return 1
        fi
        kill "$pid" 2>/dev/null || :
        wait "$pid" || :
        say "the emulated machine stands still: again"
    done
    die "the emulated machine stood still four times"
}

time_goes_on() { # in the machine: says so every second, to standard error, until killed
    while sleep 1; do echo 'time goes on' >&2; done
}

target_dir() { # where cargo puts things, also when configured elsewhere
    (cd "$clone" && cargo metadata --format-version 1 --no-deps) | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'
}

build_release() { # sets berth: the program as it ships, static where the target is installed
    local triple=x86_64-unknown-linux-musl options=()
    if [[ -d $(rustc --print target-libdir --target "$triple" 2>/dev/null) ]]; then
        options=(--target "$triple")
        berth=$target/$triple/release/berth
    else
        say "the target $triple is not installed, so the program is not static (rustup target add $triple)"
        berth=$target/release/berth
    fi
    say "building the release program"
    (cd "$clone" && cargo build --quiet --release "${options[@]}" -p berth-launcher)
    [[ -x $berth ]] || die "cargo left no $berth"
}

need_novnc() { # noVNC's files, without the server that its package wants; exports where they are
    export BERTH_TEST_NOVNC=$target/novnc/usr/share/novnc
    [[ ! -e $BERTH_TEST_NOVNC/core/rfb.js ]] || return 0
    need_package_lists
    rm -rf "$target/novnc"
    mkdir -p "$target/novnc"
    (cd "$target/novnc" && apt-get -q -q download novnc && dpkg-deb --extract novnc_*.deb .) >>"$logs/apt.log" 2>&1 ||
        { tail -n 20 "$logs/apt.log" >&2; die "noVNC's package cannot be had"; }
}

venv() { # NAME PACKAGE...: the path of a virtual environment of Python with these packages
    local path=${CARGO_TARGET_DIR:-$clone/target}/python/$1 wanted="${*:2}"
    if [[ ! -e $path/ready || $(<"$path/ready") != "$wanted" ]]; then
        need_programs python3=python3 >&2
        # A module, not a program: what is looked for is never found, and so installed.
        python3 -c 'import ensurepip, venv' 2>/dev/null || need_programs 'python3 -m venv'=python3-venv >&2
        say "installing ${wanted}" >&2
        python3 -m venv --clear "$path" >&2 || return
        "$path/bin/pip" -q --disable-pip-version-check install "${@:2}" >&2 || return
        printf '%s\n' "$wanted" >"$path/ready"
    fi
    printf '%s' "$path"
}

need_vncdotool() { # a viewer for scripts, of which Debian has no package; exports where it is
    local path
    if path=$(venv viewer vncdotool==1.4.2) && [[ -x $path/bin/vncdo ]]; then
        export BERTH_TEST_VNCDO=$path/bin/vncdo
    else
        say "vncdotool cannot be had from here: what it tests is left out"
    fi
}
