#!/bin/sh
# make install: packaging/install.sh BUILD DESTDIR PREFIX
# Programs, the CUDA library (where it was built), models, man pages (where scdoc is there), completions, systemd units.
set -eu
build=$1 root=$2$3 prefix=$3
here=$(dirname "$0")

put() { # put MODE FILE TARGET
    install -D -m "$1" "$2" "$root/$3"
    echo "  $root/$3"
}

for program in dsctl diffscalerd diffscaler-worker; do
    put 755 "$build/$program" "bin/$program"
done
if [ -f "$build/libdiffscaler-cuda.so" ]; then
    put 755 "$build/libdiffscaler-cuda.so" lib/diffscaler/libdiffscaler-cuda.so
fi
for model in "$here"/../models/*.safetensors "$here"/../models/*.safetensors.zst \
    "$here"/../models/*.md "$here"/../models/*LICENSE*; do
    [ -f "$model" ] && put 644 "$model" "share/diffscaler/models/$(basename "$model")"
done

for picture in "$here"/../models/probe/*/*; do
    [ -f "$picture" ] && put 644 "$picture" "share/diffscaler/${picture#"$here"/../}"
done

if command -v scdoc >/dev/null 2>&1; then
    "$here/man/build.sh" "$build/dsctl" "$build/man"
    for page in "$build"/man/*.[18]; do
        put 644 "$page" "share/man/man${page##*.}/$(basename "$page")"
    done
else
    echo "  no man pages: scdoc is not installed (apt-get install scdoc)"
fi

for shell in bash zsh fish; do
    "$build/dsctl" completion $shell >"$build/completion.$shell"
done
put 644 "$build/completion.bash" share/bash-completion/completions/dsctl
put 644 "$build/completion.zsh" share/zsh/site-functions/_dsctl
put 644 "$build/completion.fish" share/fish/vendor_completions.d/dsctl.fish

for unit in diffscalerd diffscalerd-user; do
    sed "s|@BINDIR@|$prefix/bin|" "$here/systemd/$unit.service" >"$build/$unit.service"
done
put 644 "$build/diffscalerd.service" lib/systemd/system/diffscalerd.service
put 644 "$build/diffscalerd-user.service" lib/systemd/user/diffscalerd.service
put 644 "$here/systemd/diffscaler.sysusers" lib/sysusers.d/diffscaler.conf
