#!/bin/sh
# tools/deps.sh build|test|long - install the Debian packages that are missing, and say why each is needed.
# Called by the Makefile; `make DEPS=0 ...` skips it.  Asks nothing.
set -eu
build='gcc:compiler make:build pkg-config:build libuv1-dev:event_loop libsqlite3-dev:registry
libmicrohttpd-dev:HTTP_server libcurl4-openssl-dev:HTTP_client libjansson-dev:JSON libzstd-dev:compression
libssl-dev:SHA-256 libjpeg62-turbo-dev:JPEG libpng-dev:PNG libwebp-dev:WebP libseccomp-dev:sandbox
libopenblas-dev:linear_algebra liblapacke-dev:eigenvalues libzip-dev:checkpoint_files'
test='check:test_framework libsubunit-dev:test_framework zstd:adapter_files_in_tests sqlite3:registry_in_tests
curl:API_in_tests python3:reader_of_safetensors_in_tests g++:emulated_GPU_in_tests'
long='libfaketime:clock_steps_in_long_tests'
case "${1:-build}" in
build) want=$build ;;
test) want="$build $test" ;;
long) want="$build $test $long" ;;
*) echo "usage: tools/deps.sh build|test|long" >&2; exit 2 ;;
esac
command -v dpkg-query >/dev/null 2>&1 || {
    echo "not a Debian system: install these yourself, then use DEPS=0:" >&2
    for w in $want; do echo "  ${w%%:*} (${w#*:})" >&2; done
    exit 1
}
missing=
for w in $want; do
    p=${w%%:*}
    state=$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)
    [ "$state" = installed ] && continue
    [ -n "$missing" ] || echo "installing Debian packages that are missing (skip with DEPS=0):"
    echo "  $p ($(echo "${w#*:}" | tr _ ' '))"
    missing="$missing $p"
done
[ -n "$missing" ] || exit 0
sudo=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || {
        echo "error: not root and no sudo: run 'apt-get install$missing' as root, then again with DEPS=0" >&2
        exit 1
    }
    sudo=sudo
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Fresh machines upgrade themselves at first: apt is locked for minutes then.  DPkg::Lock::Timeout waits in silence and not
# for the lock of the lists, so what is waited for is said here.
end=$(($(date +%s) + ${DEPS_LOCK_SECONDS:-900})) said=
apt() { # apt WHAT...
    while ! DEBIAN_FRONTEND=noninteractive $sudo apt-get -o DPkg::Lock::Timeout=5 "$@" >"$log" 2>&1; do
        lock=$(grep -iE 'could not get lock|unable to (acquire|lock)' "$log" | head -1 || true)
        if [ -z "$lock" ] || [ "$(date +%s)" -ge "$end" ]; then
            tail -20 "$log" >&2
            [ -z "$lock" ] || echo "error: apt is still in use by another program; try again when it has ended" >&2
            echo "error: apt-get could not install:$missing" >&2
            exit 1
        fi
        [ -n "$said" ] || echo "waiting for apt, which another program uses (for ${DEPS_LOCK_SECONDS:-900} s at most): $lock"
        said=1
        sleep "${DEPS_LOCK_PAUSE:-3}"
    done
}
apt update -qq
apt install -y -qq --no-install-recommends $missing
