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
rm "$out/commands.scd"
