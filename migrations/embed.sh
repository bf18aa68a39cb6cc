#!/bin/sh
# migrations/embed.sh FILE... - print the migrations as a C table (registry/core/migrate.h) on stdout.
# Files are NNNN_name.sql, numbered from 0001 without gaps; a shipped file is never changed again.
set -eu
export LC_ALL=C
[ $# -gt 0 ] || { echo "usage: embed.sh FILE..." >&2; exit 2; }

echo '/* made by migrations/embed.sh; do not edit */'
echo '#include "registry/core/migrate.h"'
echo
echo 'const struct ds_migration ds_migrations[] = {'
n=0
for f in "$@"; do
    base=${f##*/}
    n=$((n + 1))
    want=$(printf '%04d_' "$n")
    case $base in
    "$want"[a-z0-9]*.sql) ;;
    *) echo "embed.sh: '$base' is out of order: expected ${want}NAME.sql" >&2; exit 1 ;;
    esac
    name=${base%.sql}
    printf '    {%d, "%s",\n' "$n" "${name#"$want"}"
    # backslashes first; quotes; question marks, since ??x may be a trigraph
    sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/?/\\?/g' -e 's/^/     "/' -e 's/$/\\n"/' "$f"
    echo '    },'
done
echo '};'
printf 'const int ds_migration_count = %d;\n' "$n"
