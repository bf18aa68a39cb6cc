#!/bin/sh
# tools/tidy.sh - the style as a test: direction of dependencies, size, banned calls, format.
# Prints each finding as file:line: message; exit 1 if there is any.
set -u
cd "$(dirname "$0")/.." || exit 1
out=$(mktemp)
sources=$(git ls-files 'base/*.[ch]' 'contract/*.[ch]' 'contract/*.def' 'kernels/*.[ch]' 'kernels/*.cu' 'kernels/*.inl' 'kernels/*.def' 'engine/*.[ch]' 'worker/*.[ch]' 'registry/*.[ch]' \
    'daemon/*.[ch]' 'cli/*.[ch]' 'cli/*.def' 'tests/*.[ch]' 'tests/*.cc' 'bench/*.[ch]')

# Which room may include which, circles, folders and files that grew too large; names in texts.
python3 tools/tidy_rooms.py >>"$out"
python3 tools/tidy_names.py >>"$out"

# Inside kernels/ only ref, cpu and cuda know a device; above it no device is named.
grep -nE '#if.*(CUDA|AVX|__x86)|<immintrin|cuda_runtime' $(echo "$sources" | tr ' ' '\n' | grep -vE '^(kernels|tests|bench)/') /dev/null |
    sed 's/$/: device code above kernels\//' >>"$out"

# Banned calls: no bounds, no error, or hidden state.  Tests may run other programs.
grep -nwE '(strcpy|strcat|sprintf|vsprintf|gets|strtok|atoi|atol|atof|rand|srand|tmpnam|mktemp|system|popen|alloca) ?\(' $sources |
    grep -vE ':[0-9]+: *(\*|/\*|//)|^tests/.*system ?\(' | sed 's/$/: banned call/' >>"$out"

# Sizes: lines of 100 (130 in lists, .def, and tests), functions of 80 lines.
named() { echo "$sources" | tr ' ' '\n' | grep -E "$1"; }
awk '{limit = FILENAME ~ /\.def$|^tests\// ? 130 : 100}
    length($0) > limit {print FILENAME ":" FNR ": line of " length($0) " characters, limit " limit}' $sources >>"$out"
awk 'FNR == 1 {start = 0}
    /^[a-zA-Z].*[^;]$/ && /\(/ {start = FNR}
    /^}/ {if (start && FNR - start > 80) print FILENAME ":" start ": function of " FNR - start " lines, limit 80"; start = 0}' \
    $(named '\.(c|cu|cc|inl)$') >>"$out"

# Guards of headers: DS_<DIR>_<FILE>_H
awk 'FNR == 1 {guard = FILENAME; sub(/\.h$/, "", guard); gsub("/", "_", guard); guard = "DS_" toupper(guard) "_H"; want[FILENAME] = guard}
    $0 == "#ifndef " guard {delete want[FILENAME]}
    END {for (f in want) print f ":1: include guard must be " want[f]}' $(named '\.h$') >>"$out"

# Many files to a process; one by one where some of them are not as they should be.
if command -v clang-format >/dev/null 2>&1; then
    named '\.(c|h|cu|cc)$' | xargs -P "$(nproc)" -n 24 sh -c 'clang-format --dry-run --Werror "$@" >/dev/null 2>&1 || for f; do
        clang-format --dry-run --Werror "$f" >/dev/null 2>&1 || echo "$f:1: not formatted: run '"'clang-format -i \$f'"'"; done' sh >>"$out"
else
    echo "SKIPPED format: clang-format is not installed"
fi
cat "$out"
n=$(wc -l <"$out")
rm -f "$out"
echo "tidy: $n findings"
[ "$n" -eq 0 ]
