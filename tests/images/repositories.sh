# shellcheck shell=bash disable=SC2154
#
# repositories.sh - where the packages of a Debian release come from.
#
# Sourced by build and desktop, which define die, and set suite.

repositories() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' |
        sed 's,/*$,,' | sort -u
}

offered() { # REPOSITORY SUITE: does the repository have it?
    local file status=0
    file=$(mktemp -u)
    /usr/lib/apt/apt-helper download-file "$1/dists/$2/Release" "$file" >/dev/null 2>&1 || status=1
    rm -f -- "$file"
    return $status
}

sources() { # the sources.list of $suite: what the repositories here offer of it
    local mirror=${MIRROR:-} security=${SECURITY:-}
    [[ $mirror ]] || mirror=$(repositories | grep '/debian$' | head -n 1) ||
        die "apt knows no Debian repository here; set MIRROR"
    [[ $security ]] || security=$(repositories | grep -e '-security$' | head -n 1) || :
    # Old releases move to an archive, and lose -updates before that.
    offered "$mirror" "$suite" || die "$mirror has no $suite; set MIRROR to one that has"
    echo "deb $mirror $suite main"
    if offered "$mirror" "$suite-updates"; then echo "deb $mirror $suite-updates main"; fi
    if [[ $security ]] && offered "$security" "$suite-security"; then
        echo "deb $security $suite-security main"
    fi
}
