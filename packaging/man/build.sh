#!/bin/sh
# Man pages from their scdoc sources: build.sh DSCTL OUTPUT_FOLDER
# The line @COMMANDS@ of dsctl(1) becomes what dsctl itself knows of its commands, options and exit
# codes, so page and program cannot disagree.
set -eu
dsctl=$1 out=$2
here=$(dirname "$0")
mkdir -p "$out"
"$dsctl" --dump-commands > "$out/commands.scd"
for source in "$here"/*.scd; do
    page=$out/$(basename "$source" .scd)
    sed -e "/^@COMMANDS@\$/{r $out/commands.scd
d
}" "$source" | scdoc > "$page.tmp"
    mv "$page.tmp" "$page"
done
# A page for each command: man dsctl-add-dataset.
for command in $(sed -n 's/^## \([a-z-]*\).*/\1/p' "$out/commands.scd"); do
    "$dsctl" --dump-command "$command" | scdoc >"$out/dsctl-$command.1.tmp"
    mv "$out/dsctl-$command.1.tmp" "$out/dsctl-$command.1"
done
rm "$out/commands.scd"
