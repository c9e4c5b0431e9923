#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs every libFuzzer target of a build for some seconds each and prints a line for each; exit status 1 when one found something.
# It starts from tests/fuzz/corpus/TARGET; what it learns stays in BUILD/corpus, what fails in BUILD/findings.
#   tools/run-fuzz.sh BUILD [SECONDS] [TARGET...]
# SECONDS 0: every input of the corpus once.
set -euo pipefail

build=${1:?usage: tools/run-fuzz.sh BUILD [SECONDS] [TARGET...]}
seconds=${2:-60}
seeds=$(dirname "$0")/../tests/fuzz/corpus
failed=0

# The interpreter raises host signals on purpose and catches them itself.
export ASAN_OPTIONS=allow_user_segv_handler=1:handle_sigill=0:handle_sigfpe=0:detect_stack_use_after_return=0
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1

if [ $# -gt 2 ]; then
	targets=("${@:3}")
else
	targets=()
	for program in "$build"/tests/fuzz/fuzz_*; do
		if [ -f "$program" ] && [ -x "$program" ]; then targets+=("$(basename "$program")"); fi
	done
fi
if [ ${#targets[@]} -eq 0 ]; then
	echo "tools/run-fuzz.sh: $build has no fuzz targets; build them with: make fuzz" >&2
	exit 2
fi

for name in "${targets[@]}"; do
	learnt=$build/corpus/$name log=$build/findings/$name.log
	mkdir -p "$learnt" "$build/findings"
	# A real kernel's head, larger than what the repository should hold.
	if [ "$name" = fuzz_boot ] && [ -s guest/out/vmlinuz ]; then
		head -c 65536 guest/out/vmlinuz >"$learnt/bzimage"
	fi
	limit=(-max_total_time="$seconds")
	[ "$seconds" -ne 0 ] || limit=(-runs=0)
	if "$build/tests/fuzz/$name" "${limit[@]}" -timeout=30 -rss_limit_mb=4096 -max_len=65536 -close_fd_mask=1 -print_final_stats=1 \
		-artifact_prefix="$build/findings/$name-" "$learnt" "$seeds/$name" >/dev/null 2>"$log"; then
		printf '%-20s ok       %s\n' "$name" "$(sed -n 's/^#\([0-9]*\)\tDONE *\(cov: [0-9]*\).*/\1 inputs, \2/p' "$log")"
	else
		failed=$((failed + 1))
		printf '%-20s FAILED   %s; the input is in %s, the report in %s\n' "$name" \
			"$(grep -m 1 -E 'SUMMARY|runtime error|ERROR' "$log" | cut -c1-100 || true)" "$build/findings" "$log"
	fi
done
echo "fuzz: ${#targets[@]} targets, $failed failed"
[ $failed -eq 0 ]
