# shellcheck shell=bash disable=SC2154
#
# programs.sh - Helm, and Python with packages, without installing either.
#
# Sourced, after machine.sh, by scripts that render the chart. Sets tools, the directory where both are kept.

readonly helms=(v3.22.0 v4.3.1)
readonly chart_packages=(kubernetes-validate==1.37.0 PyYAML==6.0.3)
tools=${CARGO_TARGET_DIR:-$clone/target}/chart
mkdir -p "$tools"

venv() { # NAME PACKAGE...: the path of a virtual environment with these packages
    local path=$tools/$1 wanted="${*:2}"
    if [[ ! -e $path/ready || $(<"$path/ready") != "$wanted" ]]; then
        need_programs python3=python3 >&2
        # A module, not a program: what is looked for is never found, and so installed.
        python3 -c 'import ensurepip, venv' 2>/dev/null || need_programs 'python3 -m venv'=python3-venv >&2
        say "installing ${wanted}" >&2
        python3 -m venv --clear "$path"
        "$path/bin/pip" -q --disable-pip-version-check install "${@:2}"
        printf '%s\n' "$wanted" >"$path/ready"
    fi
    printf '%s' "$path"
}

python() { # with what the checks of the chart import
    local path
    path=$(venv venv "${chart_packages[@]}")
    PYTHONDONTWRITEBYTECODE=1 "$path/bin/python" "$@"
}

helm() { # VERSION: the path of that Helm, built if it is not there
    local version=$1 path=$tools/helm-$1 module
    module=helm.sh/helm/${version%%.*}/cmd/helm
    if [[ ! -x $path ]]; then
        need_programs go=golang-go >&2
        say "building Helm $version" >&2
        GOBIN=$tools/new CGO_ENABLED=0 go install -trimpath "$module@$version" >&2
        mv "$tools/new/helm" "$path"
    fi
    printf '%s' "$path"
}
