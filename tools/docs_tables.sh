#!/bin/sh
# tools/docs_tables.sh - the tables of options and methods in docs/api.md, as dsctl prints them.
# Usage: tools/docs_tables.sh DSCTL, or make docs.  tests/cli/test_cli_options.c compares them.
set -eu
doc=docs/api.md
"$1" --dump-options >"$doc.tables"
awk -v tables="$doc.tables" '
    /^\| option \| dsctl add-dataset / {
        while ((getline line < tables) > 0) print line
        inside = 1
        next
    }
    /^\| method \| trains / { inside = 1 }
    inside && /^\|/ { next }
    inside && /^$/ { held = 1; inside = 0; next }
    held { if (!/^\| method \| trains /) print ""; held = 0 }
    { print }
' "$doc" >"$doc.new"
rm "$doc.tables"
if cmp -s "$doc.new" "$doc"; then rm "$doc.new"; else mv "$doc.new" "$doc"; fi
