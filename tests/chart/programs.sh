# shellcheck shell=bash disable=SC2154
#
# programs.sh - Helm, and Python with packages, without installing either.
#
# Sourced, after machine.sh, by scripts that render the chart. Sets tools, the directory where Helm is kept.

readonly helms=(v3.22.0 v4.3.1)
readonly chart_packages=(kubernetes-validate==1.37.0 PyYAML==6.0.3)
tools=${CARGO_TARGET_DIR:-$clone/target}/chart
mkdir -p "$tools"

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
