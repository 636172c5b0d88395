# shellcheck shell=bash
#
# kernel.sh - take Debian's kernel packages apart without installing them.
#
# Sourced by nested-kvm and guest/build, which define die, note and have, and set
# cache to a directory that keeps what was fetched.

fetch_deb() { # PACKAGE DIRECTORY: download and unpack, without installing
    local tmp
    { have apt-get && have dpkg-deb; } || die "apt-get and dpkg-deb are needed to fetch $1"
    tmp=$(mktemp -d "$cache/fetch.XXXXXX")
    note "fetching $1"
    (cd "$tmp" && apt-get -q -q -o APT::Sandbox::User="$(id -un)" download "$1") >&2 ||
        { rm -rf "$tmp"; die "cannot download $1 (is 'apt-get update' needed?)"; }
    dpkg-deb -x "$tmp"/*.deb "$2"
    rm -rf "$tmp"
}

kernel_package() { # META: the package that a meta package such as linux-image-amd64 stands for
    local package
    package=$(apt-cache depends "$1" | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    [[ $package ]] || die "apt knows no $1 (is 'apt-get update' needed?)"
    echo "$package"
}

extract_vmlinux() { # BZIMAGE ELF: undo the kernel's self-extraction once, here
    local image=$1 setup offset length magic tool
    field() { od -An -v -t "u$3" -j "$2" -N "$3" -- "$1" | tr -d ' '; }
    setup=$(field "$image" $((0x1f1)) 1)
    offset=$(((${setup/#0/4} + 1) * 512 + $(field "$image" $((0x248)) 4)))
    length=$(field "$image" $((0x24c)) 4)
    magic=$(od -An -v -t x1 -j "$offset" -N 4 -- "$image" | tr -d ' ')
    case $magic in
        fd377a58) tool='xz -dc --single-stream' ;;
        28b52ffd) tool='zstd -dc' ;;
        1f8b*)    tool='gzip -dc' ;;
        02214c18) tool='lz4 -dc' ;;
        *)        die "unknown kernel compression $magic" ;;
    esac
    # The payload is followed by its size, which some decompressors dislike.
    { tail -c "+$((offset + 1))" -- "$image" || :; } | head -c "$length" |
        { $tool 2>/dev/null || :; } >"$2"
    [[ $(head -c 4 -- "$2" | tail -c 3) == ELF ]] || die "no ELF kernel inside $image"
}

drop_signature() { # the taint is harmless here; checking RSA under TCG is slow
    local file=$1 size sig
    [[ $(tail -c 28 -- "$file" | tr -d '\0') == '~Module signature appended~' ]] || return 0
    size=$(stat -c %s -- "$file")
    sig=$((16#$(tail -c 32 -- "$file" | head -c 4 | od -An -v -t x1 | tr -d ' ')))
    truncate -s $((size - 28 - 12 - sig)) -- "$file"
}

index_modules() { # ROOT VERSION: make ROOT/lib/modules/VERSION fit for insmod and modprobe
    find "$1/lib/modules" -name '*.ko.xz' -exec xz -d {} +
    # All three take the directory that holds lib/modules.
    if have depmod; then depmod -b "$1" "$2"
    elif [[ -x /sbin/depmod ]]; then /sbin/depmod -b "$1" "$2"
    else "$(busybox_path)" depmod -b "$1" "$2"; fi
    grep -q '\.ko:' "$1/lib/modules/$2/modules.dep" || die "depmod made no modules.dep in $1"
}

module_files() { # MODULEDIR NAME...: the files to load, in order, from modules.dep
    local base=$1; shift
    awk -v names="$*" -v base="$base" '
        function key(path) { sub(/.*\//, "", path); sub(/\.ko$/, "", path); gsub(/-/, "_", path); return path }
        { file = $1; sub(/:$/, "", file); path[key(file)] = file
          for (i = 2; i <= NF; i++) deps[file] = $i " " deps[file] }
        END { n = split(names, want, " ")
              for (w = 1; w <= n; w++) { f = path[want[w]]; if (f == "") continue
                  m = split(deps[f] f, all, " ")
                  for (i = 1; i <= m; i++) if (!seen[all[i]]++) print base "/" all[i] } }
    ' "$base/modules.dep"
}

busybox_path() { # a static busybox: the host's, else a fetched one
    local candidate
    for candidate in "$cache/busybox/bin/busybox" "$(command -v busybox || :)"; do
        [[ -x $candidate ]] || continue
        # A static program names no interpreter.
        grep -qaF ld-linux <(head -c 4096 -- "$candidate") || { echo "$candidate"; return; }
    done
    fetch_deb busybox-static "$cache/busybox"
    echo "$cache/busybox/bin/busybox"
}
