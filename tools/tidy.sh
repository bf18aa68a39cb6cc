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
for f in $sources; do
    limit=100
    case "$f" in *.def | tests/*) limit=130 ;; esac
    awk -v f="$f" -v limit=$limit 'length($0) > limit {print f ":" NR ": line of " length($0) " characters, limit " limit}' "$f" >>"$out"
    case "$f" in
    *.c | *.cu | *.cc | *.inl) awk -v f="$f" '/^[a-zA-Z].*[^;]$/ && /\(/ {start = NR} /^}/ {if (start && NR - start > 80) print f ":" start ": function of " NR - start " lines, limit 80"; start = 0}' "$f" >>"$out" ;;
    esac
done

# Guards of headers: DS_<DIR>_<FILE>_H
for f in $(echo "$sources" | tr ' ' '\n' | grep '\.h$'); do
    guard=DS_$(echo "${f%.h}" | tr 'a-z/' 'A-Z_')_H
    grep -q "^#ifndef $guard$" "$f" || echo "$f:1: include guard must be $guard" >>"$out"
done

if command -v clang-format >/dev/null 2>&1; then
    for f in $(echo "$sources" | tr ' ' '\n' | grep -E '\.(c|h|cu|cc)$'); do
        clang-format --dry-run --Werror "$f" >/dev/null 2>&1 || echo "$f:1: not formatted: run 'clang-format -i $f'" >>"$out"
    done
else
    echo "SKIPPED format: clang-format is not installed"
fi
cat "$out"
n=$(wc -l <"$out")
rm -f "$out"
echo "tidy: $n findings"
[ "$n" -eq 0 ]
